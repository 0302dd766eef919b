"""PairStore: two lists of pairs on the chip, one written in any order while one is read."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..queue import Queue
from .types import PAIR_COUNT_WIDTH, pair, pairs

__all__ = ["PairStore"]

#: Words that are read, not yet taken.
_DEPTH = 6


class PairStore(wiring.Component):
    """Keep the pairs of a short cast between its passes.

    Members
    -------
    write : In(1)
        ``pair`` goes to ``position`` of list ``into``.
    into, position, pair : In
    job : In(stream.Signature({from, count, single}))
        Read a list from its start; held until the last pair has left.
    o : Out(stream.Signature(pairs(cast_pairs)))
        Its pairs, ``cast_pairs`` a cycle, or one where the job is ``single``.

    Timing: one pair written per cycle; four cycles from a job to its first pairs.
    Reset: forgets the job.   Errors: none.
    Resources: 2 × cast_buffer_pairs × 64 bits of memory.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "write": In(1), "into": In(1), "position": In(PAIR_COUNT_WIDTH), "pair": In(pair()),
            "job": In(stream.Signature(data.StructLayout(
                {"list": 1, "count": PAIR_COUNT_WIDTH, "single": 1}))),
            "o": Out(stream.Signature(pairs(config.derived.cast_pairs))),
        })

    def elaborate(self, platform):
        """A memory for each list; an address that runs ahead by as much as the queue has room."""
        m = Module()
        size, most = self.config.cast_buffer_pairs, self.config.derived.cast_pairs
        most_log2 = most.bit_length() - 1
        reads = []
        address = Signal(range(size // most))
        for number in range(2):
            m.submodules[f"list_{number}"] = memory = Memory(
                shape=data.ArrayLayout(64, most), depth=size // most, init=[])
            write = memory.write_port(granularity=1)
            read = memory.read_port()
            m.d.comb += [
                write.addr.eq(self.position >> most_log2),
                write.data.eq(Cat(self.pair.as_value() for _ in range(most))),
                read.addr.eq(address),
            ]
            for n in range(most):
                m.d.comb += write.en[n].eq(
                    self.write & (self.into == number) & (self.position[:most_log2] == n))
            reads.append(read.data.as_value())

        m.submodules.queue = queue = Queue(64 * most, _DEPTH)
        job = self.job.payload
        wanted = Signal(PAIR_COUNT_WIDTH)   # words not yet asked for
        remaining = Signal(PAIR_COUNT_WIDTH)
        running = Signal()
        credit = Signal(range(_DEPTH + 1), init=_DEPTH)
        asked = Signal()
        ask = running & (wanted != 0) & (credit != 0)
        m.d.sync += asked.eq(ask)
        m.d.comb += [
            queue.i.valid.eq(asked),
            queue.i.payload.eq(Mux(job.list, reads[1], reads[0])),
        ]
        with m.If(ask):
            m.d.sync += [address.eq(address + 1), wanted.eq(wanted - 1)]

        # One word may leave pair by pair.
        lane = Signal(range(most)) if most > 1 else None
        left = Signal(range(most + 1))
        word = queue.o.payload
        shown = word if lane is None else Mux(lane, word >> 64, word)
        whole = Mux(remaining < most, remaining, most)
        m.d.comb += [
            left.eq(whole),
            self.o.valid.eq(running & queue.o.valid),
            self.o.payload.count.eq(Mux(job.single, 1, left)),
        ]
        for n in range(most):
            m.d.comb += self.o.payload.item[n].eq(
                shown.word_select(n, 64) if n else shown[:64])
        taken = self.o.valid & self.o.ready
        last = taken & (remaining == self.o.payload.count)
        done = taken & (last | ~job.single | (1 if lane is None else lane == most - 1))
        m.d.comb += [
            queue.o.ready.eq(done),
            self.job.ready.eq(last | (self.job.valid & ~running & (job.count == 0))),
        ]
        if lane is not None:
            with m.If(taken & job.single):
                m.d.sync += lane.eq(lane + 1)
        with m.If(taken):
            m.d.sync += remaining.eq(remaining - self.o.payload.count)
        m.d.sync += credit.eq(credit - ask + done)
        with m.If(self.job.valid & ~running & (job.count != 0)):
            m.d.sync += [
                running.eq(1), address.eq(0), remaining.eq(job.count),
                wanted.eq((job.count + (most - 1)) >> most_log2),
            ]
            if lane is not None:
                m.d.sync += lane.eq(0)
        with m.If(last):
            m.d.sync += running.eq(0)
        return m
