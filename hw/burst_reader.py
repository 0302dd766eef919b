"""BurstReader: lets a burst go only when there is room for all of its data."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .queue import Queue
from .types import burst

__all__ = ["BurstReader"]


class BurstReader(wiring.Component):
    """Reserve buffer space by credit before a request is issued.

    Contract: the beats of the bursts that were let go always find room, so the read channel never
    waits for this reader and none can block another.

    Parameters
    ----------
    config : EngineConfig
    depth : int
        Buffer in beats; at least the longest burst.
    registered : bool
        Put a register behind the buffer; see Queue.
    queued : bool
        Put a queue behind i; else a register, which lets a burst through every three cycles.

    Members
    -------
    i : In(stream.Signature(burst()))
        Bursts wanted.
    o : Out(stream.Signature(burst()))
        Bursts with space reserved.
    beats : In(stream.Signature(data_width, always_ready=True))
        Read data, in the order of the bursts.
    data : Out(stream.Signature(data_width))
        The buffered data.
    starved : Out(1)
        A burst waits for room.

    Timing: two cycles from i to o; one burst per cycle, or every three if not ``queued``; two
    cycles from beats to data, three if ``registered``. o.valid is a flip-flop, and i.ready does
    not depend on o.ready; if not ``queued`` it is a flip-flop, too.
    Reset: empties the buffer and takes back all credit; transfers in flight must have ended.
    Resources: a memory of ``depth`` beats.
    """

    def __init__(self, config, depth, *, registered=False, queued=True):
        self.config = config
        self.depth = depth
        self.registered = registered
        self.queued = queued
        derived = config.derived
        super().__init__({
            "i": In(stream.Signature(burst(derived))),
            "o": Out(stream.Signature(burst(derived))),
            "beats": In(stream.Signature(config.data_width, always_ready=True)),
            "data": Out(stream.Signature(config.data_width)),
            "starved": Out(1),
        })

    def elaborate(self, platform):
        """Count credits: beats of buffer that nothing has claimed."""
        m = Module()
        m.submodules.buffer = buffer = Queue(
            self.config.data_width, self.depth + 1 + self.registered, registered=self.registered)
        m.d.comb += [
            buffer.i.payload.eq(self.beats.payload),
            buffer.i.valid.eq(self.beats.valid),
        ]
        connect(m, buffer.o, flipped(self.data))

        # Beats of room that no burst has claimed; of one that leaves they are claimed.
        credit = Signal(range(self.depth + 1), init=self.depth)
        enough, leaves = Signal(), Signal()
        if self.queued:
            m.submodules.bursts = bursts = Queue(burst(self.config.derived), 3)
            connect(m, bursts.o, flipped(self.o))
            waits, beats = self.i.valid, self.i.payload.beats
            m.d.comb += [
                bursts.i.payload.eq(self.i.payload),
                bursts.i.valid.eq(waits & enough),
                self.i.ready.eq(bursts.i.ready & enough),
                leaves.eq(waits & self.i.ready),
            ]
        else:
            # The burst waits for its credit in the register.
            free, waits, beats = Signal(init=1), Signal(), self.o.payload.beats
            m.d.comb += [self.i.ready.eq(free), leaves.eq(waits & enough)]
            with m.If(free):
                m.d.sync += [
                    self.o.payload.eq(self.i.payload),
                    free.eq(~self.i.valid), waits.eq(self.i.valid)]
            with m.If(leaves):
                m.d.sync += [waits.eq(0), self.o.valid.eq(1)]
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += [self.o.valid.eq(0), free.eq(1)]
        m.d.comb += [enough.eq(credit >= beats), self.starved.eq(waits & ~enough)]
        m.d.sync += credit.eq(
            credit - Mux(leaves, beats, 0) + (self.data.valid & self.data.ready))
        return m
