"""Addresses: aligned, inside the address space, apart from each other, no page too many."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcast.host.placement import PAGE_BYTES, PLACEMENTS, Slot, place

slots = st.lists(st.builds(
    Slot, n_bytes=st.one_of(st.integers(0, 200), st.integers(0, 20_000)),
    alignment=st.sampled_from([4, 8, 64, 128])), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(slots, st.integers(0, 15), st.sampled_from(PLACEMENTS), st.integers(0, 2**32 - 1))
def test_place(items, number, placement, seed):
    region = place(items, number, placement, np.random.default_rng(seed))
    used = set()
    previous = -1
    for slot, address in zip(items, region.addresses, strict=True):
        assert address % slot.alignment == 0
        assert address > previous or not slot.n_bytes
        assert region.base <= address <= region.limit
        previous = max(previous, address + slot.n_bytes - 1)
        assert previous <= region.limit
        used |= set(range(address // PAGE_BYTES,
                          (address + max(slot.n_bytes, 1) - 1) // PAGE_BYTES + 1))
    assert region.base % PAGE_BYTES == 0 and (region.limit + 1) % PAGE_BYTES == 0
    assert 0 <= region.base < region.limit < 2**64
    pages = set(range(region.base // PAGE_BYTES, (region.limit + 1) // PAGE_BYTES))
    assert pages == used, "a page that belongs to no array"


def test_regions_do_not_meet():
    for placement in PLACEMENTS:
        for seed in range(50):
            rng = np.random.default_rng(seed)
            regions = sorted((place([Slot(100_000, 64)], n, placement, rng) for n in range(16)),
                             key=lambda region: region.base)
            for low, high in pairwise(regions):
                assert low.limit < high.base


def test_scattered_straddles_pages_and_reaches_both_ends():
    """What the option is for must really happen."""
    bases, limits, straddling = set(), set(), 0
    for seed in range(200):
        region = place([Slot(256, 64), Slot(256, 64)], 15 * (seed % 2), "scattered",
                       np.random.default_rng(seed))
        bases.add(region.base)
        limits.add(region.limit)
        straddling += region.addresses[0] // 4096 != (region.addresses[0] + 255) // 4096
    assert 0 in bases and 2**64 - 1 in limits and len(bases) > 80
    assert straddling > 100


def test_place_names_the_argument():
    with pytest.raises(ValueError, match="placement must be one of aligned, scattered, not 'x'"):
        place([Slot(1, 4)], 0, "x")
    with pytest.raises(ValueError, match=r"arrays of one region must take at most 2\*\*44 bytes"):
        place([Slot(2**44, 4), Slot(2**44, 4)], 0)
