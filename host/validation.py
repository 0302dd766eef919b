"""Validation of every argument of the device API, in one place.

Every function raises before anything is changed: TypeError where the kind of a thing is wrong,
ValueError where its value is. The message names the argument, the value and the limit.

The functions look at arrays through their own methods and take the array module as ``xp``, so
that they serve NumPy and CuPy arrays alike.
"""

import numpy as np

from ..golden import SGD, Casting, RowwiseAdagrad
from . import native
from .checked_casting import CheckedCasting

__all__ = [
    "casting_fields", "disjoint", "index_array", "index_kind", "matrix", "mean_lengths",
    "mode_name", "offset_array", "offset_kind", "optimizer_sgd", "optimizer_state", "row_array",
    "sample_weights", "scalar_count", "writable",
]

_INTEGERS = (np.int32, np.int64)


def _array(name, value, ndim, dtypes, xp):
    if not isinstance(value, xp.ndarray):
        raise TypeError(f"{name} must be a {xp.__name__} array, not {type(value).__name__}")
    if value.dtype not in dtypes:
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"{name} must be of dtype {wanted}, not {value.dtype}")
    if value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, "
                         f"not shape {value.shape!r}")
    return value


def matrix(name, value, *, rows=None, dim=None, rows_of=None, dim_of=None, xp=np):
    """Check ``value`` to be float32 of shape [rows, dim] with at least one column.

    ``rows`` and ``dim``, where given, are the sizes it must have; ``rows_of`` and ``dim_of`` say
    in the message where they come from.
    """
    _array(name, value, 2, (np.float32,), xp)
    if rows is not None and value.shape[0] != rows:
        raise ValueError(f"{name} must have {rows} rows ({rows_of}), not shape {value.shape!r}")
    if dim is not None and value.shape[1] != dim:
        raise ValueError(f"{name} must have {dim} columns ({dim_of}), not shape {value.shape!r}")
    if value.shape[1] < 1:
        raise ValueError(f"{name} must have at least 1 column, not shape {value.shape!r}")
    return value


def writable(name, value, xp=np):
    """Check that the rows of ``value`` can be updated in place.

    Each row must be contiguous and rows must not overlap; the distance between rows may be larger
    than a row, as in a slice of a wider table's columns.
    """
    flags = value.flags
    if xp is np and not flags.writeable:
        raise ValueError(f"{name} must be writable, not a read-only array: it is updated in place")
    rows, dim = value.shape
    row_bytes = dim * value.itemsize
    if rows and dim > 1 and value.strides[1] != value.itemsize:
        raise ValueError(f"{name} must have contiguous rows (a column stride of "
                         f"{value.itemsize} bytes), not strides {value.strides!r}")
    if rows > 1 and value.strides[0] < row_bytes:
        raise ValueError(f"{name} must have a row stride of at least {row_bytes} bytes, "
                         f"not strides {value.strides!r}")
    if value.size and xp is np and value.ctypes.data % value.itemsize:
        raise ValueError(f"{name} must be aligned to {value.itemsize} bytes, "
                         f"not at an address that is {value.ctypes.data % value.itemsize} past it")
    return value


def _shares(one, other, xp):
    if not xp.may_share_memory(one, other):
        return False
    if xp is not np:
        return True
    try:  # columns of one table lie between each other, but apart
        return np.shares_memory(one, other, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


def disjoint(name, value, others, xp=np):
    """Check that ``value``, updated in place, shares no memory with ``others`` (a dict by name)."""
    for other_name, other in others.items():
        if _shares(value, other, xp):
            raise ValueError(f"{name} must not share memory with {other_name}: "
                             f"it is updated while {other_name} is read")


def index_kind(name, value, xp=np):
    """Check ``value`` to be a vector of int32 or int64, whatever it holds."""
    return _array(name, value, 1, _INTEGERS, xp)


def _first(mask, xp):
    """Return the position of the first true element."""
    return int(xp.flatnonzero(mask)[0])


def _in_range(name, value, n_rows, rows_of, place, xp):
    """Check every element to be in [0, n_rows); ``place`` describes a position in words."""
    core = native.loaded() if xp is np else None
    if core is not None:
        position = core.first_outside(value, n_rows)
    elif value.size and (int(value.min()) < 0 or int(value.max()) >= n_rows):
        position = _first((value < 0) | (value >= n_rows), xp)
    else:
        position = -1
    if position >= 0:
        raise ValueError(f"{name}[{position}] must be at least 0 and below {n_rows} ({rows_of}), "
                         f"not {int(value[position])}{place(position)}")


def offset_kind(name, value, xp=np):
    """Check ``value`` to be int32 or int64 [B + 1], whatever it holds."""
    _array(name, value, 1, _INTEGERS, xp)
    if value.size < 1:
        raise ValueError(f"{name} must have at least 1 element (one more than bags), not 0")
    return value


def offset_array(name, value, n_lookups, lookups_of, xp=np):
    """Check ``value`` to be int32 or int64 [B + 1]: starts at 0, never decreases, ends within N.

    Lookups behind the last offset belong to no bag and are ignored.
    """
    offset_kind(name, value, xp)
    if int(value[0]) != 0:
        raise ValueError(f"{name}[0] must be 0, not {int(value[0])}")
    core = native.loaded() if xp is np else None
    if core is not None:
        position = core.first_fall(value)
    else:
        falls = value[1:] < value[:-1]
        position = _first(falls, xp) + 1 if bool(falls.any()) else -1
    if position >= 0:
        raise ValueError(f"{name}[{position}] must be at least {name}[{position - 1}] = "
                         f"{int(value[position - 1])}, not {int(value[position])}")
    if int(value[-1]) > n_lookups:
        position = _first(value > n_lookups, xp)
        raise ValueError(f"{name}[{position}] must be at most {n_lookups} ({lookups_of}), "
                         f"not {int(value[position])}")
    return value


def index_array(name, value, n_rows, rows_of, offsets=None, xp=np):
    """Check ``value`` to be int32 or int64 [N] with every element in [0, n_rows).

    With ``offsets`` (checked before) the message names the bag of the first offender as well.
    """
    _array(name, value, 1, _INTEGERS, xp)

    def place(position):
        if offsets is None or position >= int(offsets[-1]):
            return ""
        # As an array, because CuPy searches for nothing else.
        wanted = xp.asarray([position], dtype=offsets.dtype)
        return f" (bag {int(xp.searchsorted(offsets, wanted, side='right')[0]) - 1})"

    _in_range(name, value, n_rows, rows_of, place, xp)
    return value


def row_array(name, value, n_rows, rows_of, *, increasing, xp=np):
    """Check ``value`` to be int32 or int64 [U] of rows in [0, n_rows).

    With ``increasing`` they must strictly increase, which an update needs: a row that stands
    twice would be read before its first update is written.
    """
    _array(name, value, 1, _INTEGERS, xp)
    if increasing:
        stalls = value[1:] <= value[:-1]
        if bool(stalls.any()):
            position = _first(stalls, xp) + 1
            raise ValueError(f"{name}[{position}] must be above {name}[{position - 1}] = "
                             f"{int(value[position - 1])}, not {int(value[position])}")
    _in_range(name, value, n_rows, rows_of, lambda position: "", xp)
    return value


def mode_name(mode):
    """Check the pooling mode."""
    if mode not in ("sum", "mean"):
        raise ValueError(f"mode must be 'sum' or 'mean', not {mode!r}")
    return mode


def mean_lengths(offsets, xp=np):
    """Check that 1/n of every bag can be formed: n is a binary32 number up to 2**24."""
    lengths = offsets[1:] - offsets[:-1]
    if lengths.size and int(lengths.max()) > 1 << 24:
        position = _first(lengths > 1 << 24, xp)
        raise ValueError(f"offsets must make bags of at most {1 << 24} lookups for mode 'mean', "
                         f"not {int(lengths[position])} (bag {position})")


def sample_weights(value, n_lookups, mode="sum", xp=np):
    """Check per-sample weights: None, or float32 [N], and only with mode "sum"."""
    if value is None:
        return None
    if mode != "sum":
        raise ValueError(f"per_sample_weights must be None with mode={mode!r} (they need 'sum')")
    _array("per_sample_weights", value, 1, (np.float32,), xp)
    if value.size != n_lookups:
        raise ValueError(f"per_sample_weights must have {n_lookups} elements (as indices), "
                         f"not {value.size}")
    return value


def factors(name, value, size, unit, dtype=np.float32):
    """Check an array with one element for each of ``size`` lookups or segments."""
    _array(name, value, 1, (dtype,), np)
    if value.size != size:
        raise ValueError(f"{name} must have {size} elements ({unit}), not {value.size}")


def scalar_count(name, value):
    """Check a number of things: an int of at least 0. Returns it as a Python int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value!r}")
    return int(value)


def optimizer_sgd(name, value):
    """Check an optimizer to be an SGD, the one rule that an engine has."""
    if not isinstance(value, SGD):
        raise TypeError(f"{name} must be an SGD on an engine, not {type(value).__name__}")
    return value


def optimizer_state(optimizer, state, n_rows, xp=np):
    """Check an update rule and its state: None for SGD, float32 [n_rows] for RowwiseAdagrad."""
    if isinstance(optimizer, RowwiseAdagrad):
        _array("state", state, 1, (np.float32,), xp)
        if state.size != n_rows:
            raise ValueError(f"state must have {n_rows} elements (rows of weight), "
                             f"not {state.size}")
        if xp is np and not state.flags.writeable:
            raise ValueError("state must be writable, not a read-only array: it is updated in "
                             "place")
    elif not isinstance(optimizer, SGD):
        raise TypeError(f"optimizer must be an SGD or a RowwiseAdagrad, "
                        f"not {type(optimizer).__name__}")
    elif state is not None:
        raise TypeError(f"state must be None with SGD, not {type(state).__name__}")


def casting_fields(casting, *, n_bags=None, bags_of=None, n_rows=None, rows_of=None,
                   n_expanded=None, xp=np):
    """Check a Casting: its arrays agree with each other and with the sizes given.

    ``n_bags`` bounds its bags, ``n_rows`` its rows, ``n_expanded`` its positions; one that is None
    is not used by the call and not checked.
    """
    if not isinstance(casting, Casting):
        raise TypeError(f"casting must be a Casting, not {type(casting).__name__}")
    for name in ("bags", "segment_offsets", "rows"):
        index_kind(f"casting.{name}", getattr(casting, name), xp)
    if isinstance(casting, CheckedCasting) and casting.within(
            n_bags=n_bags, n_rows=n_rows, n_expanded=n_expanded):
        return casting
    index_kind("casting.positions", casting.positions, xp)
    n_lookups = casting.bags.size
    for name, wanted, why in (
            ("segment_offsets", casting.rows.size + 1, "one more than casting.rows"),
            ("positions", n_lookups, "as casting.bags")):
        size = getattr(casting, name).size
        if size != wanted:
            raise ValueError(f"casting.{name} must have {wanted} elements ({why}), not {size}")
    offset_array("casting.segment_offsets", casting.segment_offsets, n_lookups, "casting.bags", xp)
    if n_bags is not None:
        index_array("casting.bags", casting.bags, n_bags, bags_of, xp=xp)
    if n_expanded is not None:
        index_array("casting.positions", casting.positions, n_expanded, "rows of expanded", xp=xp)
    if n_rows is not None:
        row_array("casting.rows", casting.rows, n_rows, rows_of, increasing=True, xp=xp)
    if casting.weights is not None:
        _array("casting.weights", casting.weights, 1, (np.float32,), xp)
        if casting.weights.size != n_lookups:
            raise ValueError(f"casting.weights must have {n_lookups} elements (as casting.bags), "
                             f"not {casting.weights.size}")
    return casting
