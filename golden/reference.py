"""The contract as loops: one row at a time, nothing clever.

Slow on purpose; :mod:`.vectorised` must return the same bits. Arguments are trusted here.
"""

from collections import defaultdict

import numpy as np

from .casting import Casting
from .numerics import add, mul
from .optimizers import updated_rows

__all__ = ["backward_update", "baseline_backward", "cast", "casted_gather_reduce", "coalesce",
           "embedding_bag", "expand", "gather_reduce", "scatter", "scatter_update", "segment_sum"]

N_PARTIALS = 8


def segment_sum(rows):
    """Sum a list of float32 rows by the eight-partial rule; None where there are no rows.

    Row i goes to partial i mod 8, the first of a partial as it is. Then the partials are combined
    by an adjacent pairwise tree, in which an absent operand leaves the other unchanged.
    """
    partials = [None] * N_PARTIALS
    for i, row in enumerate(rows):
        k = i % N_PARTIALS
        partials[k] = row if partials[k] is None else add(partials[k], row)
    while len(partials) > 1:
        partials = [_combine(a, b) for a, b in zip(partials[0::2], partials[1::2], strict=True)]
    return partials[0]


def _combine(a, b):
    if b is None:
        return a
    if a is None:
        return b
    return add(a, b)


def gather_reduce(src, indices, offsets, weights=None):
    """Return out[s] = Σ src[indices[i]] (each times weights[i]), i in segment s; empty: +0.

    ``src`` float32 [R, D], ``indices`` int [N], ``offsets`` int [S + 1], ``weights`` float32 [N].
    """
    out = np.zeros((len(offsets) - 1, src.shape[1]), np.float32)
    for s in range(len(offsets) - 1):
        rows = []
        for i in range(int(offsets[s]), int(offsets[s + 1])):
            row = src[int(indices[i])]
            rows.append(row if weights is None else mul(weights[i], row))
        total = segment_sum(rows)
        if total is not None:
            out[s] = total
    return out


def embedding_bag(weight, indices, offsets, per_sample_weights=None, mode="sum"):
    """Return the pooled rows of each bag, [B, D]; mean is RN(sum·RN(1/n))."""
    out = gather_reduce(weight, indices, offsets, per_sample_weights)
    if mode == "mean":
        for b in range(len(out)):
            n = int(offsets[b + 1] - offsets[b])
            if n > 0:
                out[b] = mul(out[b], np.float32(1) / np.float32(n))
    return out


def expand(grad_out, offsets):
    """Return grad_out[b] once for each lookup of bag b, [offsets[-1], D]."""
    rows = [grad_out[b] for b in range(len(offsets) - 1)
            for _ in range(int(offsets[b]), int(offsets[b + 1]))]
    return np.array(rows, np.float32).reshape(len(rows), grad_out.shape[1])


def cast(indices, offsets, num_rows, per_sample_weights=None):
    """Return the Casting of the lookups: a dict from row to its (bag, position) pairs, read out."""
    lookups = defaultdict(list)
    for b in range(len(offsets) - 1):
        for i in range(int(offsets[b]), int(offsets[b + 1])):
            lookups[int(indices[i])].append((b, i))
    bags, positions, segment_offsets = [], [], [0]
    rows = sorted(lookups)
    if rows and not 0 <= rows[0] <= rows[-1] < num_rows:
        raise ValueError(f"indices must be from 0 to {num_rows - 1}, not {rows[0]} to {rows[-1]}")
    for row in rows:
        for b, i in lookups[row]:
            bags.append(b)
            positions.append(i)
        segment_offsets.append(len(bags))
    dtype = indices.dtype
    return Casting(
        np.array(bags, dtype), np.array(segment_offsets, dtype), np.array(rows, dtype),
        None if per_sample_weights is None
        else np.array([per_sample_weights[i] for i in positions], np.float32),
        np.array(positions, dtype))


def coalesce(expanded, casting):
    """Return the summed rows of ``expanded`` for each distinct table row, [U, D]."""
    return gather_reduce(expanded, casting.positions, casting.segment_offsets, casting.weights)


def casted_gather_reduce(grad_out, casting):
    """Return the same as coalesce(expand(grad_out)), without expanding, [U, D]."""
    return gather_reduce(grad_out, casting.bags, casting.segment_offsets, casting.weights)


def scatter(dst, rows, values):
    """Overwrite dst[rows[s]] with values[s], in order of s."""
    for s in range(len(rows)):
        dst[int(rows[s])] = values[s]


def scatter_update(weight, rows, grads, optimizer, state=None):
    """Update weight[rows[s]] (and state[rows[s]]) with grads[s], in order of s."""
    for s in range(len(rows)):
        row = slice(int(rows[s]), int(rows[s]) + 1)
        weight[row], changed = updated_rows(
            weight[row], None if state is None else state[row], grads[s:s + 1], optimizer)
        if state is not None:
            state[row] = changed


def backward_update(weight, grad_out, casting, optimizer, state=None):
    """Reduce the gradient of each distinct row and update that row at once."""
    for s in range(casting.n_segments):
        start, stop = int(casting.segment_offsets[s]), int(casting.segment_offsets[s + 1])
        segment = np.array([0, stop - start])
        weights = None if casting.weights is None else casting.weights[start:stop]
        grad = gather_reduce(grad_out, casting.bags[start:stop], segment, weights)
        scatter_update(weight, casting.rows[s:s + 1], grad, optimizer, state)


def baseline_backward(weight, grad_out, indices, offsets, optimizer, per_sample_weights=None,
                      state=None):
    """Update the table as everyone did before: expand, coalesce, scatter."""
    casting = cast(indices, offsets, len(weight), per_sample_weights)
    grads = coalesce(expand(grad_out, offsets), casting)
    scatter_update(weight, casting.rows, grads, optimizer, state)
