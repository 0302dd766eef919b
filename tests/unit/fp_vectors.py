"""Operands and expected results for the floating-point units."""

import numpy as np
from apytypes import APyFloatArray

QUIET_NAN = 0x7FC00000

#: Magnitudes at which something changes, or nearly does.
_MAGNITUDES = (
    0x00000000,  # zero
    0x00000001, 0x00000002, 0x00000003, 0x00012345, 0x00200000, 0x00400000, 0x00400001,
    0x007FFFFE, 0x007FFFFF,  # subnormals
    0x00800000, 0x00800001, 0x00800002, 0x00FFFFFE, 0x00FFFFFF, 0x01000000, 0x01000001,
    0x01800000,  # smallest normals
    0x0B800000, 0x0BFFFFFF, 0x0C000000, 0x0C000001,  # 2**-104: an ulp is subnormal
    0x1F800000, 0x1FFFFFFF, 0x20000000, 0x20000001,  # about 2**-63: squares underflow
    0x33000000, 0x33000001, 0x33800000, 0x33FFFFFF, 0x34000000, 0x34000001,  # ulps of 1
    0x3E800000, 0x3F000000, 0x3F000001, 0x3F7FFFFE, 0x3F7FFFFF,  # below 1
    0x3F800000, 0x3F800001, 0x3F800002, 0x3F800003, 0x3FC00000, 0x3FFFFFFF,  # 1 to 2
    0x40000000, 0x40000001, 0x40400000, 0x40490FDB, 0x40800000,
    0x4B000000, 0x4B000001, 0x4B7FFFFF, 0x4B800000, 0x4B800001, 0x4C000000, 0x4C000001,  # 2**24
    0x5F000000, 0x5F7FFFFF, 0x5F800000, 0x5F800001,  # about 2**64: squares overflow
    0x72FFFFFF, 0x73000000, 0x73000001, 0x73800000,  # half an ulp of the largest
    0x7E800000, 0x7EFFFFFF, 0x7F000000, 0x7F000001, 0x7F7FFFFE, 0x7F7FFFFF,  # largest normals
    0x7F800000,  # infinity
    0x7F800001, 0x7FBFFFFF,  # signalling NaNs
    0x7FC00000, 0x7FC00001, 0x7FFFFFFF,  # quiet NaNs
)
CORNERS = np.array([m | s << 31 for m in _MAGNITUDES for s in (0, 1)], np.uint32)


def corner_pairs():
    """Return (a, b): every pair of CORNERS."""
    return np.repeat(CORNERS, len(CORNERS)), np.tile(CORNERS, len(CORNERS))


def _join(sign, exponent, fraction):
    exponent = np.clip(exponent, 0, 255)
    return (sign << 31 | exponent << 23 | fraction & 0x7FFFFF).astype(np.uint32)


def _fractions(rng, n):
    """Return fractions of which half are sparse: those that make ties and long carries."""
    uniform = rng.integers(0, 1 << 23, n)
    bit, other = 1 << rng.integers(0, 24, (2, n))
    sparse = np.choose(rng.integers(0, 8, n), [
        np.zeros(n, int), bit, bit | other, bit - 1, ~(bit - 1), ~bit, ~(bit | other), bit ^ 3])
    return np.where(rng.integers(0, 2, n), uniform, sparse) & 0x7FFFFF


def random_pairs(rng, n):
    """Return (a, b), n pairs, in equal parts of each kind that follows."""
    n_kinds = 7
    a_sign, b_sign = rng.integers(0, 2, (2, n))
    a_exponent = rng.integers(0, 256, n)
    a_fraction, b_fraction = _fractions(rng, n), _fractions(rng, n)
    kind = rng.integers(0, n_kinds, n)
    high = rng.integers(0, 4, n) == 0
    low = np.select([kind == 3, (kind == 2) & high],
                    [rng.integers(0, 4, n), rng.integers(250, 255, n)], a_exponent)
    near = low + rng.integers(-3, 4, n)
    b_exponent = np.choose(kind, [
        rng.integers(0, 256, n),  # anything
        a_exponent + rng.integers(-28, 29, n),  # sums that overlap
        near,  # sums that cancel, or overflow
        near,  # subnormals
        126 - a_exponent + rng.integers(-26, 4, n),  # products about the smallest normal
        381 - a_exponent + rng.integers(-3, 3, n),  # products about the largest
        rng.integers(0, 2, n),  # subnormals with anything
    ])
    a = _join(a_sign, low, a_fraction)
    b = _join(b_sign, b_exponent, b_fraction)
    # Sums that cancel almost or entirely.
    close = (kind == 2) & (rng.integers(0, 2, n) == 1)
    b = np.where(close, a ^ (b & 0x80000003), b)
    # Both orders, and uniform bits once more, for what the kinds above forget.
    order = rng.integers(0, 2, n) == 1
    a, b = np.where(order, a, b), np.where(order, b, a)
    plain = rng.integers(0, 16, n) == 0
    return (np.where(plain, rng.integers(0, 1 << 32, n, np.uint32), a),
            np.where(plain, rng.integers(0, 1 << 32, n, np.uint32), b))


def canonical(bits):
    """Return ``bits`` with every NaN replaced by the quiet NaN of the engine."""
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint32(QUIET_NAN), bits)


def by_apytypes(operation, a, b):
    """Return the result of "add", "sub" or "mul", uint32, from apytypes' soft-float."""
    x, y = (APyFloatArray.from_bits(operand, 8, 23) for operand in (a, b))
    result = {"add": x.__add__, "sub": x.__sub__, "mul": x.__mul__}[operation](y)
    return canonical(result.to_bits(numpy=True))


def by_numpy(operation, a, b):
    """Return the same from the processor's arithmetic."""
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[operation]
    with np.errstate(all="ignore"):
        return canonical(function(a.view(np.float32), b.view(np.float32)).view(np.uint32))


def by_softfloat(operation, a, b):
    """Return the same from Berkeley SoftFloat; needs the package softfloatpy."""
    import softfloatpy

    function = getattr(softfloatpy, f"f32_{operation}")
    convert = softfloatpy.Float32.from_bytes
    a, b = a.astype(">u4").tobytes(), b.astype(">u4").tobytes()
    results = b"".join(function(convert(a[i:i + 4]), convert(b[i:i + 4])).to_bytes()
                       for i in range(0, len(a), 4))
    return canonical(np.frombuffer(results, ">u4").astype(np.uint32))
