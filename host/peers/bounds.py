"""How close a peer's results must be to ours: bounds of rounding, not tolerances.

A peer sums in an order of its own, so its results agree with ours within a bound, not to the bit.
"""

import numpy as np

from ... import golden
from ...golden.numerics import UNDERFLOW_ERROR, UNIT_ROUNDOFF, gamma, segment_depth, sum_bound

__all__ = ["adagrad_bounds", "difference_bound", "update_bound", "worst_ratio"]


def _magnitude(source, indices, offsets, weights):
    """Return an upper bound of Σ|w·x| of each segment, float64 [S, D]."""
    sums = golden.gather_reduce(
        np.abs(source), indices, offsets, None if weights is None else np.abs(weights))
    lengths = np.diff(offsets)
    # The sum of magnitudes was itself rounded.
    slack = 1 + 2 * gamma(segment_depth(lengths) + 1)
    return lengths, sums.astype(np.float64) * slack[:, None]


def difference_bound(source, indices, offsets, weights=None, mode="sum"):
    """Bound the difference of two libraries' gather-reduce, the contract's and any other's.

    Both err by at most the bound of summation for their order (golden.numerics.sum_bound): ours
    with the depth of the eight-partial rule, the other with the depth n − 1 of the worst order.

    Parameters
    ----------
    source : float32 [R, D]
        Gathered rows.
    indices, offsets : int32 or int64 [N], [S + 1]
        The segments.
    weights : float32 [N] or None
        Factor of each lookup.
    mode : str
        "mean" divides each sum by its number of lookups.

    Returns
    -------
    float64 [S, D]
        Absolute; valid where nothing overflows.
    """
    lengths, magnitude = _magnitude(source, indices, offsets, weights)
    products = (weights is not None) + 2 * (mode == "mean")
    if mode == "mean":
        magnitude = magnitude / np.maximum(lengths, 1)[:, None]
    lengths = lengths[:, None]
    return (sum_bound(lengths, magnitude, products, depth=segment_depth(lengths))
            + sum_bound(lengths, magnitude, products))


def update_bound(weight, grad_out, casting, lr):
    """Bound the difference of two libraries' SGD update of the rows of ``casting``.

    The new weight is a sum of n + 1 terms, the old weight and −lr·w·g of each lookup. The other
    library may add them in any order, and round each product by itself; see difference_bound.

    Parameters
    ----------
    weight : float32 [R, D]
        Before the update.
    grad_out : float32 [B, D]
        Gradient of the pooled rows.
    casting : Casting
        Of the batch.
    lr : float
        Learning rate.

    Returns
    -------
    float64 [U, D]
        Absolute, for rows ``casting.rows``; all other rows must not change at all.
    """
    lengths, magnitude = _magnitude(grad_out, casting.bags, casting.segment_offsets,
                                    casting.weights)
    lengths = lengths[:, None]
    lr = float(np.float32(lr))
    total = np.abs(weight[casting.rows]).astype(np.float64) + lr * magnitude
    products = 1 + (casting.weights is not None)
    rounding = gamma(segment_depth(lengths) + products + 1) + gamma(lengths + products)
    return rounding * total + 4 * UNDERFLOW_ERROR * products * (lengths + 1) * max(lr, 1.0)


def adagrad_bounds(weight, state, grad_out, casting, optimizer):
    """Bound the difference of two libraries' row-wise Adagrad update of the rows of ``casting``.

    The other library's coalesced gradient lies within :func:`difference_bound` of ours; from there
    on every operation is followed with intervals in binary64, widened by the roundings of the other
    library (its column sum in any order). Both results lie in the interval, so its width, and what
    the last subtraction rounds, bounds their difference. Wide where a gradient is mostly
    cancellation and the state is small: the step lr·g/√s is then truly uncertain.

    Parameters
    ----------
    weight : float32 [R, D]
        Before the update.
    state : float32 [R]
        Before the update.
    grad_out : float32 [B, D]
        Gradient of the pooled rows.
    casting : Casting
        Of the batch.
    optimizer : RowwiseAdagrad
        The rule.

    Returns
    -------
    (float64 [U, D], float64 [U])
        Absolute, of ``weight[casting.rows]`` and ``state[casting.rows]``.
    """
    batch = casting.bags, casting.segment_offsets, casting.weights
    dim = weight.shape[1]
    gradient = golden.gather_reduce(grad_out, *batch).astype(np.float64)
    error = difference_bound(grad_out, *batch)
    low, high = np.maximum(np.abs(gradient) - error, 0), np.abs(gradient) + error

    # A mean of squares: D products, their sum in any order, 1/D rounded and multiplied.
    relative = gamma(dim + 4)
    before = state[casting.rows].astype(np.float64)
    ulp = 2 * UNIT_ROUNDOFF
    state_low = (before + (low * low).mean(axis=1) * (1 - relative)) * (1 - ulp)
    state_high = (before + (high * high).mean(axis=1) * (1 + relative)) * (1 + ulp)
    state_high += 4 * dim * UNDERFLOW_ERROR
    state_low = np.maximum(state_low - 4 * dim * UNDERFLOW_ERROR, 0)

    # A root, a sum, a quotient and a product, each rounded; twice that for a library's shortcuts.
    lr, eps = float(optimizer.lr32), float(optimizer.eps32)
    relative = gamma(8)
    with np.errstate(divide="ignore", invalid="ignore"):
        step_low = lr / (np.sqrt(state_high) + eps) * (1 - relative)
        step_high = lr / (np.sqrt(state_low) + eps) * (1 + relative)
        least = np.where(np.abs(gradient) > error, step_low[:, None] * low,
                         -step_high[:, None] * high)
        most = step_high[:, None] * high
    size = np.abs(weight[casting.rows]).astype(np.float64) + most
    return most - least + 2 * ulp * size + 4 * UNDERFLOW_ERROR, state_high - state_low


def worst_ratio(found, expected, bound):
    """Return max |found − expected| / bound: at most 1 where they agree.

    Elements that are equal (or both NaN) count as 0, whatever the bound; one that is not finite
    and differs counts as infinite.
    """
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        ratio = np.abs(found - expected)[~same] / np.broadcast_to(bound, found.shape)[~same]
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())
