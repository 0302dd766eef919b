"""Inputs that the tests of the golden model share."""

import numpy as np

SPECIAL_BITS = np.array([
    0x00000000, 0x80000000,              # zeros
    0x00000001, 0x80000001,              # smallest subnormals
    0x007FFFFF, 0x807FFFFF, 0x00400000,  # largest subnormals, one in the middle
    0x00800000, 0x80800000,              # smallest normal numbers
    0x3F800000, 0xBF800000, 0x3F800001, 0x3F7FFFFF, 0x34000000, 0x33800000, 0x4B800000,
    0x7F7FFFFF, 0xFF7FFFFF,              # largest
    0x7F800000, 0xFF800000,              # infinities
    0x7FC00000, 0xFFC12345, 0x7F800001,  # NaN: quiet, quiet with payload, signalling
], np.uint32)


def floats(rng, shape, kind="normal"):
    """Return float32 numbers: normal, wide (exponents far apart), bits (any), special."""
    if kind == "normal":
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "wide":  # the order of additions shows in nearly every sum
        sign = rng.choice(np.array([-1, 1], np.float32), shape)
        return (sign * np.exp2(rng.uniform(-20, 20, shape))).astype(np.float32)
    any_bits = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    if kind == "special":
        some = rng.random(shape) < 0.5
        any_bits = np.where(some, rng.choice(SPECIAL_BITS, shape), any_bits)
    return any_bits.astype(np.uint32).view(np.float32)


KINDS = ("normal", "wide", "bits", "special")


def lookups(rng, lengths, n_rows, dtype, behind=0):
    """Return (indices, offsets) of bags of these lengths, with ``behind`` lookups in no bag."""
    offsets = np.append(0, np.cumsum(lengths)).astype(dtype)
    indices = rng.integers(0, n_rows, int(offsets[-1]) + behind).astype(dtype)
    return indices, offsets
