"""Multiplier: pipelined IEEE 754 binary32 multiplication."""

from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .pipeline import pipeline

__all__ = ["Multiplier"]

# The steps. The product of the significands has 48 bits, of which bit 47 is the hidden bit of the
# result at exponent `base` + 1. One shift normalises it and, where the result is subnormal,
# denormalises it. Its distance follows from the exponents and the leading zeros of the only
# significand that can have any in a result above the smallest subnormal, so it is known before the
# product is. What is left to the product itself is one place.


def _unpack(a, b):
    a_hidden, b_hidden = a[23:31].any(), b[23:31].any()
    a_special, b_special = a[23:31].all(), b[23:31].all()
    a_significand, b_significand = Cat(a[:23], a_hidden), Cat(b[:23], b_hidden)
    return {
        "a_significand": a_significand,
        "b_significand": b_significand,
        # The sum of the exponents and 1, by a carry from a bit below. That of a subnormal is 1.
        "exponents": (Cat(Const(1, 1), a[23:31] | ~a_hidden)
                      + Cat(Const(1, 1), b[23:31] | ~b_hidden))[1:],
        "leading": Mux(a_hidden, b_significand, a_significand),
        "negative": a[31] ^ b[31],
        "special": a_special | b_special,
        "nan": (a_special & a[:23].any()) | (b_special & b[:23].any()),
    }


def _count(places, leading):
    # Of 2n bits, or 24, keep the n (at most 16) that hold the first 1.
    low = len(leading) - places
    keep = min(places, 16)
    skip = leading[low:] == 0
    return {
        "leading": Mux(skip, Cat(Const(0, keep - low), leading[:low]), leading[-keep:]),
        f"skip_{places}": skip,
    }


def _measure(exponents, leading, skip_16, skip_8, skip_4, skip_2, skip_1):
    zeros = Cat(skip_1, skip_2, skip_4, skip_8, skip_16)
    return {
        "zero": ~leading,
        # Places to the right, counted from 24 to the left: to normalise, and to denormalise.
        "normalise": (24 - zeros)[:5],
        "denormalise": (152 - exponents)[:8],
        # The exponent of the normalised product, less 1; subtracted are 128 and the zeros.
        "surplus": exponents - Cat(zeros, Const(0b100, 3)),
    }


def _scale(zero, normalise, denormalise, surplus):
    normal = ~surplus[-1]
    # From 50 places on nothing is left, and 63 does that as well as any longer distance.
    limited = denormalise[:6] | denormalise[6:].any().replicate(6)
    return {
        "base": Mux(normal & ~zero, surplus[:9], 0),
        "distance": Mux(normal, normalise, limited),
    }


def _classify(base, zero, special, nan):
    return {
        "infinite": special | (base >= 255),
        "base_max": base == 254,
        "base_zero": base == 0,
        "nan": nan | (special & zero),
    }


def _multiply(a_significand, b_significand):
    # Parts of 17 bits fit the multipliers of any FPGA, and let a register come before their sum:
    # of the product as one, ECP5 makes no more than 90 MHz.
    a_low, a_high = a_significand[:17], a_significand[17:]
    b_low, b_high = b_significand[:17], b_significand[17:]
    return {
        "low": a_low * b_low,
        "high": a_high * b_high,
        "a_cross": a_high * b_low,
        "b_cross": a_low * b_high,
    }


def _cross(a_cross, b_cross):
    return {"cross": a_cross + b_cross}


def _sum(low, high, cross):
    return {"product": Cat(low[:17], (Cat(low[17:], high) + cross)[:31])}


def _shift_coarse(product, distance):
    # By multiples of 16. Kept are 24 bits, guard bit, one more, and 15 above for the fine shift.
    low, high = distance[4], distance[5]
    return {
        "shifted": Mux(high, Mux(low, product[46:], product[30:]),
                       Mux(low, product[14:], Cat(Const(0, 2), product[:39])))[:41],
        "sticky": ((low | high) & product[:14].any()) | (high & product[14:30].any())
                  | (high & low & product[30:46].any()),
    }


def _shift(places, shifted, distance, sticky):
    shift = distance[places.bit_length() - 1]
    return {
        "shifted": Mux(shift, shifted >> places, shifted)[:25 + places],
        "sticky": sticky | (shift & shifted[:places].any()),
    }


def _normalise(shifted, infinite, base_zero, base_max):
    hidden = shifted[25]
    return {
        "hidden": hidden,
        "infinite": infinite | (base_max & hidden),
        "stay": hidden | base_zero,
    }


def _decide(shifted, sticky, stay):
    return {
        "fraction": Mux(stay, shifted[2:25], shifted[1:24]),
        "guard": Mux(stay, shifted[1], shifted[0]),
        "sticky": sticky | (stay & shifted[0]),
    }


def _round(base, fraction, hidden, guard, sticky):
    # A fraction that overflows carries into the exponent, up to infinity.
    increment = Cat(guard & (sticky | fraction[0]), Const(0, 22), hidden)
    return {"rounded": (Cat(fraction, base[:8]) + increment)[:31]}


def _pack(rounded, negative, infinite, nan):
    fraction = Mux(infinite, Cat(Const(0, 22), nan), rounded[:23])
    exponent = Mux(infinite, 255, rounded[23:])
    return {"o": Cat(fraction, exponent, negative & ~nan)}


_STEPS = {
    "unpack": _unpack,
    "count_16": partial(_count, 16),
    "count_8": partial(_count, 8),
    # Beside the count, of which a register after the products may cut the rest off.
    "multiply": _multiply,
    "count_4": partial(_count, 4),
    "count_2": partial(_count, 2),
    "count_1": partial(_count, 1),
    "measure": _measure,
    "scale": _scale,
    "classify": _classify,
    "cross": _cross,
    "sum": _sum,
    "shift_coarse": _shift_coarse,
    "shift_8": partial(_shift, 8),
    "shift_4": partial(_shift, 4),
    "shift_2": partial(_shift, 2),
    "shift_1": partial(_shift, 1),
    "normalise": _normalise,
    "decide": _decide,
    "round": _round,
    "pack": _pack,
}

#: Number of stages -> the steps which a register follows; another one follows the last step. Found
#: by search over placements for ECP5 (bench/fp_area.py measures them).
_CUTS = {
    1: (),
    2: ("measure",),
    3: ("multiply", "shift_8"),
    4: ("count_16", "measure", "shift_4"),
    5: ("count_16", "measure", "sum", "shift_1"),
    6: ("count_16", "measure", "sum", "shift_4", "decide"),
    7: ("unpack", "count_8", "measure", "sum", "shift_4", "decide"),
}


class Multiplier(wiring.Component):
    """Multiply two binary32 numbers.

    Contract: ``o`` is a · b, rounded to nearest even. Subnormals are kept, signed zeros and
    infinities are those of IEEE 754, and every NaN is 0x7fc00000.

    Parameters
    ----------
    stages : int
        Pipeline stages, 1 to 7; ValueError if it is anything else.

    Attributes
    ----------
    steps : dict[str, Callable]
        The datapath, for :func:`pipeline`: the place for a test to plant a fault.

    Members
    -------
    a, b : In(32)
        Operands: binary32 bit patterns.
    o : Out(32)
        Result.

    Timing: ``o`` is the result of the inputs of ``stages`` cycles ago (``latency``); one operation
    per cycle, without handshake. No combinational path from input to output.
    Reset: none; ``o`` is undefined for the first ``stages`` cycles.
    Resources: one 24 × 24 multiplier; docs/results/fp.md.
    """

    def __init__(self, stages):
        if stages not in _CUTS:
            raise ValueError(f"stages must be {min(_CUTS)} to {max(_CUTS)}, not {stages!r}")
        self.stages = stages
        self.steps = dict(_STEPS)
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    @property
    def latency(self):
        """Cycles from an input to its result."""
        return self.stages

    def elaborate(self, platform):
        """Build the pipeline."""
        m = Module()
        inputs = {"a": self.a, "b": self.b}
        m.d.comb += self.o.eq(pipeline(m, self.steps, inputs, _CUTS[self.stages])["o"])
        return m
