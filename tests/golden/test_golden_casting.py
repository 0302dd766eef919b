"""Casting against a sparse transpose, and its special cases."""

import numpy as np
import pytest
from golden_data import lookups
from scipy import sparse

from tcast import golden
from tcast.golden import casting as module


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_cast_is_the_transpose_without_empty_rows(seed, dtype):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    n_bags, n_rows = int(rng.integers(1, 60)), int(rng.integers(1, 80))
    indices, offsets = lookups(rng, rng.integers(0, 9, n_bags), n_rows, dtype, behind=2)
    n = int(offsets[-1])
    weights = rng.standard_normal(len(indices)).astype(np.float32)
    casting = golden.cast(indices, offsets, n_rows, weights)

    # The values number the lookups, so the transpose shows the permutation; from 1, as a stored 0
    # might be dropped.
    matrix = sparse.csr_matrix((np.arange(1, n + 1), indices[:n], offsets),
                               shape=(n_bags, n_rows))
    transpose = matrix.tocsc()
    counts = np.diff(transpose.indptr)
    np.testing.assert_array_equal(casting.rows, np.flatnonzero(counts))
    np.testing.assert_array_equal(np.diff(casting.segment_offsets), counts[counts > 0])
    np.testing.assert_array_equal(casting.bags, transpose.indices)
    np.testing.assert_array_equal(casting.positions, transpose.data - 1)
    np.testing.assert_array_equal(casting.weights, weights[transpose.data - 1])
    for array in (casting.bags, casting.segment_offsets, casting.rows, casting.positions):
        assert array.dtype == dtype
    assert (casting.n_lookups, casting.n_segments) == (n, np.count_nonzero(counts))


@pytest.mark.parametrize("indices, offsets", [
    ([], [0]), ([], [0, 0, 0]), ([9, 9], [0]), ([3], [0, 1]), ([3, 3, 3], [0, 1, 3])])
def test_small_cases(indices, offsets):
    casting = golden.cast(np.array(indices, np.int32), np.array(offsets), 10)
    assert casting.rows.tolist() == ([3] if offsets[-1] else [])
    assert casting.segment_offsets.tolist() == ([0, offsets[-1]] if offsets[-1] else [0])
    assert casting.weights is None


def test_cast_is_stable():
    """Equal rows keep the order of their lookups, on which the sum's bits depend."""
    rng = np.random.default_rng(9)
    indices = rng.integers(0, 7, 10_000)
    casting = golden.cast(indices, np.arange(0, 10_001, 10), 7)
    for start, stop in zip(casting.segment_offsets[:-1], casting.segment_offsets[1:], strict=True):
        assert (np.diff(casting.positions[start:stop]) > 0).all()


@pytest.mark.parametrize("num_rows, error, message", [
    (3, ValueError, r"indices\[0\] must be from 0 to num_rows - 1 = 2, not 3"),
    (-1, ValueError, "num_rows must be at least 0, not -1"),
    (4.0, TypeError, "num_rows must be an int, not 4.0"),
    (True, TypeError, "num_rows must be an int, not True")])
def test_cast_refuses(num_rows, error, message):
    with pytest.raises(error, match=message):
        golden.cast(np.array([3]), np.array([0, 1]), num_rows)


def test_mean_weights():
    offsets = np.array([0, 3, 3, 4, 14])
    expected = np.repeat(np.float32([1 / 3, 1, 0.1]), [3, 1, 10])
    np.testing.assert_array_equal(golden.mean_weights(offsets), expected)
    assert golden.mean_weights(offsets).dtype == np.float32
    np.testing.assert_array_equal(golden.bag_ids(offsets), np.repeat([0, 2, 3], [3, 1, 10]))


def test_mean_of_too_many():
    with pytest.raises(ValueError, match="at most 16777216 lookups"):
        module.reciprocals(np.array([0, (1 << 24) + 1]))
