"""RegisterSlice: cuts every combinational path between two streams."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterSlice"]


class RegisterSlice(wiring.Component):
    """Hold up to two payloads, so that neither side sees the other in the same cycle.

    Parameters
    ----------
    shape : ShapeLike
        A payload.
    late_ready : bool
        For a consumer that decides late in the cycle whether it takes the payload: o.ready reaches
        three flip-flops, not the enables of a payload's, which may lie far apart. The payload comes
        through a multiplexer instead.

    Members
    -------
    i : In(stream.Signature(shape))
        Input.
    o : Out(stream.Signature(shape))
        Output; the payload is held until accepted.

    Timing: one cycle from i to o; one payload per cycle each way. ``i.ready`` and ``o.valid`` are
    flip-flops, as is ``o.payload`` but for ``late_ready``, where it is one LUT behind them.
    Reset: empties it.
    Resources: two registers of a payload and a multiplexer.
    """

    def __init__(self, shape, *, late_ready=False):
        self.late_ready = late_ready
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        """Count, and keep the payloads in one of two ways."""
        m = Module()
        full = Signal()
        m.d.comb += self.i.ready.eq(~full)
        m.d.sync += [
            self.o.valid.eq(self.i.valid | full | (self.o.valid & ~self.o.ready)),
            full.eq((self.i.valid | full) & self.o.valid & ~self.o.ready),
        ]
        arriving, leaving = Value.cast(self.i.payload), Value.cast(self.o.payload)
        if self.late_ready:
            self._take_turns(m, arriving, leaving)
        else:
            self._wait_behind(m, arriving, leaving, full)
        return m

    def _wait_behind(self, m, arriving, leaving, full):
        """What comes while the output is held waits in a second register."""
        second = Signal.like(arriving, reset_less=True)
        with m.If(~full):
            m.d.sync += second.eq(arriving)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += leaving.eq(Mux(full, second, arriving))

    def _take_turns(self, m, arriving, leaving):
        """Payloads come in and leave in turns of two registers."""
        first, second = (Signal.like(arriving, reset_less=True, name=f"payload_{n}")
                         for n in range(2))
        put, get = Signal(), Signal()
        m.d.sync += [
            put.eq(put ^ (self.i.valid & self.i.ready)),
            get.eq(get ^ (self.o.valid & self.o.ready)),
        ]
        with m.If(self.i.ready):
            with m.If(put):
                m.d.sync += second.eq(arriving)
            with m.Else():
                m.d.sync += first.eq(arriving)
        m.d.comb += leaving.eq(Mux(get, second, first))
