"""Forward and backward against sparse products, within the error bound of summation."""

import numpy as np
import pytest
from golden_data import floats
from scipy import sparse

from tcast import golden
from tcast.golden import numerics, trace


def problem(seed, weighted):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    n_rows, dim = 300, 7
    offsets = trace.bag_offsets(rng, 200, 25)
    indices = trace.powerlaw(rng, n_rows, int(offsets[-1]), 1.0)
    weights = floats(rng, len(indices)) if weighted else np.ones(len(indices), np.float32)
    shape = (len(offsets) - 1, n_rows)
    matrix = sparse.csr_matrix((weights, indices, offsets), shape=shape)
    # Not abs(matrix): it would first add equal entries, which may cancel.
    magnitude = sparse.csr_matrix((abs(weights), indices, offsets), shape=shape)
    return (floats(rng, (n_rows, dim), "wide"), indices, offsets, weights, matrix, magnitude,
            floats(rng, (len(offsets) - 1, dim), "wide"))


def compare(ours, matrix, magnitude, dense, n, products):
    """Check the error against the exact product, and the distance to a binary32 product."""
    dense64 = dense.astype(np.float64)
    exact = matrix.astype(np.float64) @ dense64
    magnitude = magnitude.astype(np.float64) @ abs(dense64)
    n = n[:, None]
    # Binary64 sums are exact next to binary32: their error is below 2**-28 of the bound.
    bound = numerics.sum_bound(n, magnitude, products, numerics.segment_depth(n)) * (1 + 2**-20)
    error = abs(ours - exact)
    assert (error <= bound).all(), float((error - bound).max())
    assert (error > 0.02 * bound).any()  # the bound is not idle
    peers = matrix @ dense
    assert peers.dtype == np.float32
    any_order = numerics.sum_bound(n, magnitude, products)
    assert (abs(ours.astype(np.float64) - peers) <= (bound + any_order)).all()
    return bound


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_forward_is_the_sparse_product(seed, weighted):
    weight, indices, offsets, weights, matrix, magnitude, _ = problem(seed, weighted)
    ours = golden.embedding_bag(weight, indices, offsets, weights if weighted else None)
    bound = compare(ours, matrix, magnitude, weight, np.diff(offsets), int(weighted))

    # A single wrong lookup must not pass.
    wrong = indices.copy()
    wrong[len(wrong) // 2] = (wrong[len(wrong) // 2] + 1) % len(weight)
    broken = golden.embedding_bag(weight, wrong, offsets, weights if weighted else None)
    assert (abs(broken - matrix.astype(np.float64) @ weight) > bound).any()


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_the_transposed_product(seed, weighted):
    weight, indices, offsets, weights, matrix, magnitude, grad_out = problem(seed, weighted)
    casting = golden.cast(indices, offsets, len(weight), weights if weighted else None)
    n = np.bincount(indices, minlength=len(weight))
    dense = np.zeros_like(weight)
    dense[casting.rows] = golden.casted_gather_reduce(grad_out, casting)
    compare(dense, matrix.T, magnitude.T, grad_out, n, int(weighted))
    np.testing.assert_array_equal(np.flatnonzero(n), casting.rows)


def test_mean_is_the_scaled_product():
    weight, indices, offsets, _, matrix, _, grad_out = problem(5, False)
    n = np.maximum(np.diff(offsets), 1)[:, None]
    ours = golden.embedding_bag(weight, indices, offsets, mode="mean")
    scaled = sparse.diags(1 / n[:, 0]) @ matrix.astype(np.float64)
    magnitude = abs(scaled) @ abs(weight.astype(np.float64))
    bound = numerics.sum_bound(n, magnitude, 2, numerics.segment_depth(n)) * (1 + 2**-20)
    assert (abs(ours - scaled @ weight) <= bound).all()

    casting = golden.cast(indices, offsets, len(weight), golden.mean_weights(offsets))
    grads = golden.casted_gather_reduce(grad_out, casting)
    transpose = scaled.T.tocsr()[casting.rows]
    n = np.diff(casting.segment_offsets)[:, None]
    magnitude = abs(transpose) @ abs(grad_out.astype(np.float64))
    bound = numerics.sum_bound(n, magnitude, 2, numerics.segment_depth(n)) * (1 + 2**-20)
    assert (abs(grads - transpose @ grad_out) <= bound).all()
