"""ListReader: streams an array of integers, several elements a cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..array_bursts import ArrayBursts
from ..burst_reader import BurstReader
from ..descriptor import ElementKind
from ..types import COUNT_WIDTH, burst

__all__ = ["ListReader", "elements", "list_job"]


def list_job():
    """An array: kind (ElementKind, not SEQUENTIAL), address, elements; ``single``: one a cycle."""
    return data.StructLayout({"kind": 2, "base": 64, "count": COUNT_WIDTH, "single": 1})


def elements(step):
    """Up to ``step`` elements, sign-extended to 64 bits: the first ``count`` hold one."""
    return data.StructLayout({"item": data.ArrayLayout(64, step), "count": range(step + 1)})


class ListReader(wiring.Component):
    """Read arrays in long bursts and hand out up to ``step`` elements a cycle.

    Contract: for each job its elements leave in order; where a beat ends before the step does, what
    it holds leaves alone. Bursts cover whole beats, as those of ArrayReader.

    Parameters
    ----------
    config : EngineConfig
    step : int
        Elements a cycle, 1, 2 or 4; of those in a beat where that is less.

    Members
    -------
    job : In(stream.Signature(list_job()))
        What to read; held until its last element has left.
    o : Out(stream.Signature(elements(step)))
        The elements.
    bursts, beats : to the read port, see ArrayReader.

    Timing: ``step`` elements a cycle, one where the job is ``single``; an array that does not start
    at a beat costs one cycle for each element in front of it.
    Reset: forgets the job; transfers in flight must have ended.
    Errors: none; the sequencer has checked alignment, the read port checks the windows.
    Resources: cast_buffer_beats beats of memory.
    """

    def __init__(self, config, step):
        self.config = config
        self.step = step
        super().__init__({
            "job": In(stream.Signature(list_job())),
            "o": Out(stream.Signature(elements(step))),
            "bursts": Out(stream.Signature(burst(config.derived))),
            "beats": In(stream.Signature(config.data_width, always_ready=True)),
        })

    def elaborate(self, platform):
        """A beat in a shift register."""
        m = Module()
        config, derived = self.config, self.config.derived
        job = self.job.payload
        words = derived.lanes
        depth = derived.cast_buffer_beats
        m.submodules.generator = generator = ArrayBursts(
            config, min(config.burst_beats_max, depth // 4))
        m.submodules.reader = reader = BurstReader(config, depth)
        connect(m, generator.o, reader.i)
        connect(m, reader.o, flipped(self.bursts))
        connect(m, flipped(self.beats), reader.beats)

        running = Signal()
        start = self.job.valid & ~running & (job.count != 0)
        m.d.comb += [
            generator.job.payload.kind.eq(job.kind),
            generator.job.payload.base.eq(job.base),
            generator.job.payload.count.eq(job.count),
            generator.job.valid.eq(start),
        ]

        wide = job.kind == ElementKind.INT64
        steps = {"narrow": min(self.step, words), "wide": min(self.step, words // 2)}
        beat = Signal(config.data_width)
        left = Signal(range(words + 1))   # elements in the beat
        to_skip = Signal(range(words))
        remaining = Signal(COUNT_WIDTH)   # elements of the job
        step = Signal(range(self.step + 1))
        count = Signal(range(self.step + 1))
        m.d.comb += step.eq(Mux(job.single, 1, Mux(wide, steps["wide"], steps["narrow"])))
        m.d.comb += count.eq(Mux(left < step, left, step))
        with m.If(remaining < count):
            m.d.comb += self.o.payload.count.eq(remaining)
        with m.Else():
            m.d.comb += self.o.payload.count.eq(count)
        for n in range(self.step):
            narrow = beat.word_select(n, 32).as_signed() if n < words else Const(0)
            broad = beat.word_select(n, 64) if n < words // 2 else Const(0)
            m.d.comb += self.o.payload.item[n].eq(Mux(wide, broad, narrow))

        skipping = to_skip != 0
        taken = self.o.valid & self.o.ready
        last = taken & (remaining == self.o.payload.count)
        used = Signal.like(count)
        m.d.comb += [
            self.o.valid.eq(running & (left != 0) & ~skipping),
            used.eq(Mux(skipping & (left != 0), 1, Mux(taken, count, 0))),
            reader.data.ready.eq(running & ~last & (left == used)),
            self.job.ready.eq((self.job.valid & ~running & (job.count == 0)) | last),
        ]
        with m.If(start & generator.job.ready):
            word_skip = job.base[2:derived.beat_bytes_log2]
            m.d.sync += [
                running.eq(1),
                remaining.eq(job.count),
                to_skip.eq(Mux(wide, word_skip >> 1, word_skip)),
                left.eq(0),
            ]
        with m.If(taken):
            m.d.sync += remaining.eq(remaining - self.o.payload.count)
        with m.If(skipping & (left != 0)):
            m.d.sync += to_skip.eq(to_skip - 1)
        m.d.sync += left.eq(left - used)
        with m.Switch(Cat(wide, job.single | skipping)):
            for number, (is_wide, single) in enumerate(
                    ((0, 0), (1, 0), (0, 1), (1, 1))):
                with m.Case(number):
                    shift = (64 if is_wide else 32) * (
                        1 if single else steps["wide" if is_wide else "narrow"])
                    with m.If(used != 0):
                        m.d.sync += beat.eq(beat >> shift)
        with m.If(reader.data.ready & reader.data.valid):
            m.d.sync += [
                beat.eq(reader.data.payload),
                left.eq(Mux(wide, words // 2, words)),
            ]
        with m.If(last):
            m.d.sync += [running.eq(0), left.eq(0)]
        return m
