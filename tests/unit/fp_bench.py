"""Bench of the floating-point units: any number of them under Verilator, fed with NumPy arrays."""

import ctypes
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tcast.sim.runner import build_library


class _SideBySide(wiring.Component):
    """Units that share their inputs; bits 32 n to 32 n + 31 of ``o`` are the result of unit n."""

    def __init__(self, units):
        self.units = units
        super().__init__({"a": In(32), "b": In(32), "pass_a": In(1), "o": Out(32 * len(units))})

    def elaborate(self, platform):
        m = Module()
        for number, unit in enumerate(self.units):
            m.submodules[f"unit_{number}"] = unit
            m.d.comb += [
                unit.a.eq(self.a),
                unit.b.eq(self.b),
                self.o.word_select(number, 32).eq(unit.o),
            ]
            if "pass_a" in unit.signature.members:
                m.d.comb += unit.pass_a.eq(self.pass_a)
        return m


class Bench:
    """A simulation of units which each have members a, b, o and perhaps pass_a, and a latency.

    Parameters
    ----------
    units : dict[object, Component]
        Units by any key.
    """

    def __init__(self, units):
        self.units = units
        with TemporaryDirectory() as folder:
            source = Path(folder) / "fp_bench.v"
            source.write_text(verilog.convert(
                _SideBySide(units.values()), name="fp_bench", emit_src=False))
            library = build_library([source], "fp_bench", [Path(__file__).with_suffix(".cpp")])
        self._run = ctypes.CDLL(str(library)).run

    def __call__(self, a, b, pass_a=None):
        """Return {key: results}, uint32 arrays like ``a`` and ``b``, results in input order."""
        n = len(a)
        flush = max(unit.latency for unit in self.units.values())
        padded = [np.zeros(n + flush, dtype) for dtype in (np.uint32, np.uint32, np.uint8)]
        for buffer, values in zip(padded, (a, b, pass_a), strict=True):
            if values is not None:
                buffer[:n] = values
        o = np.empty((n + flush, len(self.units)), np.uint32)
        self._run(ctypes.c_size_t(len(o)), ctypes.c_size_t(len(self.units)),
                  *(ctypes.c_void_p(array.ctypes.data) for array in (*padded, o)))
        return {key: o[unit.latency:unit.latency + n, number]
                for number, (key, unit) in enumerate(self.units.items())}
