"""Casting with one sort of packed keys, for NumPy and CuPy arrays alike.

A key holds a lookup's row in its high bits and its position in the low ones. Keys are distinct, so
any sort gives the stable order, and NumPy sorts plain integers several times faster than it
argsorts them.
"""

import numpy as np

from ..golden import Casting

__all__ = ["cast", "check_key_bits", "last_of_each", "sort_rows"]


def check_key_bits(key_bits, num_rows, n_lookups):
    """Raise ValueError unless a key of so many bits fits in a word."""
    if key_bits > 63:
        raise ValueError(f"num_rows times the number of lookups must be at most 2**63, "
                         f"not {num_rows} rows and {n_lookups} lookups")


def sort_rows(rows, num_rows, xp=np):
    """Sort ``rows`` [n], each in [0, num_rows), stably.

    Returns
    -------
    (int [n], int [n])
        The sorted rows and where each stood; of an integer type wide enough for both.

    Raises
    ------
    ValueError
        Row and position do not fit in 63 bits.
    """
    n = rows.size
    position_bits = max(n - 1, 0).bit_length()
    key_bits = max(num_rows - 1, 0).bit_length() + position_bits
    check_key_bits(key_bits, num_rows, n)
    dtype = xp.uint32 if key_bits <= 32 else xp.int64
    keys = rows.astype(dtype)
    keys <<= dtype(position_bits)
    keys |= xp.arange(n, dtype=dtype)
    keys.sort()
    return keys >> dtype(position_bits), keys & dtype((1 << position_bits) - 1)


def _starts(sorted_rows, xp):
    """Return where each run of equal rows starts."""
    first = xp.ones(sorted_rows.size, dtype=bool)
    first[1:] = sorted_rows[1:] != sorted_rows[:-1]
    return xp.flatnonzero(first)


def cast(indices, offsets, num_rows, weights=None, xp=np):
    """Return the Casting of checked lookups, the same as :func:`golden.cast`.

    Parameters
    ----------
    indices : int32 or int64 [N]
        Rows, each in [0, num_rows).
    offsets : int32 or int64 [B + 1]
        The last one is N.
    num_rows : int
        Rows of the table.
    weights : float32 [N] or None
        Per-sample weights.
    xp : module
        numpy or cupy: where the arrays come from.
    """
    dtype = indices.dtype
    rows, positions = sort_rows(indices, num_rows, xp)
    starts = _starts(rows, xp)
    positions = positions.astype(dtype)
    end = xp.asarray([indices.size], dtype=dtype)
    # The bag of a lookup is the last one that starts at it or before it.
    bags = xp.searchsorted(offsets, positions.astype(offsets.dtype), side="right") - 1
    return Casting(
        bags=bags.astype(dtype),
        segment_offsets=xp.concatenate([starts.astype(dtype), end]),
        rows=rows[starts].astype(dtype),
        weights=None if weights is None else weights[positions],
        positions=positions,
    )


def last_of_each(rows, num_rows, xp=np):
    """Return the distinct rows, ascending, and the last position of each in ``rows``."""
    sorted_rows, positions = sort_rows(rows, num_rows, xp)
    starts = _starts(sorted_rows, xp)
    last = xp.concatenate([starts[1:], xp.asarray([rows.size] * bool(rows.size),
                                                  dtype=starts.dtype)]) - 1
    return sorted_rows[starts], positions[last]
