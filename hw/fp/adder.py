"""Adder: pipelined IEEE 754 binary32 addition."""

from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .pipeline import pipeline

__all__ = ["Adder"]

# The steps. "Larger" and "smaller" are by magnitude. Exponents are biased and that of a subnormal
# is 1, as its weight is, so that significands need nothing but their hidden bit to be 0.


def _unpack(a, b, pass_a):
    a_hidden, b_hidden = a[23:31].any(), b[23:31].any()
    return {
        "a_significand": Cat(a[:23], a_hidden),
        "b_significand": Cat(b[:23], b_hidden),
        "a_exponent": a[23:31] | ~a_hidden,
        "b_exponent": b[23:31] | ~b_hidden,
        "difference": (a[31] ^ b[31]) & ~pass_a,
    }


def _compare(a, b, a_exponent, b_exponent, pass_a):
    return {
        "swap": (a[:31] < b[:31]) & ~pass_a,
        "a_distance": (b_exponent - a_exponent)[:8],
        "b_distance": (a_exponent - b_exponent)[:8],
    }


def _exchange(a, b, a_significand, b_significand, a_exponent, b_exponent, a_distance, b_distance,
              pass_a, swap):
    # To pass a, add +0 to it: every bit survives, NaN payloads too, once it is not made special.
    smaller = Mux(pass_a, 0, Mux(swap, a_significand, b_significand))
    return {
        "negative": Mux(swap, b[31], a[31]),
        "exponent": Mux(swap, b_exponent, a_exponent),
        "significand": Mux(swap, b_significand, a_significand),
        # Guard and round bits below; what is shifted out of them is the sticky bit.
        "aligned": Cat(Const(0, 2), smaller),
        "sticky": Const(0, 1),
        "distance": Mux(swap, a_distance, b_distance),
    }


def _limit(exponent, significand, distance, pass_a):
    return {
        # From 26 on, everything is shifted out, and 31 does that as well as any longer distance.
        "distance": distance[:5] | distance[5:].any().replicate(5),
        "special": (exponent == 255) & ~pass_a,
        "fraction_any": significand[:23].any(),
        "exponent_max": exponent == 254,
    }


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


def _survey(total, exponent):
    # Which groups of four are 0; the shifts by 16, 8, and 4 follow from them alone.
    return {
        "blank": Cat(total[n:n + 4] == 0 for n in range(0, 28, 4)),
        # Normalisation shifts left by at most the exponent, which from 32 on is no limit.
        "free": exponent[5:].any(),
    }


def _examine(total, blank, exponent_max):
    return {"zero": blank.all(), "overflow": exponent_max & total[27]}


def _survey_last(total):
    return {"blank": ~total[26:]}


def _seek(places, groups, blank, exponent, free):
    return {"shift": blank[-groups:].all() & (free | exponent[places.bit_length() - 1])}


def _normalise(places, groups, total, blank, exponent, free, shift):
    results = {
        "total": Mux(shift, Cat(Const(0, places), total[:-places]), total),
        # Room that this shift did not use is room for every shorter one.
        "free": free | (exponent[places.bit_length() - 1] & ~shift),
        f"shift_{places}": shift,
    }
    if left := len(blank) - groups:
        results["blank"] = Mux(shift, blank[:left], blank[-left:])
    return results


def _scale(exponent, shift_16, shift_8, shift_4, shift_2):
    return {"scaled": (exponent - Cat(Const(0, 1), shift_2, shift_4, shift_8, shift_16))[:8]}


def _decide(total, scaled, exponent, free):
    # The last place. Without a 1 in the upper two the result is subnormal or zero.
    hidden = total[27]
    stay = hidden | ~(free | exponent[0])
    return {
        "stay": stay,
        "hidden": hidden,
        "scaled": Mux(total[26:].any(), scaled, 0),
    }


def _settle(total, stay):
    return {
        "fraction": Mux(stay, total[4:27], total[3:26]),
        "guard": Mux(stay, total[3], total[2]),
        "sticky": total[:2].any() | (stay & total[2]),
    }


def _round(scaled, fraction, hidden, guard, sticky):
    # The exponent is one short where the hidden bit was in place before the last shift: adding that
    # bit mends it. A fraction that overflows carries into the exponent, up to infinity.
    increment = Cat(guard & (sticky | fraction[0]), Const(0, 22), hidden)
    return {"rounded": (Cat(fraction, scaled) + increment)[:31]}


def _judge(negative, difference, zero, overflow, special, fraction_any):
    # A sum of zero between infinities is infinity minus infinity.
    nan = special & (fraction_any | zero)
    return {
        "negative": negative & ~nan & ~(zero & difference),
        "clear": special | overflow,
        "nan": nan,
    }


def _pack(rounded, negative, clear, special, nan):
    fraction = Mux(clear, Cat(Const(0, 22), nan), rounded[:23])
    exponent = Mux(special, 255, rounded[23:])
    return {"o": Cat(fraction, exponent, negative)}


_STEPS = {
    "unpack": _unpack,
    "compare": _compare,
    "exchange": _exchange,
    "limit": _limit,
    "align_16": partial(_align, 16),
    "align_8": partial(_align, 8),
    "align_4": partial(_align, 4),
    "align_2": partial(_align, 2),
    "align_1": partial(_align, 1),
    "complement": _complement,
    "add": _add,
    "survey": _survey,
    "examine": _examine,
    "seek_16": partial(_seek, 16, 4),
    "normalise_16": partial(_normalise, 16, 4),
    "seek_8": partial(_seek, 8, 2),
    "normalise_8": partial(_normalise, 8, 2),
    "seek_4": partial(_seek, 4, 1),
    "normalise_4": partial(_normalise, 4, 1),
    "survey_last": _survey_last,
    "seek_2": partial(_seek, 2, 2),
    "normalise_2": partial(_normalise, 2, 2),
    "scale": _scale,
    "decide": _decide,
    "settle": _settle,
    "round": _round,
    "judge": _judge,
    "pack": _pack,
}

#: Number of stages -> the steps which a register follows; another one follows the last step. Found
#: by search over placements for ECP5 (bench/fp_area.py measures them).
_CUTS = {
    1: (),
    2: ("add",),
    3: ("align_8", "normalise_16"),
    4: ("exchange", "complement", "seek_4"),
    5: ("compare", "align_4", "survey", "normalise_2"),
    6: ("compare", "align_4", "survey", "seek_4", "settle"),
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
