"""ArrayWriter: packs words into beats and writes them as an array."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..queue import Queue
from ..types import burst, strobed_beat

__all__ = ["ArrayWriter", "words"]


def words(most):
    """The first ``count`` of ``most`` 32-bit words; behind those with ``end`` the array ends."""
    return data.StructLayout({
        "word": data.ArrayLayout(32, most), "count": range(most + 1), "end": 1})


class ArrayWriter(wiring.Component):
    """Write the words that come in, one behind the other from an address on.

    Contract: bursts end at multiples of their greatest length. A burst is asked for when all of its
    beats are in the queue. Of the last beat only the words that came are written.

    Parameters
    ----------
    config : EngineConfig
    most : int
        Words a cycle, at most those in a beat.
    block : int
        Longest burst in beats; a power of two.

    Members
    -------
    job : In(stream.Signature(64))
        Address of the array, a multiple of the beat; held until the array's last burst has left.
    i : In(stream.Signature(words(most)))
        The words.
    bursts : Out(stream.Signature(burst()))
        Where the beats go.
    data : Out(stream.Signature(strobed_beat()))
        The beats.
    idle : Out(1)
        No beat waits.

    Timing: one payload of words per cycle; one idle cycle at an array's end.
    Reset: forgets the array.   Errors: none.
    Resources: 2 × block beats of memory.
    """

    def __init__(self, config, most, block):
        self.config = config
        self.most = most
        self.block = block
        super().__init__({
            "job": In(stream.Signature(64)),
            "i": In(stream.Signature(words(most))),
            "bursts": Out(stream.Signature(burst(config.derived))),
            "data": Out(stream.Signature(strobed_beat(config))),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        """A beat that fills up, and a queue behind it."""
        m = Module()
        config, derived = self.config, self.config.derived
        size, most, block = derived.lanes, self.most, self.block
        m.submodules.queue = queue = Queue(strobed_beat(config), 2 * block + 1)
        m.d.comb += [
            self.data.payload.eq(queue.o.payload),
            self.data.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.data.ready),
        ]

        # `fill` words wait in `beat`; those that come go behind them, those past its end to the
        # start of the next beat.
        beat = Signal(32 * size)
        fill = Signal(range(size))
        ending = Signal()      # what is in `beat` is the array's end
        closed = Signal()      # the array's last beat is in the queue
        total = Signal(range(size + most + 1))
        m.d.comb += total.eq(fill + self.i.payload.count)
        filled, rest = [], []  # the beat with the new words, and what is kept of it and of them
        at = [fill == n for n in range(size)]
        for slot in range(size):
            word = beat.word_select(slot, 32)
            behind = [(at[(slot - n) % size] & (self.i.payload.count > n), self.i.payload.word[n])
                      for n in range(most)]
            for here, new in behind[:slot + 1]:
                word = Mux(here, new, word)
            filled.append(word)
            for here, new in behind[slot + 1:]:
                word = Mux(here, new, word)
            rest.append(word)
        full = total >= size
        push = Signal()
        present = Signal(size)
        m.d.comb += present.eq(Mux(ending, (Const(1, size + 1) << fill) - 1, ~Const(0, size)))
        room = queue.i.ready
        take = self.i.valid & self.i.ready
        m.d.comb += [
            self.i.ready.eq(self.job.valid & ~ending & ~closed & room),
            push.eq((take & full) | (ending & (fill != 0))),
            queue.i.valid.eq(push),
            queue.i.payload.data.eq(Mux(ending, beat, Cat(filled))),
            queue.i.payload.words.eq(present),
        ]
        with m.If(take):
            m.d.sync += [beat.eq(Cat(rest)), fill.eq(total), ending.eq(self.i.payload.end)]
        with m.If(ending & (room | (fill == 0))):
            m.d.sync += [ending.eq(0), fill.eq(0), closed.eq(1)]

        # Bursts.
        address = Signal(64 - derived.beat_bytes_log2)
        started = Signal()
        waiting = Signal(range(2 * block + 2))  # beats in the queue that no burst has claimed
        to_boundary = Signal(range(block + 1))
        beats = Signal(range(block + 1))
        whole = waiting >= to_boundary
        out_free = ~self.bursts.valid | self.bursts.ready
        ask = started & out_free & (whole | (closed & (waiting != 0)))
        m.d.comb += [
            to_boundary.eq(block - address[:(block - 1).bit_length()]),
            beats.eq(Mux(whole, to_boundary, waiting)),
            self.job.ready.eq(closed & (waiting == 0) & out_free),
            self.idle.eq(~self.bursts.valid & ~queue.o.valid & (queue.level == 0)),
        ]
        m.d.sync += waiting.eq(waiting + (queue.i.valid & queue.i.ready) - Mux(ask, beats, 0))
        with m.If(self.job.valid & ~started):
            m.d.sync += [started.eq(1), address.eq(self.job.payload[derived.beat_bytes_log2:])]
        with m.If(self.bursts.ready):
            m.d.sync += self.bursts.valid.eq(0)
        with m.If(ask):
            m.d.sync += [
                self.bursts.valid.eq(1),
                self.bursts.payload.address.eq(
                    Cat(Const(0, derived.beat_bytes_log2), address)),
                self.bursts.payload.beats.eq(beats),
                address.eq(address + beats),
            ]
        with m.If(self.job.ready):
            m.d.sync += [started.eq(0), closed.eq(0)]
        return m
