"""ArrayReader: prefetches an array of integers in long bursts and hands out one a cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .array_bursts import ArrayBursts
from .burst_reader import BurstReader
from .descriptor import ElementKind
from .queue import Queue
from .types import COUNT_WIDTH, array_job, burst

__all__ = ["ArrayReader"]


class ArrayReader(wiring.Component):
    """Stream the elements of index, offset or target arrays.

    Contract: for each job, ``count`` elements leave in order, sign-extended to 64 bits; a
    SEQUENTIAL job makes 0, 1, 2, … without reading. The requests of the next job start while the
    elements of this one are still being taken. Bursts cover the array in whole beats, so up to a
    beat less one element around it is read as well.

    Parameters
    ----------
    config : EngineConfig
    words_only : bool
        Every job is INT32, and the upper half of ``o`` means nothing: half of the logic.

    Members
    -------
    job : In(stream.Signature(array_job()))
        What to read.
    o : Out(stream.Signature(64))
        The elements.
    bursts : Out(stream.Signature(burst()))
        Requests, to the read port; issued only with room for their data.
    beats : In(stream.Signature(data_width, always_ready=True))
        Their data.
    starved : Out(1)
        A burst waits for room.

    Timing: one element per cycle; one idle cycle between jobs; a burst every three cycles. Five
    cycles from the job to its first burst, four from a beat to its first element.
    Reset: forgets all jobs; transfers in flight must have ended.
    Errors: none; the sequencer has checked alignment, the read port checks the windows.
    """

    def __init__(self, config, *, words_only=False):
        self.config = config
        self.words_only = words_only
        derived = config.derived
        super().__init__({
            "job": In(stream.Signature(array_job())),
            "o": Out(stream.Signature(64)),
            "bursts": Out(stream.Signature(burst(derived))),
            "beats": In(stream.Signature(config.data_width, always_ready=True)),
            "starved": Out(1),
        })

    def elaborate(self, platform):
        """Burst generator in front, unpacker behind the buffer."""
        m = Module()
        config, derived = self.config, self.config.derived
        beat_log2 = derived.beat_bytes_log2
        per_beat_log2 = beat_log2 - 2  # of 32-bit words
        m.submodules.generator = generator = ArrayBursts(
            config, derived.array_burst_beats, words_only=self.words_only)
        m.submodules.reader = reader = BurstReader(
            config, config.array_buffer_beats, registered=True, queued=False)
        connect(m, generator.o, reader.i)
        connect(m, reader.o, flipped(self.bursts))
        connect(m, flipped(self.beats), reader.beats)
        m.d.comb += self.starved.eq(reader.starved)

        unpack_layout = data.StructLayout(
            {"kind": 2, "skip": per_beat_log2, "count": COUNT_WIDTH + 1})
        m.submodules.unpack_jobs = unpack_jobs = Queue(
            unpack_layout, config.descriptors_in_flight)

        job = self.job.payload
        m.d.comb += [
            generator.job.payload.eq(job),
            generator.job.valid.eq(self.job.valid & unpack_jobs.i.ready),
            unpack_jobs.i.payload.kind.eq(job.kind),
            unpack_jobs.i.payload.skip.eq(job.base[2:beat_log2]),
            unpack_jobs.i.payload.count.eq(job.count),
            unpack_jobs.i.valid.eq(self.job.valid & generator.job.ready & (job.count != 0)),
            self.job.ready.eq(unpack_jobs.i.ready & generator.job.ready),
        ]

        # Unpacker: one register behind the beat, where its words are picked.
        unpack = unpack_jobs.o.payload
        unpack_wide = Const(0) if self.words_only else unpack.kind == ElementKind.INT64
        sequential = Const(0) if self.words_only else unpack.kind == ElementKind.SEQUENTIAL
        running = Signal()
        counting, wide = (Signal(), Signal()) if not self.words_only else (Const(0), Const(0))
        word = Signal(per_beat_log2)   # of the beat, the next one
        final = Signal()               # the next element is the last one
        empties = Signal()             # behind it nothing of the beat is left; the beat may go
        # The number of the next element, and the two behind it: one compares, one is handed out.
        number, number_1, number_2 = (
            Signal(COUNT_WIDTH + 1, init=n, name=f"number_{n}") for n in range(3))
        low = reader.data.payload.word_select(word, 32)
        high = reader.data.payload.word_select(word | 1, 32)
        # What is picked waits aside where the consumer does not take what is in front of it, so
        # that nothing here depends on its ready.
        element, aside = Signal(64), Signal(64)
        aside_valid = Signal()
        move = running & ~aside_valid & (counting | reader.data.valid)
        m.d.comb += [
            element.eq(Cat(
                Mux(counting, number[:32], low),
                Mux(wide, high, (low[-1] & ~counting).replicate(32)))),
            reader.data.ready.eq(empties & ~aside_valid),
            unpack_jobs.o.ready.eq(move & final),
        ]

        def follows(first, wide, is_last, reads):
            """Assign what is known of the next element: its word of a beat, if the job reads."""
            crosses = first >= (1 << per_beat_log2) - Mux(wide, 2, 1)
            return [word.eq(first), final.eq(is_last), empties.eq(reads & (is_last | crosses))]

        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(move | aside_valid),
                self.o.payload.eq(Mux(aside_valid, aside, element)),
                aside_valid.eq(0),
            ]
        with m.Else():
            m.d.sync += aside_valid.eq(move | aside_valid)
        with m.If(~aside_valid):
            m.d.sync += aside.eq(element)
        with m.If(move):
            m.d.sync += [
                running.eq(~final),
                *follows((word + Mux(wide, 2, 1))[:per_beat_log2], wide,
                         number_2 == unpack.count, ~final & ~counting),
                number.eq(number_1), number_1.eq(number_2), number_2.eq(number_2 + 1),
            ]
        with m.If(~running):
            m.d.sync += [
                running.eq(unpack_jobs.o.valid),
                *follows(unpack.skip, unpack_wide, unpack.count == 1,
                         unpack_jobs.o.valid & ~sequential),
                number.eq(0), number_1.eq(1), number_2.eq(2),
            ]
            if not self.words_only:
                m.d.sync += [counting.eq(sequential), wide.eq(unpack_wide)]
        return m
