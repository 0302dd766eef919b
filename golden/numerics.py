"""Binary32 arithmetic of the contract: every operation rounded on its own, one NaN.

Results are IEEE 754 binary32, round to nearest even, subnormals kept. A NaN that an operation
*computes* is the quiet NaN 0x7fc00000; a value that is only copied keeps its bits.
Everything here that is named ``*_bound`` is error analysis for comparisons with other libraries and
works in binary64; nothing that computes a result does.
"""

import numpy as np

__all__ = ["CANONICAL_NAN", "UNIT_ROUNDOFF", "add", "bits", "bits_equal", "canonicalise",
           "check_environment", "column_sum", "first_difference", "gamma", "mul", "segment_depth",
           "sub", "sum_bound"]

#: The bits of every NaN that arithmetic returns.
CANONICAL_NAN = 0x7FC00000
#: Half the distance from 1 to the next binary32 number.
UNIT_ROUNDOFF = 2.0 ** -24
#: Half the smallest subnormal: the most that rounding an underflowed product can lose.
UNDERFLOW_ERROR = 2.0 ** -150

_SUBNORMAL = np.array([2.0 ** -140], np.float32)
_HALF = np.array([0.5], np.float32)
_SUBNORMAL_HALF_BITS = 1 << 8  # 2**-141 is 2**8 times the smallest subnormal, 2**-149


def check_environment():
    """Raise RuntimeError if this thread flushes subnormals to zero.

    Some libraries set the processor's flush-to-zero mode for everybody else in the thread when
    they are loaded or asked to (``torch.set_flush_denormal``); no result would be right then.
    """
    if bits(_SUBNORMAL * _HALF)[0] != _SUBNORMAL_HALF_BITS:
        raise RuntimeError("the thread's floating-point mode must keep subnormals, "
                           "but a library has set flush-to-zero")


def bits(x):
    """Return the bit patterns (uint32) of a float32 array; a view where the layout allows it."""
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise TypeError(f"array must be of dtype float32, not {x.dtype}")
    return (x if x.flags.c_contiguous else np.ascontiguousarray(x)).view(np.uint32)


def canonicalise(x):
    """Replace every NaN in the float32 array ``x`` by 0x7fc00000, in place; return ``x``."""
    nan = np.isnan(x)
    if nan.any():
        x[nan] = np.uint32(CANONICAL_NAN).view(np.float32)
    return x


def _operation(function, a, b):
    a, b = np.asarray(a), np.asarray(b)
    for x in (a, b):
        if x.dtype != np.float32:
            raise TypeError(f"operand must be of dtype float32, not {x.dtype}")
    with np.errstate(all="ignore"):
        return canonicalise(np.array(function(a, b), dtype=np.float32))


def add(a, b):
    """Return RN(a + b) of float32 arrays (or scalars), with the NaN rule."""
    return _operation(np.add, a, b)


def sub(a, b):
    """Return RN(a − b) of float32 arrays (or scalars), with the NaN rule."""
    return _operation(np.subtract, a, b)


def mul(a, b):
    """Return RN(a · b) of float32 arrays (or scalars), with the NaN rule."""
    return _operation(np.multiply, a, b)


def column_sum(x):
    """Sum each row of ``x`` by the adjacent pairwise tree of the contract.

    Parameters
    ----------
    x : float32 [..., D], D >= 1
        The columns are padded with absent operands to a power of two; an absent operand leaves the
        other unchanged.

    Returns
    -------
    float32 [...]
    """
    level = np.array(x, dtype=np.float32)
    if level.ndim < 1 or level.shape[-1] < 1:
        raise ValueError(f"x must have at least one column, not shape {level.shape}")
    while level.shape[-1] > 1:
        paired = level.shape[-1] // 2 * 2
        sums = add(level[..., 0:paired:2], level[..., 1:paired:2])
        level = np.concatenate([sums, level[..., paired:]], axis=-1)
    return level[..., 0]


def bits_equal(a, b):
    """Return whether two float32 arrays have one shape and the same bits, every NaN being equal.

    Zeros of different sign differ.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != np.float32 or b.dtype != np.float32:
        return False
    same = bits(a) == bits(b)
    return bool(same.all() or (same | (np.isnan(a) & np.isnan(b))).all())


def first_difference(a, b):
    """Return where two float32 arrays of one shape first differ, or None.

    Returns
    -------
    tuple (index, bits of a, bits of b) or None
        ``index`` is a tuple of int, in C order the first at which :func:`bits_equal` fails.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise ValueError(f"b must have the shape {a.shape} of a, not {b.shape}")
    differ = (bits(a) != bits(b)) & ~(np.isnan(a) & np.isnan(b))
    if not differ.any():
        return None
    where = np.unravel_index(int(np.argmax(differ)), differ.shape)
    return tuple(int(n) for n in where), int(bits(a)[where]), int(bits(b)[where])


def gamma(n):
    """Return γₙ = n·u / (1 − n·u), the relative error that n roundings can make together."""
    nu = np.asarray(n, np.float64) * UNIT_ROUNDOFF
    if np.any(nu >= 1):
        raise ValueError(f"n must be below 2**24, not {n!r}")
    return nu / (1 - nu)


def segment_depth(n):
    """Return the most additions that one of ``n`` rows goes through in the eight-partial rule.

    ⌈n/8⌉ − 1 in its partial sum, then at most three in the tree, and never more than n − 1.
    """
    n = np.asarray(n, np.int64)
    return np.maximum(np.minimum(n - 1, (n + 7) // 8 + 2), 0)


def sum_bound(n, magnitude, products=0, depth=None):
    """Bound the error of a binary32 sum of ``n`` terms against the exact sum.

    Higham, *Accuracy and Stability of Numerical Algorithms*, 4.2: each term meets at most ``depth``
    additions, and ``products`` roundings of its own.

    Parameters
    ----------
    n : int or int array
        Number of terms.
    magnitude : float64 array
        Σ|term|, with exact products.
    products : int
        Roundings of each term before, or of the sum after, the additions (1 for a weight, 2 for a
        rounded 1/n and the product with it).
    depth : int or int array or None
        Additions on the longest path. None: n − 1, which holds for *any* order of summation; the
        contract's order has :func:`segment_depth`.

    Returns
    -------
    float64 array
        Bound of the absolute error, with what products can lose by underflow. The difference of two
        libraries is at most the sum of their bounds. Overflow is not covered.
    """
    n = np.asarray(n, np.int64)
    depth = np.maximum(n - 1, 0) if depth is None else np.asarray(depth)
    underflow = UNDERFLOW_ERROR * n * products
    # The underflow errors of the terms meet the additions too: a factor of at most 2.
    return gamma(depth + products) * np.asarray(magnitude, np.float64) + 2 * underflow
