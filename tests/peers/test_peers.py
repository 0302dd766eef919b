"""PyTorch and FBGEMM agree with the golden model within the bound of summation."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcast
from tcast.host import peers
from tcast.host.backend import BackendUnavailable, Device
from tcast.host.golden_backend import GoldenDevice

GOLDEN = GoldenDevice()
REASONS = peers.available()


def peer_parameters():
    return [pytest.param(name, marks=pytest.mark.skipif(not ok, reason=reason))
            for name, (ok, reason) in REASONS.items()]


@pytest.fixture(params=peer_parameters(), scope="module")
def peer(request):
    with peers.open_peer(request.param) as opened:
        yield opened


def batch(seed, rows, bags, longest, dim, index_type):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, bags)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(index_type)
    indices = (rows * rng.random(int(offsets[-1])) ** 3).astype(index_type)

    def floats(*shape):
        # Magnitudes far apart, so that the order of additions matters.
        return (rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 12, shape)).astype(np.float32)

    return floats(rows, dim), indices, offsets, floats(bags, dim), floats(len(indices))


batches = st.builds(
    batch, seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 3, 50, 1000]),
    bags=st.sampled_from([1, 2, 17]), longest=st.sampled_from([1, 8, 30, 300]),
    dim=st.sampled_from([4, 8, 20]), index_type=st.sampled_from([np.int32, np.int64]))


@settings(max_examples=25, deadline=None)
@given(case=batches)
@pytest.mark.parametrize("name", peer_parameters())
def test_forward_and_update_agree_within_the_bound(name, case):
    weight, indices, offsets, grad_out, sample_weights = case
    device = peers.open_peer(name)
    for factors, mode in ((None, "sum"), (None, "mean"), (sample_weights, "sum")):
        bound = peers.difference_bound(weight, indices, offsets, factors, mode)
        out = device.embedding_bag(weight, indices, offsets, factors, mode)
        expected = GOLDEN.embedding_bag(weight, indices, offsets, factors, mode)
        assert out.dtype == np.float32
        assert peers.worst_ratio(out, expected, bound) <= 1
    for factors in (None, sample_weights):
        casting = device.cast(indices, offsets, len(weight), factors)
        lr = 0.37
        bound = peers.update_bound(weight, grad_out, casting, lr)
        table, expected = weight.copy(), weight.copy()
        device.backward_update(table, grad_out, casting, tcast.SGD(lr))
        GOLDEN.backward_update(expected, grad_out, casting, tcast.SGD(lr))
        assert peers.worst_ratio(table[casting.rows], expected[casting.rows], bound) <= 1
        others = np.setdiff1d(np.arange(len(weight)), casting.rows)
        assert np.array_equal(table[others].view(np.uint32), weight[others].view(np.uint32))


@pytest.mark.skipif(not REASONS["torch"][0], reason=REASONS["torch"][1])
def test_torch_coalesced_gradient_and_parts():
    weight, indices, offsets, grad_out, sample_weights = batch(1, 60, 30, 12, 8, np.int64)
    device = peers.open_peer("torch")
    for factors in (None, sample_weights):
        casting = device.cast(indices, offsets, len(weight), factors)
        bound = peers.difference_bound(grad_out, casting.bags, casting.segment_offsets,
                                       casting.weights)
        expected = GOLDEN.casted_gather_reduce(grad_out, casting)
        found = device.casted_gather_reduce(grad_out, casting)
        assert peers.worst_ratio(found, expected, bound) <= 1
    assert np.array_equal(device.gather(weight, indices), weight[indices])
    one, two = weight.copy(), weight.copy()
    device.scatter_update(one, casting.rows, expected, tcast.SGD(0.1))
    GOLDEN.scatter_update(two, casting.rows, expected, tcast.SGD(0.1))
    tolerance = 4 * 2.0**-24 * (np.abs(weight[casting.rows]) + np.abs(expected))
    assert peers.worst_ratio(one[casting.rows], two[casting.rows], tolerance) <= 1
    assert set(device.seconds) == {"update"}


def test_bound_finds_a_lost_lookup(peer):
    """The bound must be able to fail: without one lookup of many the result is outside it."""
    weight, indices, offsets, _, _ = batch(2, 50, 1, 300, 8, np.int64)
    weight[:] = np.sign(weight) + np.float32(2)  # all of one magnitude
    indices = np.append(indices, [1, 2, 3])
    offsets = np.array([0, len(indices)])
    out = peer.embedding_bag(weight, indices, offsets)
    bound = peers.difference_bound(weight, indices, offsets)
    without = GOLDEN.embedding_bag(weight, indices[:-1], np.array([0, len(indices) - 1]))
    assert peers.worst_ratio(out, GOLDEN.embedding_bag(weight, indices, offsets), bound) <= 1
    assert peers.worst_ratio(out, without, bound) > 10


def test_bound_finds_a_wrong_learning_rate(peer):
    weight, indices, offsets, grad_out, _ = batch(3, 50, 20, 20, 8, np.int64)
    casting = peer.cast(indices, offsets, 50)
    table, expected = weight.copy(), weight.copy()
    peer.backward_update(table, grad_out, casting, tcast.SGD(0.1))
    GOLDEN.backward_update(expected, grad_out, casting, tcast.SGD(0.1001))
    bound = peers.update_bound(weight, grad_out, casting, 0.1)
    assert peers.worst_ratio(table[casting.rows], expected[casting.rows], bound) > 1


def test_batch_is_recovered_from_the_casting(peer):
    _weight, indices, offsets, _, sample_weights = batch(4, 40, 25, 9, 4, np.int32)
    casting = peer.cast(indices, offsets, 40, sample_weights)
    found = peer.batch(casting, 25)
    for value, expected in zip(found, (indices, offsets, sample_weights), strict=True):
        assert np.array_equal(value, expected)
    assert peer.batch(peer.cast(indices, offsets, 40), 25)[2] is None


def test_phases_are_timed(peer):
    weight, indices, offsets, grad_out, _ = batch(5, 40, 25, 9, 4, np.int64)
    peer.embedding_bag(weight, indices, offsets)
    assert set(peer.seconds) == {"forward"}
    peer.backward_update(weight, grad_out, peer.cast(indices, offsets, 40), tcast.SGD(0.1))
    assert "forward" in peer.seconds and len(peer.seconds) >= 2
    assert all(value >= 0 for value in peer.seconds.values())


def test_arguments_are_checked_as_everywhere(peer):
    assert isinstance(peer, Device)
    weight, _indices, offsets, _, _ = batch(6, 40, 5, 9, 4, np.int64)
    with pytest.raises(ValueError, match=r"indices\[0\] must be at least 0 and below 40"):
        peer.embedding_bag(weight, np.full(int(offsets[-1]), 40), offsets)


def test_what_a_peer_lacks_is_said(peer):
    with pytest.raises(NotImplementedError, match=f"the peer {peer.name} has no expand"):
        peer.expand(np.ones((1, 4), np.float32), np.array([0, 1]))


@pytest.mark.skipif(not REASONS["fbgemm"][0], reason=REASONS["fbgemm"][1])
def test_fbgemm_names_its_limit():
    device = peers.open_peer("fbgemm")
    with pytest.raises(ValueError, match="weight must have a multiple of 4 columns for fbgemm"):
        device.embedding_bag(np.ones((3, 6), np.float32), np.array([0]), np.array([0, 1]))


def test_missing_library_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for ok, reason in peers.available().values():
        assert not ok and "torch cannot be imported" in reason
    with pytest.raises(BackendUnavailable, match="torch cannot be imported"):
        peers.open_peer("torch")
    with pytest.raises(ValueError, match="peer must be one of torch, fbgemm, not 'jax'"):
        peers.open_peer("jax")


def test_worst_ratio():
    one = np.array([1.0, np.nan, np.inf, 2.0], np.float32)
    assert peers.worst_ratio(one, one, np.zeros(4)) == 0
    assert peers.worst_ratio(one, one + np.array([0.5, 0, 0, 0]), np.full(4, 0.25)) == 2
    assert peers.worst_ratio(one, [1, np.nan, -np.inf, 2], np.ones(4)) == np.inf
    assert peers.worst_ratio(one, [1, 5, np.inf, 2], np.ones(4)) == np.inf
    assert peers.worst_ratio([1.0], [1.5], [0.0]) == np.inf
