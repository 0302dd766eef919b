"""The contract, fast: the same bits as :mod:`.reference`, for millions of lookups.

No reduction of NumPy is used, because their order of additions is not the contract's: every
addition here is an elementwise one over many segments at once.
"""

import numpy as np

from .casting import bag_ids, cast, reciprocals
from .checks import (
    check_index_range,
    check_integers,
    check_offsets,
    check_rows_increase,
    check_table,
    check_weights,
)
from .numerics import canonicalise, check_environment
from .optimizers import check_optimizer, updated_rows

__all__ = ["backward_update", "baseline_backward", "casted_gather_reduce", "coalesce",
           "embedding_bag", "expand", "gather", "gather_reduce", "scatter", "scatter_update"]

#: Bytes of partial sums worked on at a time, so that they stay in the processor's cache.
TILE_BYTES = 1 << 20


def _take(src, numbers, out):
    """Copy src[numbers] to out; the numbers have been checked."""
    if src.flags.c_contiguous:
        # "clip" never clips here; "raise" would go through a second buffer.
        np.take(src, numbers, axis=0, out=out, mode="clip")
    else:
        out[...] = src[numbers]  # np.take would first copy the whole of a strided source


def segment_sums(src, indices, offsets, weights=None):
    """Sum the gathered rows of each segment by the eight-partial rule; arguments are trusted.

    Segments are sorted by length, longest first, so that those with a row at some position are a
    prefix, and all of them take that row in one operation. NaN needs no care until the end: it
    survives every addition.

    Parameters
    ----------
    src : float32 [R, D]
        Source rows.
    indices : int [>= offsets[-1]]
        Row of each lookup.
    offsets : int [S + 1]
        Where each bag or segment starts, then where the last ends.
    weights : float32 [len(indices)] or None
        Weight of each lookup.

    Returns
    -------
    float32 [S, D]
    """
    check_environment()
    indices = np.asarray(indices, np.intp)
    starts = np.asarray(offsets[:-1], np.intp)
    lengths = np.diff(offsets).astype(np.intp)
    dim = src.shape[1]
    out = np.zeros((len(lengths), dim), np.float32)

    order = np.argsort(-lengths, kind="stable")
    n_many, n_filled = (int(np.count_nonzero(lengths >= n)) for n in (2, 1))
    singles = order[n_many:n_filled]
    with np.errstate(all="ignore"):
        step = max(1, TILE_BYTES // (4 * dim))
        for begin in range(0, len(singles), step):
            part = singles[begin:begin + step]
            at = starts[part]
            rows = src[indices[at]]
            if weights is not None:
                rows *= weights[at, None]
                canonicalise(rows)
            out[part] = rows

        step = max(1, TILE_BYTES // (4 * 8 * dim))
        sums = np.empty((8, min(step, n_many), dim), np.float32)
        rows = np.empty((8 * min(step, n_many), dim), np.float32)
        for begin in range(0, n_many, step):
            part = order[begin:min(begin + step, n_many)]
            _tile(src, indices, weights, starts[part], lengths[part], sums, rows)
            out[part] = canonicalise(sums[0, :len(part)])
    return out


def _tile(src, indices, weights, starts, lengths, sums, buffer):
    """Leave the sums of the segments (longest first, of two rows or more) in sums[0]."""
    dim = src.shape[1]
    # have[n]: how many segments, which are the first ones, have more than n rows
    negated = -lengths
    partials = np.arange(8)[:, None]

    def have(n):
        return int(np.searchsorted(negated, -n, side="left"))

    def gather(at, target, first):
        """Take (first) or add the rows at the lookups ``at`` [...] to target [..., D]."""
        rows = buffer[:at.size]
        _take(src, indices[at.ravel()], rows)
        if weights is not None:
            rows *= weights[at.ravel(), None]
        rows = rows.reshape(*at.shape, dim)
        if first:
            target[...] = rows
        else:
            target += rows

    for base in range(0, int(lengths[0]), 8):
        full = have(base + 7)  # those with all of the eight positions base … base + 7
        if full:
            gather(starts[:full] + (base + partials), sums[:, :full], base == 0)
        for k in range(7):  # those that end within the eight
            last = have(base + k)
            if last <= full:
                break
            gather(starts[full:last] + (base + k), sums[k, full:last], base == 0)

    for distance in (1, 2, 4):  # the adjacent pairwise tree
        for k in range(0, 8, 2 * distance):
            both = have(k + distance)
            sums[k, :both] += sums[k + distance, :both]


def gather_reduce(src, indices, offsets, weights=None):
    """Return out[s] = Σ src[indices[i]] (each times weights[i]), i in segment s; empty: +0.

    Parameters
    ----------
    src : float32 [R, D]
        Source rows.
    indices : int32 or int64 [>= offsets[-1]]
        In [0, R); those behind offsets[-1] are ignored.
    offsets : int32 or int64 [S + 1]
        Where each bag or segment starts, then where the last ends.
    weights : float32 [len(indices)] or None
        Weight of each lookup.

    Returns
    -------
    float32 [S, D]

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or out of range.
    """
    check_table("src", src)
    return _gather_reduce(src, "indices", indices, "offsets", offsets, "weights", weights,
                          "len(src)")


def _gather_reduce(src, index_name, indices, offset_name, offsets, weight_name, weights,
                   limit_name):
    check_integers(index_name, indices)
    check_offsets(offsets, len(indices), name=offset_name, limit_name=f"len({index_name})")
    if weights is not None:
        check_weights(weight_name, weights, len(indices))
    used = indices[:int(offsets[-1])]
    check_index_range(index_name, used, len(src), limit_name)
    return segment_sums(src, used, offsets, weights)


def gather(weight, indices):
    """Return weight[indices], float32 [N, D]: the forward pass without pooling."""
    check_table("weight", weight)
    check_integers("indices", indices)
    check_index_range("indices", indices, len(weight), "len(weight)")
    return weight[indices]


def embedding_bag(weight, indices, offsets, per_sample_weights=None, mode="sum"):
    """Return the pooled rows of each bag.

    Parameters
    ----------
    weight : float32 [R, D]
        The table.
    indices : int32 or int64 [>= offsets[-1]]
        In [0, R); those behind offsets[-1] are ignored.
    offsets : int32 or int64 [B + 1]
        Where each bag or segment starts, then where the last ends.
    per_sample_weights : float32 [len(indices)] or None
        RN(w·x) comes before the sum; with mode "sum" only.
    mode : "sum" or "mean"
        Mean is RN(sum·RN(1/n)) of a bag of n; an empty bag is +0 in both.

    Returns
    -------
    float32 [B, D]

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or out of range.
    """
    if mode not in ("sum", "mean"):
        raise ValueError(f"mode must be 'sum' or 'mean', not {mode!r}")
    if mode == "mean" and per_sample_weights is not None:
        raise ValueError("per_sample_weights must be None with mode 'mean', not an array")
    check_table("weight", weight)
    out = _gather_reduce(weight, "indices", indices, "offsets", offsets, "per_sample_weights",
                         per_sample_weights, "len(weight)")
    if mode == "mean":
        with np.errstate(all="ignore"):
            filled = np.diff(offsets) > 0
            scaled = out * reciprocals(offsets)[:, None]
            out[filled] = canonicalise(scaled)[filled]
    return out


def expand(grad_out, offsets):
    """Return grad_out[b] once for each lookup of bag b: the baseline's first step.

    Parameters
    ----------
    grad_out : float32 [B, D]
        Gradient of each bag.
    offsets : int32 or int64 [B + 1]
        Where each bag or segment starts, then where the last ends.

    Returns
    -------
    float32 [offsets[-1], D]
    """
    check_table("grad_out", grad_out)
    check_offsets(offsets, None)
    if len(offsets) != len(grad_out) + 1:
        raise ValueError(f"offsets must have len(grad_out) + 1 = {len(grad_out) + 1} entries, "
                         f"not {len(offsets)}")
    return grad_out[bag_ids(offsets)]


def coalesce(expanded, casting):
    """Return the sum of the expanded gradients of each distinct row: the baseline's second step.

    Parameters
    ----------
    expanded : float32 [N, D]
        Gradient of each lookup, from :func:`expand`.
    casting : Casting
        The cast lookups.

    Returns
    -------
    float32 [U, D]
    """
    check_table("expanded", expanded)
    return _gather_reduce(expanded, "casting.positions", casting.positions,
                          "casting.segment_offsets", casting.segment_offsets,
                          "casting.weights", casting.weights, "len(expanded)")


def casted_gather_reduce(grad_out, casting):
    """Return the coalesced gradient straight from ``grad_out``: equal to the baseline's bits.

    Parameters
    ----------
    grad_out : float32 [B, D]
        Gradient of each bag.
    casting : Casting
        The cast lookups.

    Returns
    -------
    float32 [U, D]
    """
    check_table("grad_out", grad_out)
    return _gather_reduce(grad_out, "casting.bags", casting.bags,
                          "casting.segment_offsets", casting.segment_offsets,
                          "casting.weights", casting.weights, "len(grad_out)")


def scatter(dst, rows, values):
    """Overwrite dst[rows[s]] with values[s] in place; a repeated row keeps its last value.

    Parameters
    ----------
    dst : float32 [R, D]
        Rows to overwrite.
    rows : int32 or int64 [S]
        Rows to update.
    values : float32 [S, D]
        What is written.
    """
    check_table("dst", dst, writable=True)
    check_integers("rows", rows)
    check_table("values", values, rows=len(rows), columns=dst.shape[1])
    check_index_range("rows", rows, len(dst), "len(dst)")
    store_rows(dst, rows, values)


def store_rows(dst, rows, values):
    """Overwrite dst[rows] with values, the last of a repeated row; arguments are trusted."""
    distinct, backwards = np.unique(rows[::-1], return_index=True)
    dst[distinct] = values[len(rows) - 1 - backwards]


def update_rows(weight, rows, grads, optimizer, state=None):
    """Update weight[rows] and state[rows]; the rows are distinct and the arguments trusted."""
    check_environment()
    step = max(1, TILE_BYTES // (4 * weight.shape[1]))
    for begin in range(0, len(rows), step):
        part = rows[begin:begin + step]
        weight[part], changed = updated_rows(weight[part], None if state is None else state[part],
                                             grads[begin:begin + step], optimizer)
        if state is not None:
            state[part] = changed


def _check_update(weight, rows, optimizer, state, name):
    check_table("weight", weight, writable=True)
    check_optimizer(optimizer, state, len(weight))
    check_integers(name, rows)
    check_index_range(name, rows, len(weight), "len(weight)")
    check_rows_increase(name, rows)


def scatter_update(weight, rows, grads, optimizer, state=None):
    """Update weight[rows[s]] with grads[s] in place: the baseline's third step.

    Parameters
    ----------
    weight : float32 [R, D]
        The table.
    rows : int32 or int64 [U]
        Strictly increasing, in [0, R).
    grads : float32 [U, D]
        Coalesced gradient of each updated row.
    optimizer : SGD or RowwiseAdagrad
        The rule and its constants.
    state : float32 [R] or None
        State of the rows, updated in place; None with SGD.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed.
    """
    _check_update(weight, rows, optimizer, state, "rows")
    check_table("grads", grads, rows=len(rows), columns=weight.shape[1])
    update_rows(weight, rows, grads, optimizer, state)


def backward_update(weight, grad_out, casting, optimizer, state=None):
    """Reduce the gradient of each distinct row and update the row, in place: the fused backward.

    Parameters
    ----------
    weight : float32 [R, D]
        The table.
    grad_out : float32 [B, D]
        Gradient of each bag.
    casting : Casting
        The cast lookups.
    optimizer : SGD or RowwiseAdagrad
        The rule and its constants.
    state : float32 [R] or None
        State of the rows, updated in place; None with SGD.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed.
    """
    _check_update(weight, casting.rows, optimizer, state, "casting.rows")
    check_table("grad_out", grad_out, columns=weight.shape[1])
    update_rows(weight, casting.rows, casted_gather_reduce(grad_out, casting), optimizer, state)


def baseline_backward(weight, grad_out, indices, offsets, optimizer, per_sample_weights=None,
                      state=None):
    """Update the table in place as everyone did before: expand, coalesce, scatter.

    Parameters
    ----------
    weight : float32 [R, D]
        The table.
    grad_out : float32 [B, D]
        Gradient of each bag.
    indices : int32 or int64 [>= offsets[-1]]
        Row of each lookup.
    offsets : int32 or int64 [B + 1]
        Where each bag or segment starts, then where the last ends.
    optimizer : SGD or RowwiseAdagrad
        The rule and its constants.
    per_sample_weights : float32 [len(indices)] or None
        Weight of each lookup.
    state : float32 [R] or None
        State of the rows, updated in place; None with SGD.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed.
    """
    check_table("weight", weight, writable=True)
    check_optimizer(optimizer, state, len(weight))
    check_table("grad_out", grad_out, columns=weight.shape[1])
    casting = cast(indices, offsets, len(weight), per_sample_weights)
    grads = coalesce(expand(grad_out, offsets), casting)
    scatter_update(weight, casting.rows, grads, optimizer, state)
