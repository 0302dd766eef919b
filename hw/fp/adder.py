"""Adder: pipelined IEEE 754 binary32 addition."""

from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .pipeline import pipeline

__all__ = ["Adder"]

# The steps. "Larger" and "smaller" are by magnitude. Exponents are biased and that of a subnormal
# is 1, as its weight is, so that significands need nothing but their hidden bit to be 0.


def _compare(a, b, pass_a):
    return {
        "swap": (b[:31] > a[:31]) & ~pass_a,
        "difference": (a[31] ^ b[31]) & ~pass_a,
    }


def _exchange(a, b, pass_a, swap):
    # To pass a, add +0 to it: every bit survives, NaN payloads too, once it is not made special.
    return {
        "larger": Mux(swap, b[:31], a[:31]),
        "smaller": Mux(pass_a, 0, Mux(swap, a[:31], b[:31])),
        "negative": Mux(swap, b[31], a[31]),
    }


def _unpack(larger, smaller, pass_a):
    hidden, smaller_hidden = larger[23:31].any(), smaller[23:31].any()
    return {
        "exponent": larger[23:31] | ~hidden,
        "smaller_exponent": smaller[23:31] | ~smaller_hidden,
        "significand": Cat(larger[:23], hidden),
        # Guard and round bits below; what is shifted out of them is the sticky bit.
        "aligned": Cat(Const(0, 2), smaller[:23], smaller_hidden),
        "sticky": Const(0, 1),
        "special": larger[23:31].all() & ~pass_a,
        "fraction_any": larger[:23].any(),
        "exponent_max": larger[23:31] == 254,
    }


def _measure(exponent, smaller_exponent):
    return {"distance": (exponent - smaller_exponent)[:8]}


def _limit(distance):
    # From 26 on, everything is shifted out, and 31 does that as well as any longer distance.
    return {"distance": distance[:5] | distance[5:].any().replicate(5)}


def _align(places, distance, aligned, sticky):
    shift = distance[places.bit_length() - 1]
    return {
        "aligned": Mux(shift, aligned >> places, aligned),
        "sticky": sticky | (shift & aligned[:places].any()),
    }


def _complement(aligned, sticky, difference):
    return {"addend": Cat(sticky, aligned, Const(0, 1)) ^ difference.replicate(28)}


def _add(significand, addend, difference):
    # A bit below both carries the 1 into the complement.
    total = Cat(Const(1, 1), Const(0, 3), significand) + Cat(difference, addend)
    return {"total": total[1:29]}


def _examine(total, exponent, exponent_max):
    return {
        "zero": total == 0,
        "overflow": exponent_max & total[27],
        # Shifts of normalisation are allowed while they leave the exponent at 0 or above.
        "free": exponent[5:].any(),
    }


def _seek(places, total, exponent, free):
    bit = exponent[places.bit_length() - 1]
    return {"shift": (total[-places:] == 0) & (free | bit)}


def _normalise(places, total, exponent, free, shift):
    bit = exponent[places.bit_length() - 1]
    return {
        "total": Mux(shift, Cat(Const(0, places), total[:-places]), total),
        # An allowance of more than this is one for all smaller shifts, if it is not used here.
        "free": free | (bit & ~shift),
        f"shift_{places}": shift,
    }


def _decide(total, exponent, shift_16, shift_8, shift_4, shift_2, shift_1):
    return {
        "exponent": (exponent - Cat(shift_1, shift_2, shift_4, shift_8, shift_16))[:8],
        "fraction": total[4:27],
        "hidden": total[27],
        "round_up": total[3] & (total[:3].any() | total[4]),
    }


def _round(exponent, fraction, hidden, round_up):
    # The exponent is one short where there is a hidden bit, which is what adding that bit mends. A
    # fraction that overflows carries into the exponent, up to infinity.
    increment = Cat(round_up, Const(0, 22), hidden)
    return {"rounded": (Cat(fraction, exponent) + increment)[:31]}


def _judge(negative, difference, zero, overflow, special, fraction_any):
    # A sum of zero between infinities is infinity minus infinity.
    nan = special & (fraction_any | zero)
    return {
        "negative": negative & ~nan & ~(zero & difference),
        "clear": special | overflow,
        "nan": nan,
    }


def _pack(rounded, negative, zero, clear, special, nan):
    fraction = Mux(clear, Cat(Const(0, 22), nan), rounded[:23])
    exponent = Mux(special, 255, Mux(zero, 0, rounded[23:]))
    return {"o": Cat(fraction, exponent, negative)}


_STEPS = {
    "compare": _compare,
    "exchange": _exchange,
    "unpack": _unpack,
    "measure": _measure,
    "limit": _limit,
    **{f"align_{n}": partial(_align, n) for n in (16, 8, 4, 2, 1)},
    "complement": _complement,
    "add": _add,
    "examine": _examine,
    **{f"{name}_{n}": partial(step, n)
       for n in (16, 8, 4, 2, 1) for name, step in (("seek", _seek), ("normalise", _normalise))},
    "decide": _decide,
    "round": _round,
    "judge": _judge,
    "pack": _pack,
}

#: Number of stages -> the steps which a register follows; another one follows the last step.
_CUTS = {
    1: (),
    2: ("complement",),
    3: ("align_16", "add"),
    4: ("align_16", "add", "normalise_1"),
    5: ("exchange", "align_4", "add", "normalise_1"),
    6: ("exchange", "align_4", "add", "normalise_4", "decide"),
}


class Adder(wiring.Component):
    """Add, or subtract, two binary32 numbers; or pass one unchanged.

    Contract: ``o`` is a + b, or a - b, rounded to nearest even. Subnormals are kept, signed zeros
    and infinities are those of IEEE 754, and every NaN is 0x7fc00000. With ``pass_a``, ``o`` is
    ``a`` to the bit, NaN payloads included.

    Parameters
    ----------
    stages : int
        Pipeline stages, 1 to 6; ValueError if it is anything else.
    subtract : bool
        Compute a - b rather than a + b.

    Attributes
    ----------
    steps : dict[str, Callable]
        The datapath, for :func:`pipeline`: the place for a test to plant a fault.

    Members
    -------
    a, b : In(32)
        Operands: binary32 bit patterns.
    pass_a : In(1)
        Ignore b.
    o : Out(32)
        Result.

    Timing: ``o`` is the result of the inputs of ``stages`` cycles ago (``latency``); one operation
    per cycle, without handshake. No combinational path from input to output.
    Reset: none; ``o`` is undefined for the first ``stages`` cycles.
    Resources: docs/results/fp.md.
    """

    def __init__(self, stages, subtract=False):
        if stages not in _CUTS:
            raise ValueError(f"stages must be {min(_CUTS)} to {max(_CUTS)}, not {stages!r}")
        self.stages = stages
        self.steps = dict(_STEPS)
        self.subtract = bool(subtract)
        super().__init__({"a": In(32), "b": In(32), "pass_a": In(1), "o": Out(32)})

    @property
    def latency(self):
        """Cycles from an input to its result."""
        return self.stages

    def elaborate(self, platform):
        """Build the pipeline."""
        m = Module()
        b = Cat(self.b[:31], ~self.b[31]) if self.subtract else self.b
        inputs = {"a": self.a, "b": b, "pass_a": self.pass_a}
        m.d.comb += self.o.eq(pipeline(m, self.steps, inputs, _CUTS[self.stages])["o"])
        return m
