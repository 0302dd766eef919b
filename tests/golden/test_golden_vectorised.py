"""The fast form against the loops, to the bit."""

import time

import numpy as np
import pytest
from golden_data import KINDS, floats, lookups
from hypothesis import given, settings
from hypothesis import strategies as st

from tcast import golden
from tcast.golden import numerics, reference, vectorised

lengths = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 40), st.just(200)), max_size=12)
dtypes = st.sampled_from([np.int32, np.int64])
cases = given(lengths=lengths, dim=st.integers(1, 9), n_rows=st.integers(1, 30),
              index_dtype=dtypes, offset_dtype=dtypes, kind=st.sampled_from(KINDS),
              weighted=st.booleans(), behind=st.integers(0, 2), seed=st.integers(0, 2**32 - 1))
bit_exact = settings(max_examples=150, deadline=None)


def build(lengths, dim, n_rows, index_dtype, offset_dtype, kind, weighted, behind, seed):
    rng = np.random.default_rng(seed)
    indices, offsets = lookups(rng, np.array(lengths, int), n_rows, index_dtype, behind)
    weights = floats(rng, len(indices), kind) if weighted else None
    return (floats(rng, (n_rows, dim), kind), indices, offsets.astype(offset_dtype), weights,
            floats(rng, (len(lengths), dim), kind))


def same(got, expected):
    """Equal bits where nothing was computed or no NaN came out; else both NaN."""
    assert got.dtype == np.float32
    assert golden.first_difference(got, expected) is None
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@cases
@bit_exact
def test_forward_equals_reference(**case):
    weight, indices, offsets, weights, _ = build(**case)
    same(golden.embedding_bag(weight, indices, offsets, weights),
         reference.embedding_bag(weight, indices, offsets, weights))
    same(golden.embedding_bag(weight, indices, offsets, mode="mean"),
         reference.embedding_bag(weight, indices, offsets, mode="mean"))
    same(golden.gather_reduce(weight, indices, offsets, weights),
         reference.gather_reduce(weight, indices, offsets, weights))


@cases
@bit_exact
def test_backward_equals_reference(**case):
    weight, indices, offsets, weights, grad_out = build(**case)
    casting = golden.cast(indices, offsets, len(weight), weights)
    expected = reference.cast(indices, offsets, len(weight), weights)
    for name in ("bags", "segment_offsets", "rows", "positions"):
        got = getattr(casting, name)
        assert got.dtype == indices.dtype
        np.testing.assert_array_equal(got, getattr(expected, name))
    if weights is None:
        assert casting.weights is None
    else:
        same(casting.weights, expected.weights)

    expanded = golden.expand(grad_out, offsets)
    same(expanded, reference.expand(grad_out, offsets))
    grads = golden.casted_gather_reduce(grad_out, casting)
    same(grads, reference.casted_gather_reduce(grad_out, casting))
    same(grads, golden.coalesce(expanded, casting))
    same(grads, reference.coalesce(expanded, casting))

    optimizer = golden.SGD(0.37)
    updated = [weight.copy() for _ in range(6)]
    golden.backward_update(updated[0], grad_out, casting, optimizer)
    reference.backward_update(updated[1], grad_out, casting, optimizer)
    golden.scatter_update(updated[2], casting.rows, grads, optimizer)
    reference.scatter_update(updated[3], casting.rows, grads, optimizer)
    adagrad = golden.RowwiseAdagrad(0.1, 1e-6)
    states = [np.arange(len(weight), dtype=np.float32) for _ in range(4)]
    tables = [weight.copy() for _ in range(4)]
    golden.backward_update(tables[0], grad_out, casting, adagrad, states[0])
    reference.backward_update(tables[1], grad_out, casting, adagrad, states[1])
    golden.scatter_update(tables[2], casting.rows, grads, adagrad, states[2])
    reference.scatter_update(tables[3], casting.rows, grads, adagrad, states[3])
    for table, state in zip(tables, states, strict=True):
        same(table, tables[0])
        same(state, states[0])
    golden.baseline_backward(updated[4], grad_out, indices, offsets, optimizer, weights)
    reference.baseline_backward(updated[5], grad_out, indices, offsets, optimizer, weights)
    for other in updated[1:]:
        same(other, updated[0])


@given(rows=st.lists(st.integers(0, 9), max_size=30), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_scatter_equals_reference(rows, seed):
    rng = np.random.default_rng(seed)
    rows = np.array(rows, np.int64)
    values = floats(rng, (len(rows), 3), "special")
    dst = floats(rng, (10, 3), "special")
    expected = dst.copy()
    golden.scatter(dst, rows, values)
    reference.scatter(expected, rows, values)
    same(dst, expected)


@pytest.mark.parametrize("lengths", [
    [5000, 3, 4999, 1, 0, 2, 8, 9], [1] * 3000, [2] * 1500, [7, 8, 9] * 400, [0] * 50, []])
def test_tiles_equal_reference(lengths, monkeypatch):
    """Many tiles, of a few segments each."""
    monkeypatch.setattr(vectorised, "TILE_BYTES", 4096)
    rng = np.random.default_rng(5)
    indices, offsets = lookups(rng, np.array(lengths, int), 100, np.int32)
    weight = floats(rng, (100, 16), "wide")
    weights = floats(rng, len(indices), "wide")
    same(golden.embedding_bag(weight, indices, offsets, weights),
         reference.embedding_bag(weight, indices, offsets, weights))
    casting = golden.cast(indices, offsets, 100)
    grad_out = floats(rng, (len(lengths), 16), "wide")
    expected = weight.copy()
    golden.backward_update(weight, grad_out, casting, golden.SGD(0.5))
    reference.backward_update(expected, grad_out, casting, golden.SGD(0.5))
    same(weight, expected)


def test_strided_tables():
    rng = np.random.default_rng(6)
    wide = floats(rng, (50, 12))
    weight = wide[::2, 2:9]
    indices, offsets = lookups(rng, rng.integers(0, 20, 30), 25, np.int64)
    same(golden.embedding_bag(weight, indices, offsets),
         reference.embedding_bag(weight.copy(), indices, offsets))
    casting = golden.cast(indices, offsets, 25)
    grad_out = floats(rng, (30, 14))[:, ::2]
    expected, untouched = weight.copy(), wide[1::2].copy()
    golden.backward_update(weight, grad_out, casting, golden.SGD(1))
    reference.backward_update(expected, grad_out, casting, golden.SGD(1))
    same(weight.copy(), expected)
    same(wide[1::2].copy(), untouched)


def test_copies_keep_nan_bits_and_sums_do_not():
    weight = np.array([[0x7F800001], [0xFFC12345], [0x3F800000]], np.uint32).view(np.float32)
    out = golden.embedding_bag(weight, np.array([0, 1, 1, 2]), np.array([0, 1, 2, 4]))
    assert out.view(np.uint32)[:, 0].tolist() == [0x7F800001, 0xFFC12345, 0x7FC00000]
    out = golden.embedding_bag(weight, np.array([0, 1]), np.array([0, 1, 2]), mode="mean")
    assert out.view(np.uint32)[:, 0].tolist() == [0x7FC00000] * 2
    same(golden.gather(weight, np.array([1, 0, 1])), weight[[1, 0, 1]])


def test_the_first_row_is_not_added_to_zero():
    weight = np.array([[-0.0]], np.float32)
    for n, bits in ((0, 0), (1, 1 << 31), (2, 1 << 31), (20, 1 << 31)):
        out = golden.embedding_bag(weight, np.zeros(n, np.int64), np.array([0, n]))
        assert out.view(np.uint32)[0, 0] == bits


def test_a_changed_order_of_sums_is_noticed():
    """The comparison has teeth: a sequential sum, and a tree without partials, both differ."""
    rng = np.random.default_rng(7)
    weight = floats(rng, (40, 8), "wide")
    indices, offsets = np.arange(40), np.array([0, 40])
    out = golden.embedding_bag(weight, indices, offsets)[0]
    sequential = weight[0]
    for row in weight[1:]:
        sequential = sequential + row
    assert not golden.bits_equal(out, sequential)
    assert not golden.bits_equal(out, numerics.column_sum(weight.T))


def test_one_step_of_a_million_lookups_is_fast():
    rng = np.random.default_rng(8)
    n_rows, pooling, n_bags = 100_000, 40, 25_000
    weight, grad_out = floats(rng, (n_rows, 64)), floats(rng, (n_bags, 64))
    indices = rng.integers(0, n_rows, pooling * n_bags)
    offsets = np.arange(0, len(indices) + 1, pooling)
    start = time.perf_counter()
    golden.embedding_bag(weight, indices, offsets)
    casting = golden.cast(indices, offsets, n_rows)
    golden.backward_update(weight, grad_out, casting, golden.SGD(0.1))
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s")
    assert seconds < 5  # 0.3 s measured on two cores


# Arguments: each refusal names the argument, and nothing has changed.

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
INDICES = np.array([0, 3, 3], np.int32)
OFFSETS = np.array([0, 2, 3], np.int32)
GRAD_OUT = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("changes, error, message", [
    (dict(weight=WEIGHT.tolist()), TypeError, "weight must be a numpy.ndarray, not list"),
    (dict(weight=WEIGHT.astype(float)), TypeError, "weight must be of dtype float32, not float64"),
    (dict(weight=WEIGHT[0]), ValueError, "weight must be a matrix"),
    (dict(weight=WEIGHT[:, :0]), ValueError, "weight must be a matrix with at least one column"),
    (dict(indices=INDICES.astype(np.int16)), TypeError, "indices must be of dtype int32 or int64"),
    (dict(indices=INDICES[None]), ValueError, "indices must be a vector"),
    (dict(indices=np.array([0, 4, 3])), ValueError,
     r"indices\[1\] must be from 0 to len\(weight\) - 1 = 3, not 4"),
    (dict(indices=np.array([0, 3, -1])), ValueError, r"indices\[2\] must be .*, not -1"),
    (dict(offsets=np.zeros(0, int)), ValueError, r"offsets must have at least 1 entry"),
    (dict(offsets=np.array([1, 2, 3])), ValueError, r"offsets\[0\] must be 0, not 1"),
    (dict(offsets=np.array([0, 2, 1])), ValueError,
     r"offsets\[2\] must be at least offsets\[1\] = 2, not 1"),
    (dict(offsets=np.array([0, 2, 4])), ValueError,
     r"offsets\[-1\] must be at most len\(indices\) = 3, not 4"),
    (dict(offsets=OFFSETS.astype(float)), TypeError, "offsets must be of dtype"),
    (dict(per_sample_weights=np.ones(2, np.float32)), ValueError,
     r"per_sample_weights must have shape \(3,\), not \(2,\)"),
    (dict(per_sample_weights=np.ones(3)), TypeError, "per_sample_weights must be of dtype float32"),
    (dict(mode="max"), ValueError, "mode must be 'sum' or 'mean', not 'max'"),
    (dict(mode="mean", per_sample_weights=np.ones(3, np.float32)), ValueError,
     "per_sample_weights must be None"),
])
def test_forward_refuses(changes, error, message):
    arguments = dict(weight=WEIGHT, indices=INDICES, offsets=OFFSETS) | changes
    with pytest.raises(error, match=message):
        golden.embedding_bag(**arguments)


def test_ignored_lookups_may_be_anything():
    indices = np.append(INDICES, np.array([-7, 10**6], np.int32))
    same(golden.embedding_bag(WEIGHT, indices, OFFSETS),
         golden.embedding_bag(WEIGHT, INDICES, OFFSETS))
    assert golden.cast(indices, OFFSETS, 4).n_lookups == 3


def test_updates_refuse_before_anything_changes():
    casting = golden.cast(INDICES, OFFSETS, 4)
    rows, grads, sgd = casting.rows, np.ones((2, 3), np.float32), golden.SGD(1)
    adagrad = golden.RowwiseAdagrad(1)
    frozen = WEIGHT.copy()
    frozen.flags.writeable = False
    weight = WEIGHT.copy()
    for call, error, message in (
            (lambda: golden.scatter_update(weight, rows, grads, 0.1), TypeError,
             "optimizer must be an SGD or a RowwiseAdagrad, not float"),
            (lambda: golden.scatter_update(weight, rows, grads, adagrad), TypeError,
             "state must be a numpy.ndarray with RowwiseAdagrad, not NoneType"),
            (lambda: golden.scatter_update(frozen, rows, grads, sgd), ValueError,
             "weight must be writable"),
            (lambda: golden.scatter_update(weight, rows[::-1].copy(), grads, sgd), ValueError,
             r"rows\[1\] must be above rows\[0\] = 3, not 0"),
            (lambda: golden.scatter_update(weight, np.array([0, 4]), grads, sgd), ValueError,
             r"rows\[1\] must be from 0 to len\(weight\) - 1 = 3, not 4"),
            (lambda: golden.scatter_update(weight, rows, grads[:1], sgd), ValueError,
             "grads must have 2 rows, not 1"),
            (lambda: golden.scatter_update(weight, rows, grads[:, :2], sgd), ValueError,
             "grads must have 3 columns, not 2"),
            (lambda: golden.backward_update(weight, GRAD_OUT[:1], casting, sgd), ValueError,
             r"casting.bags\[2\] must be from 0 to len\(grad_out\) - 1 = 0, not 1"),
            (lambda: golden.backward_update(weight, GRAD_OUT[:, :2], casting, sgd), ValueError,
             "grad_out must have 3 columns"),
            (lambda: golden.expand(GRAD_OUT, OFFSETS[:2]), ValueError,
             r"offsets must have len\(grad_out\) \+ 1 = 3 entries, not 2"),
            (lambda: golden.coalesce(GRAD_OUT, casting), ValueError, r"casting.positions\[2\]"),
            (lambda: golden.scatter(weight, np.array([5]), grads[:1]), ValueError, r"rows\[0\]")):
        with pytest.raises(error, match=message):
            call()
    same(weight, WEIGHT)
