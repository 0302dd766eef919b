"""Binary32 operations against an independent soft-float, and the helpers around them."""

from fractions import Fraction

import apytypes
import numpy as np
import pytest
import softfloatpy
from golden_data import SPECIAL_BITS, floats

from tcast.golden import numerics

CANONICAL = numerics.CANONICAL_NAN
OPERATIONS = {"add": (numerics.add, lambda a, b: a + b), "sub": (numerics.sub, lambda a, b: a - b),
              "mul": (numerics.mul, lambda a, b: a * b)}
SOFTFLOAT = {"add": softfloatpy.f32_add, "sub": softfloatpy.f32_sub, "mul": softfloatpy.f32_mul}


def operands(seed, n):
    """All pairs of the special numbers, random bits, and pairs of near exponents."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    a, b = (x.reshape(-1) for x in np.meshgrid(SPECIAL_BITS, SPECIAL_BITS))
    near = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    other = ((near + (rng.integers(-26, 27, n) << 23).astype(np.uint32)) & 0xFF800000
             | rng.integers(0, 1 << 23, n, dtype=np.uint32)).astype(np.uint32)
    sign = rng.integers(0, 2, n, dtype=np.uint32) << 31
    a = np.concatenate([a, rng.integers(0, 1 << 32, n, dtype=np.uint32), near])
    b = np.concatenate([b, rng.integers(0, 1 << 32, n, dtype=np.uint32), other ^ sign])
    return a.astype(np.uint32), b.astype(np.uint32)


def is_nan(bits):
    return (bits & 0x7FFFFFFF) > 0x7F800000


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_apytypes(name):
    ours, theirs = OPERATIONS[name]
    a, b = operands(1, 200_000)
    got = numerics.bits(ours(a.view(np.float32), b.view(np.float32)))
    x, y = (apytypes.APyFloatArray.from_bits(v.tolist(), 8, 23) for v in (a, b))
    expected = np.array(theirs(x, y).to_bits(), np.uint32)
    expected[is_nan(expected)] = CANONICAL
    np.testing.assert_array_equal(got, expected)
    assert 10 < np.count_nonzero(got == CANONICAL) < len(got) // 2


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_softfloat(name):
    a, b = operands(2, 3_000)
    got = numerics.bits(OPERATIONS[name][0](a.view(np.float32), b.view(np.float32)))
    for x, y, bits in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        expected = SOFTFLOAT[name](softfloatpy.Float32.from_bytes(x.to_bytes(4, "big")),
                                   softfloatpy.Float32.from_bytes(y.to_bytes(4, "big")))
        expected = int.from_bytes(expected.to_bytes(), "big")
        assert bits == (CANONICAL if is_nan(np.uint32(expected)) else expected), (hex(x), hex(y))


def test_operations_refuse_other_dtypes():
    with pytest.raises(TypeError, match="float32, not float64"):
        numerics.add(np.float32(1), np.float64(1))
    with pytest.raises(TypeError, match="float32, not float64"):
        numerics.bits(np.zeros(3))


def test_canonicalise_leaves_everything_but_nan():
    bits = floats(np.random.default_rng(3), 1000, "special").view(np.uint32)
    got = numerics.canonicalise(bits.view(np.float32).copy()).view(np.uint32)
    np.testing.assert_array_equal(got, np.where(is_nan(bits), CANONICAL, bits))


def test_bits_equal_and_first_difference():
    a = np.array([[0.0, 1.0], [np.nan, np.inf]], np.float32)
    b = a.copy()
    b.view(np.uint32)[1, 0] = 0x7F800001
    assert numerics.bits_equal(a, b) and numerics.first_difference(a, b) is None
    b[0, 0] = -0.0
    assert not numerics.bits_equal(a, b)
    assert numerics.first_difference(a, b) == ((0, 0), 0, 1 << 31)
    assert not numerics.bits_equal(a, a[:1])
    assert not numerics.bits_equal(a, a.astype(np.float64))
    assert numerics.bits_equal(a[:, ::-1], a[:, ::-1].copy())
    with pytest.raises(ValueError, match="b must have the shape"):
        numerics.first_difference(a, a[:1])


@pytest.mark.parametrize("columns, tree", [
    (1, "a"), (2, "(a+b)"), (3, "((a+b)+c)"), (4, "((a+b)+(c+d))"), (5, "(((a+b)+(c+d))+e)"),
    (6, "(((a+b)+(c+d))+(e+f))"), (7, "(((a+b)+(c+d))+((e+f)+g))"),
    (8, "(((a+b)+(c+d))+((e+f)+(g+h)))"), (9, "((((a+b)+(c+d))+((e+f)+(g+h)))+i)")])
def test_column_sum_is_the_tree(columns, tree):
    x = floats(np.random.default_rng(columns), (500, columns), "wide")
    expected = eval(tree, {name: x[:, n] for n, name in enumerate("abcdefghi"[:columns])})
    np.testing.assert_array_equal(numerics.column_sum(x), expected)


def test_column_sum_needs_a_column():
    with pytest.raises(ValueError, match="at least one column"):
        numerics.column_sum(np.zeros((3, 0), np.float32))


@pytest.mark.parametrize("n, depth", [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (8, 3),
                                      (9, 4), (16, 4), (17, 5), (80, 12)])
def test_segment_depth(n, depth):
    assert numerics.segment_depth(n) == depth


def test_sum_bound_holds_and_is_not_idle():
    """Sequential sums of exact rationals: the error stays below the bound, and comes near it."""
    rng = np.random.default_rng(4)
    nearest = 0
    for n in (2, 3, 10, 50):
        for _ in range(50):
            x, w = floats(rng, n, "normal"), floats(rng, n, "wide")
            total = np.float32(0)
            exact = magnitude = Fraction(0)
            for a, b in zip(x, w, strict=True):
                total = numerics.add(total, numerics.mul(a, b))
                term = Fraction(float(a)) * Fraction(float(b))
                exact, magnitude = exact + term, magnitude + abs(term)
            error = abs(float(Fraction(float(total)) - exact))
            bound = numerics.sum_bound(n, float(magnitude), products=1)
            assert error <= bound
            nearest = max(nearest, error / bound)
    assert nearest > 0.1
    assert numerics.sum_bound(1, 5.0) == 0
    assert numerics.sum_bound(1, 0.0, products=1) > 0  # an underflowed product
    with pytest.raises(ValueError, match="below 2"):
        numerics.gamma(1 << 24)
