"""RegisterSlice: cuts every combinational path between two streams."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterSlice"]


class RegisterSlice(wiring.Component):
    """Hold up to two payloads, so that neither side sees the other in the same cycle.

    Parameters
    ----------
    shape : ShapeLike
        A payload.

    Members
    -------
    i : In(stream.Signature(shape))
        Input.
    o : Out(stream.Signature(shape))
        Output; the payload is held until accepted.

    Timing: one cycle from i to o; one payload per cycle each way. ``i.ready``, ``o.valid`` and
    ``o.payload`` are flip-flops.
    Reset: empties it.
    Resources: two registers of a payload and a multiplexer.
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        """What comes while the output is held waits in a second register."""
        m = Module()
        arriving, leaving = Value.cast(self.i.payload), Value.cast(self.o.payload)
        second, waits = Signal.like(arriving, reset_less=True), Signal()
        m.d.comb += self.i.ready.eq(~waits)
        with m.If(~waits):
            m.d.sync += second.eq(arriving)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(waits | self.i.valid), waits.eq(0)]
            with m.If(waits):
                m.d.sync += leaving.eq(second)
            with m.Else():
                m.d.sync += leaving.eq(arriving)
        with m.Elif(self.i.valid):
            m.d.sync += waits.eq(1)
        return m
