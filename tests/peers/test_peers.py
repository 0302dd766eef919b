"""Every peer agrees with the golden model within the bound of rounding, step after step."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcast
from tcast import golden
from tcast.host import peers
from tcast.host.backend import BackendUnavailable

REASONS = peers.available()
SGD, ADAGRAD = tcast.SGD(0.37), tcast.RowwiseAdagrad(0.05, 1e-6)


@pytest.fixture(autouse=True, scope="module")
def threads_of_torch():
    """Peers set PyTorch's threads, which are the process's: other tests must find them again."""
    if not REASONS["torch"][0]:
        yield
        return
    import torch
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parameters(optimizer=SGD):
    return [pytest.param(name, marks=pytest.mark.skipif(not ok, reason=reason))
            for name, (ok, reason) in REASONS.items() if not peers.lacks(name, optimizer)]


@pytest.fixture(params=parameters())
def name(request):
    return request.param


def layer(seed, tables, bags, longest, index_type, factors=False):
    """Return (weights, batch) of a layer; ``tables`` is a list of (rows, dim)."""
    rng = np.random.default_rng(seed)

    def floats(*shape):
        # Magnitudes far apart, so that the order of additions matters.
        return (rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 12, shape)).astype(np.float32)

    batch = []
    for rows, dim in tables:
        lengths = rng.integers(0, longest + 1, bags)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(index_type)
        indices = (rows * rng.random(int(offsets[-1])) ** 3).astype(index_type)
        batch.append(peers.TableBatch(indices, offsets, floats(bags, dim),
                                      floats(len(indices)) if factors else None))
    return [floats(*shape) for shape in tables], batch


layers = st.builds(
    layer, seed=st.integers(0, 2**32 - 1),
    tables=st.lists(st.tuples(st.sampled_from([1, 3, 50, 1000]), st.sampled_from([4, 8, 20])),
                    min_size=1, max_size=3),
    bags=st.sampled_from([1, 2, 17]), longest=st.sampled_from([1, 8, 30, 300]),
    index_type=st.sampled_from([np.int32, np.int64]), factors=st.booleans())


def rows_of(array, rows=slice(None)):
    array = array[rows]
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def check_step(peer, work, weights, states, batch, optimizer=None):
    """Run a step; compare with golden's, which is made on ``weights`` and ``states``."""
    optimizer = optimizer or peer.optimizer
    peer.forward(work)
    for weight, item, out in zip(weights, batch, peer.pooled(work), strict=True):
        case = item.indices, item.offsets, item.per_sample_weights, peer.mode
        assert out.dtype == np.float32
        assert peers.worst_ratio(out, golden.embedding_bag(weight, *case),
                                 peers.difference_bound(weight, *case)) <= 1
    peer.backward_update(work)
    for number, (weight, state, item) in enumerate(zip(weights, states, batch, strict=True)):
        factors = golden.mean_weights(item.offsets) if peer.mode == "mean" \
            else item.per_sample_weights
        casting = golden.cast(item.indices, item.offsets, len(weight), factors)
        if state is None:
            bounds = (peers.update_bound(weight, item.grad_out, casting, optimizer.lr),)
        else:
            bounds = peers.adagrad_bounds(weight, state, item.grad_out, casting, optimizer)
        before = weight.copy(), None if state is None else state.copy()
        golden.backward_update(weight, item.grad_out, casting, optimizer, state)
        others = np.setdiff1d(np.arange(len(weight)), casting.rows)
        for found, expected, old, bound in zip(peer.table(number), (weight, state), before, bounds,
                                               strict=False):
            assert peers.worst_ratio(rows_of(found, casting.rows), expected[casting.rows],
                                     bound) <= 1
            assert np.array_equal(rows_of(found, others).view(np.uint32),
                                  old[others].view(np.uint32))
            # The next step begins with the same numbers on both sides.
            expected[...] = rows_of(found)


@settings(max_examples=25, deadline=None)
@given(case=layers, mean=st.booleans())
@pytest.mark.parametrize("name", parameters())
def test_steps_agree_within_the_bound(name, case, mean):
    weights, batch = case
    mode = "mean" if mean and batch[0].per_sample_weights is None else "sum"
    peer = peers.open_peer(name, peers.Tables.of(weights), SGD, mode=mode)
    work = peer.prepare(batch)
    for _ in range(2):
        check_step(peer, work, weights, [None] * len(weights), batch)
    peer.close()


@settings(max_examples=25, deadline=None)
@given(case=layers)
@pytest.mark.parametrize("name", parameters(ADAGRAD))
def test_steps_of_rowwise_adagrad_agree_within_the_bound(name, case):
    weights, batch = case
    peer = peers.open_peer(name, peers.Tables.of(weights, with_state=True), ADAGRAD)
    work = peer.prepare(batch)
    states = [np.zeros(len(weight), np.float32) for weight in weights]
    for _ in range(3):
        check_step(peer, work, weights, states, batch)
    peer.close()


def test_two_batches_prepared_on_one_peer_do_not_mix(name):
    tables = [(40, 8), (7, 4)]
    weights, first = layer(1, tables, 9, 12, np.int64)
    _, second = layer(2, tables, 5, 12, np.int64)
    peer = peers.open_peer(name, peers.Tables.of(weights), SGD)
    works = [peer.prepare(first), peer.prepare(second)]
    for work, batch in [*zip(works, (first, second), strict=True)] * 2:
        check_step(peer, work, weights, [None, None], batch)


def test_memory_is_shared_where_the_peer_says_so(name):
    weights, batch = layer(3, [(30, 8), (20, 4)], 9, 12, np.int64)
    tables = peers.Tables.of(weights)
    peer = peers.open_peer(name, tables, SGD)
    work = peer.prepare(batch)
    peer.forward(work)
    peer.backward_update(work)
    changed = [not np.array_equal(own, weight)
               for own, weight in zip(tables.weights, weights, strict=True)]
    assert changed == [peer.shares_memory] * 2


@pytest.mark.skipif(not REASONS["torch"][0], reason=REASONS["torch"][1])
@pytest.mark.parametrize("factors", [False, True])
def test_torch_coalesced_gradient(factors):
    weights, (item,) = layer(4, [(60, 8)], 30, 12, np.int64, factors)
    peer = peers.open_peer("torch-coalesce", peers.Tables.of(weights), SGD)
    work = peer.prepare([item])
    peer.forward(work)
    peer.gradients(work)
    found = peer._layers[0].weight.grad
    casting = golden.cast(item.indices, item.offsets, 60, item.per_sample_weights)
    assert np.array_equal(found.indices()[0].numpy(), casting.rows)
    bound = peers.difference_bound(item.grad_out, casting.bags, casting.segment_offsets,
                                   casting.weights)
    assert peers.worst_ratio(found.values().numpy(),
                             golden.casted_gather_reduce(item.grad_out, casting), bound) <= 1


def test_bound_finds_a_lost_lookup(name):
    """The bound must be able to fail: without one lookup of many the result is outside it."""
    (weight,), (item,) = layer(5, [(50, 8)], 1, 300, np.int64)
    weight[:] = np.sign(weight) + np.float32(2)  # all of one magnitude
    indices = np.append(item.indices, [1, 2, 3])
    offsets = np.array([0, len(indices)])
    peer = peers.open_peer(name, peers.Tables.of([weight]), SGD)
    work = peer.prepare([peers.TableBatch(indices, offsets, item.grad_out)])
    peer.forward(work)
    out, = peer.pooled(work)
    bound = peers.difference_bound(weight, indices, offsets)
    without = golden.embedding_bag(weight, indices[:-1], np.array([0, len(indices) - 1]))
    assert peers.worst_ratio(out, golden.embedding_bag(weight, indices, offsets), bound) <= 1
    assert peers.worst_ratio(out, without, bound) > 10


@pytest.mark.parametrize(("name", "optimizer", "wrong"), [
    *(pytest.param(*p.values, SGD, tcast.SGD(0.3701), marks=p.marks) for p in parameters()),
    *(pytest.param(*p.values, ADAGRAD, tcast.RowwiseAdagrad(0.05002, 1e-6), marks=p.marks)
      for p in parameters(ADAGRAD))])
def test_bound_finds_a_wrong_learning_rate(name, optimizer, wrong):
    weights, batch = layer(6, [(50, 8)], 20, 20, np.int64)
    states = [np.zeros(50, np.float32)] if optimizer is ADAGRAD else [None]
    peer = peers.open_peer(name, peers.Tables.of(weights, optimizer is ADAGRAD), wrong)
    work = peer.prepare(batch)
    with pytest.raises(AssertionError):
        check_step(peer, work, weights, states, batch, optimizer)


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_adagrad_bounds_hold_an_exact_update_and_not_another_eps(eps):
    (weight,), (item,) = layer(7, [(30, 8)], 20, 10, np.int64)
    casting = golden.cast(item.indices, item.offsets, 30)
    rule, rows = tcast.RowwiseAdagrad(0.1, eps), casting.rows
    state = np.zeros(30, np.float32)
    bounds = peers.adagrad_bounds(weight, state, item.grad_out, casting, rule)
    exact = np.zeros((len(rows), 8))
    bags = np.repeat(np.arange(20), np.diff(item.offsets))
    np.add.at(exact, np.searchsorted(rows, item.indices), item.grad_out[bags].astype(np.float64))
    square = (exact ** 2).mean(axis=1)

    def updated(eps):
        step = float(rule.lr32) / (np.sqrt(square) + eps)
        return weight[rows] - step[:, None] * exact

    own, own_state = weight.copy(), state.copy()
    golden.backward_update(own, item.grad_out, casting, rule, own_state)
    assert peers.worst_ratio(updated(float(rule.eps32)), own[rows], bounds[0]) <= 1
    assert peers.worst_ratio(square, own_state[rows], bounds[1]) <= 1
    assert peers.worst_ratio(updated(float(rule.eps32) + 1e-2), own[rows], bounds[0]) > 1
    assert peers.worst_ratio(square * (1 + 1e-4), own_state[rows], bounds[1]) > 1


def test_what_a_peer_lacks_is_said():
    for name in ("torch", "numpy"):
        assert peers.lacks(name, ADAGRAD) == f"{name} has no row-wise Adagrad"
    for name in ("fbgemm", "scipy"):
        assert peers.lacks(name, ADAGRAD) == ""
    tables = peers.Tables([(3, 4)], with_state=True)
    with pytest.raises(BackendUnavailable, match="numpy has no row-wise Adagrad"):
        peers.open_peer("numpy", tables, ADAGRAD)
    with pytest.raises(ValueError, match="mode must be sum or mean, not 'max'"):
        peers.open_peer("numpy", tables, SGD, mode="max")


@pytest.mark.skipif(not REASONS["fbgemm"][0], reason=REASONS["fbgemm"][1])
def test_fbgemm_names_its_limit():
    with pytest.raises(ValueError, match="tables must have a multiple of 4 columns for fbgemm"):
        peers.open_peer("fbgemm", peers.Tables([(3, 6)]), SGD)


def test_missing_library_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    tables = peers.Tables([(3, 4)])
    for name, (ok, reason) in peers.available().items():
        assert ok or "cannot be imported" in reason
        if name.startswith(("torch", "fbgemm")):
            assert not ok and "torch cannot be imported" in reason
            with pytest.raises(BackendUnavailable, match="torch cannot be imported"):
                peers.open_peer(name, tables, SGD)
    with pytest.raises(ValueError, match=r"peer must be one of torch, .*, not 'jax'"):
        peers.open_peer("jax", tables, SGD)


def test_worst_ratio():
    one = np.array([1.0, np.nan, np.inf, 2.0], np.float32)
    assert peers.worst_ratio(one, one, np.zeros(4)) == 0
    assert peers.worst_ratio(one, one + np.array([0.5, 0, 0, 0]), np.full(4, 0.25)) == 2
    assert peers.worst_ratio(one, [1, np.nan, -np.inf, 2], np.ones(4)) == np.inf
    assert peers.worst_ratio(one, [1, 5, np.inf, 2], np.ones(4)) == np.inf
    assert peers.worst_ratio([1.0], [1.5], [0.0]) == np.inf
