"""Tensor casting: the indices of a forward pass turned into those of its backward gather-reduce.

The forward pass is ``out = A · weight`` with A the B×R matrix whose CSR form is (offsets, indices).
Casting is the CSR transpose of A that keeps its non-empty rows alone: sort the (row, bag) pairs by
row, stably; the sorted bags gather from ``grad_out``, the runs of equal rows are the segments.
"""

from dataclasses import dataclass

import numpy as np

from .checks import check_index_range, check_integers, check_offsets, check_weights

__all__ = ["Casting", "bag_ids", "cast", "mean_weights", "reciprocals"]


@dataclass(frozen=True, eq=False)
class Casting:
    """The transposed lookups: N of them in U segments, one per distinct row.

    All integer arrays have the dtype of the indices that were cast.

    Attributes
    ----------
    bags : int [N]
        Bag of each lookup, in order of rows; equal rows in order of lookup.
    segment_offsets : int [U + 1]
        Segment s is ``bags[segment_offsets[s]:segment_offsets[s + 1]]``; none is empty.
    rows : int [U]
        The distinct rows, strictly increasing.
    weights : float32 [N] or None
        Per-sample weights in the order of ``bags``.
    positions : int [N]
        Lookup number of each entry of ``bags``: the sort permutation, which the baseline's
        coalesce gathers with.
    """

    bags: np.ndarray
    segment_offsets: np.ndarray
    rows: np.ndarray
    weights: np.ndarray | None
    positions: np.ndarray

    @property
    def n_lookups(self):
        """N."""
        return len(self.bags)

    @property
    def n_segments(self):
        """U."""
        return len(self.rows)


def bag_ids(offsets):
    """Return the bag of each lookup, [offsets[-1]], in the dtype of ``offsets``."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=offsets.dtype), np.diff(offsets))


def reciprocals(offsets):
    """Return RN(1/n) for each bag of n lookups, float32 [B]; 0 for an empty bag.

    Raises
    ------
    ValueError
        A bag of more than 2**24 lookups, whose n is not a binary32 number.
    """
    lengths = np.diff(offsets)
    if (lengths > 1 << 24).any():
        raise ValueError(f"a bag must have at most {1 << 24} lookups for mode 'mean', "
                         f"not {int(lengths.max())}")
    result = np.zeros(len(lengths), np.float32)
    filled = lengths > 0
    result[filled] = np.float32(1) / lengths[filled].astype(np.float32)
    return result


def mean_weights(offsets):
    """Return the per-sample weights with which the backward pass of mean pooling is cast.

    Parameters
    ----------
    offsets : int32 or int64 [B + 1]
        Where each bag or segment starts, then where the last ends.

    Returns
    -------
    float32 [offsets[-1]]
        RN(1/n) for each lookup of a bag of n.
    """
    check_offsets(offsets, None)
    return np.repeat(reciprocals(offsets), np.diff(offsets))


def cast(indices, offsets, num_rows, per_sample_weights=None):
    """Cast the lookups of a forward pass.

    Parameters
    ----------
    indices : int32 or int64 [>= offsets[-1]]
        Row of each lookup; those behind offsets[-1] are ignored.
    offsets : int32 or int64 [B + 1]
        Where each bag or segment starts, then where the last ends.
    num_rows : int
        Rows of the table; every index must be in [0, num_rows).
    per_sample_weights : float32 [len(indices)] or None
        Weight of each lookup.

    Returns
    -------
    Casting

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or out of range.
    """
    check_integers("indices", indices)
    check_offsets(offsets, len(indices))
    if not isinstance(num_rows, (int, np.integer)) or isinstance(num_rows, bool):
        raise TypeError(f"num_rows must be an int, not {num_rows!r}")
    if num_rows < 0:
        raise ValueError(f"num_rows must be at least 0, not {num_rows!r}")
    if per_sample_weights is not None:
        check_weights("per_sample_weights", per_sample_weights, len(indices))
    n = int(offsets[-1])
    used = indices[:n]
    check_index_range("indices", used, num_rows)

    positions = np.argsort(used, kind="stable")
    sorted_rows = used[positions]
    first = np.ones(n, bool)  # marks the first lookup of each run of equal rows
    np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    dtype = indices.dtype
    return Casting(
        bags=bag_ids(offsets)[positions].astype(dtype),
        segment_offsets=np.append(starts, n).astype(dtype),
        rows=sorted_rows[starts],
        weights=None if per_sample_weights is None else per_sample_weights[:n][positions],
        positions=positions.astype(dtype),
    )
