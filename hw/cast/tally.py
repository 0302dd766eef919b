"""Tally: a memory of counters, one of which is read and increased each cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..delay import delay

__all__ = ["Tally"]


class Tally(wiring.Component):
    """Count by address; the same address may come in every cycle.

    Members
    -------
    valid, address : In
        Read this counter and put one more in its place.
    load, data : In
        With valid: put ``data`` in its place instead.
    keep : In(1)
        With valid: leave it as it is.
    old : Out(width)
        What the counter held, two cycles later.

    Timing: one access per cycle, two cycles to ``old``.
    Reset: none; the counters hold anything until they are loaded.
    Resources: a memory of ``2 ** address_bits`` counters.
    """

    def __init__(self, width, address_bits):
        self.width = width
        self.address_bits = address_bits
        super().__init__({
            "valid": In(1), "address": In(address_bits), "load": In(1), "data": In(width),
            "keep": In(1), "old": Out(width),
        })

    def elaborate(self, platform):
        """Read, register, add, write; what the two accesses before wrote is taken from them."""
        m = Module()
        m.submodules.counters = counters = Memory(
            shape=self.width, depth=1 << self.address_bits, init=[])
        read = counters.read_port()
        write = counters.write_port()
        m.d.comb += read.addr.eq(self.address)

        # A write takes effect in the cycle after that in which the access stands in stage 2, so
        # the two accesses behind it have read too early.
        valid_1 = Signal()
        valid_2 = Signal()
        m.d.sync += [valid_1.eq(self.valid & ~self.keep), valid_2.eq(valid_1)]
        address_1 = delay(m, self.address, 1, "address_1")
        address_2 = delay(m, address_1, 1, "address_2")
        load_2 = delay(m, self.load, 2, "load")
        data_2 = delay(m, self.data, 2, "data")
        held = Signal(self.width)
        new = Signal(self.width)
        passed = Signal()        # `held` is overtaken by the access in front
        last = Signal(self.width)
        m.d.comb += [
            self.old.eq(Mux(passed, last, held)),
            new.eq(Mux(load_2, data_2, self.old + 1)),
            write.addr.eq(address_2),
            write.data.eq(new),
            write.en.eq(valid_2),
        ]
        written = Signal()       # `last` was written in the cycle before, to `address_3`
        address_3 = delay(m, address_2, 1, "address_3")
        m.d.sync += [
            last.eq(new),
            written.eq(valid_2),
            passed.eq(valid_2 & (address_1 == address_2)),
            held.eq(Mux(written & (address_1 == address_3), last, read.data)),
        ]
        return m
