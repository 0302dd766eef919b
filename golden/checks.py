"""Validation of arguments: TypeError or ValueError naming the argument, the value, the limit."""

import numpy as np

__all__ = ["check_index_range", "check_integers", "check_offsets", "check_rows_increase",
           "check_table", "check_weights"]

INDEX_DTYPES = (np.dtype(np.int32), np.dtype(np.int64))


def _ndarray(name, array):
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, not {type(array).__name__}")


def check_table(name, array, *, rows=None, columns=None, writable=False):
    """Require a float32 matrix [rows, columns] with at least one column."""
    _ndarray(name, array)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must be of dtype float32, not {array.dtype}")
    if array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(f"{name} must be a matrix with at least one column, "
                         f"not of shape {array.shape}")
    if rows is not None and array.shape[0] != rows:
        raise ValueError(f"{name} must have {rows} rows, not {array.shape[0]}")
    if columns is not None and array.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, not {array.shape[1]}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be writable, because it is updated in place")


def check_integers(name, array):
    """Require a vector of int32 or int64."""
    _ndarray(name, array)
    if array.dtype not in INDEX_DTYPES:
        raise TypeError(f"{name} must be of dtype int32 or int64, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be a vector, not of shape {array.shape}")


def check_offsets(offsets, n_lookups, *, name="offsets", limit_name="len(indices)"):
    """Require CSR offsets: B + 1 of them, the first 0, none decreasing, the last <= n_lookups."""
    check_integers(name, offsets)
    if len(offsets) < 1:
        raise ValueError(f"{name} must have at least 1 entry (bags + 1), not 0")
    if offsets[0] != 0:
        raise ValueError(f"{name}[0] must be 0, not {int(offsets[0])}")
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        s = int(np.argmax(falls)) + 1
        raise ValueError(f"{name}[{s}] must be at least {name}[{s - 1}] = {int(offsets[s - 1])}, "
                         f"not {int(offsets[s])}")
    if n_lookups is not None and offsets[-1] > n_lookups:
        raise ValueError(f"{name}[-1] must be at most {limit_name} = {n_lookups}, "
                         f"not {int(offsets[-1])}")


def check_index_range(name, indices, limit, limit_name="num_rows"):
    """Require every index to be in [0, limit)."""
    outside = (indices < 0) | (indices >= limit)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(f"{name}[{i}] must be from 0 to {limit_name} - 1 = {limit - 1}, "
                         f"not {int(indices[i])}")


def check_rows_increase(name, rows):
    """Require the rows of an update to increase strictly, so that each is updated once."""
    stuck = rows[1:] <= rows[:-1]
    if stuck.any():
        s = int(np.argmax(stuck)) + 1
        raise ValueError(f"{name}[{s}] must be above {name}[{s - 1}] = {int(rows[s - 1])}, "
                         f"not {int(rows[s])}")


def check_weights(name, weights, length):
    """Require a float32 vector with one weight per lookup."""
    _ndarray(name, weights)
    if weights.dtype != np.float32:
        raise TypeError(f"{name} must be of dtype float32, not {weights.dtype}")
    if weights.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), not {weights.shape}")
