"""Queue: a first-in first-out buffer between two streams."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """Hold payloads, in order.

    Parameters
    ----------
    shape : ShapeLike
        A payload.
    depth : int
        Payloads that it can hold at least.
    registered : bool
        Put a register behind the memory, for a consumer with logic of its own in front of its
        first register: on an FPGA the output of a block RAM comes late.

    Attributes
    ----------
    capacity : int
        Payloads that it can hold: those of a memory of a power of two, and one at the output, or
        two where it is ``registered``.

    Members
    -------
    i : In(stream.Signature(shape))
        Input; ready while there is room in the memory.
    o : Out(stream.Signature(shape))
        Output; the payload is held until accepted.
    level : Out(range(capacity + 1))
        Payloads held.

    Timing: two cycles from i to o when empty, three if ``registered``; one payload per cycle each
    way. No combinational path from i to o or back; ``i.ready`` and ``o.valid`` are flip-flops.
    Reset: empties the queue.
    Resources: a memory with a registered read port, which every FPGA family maps to block or
    distributed RAM. It never reads what it writes in the same cycle, and yosys can prove it from
    the enables alone: otherwise it adds a register and a multiplexer for each bit of a block RAM.
    """

    def __init__(self, shape, depth, *, registered=False):
        if not (isinstance(depth, int) and depth >= 2):
            raise ValueError(f"depth must be an int of at least 2, not {depth!r}")
        self.depth = depth
        self.registered = registered
        outside = 1 + registered
        self.memory_log2 = max(1, (depth - outside - 1).bit_length())
        self.capacity = (1 << self.memory_log2) + outside
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(self.capacity + 1)),
        })

    def elaborate(self, platform):
        """Count what is in the memory; its highest bit says that it is full."""
        m = Module()
        bits = self.memory_log2
        width = len(Value.cast(self.i.payload))
        m.submodules.memory = memory = Memory(shape=width, depth=1 << bits, init=[])
        read, write = memory.read_port(), memory.write_port()

        stored = Signal(bits + 1)
        some, one = Signal(), stored == 1  # some: stored is not 0
        full = stored[-1]
        put, get = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            put.eq(self.i.valid & ~full),
            write.en.eq(put),
            write.data.eq(Value.cast(self.i.payload)),
            # Where the addresses meet the memory is full, or empty; both enables say which.
            read.en.eq(get & ~((read.addr == write.addr) & ~full)),
        ]
        with m.If(put):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(get):
            m.d.sync += read.addr.eq(read.addr + 1)
        with m.If(put ^ get):
            m.d.sync += stored.eq(stored + Cat(1, get.replicate(bits)))
        m.d.sync += some.eq(put | (some & ~(get & one)))

        # The memory's output, then perhaps a register.
        at_memory, word, leaves = Signal(), read.data, Signal()
        m.d.comb += get.eq(some & (~at_memory | leaves))
        m.d.sync += at_memory.eq(get | (at_memory & ~leaves))
        if self.registered:
            m.d.comb += leaves.eq(~self.o.valid | self.o.ready)
            with m.If(leaves):
                m.d.sync += [self.o.valid.eq(at_memory), Value.cast(self.o.payload).eq(word)]
        else:
            m.d.comb += [
                leaves.eq(self.o.ready),
                self.o.valid.eq(at_memory),
                Value.cast(self.o.payload).eq(word),
            ]
        m.d.comb += self.level.eq(stored + at_memory + (self.o.valid if self.registered else 0))
        return m
