"""LineWriter: turns lines of pairs into bursts."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..types import burst, strobed_beat
from .types import line

__all__ = ["LineWriter"]


class LineWriter(wiring.Component):
    """Write the pairs that count of each line.

    Members
    -------
    base : In(64)
        Address of the list.
    i : In(stream.Signature(line()))
        Lines.
    bursts : Out(stream.Signature(burst()))
        One for each line, without the beats in which nothing is written.
    data : Out(stream.Signature(strobed_beat()))
        Their beats.
    idle : Out(1)
        Nothing waits.

    Timing: a line takes as many cycles as it has beats.
    Reset: drops the line.   Errors: none.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "base": In(64),
            "i": In(stream.Signature(line(derived))),
            "bursts": Out(stream.Signature(burst(derived))),
            "data": Out(stream.Signature(strobed_beat(config))),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        """The line in a register; its beats one behind the other."""
        m = Module()
        derived = self.config.derived
        line_log2 = derived.cast_line_bytes.bit_length() - 1
        beat_log2 = derived.beat_bytes_log2
        pairs = derived.cast_line_bytes // 8
        per_beat_log2 = beat_log2 - 3
        beats = derived.cast_line_bytes >> beat_log2

        active = Signal()       # beats of `held` are left
        held = Signal(line(derived))
        beat = Signal(range(beats)) if beats > 1 else Const(0, 1)
        first_beat = self.i.payload.first >> per_beat_log2
        last_beat = self.i.payload.last >> per_beat_log2
        sent = self.data.valid & self.data.ready
        finished = sent & (beat == held.last >> per_beat_log2)
        take = self.i.valid & self.i.ready
        # A comparison with the first or the last place would be constant, which linters report.
        in_line = Cat((held.first <= n if n < pairs - 1 else 1) & (held.last >= n if n else 1)
                      for n in range(pairs))
        m.d.comb += [
            self.i.ready.eq((~self.bursts.valid | self.bursts.ready) & (~active | finished)),
            self.data.valid.eq(active),
            self.data.payload.data.eq(held.data.word_select(beat, 8 * derived.beat_bytes)),
            self.data.payload.words.eq(Cat(
                bit.replicate(2) for bit in in_line.word_select(beat, 1 << per_beat_log2))),
            self.idle.eq(~self.bursts.valid & ~active),
        ]
        with m.If(self.bursts.ready):
            m.d.sync += self.bursts.valid.eq(0)
        with m.If(finished):
            m.d.sync += active.eq(0)
        if beats > 1:
            with m.If(sent):
                m.d.sync += beat.eq(beat + 1)
        with m.If(take):
            m.d.sync += [
                active.eq(1),
                held.eq(self.i.payload),
                self.bursts.valid.eq(1),
                self.bursts.payload.address.eq(
                    self.base + Cat(Const(0, beat_log2), first_beat[:line_log2 - beat_log2],
                                    self.i.payload.number)),
                self.bursts.payload.beats.eq(last_beat - first_beat + 1),
            ]
            if beats > 1:
                m.d.sync += beat.eq(first_beat)
        return m
