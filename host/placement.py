"""Placement: where in the 64-bit address space the driver shows its arrays to the engine.

Arrays that need the same permission form a region, and one address window covers a region: the
4 KiB pages from its first byte to its last, with no page between that belongs to no array.
"""

from dataclasses import dataclass

__all__ = ["PAGE_BYTES", "PLACEMENTS", "Region", "Slot", "place"]

#: Granularity of the address windows.
PAGE_BYTES = 4096
#: ``aligned``: every array starts on a page. ``scattered``: see :func:`place`.
PLACEMENTS = ("aligned", "scattered")

_ADDRESS_BITS = 64
#: Regions start at multiples of this many bytes, so that they cannot meet.
_REGION_LOG2 = 44


@dataclass(frozen=True)
class Slot:
    """What is to be placed: ``n_bytes`` at a multiple of ``alignment`` (a power of two <= 1024)."""

    n_bytes: int
    alignment: int


@dataclass(frozen=True)
class Region:
    """Addresses of a region's slots, and the pages that hold them.

    Attributes
    ----------
    addresses : tuple of int
        Address of each slot.
    base, limit : int
        First byte of the first page, last byte of the last.
    """

    addresses: tuple[int, ...]
    base: int
    limit: int


def place(slots, number, placement="aligned", rng=None):
    """Place ``slots`` as region ``number`` (0 to 15) and return the Region.

    Parameters
    ----------
    slots : sequence of Slot
        At least one. A slot of no bytes gets a valid address all the same.
    number : int
        Which region; different numbers never share a page.
    placement : str
        "aligned" starts region n at ``(n + 1) << 44`` and every slot on a page of its own.
        "scattered" is for tests: the region lies anywhere in the 64-bit space (``rng`` chooses;
        at times it is the very first or very last bytes of it), the first slot starts shortly
        before the end of a page, and the next ones follow closely at their smallest alignment, so
        that rows and arrays straddle pages and share them.
    rng : numpy.random.Generator
        Needed for "scattered".

    Raises
    ------
    ValueError
        The slots take more than 2**44 bytes, or ``placement`` is unknown.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {placement!r}")
    offsets, end = [], 0
    for position, slot in enumerate(slots):
        if placement == "aligned":
            start = -(-end // PAGE_BYTES) * PAGE_BYTES
        else:
            slide = int(rng.integers(0, 4)) * slot.alignment
            # From shortly before the first page's end the first slot runs over it.
            start = PAGE_BYTES - slot.alignment - slide if position == 0 else end + slide
            start = -(-start // slot.alignment) * slot.alignment
        offsets.append(start)
        end = start + slot.n_bytes
    end = -(-max(end, offsets[-1] + 1) // PAGE_BYTES) * PAGE_BYTES
    if end > 1 << _REGION_LOG2:
        raise ValueError(f"arrays of one region must take at most 2**{_REGION_LOG2} bytes, "
                         f"not {end}")
    if placement == "aligned":
        base = number + 1 << _REGION_LOG2
    else:
        base = _scattered_base(number, end, rng)
    return Region(tuple(base + offset for offset in offsets), base, base + end - 1)


def _scattered_base(number, n_bytes, rng):
    """Return a multiple of 4 KiB inside a stretch of the address space kept for ``number``."""
    stretch_bits = _ADDRESS_BITS - 4
    room = (1 << stretch_bits) - n_bytes
    corner = rng.integers(0, 4)
    if corner == 0:
        within = 0
    elif corner == 1:
        within = room
    else:
        within = int(rng.integers(0, room // PAGE_BYTES + 1)) * PAGE_BYTES
    return (number << stretch_bits) + within

