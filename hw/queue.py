"""Queue: a first-in first-out buffer between two streams."""

from amaranth.hdl import Module, Value
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """Hold up to ``depth`` payloads, in order.

    Members
    -------
    i : In(stream.Signature(shape))
        Input; ready while there is room.
    o : Out(stream.Signature(shape))
        Output; the payload is held until accepted.
    level : Out(range(depth + 1))
        Payloads held.

    Timing: two cycles from i to o when empty; one payload per cycle each way. No combinational
    path from i to o or back.
    Reset: empties the queue.
    Resources: a memory of ``depth`` payloads with a registered, non-transparent read port, which
    every FPGA family maps to block or distributed RAM.
    """

    def __init__(self, shape, depth):
        if not (isinstance(depth, int) and depth >= 2):
            raise ValueError(f"depth must be an int of at least 2, not {depth!r}")
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform):
        """Wrap Amaranth's buffered FIFO."""
        m = Module()
        width = len(Value.cast(self.i.payload))
        m.submodules.fifo = buffer = fifo.SyncFIFOBuffered(width=width, depth=self.depth)
        m.d.comb += [
            buffer.w_data.eq(Value.cast(self.i.payload)),
            buffer.w_en.eq(self.i.valid),
            self.i.ready.eq(buffer.w_rdy),
            Value.cast(self.o.payload).eq(buffer.r_data),
            self.o.valid.eq(buffer.r_rdy),
            buffer.r_en.eq(self.o.ready),
            self.level.eq(buffer.level),
        ]
        return m
