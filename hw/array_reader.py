"""ArrayReader: prefetches an array of integers in long bursts and hands them out one a cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

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

    Timing: one element per cycle; an array that does not start at a beat costs one cycle for each
    element in front of it, once per job; at most two idle cycles between jobs.
    Reset: forgets all jobs; transfers in flight must have ended.
    Errors: none; the sequencer has checked alignment, the read port checks the windows.
    """

    def __init__(self, config):
        self.config = config
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
        per_beat_log2 = beat_log2 - 2  # of 32-bit elements
        skip_width = per_beat_log2

        m.submodules.reader = reader = BurstReader(config, config.array_buffer_beats)
        connect(m, reader.o, flipped(self.bursts))
        connect(m, flipped(self.beats), reader.beats)
        m.d.comb += self.starved.eq(reader.starved)

        unpack_layout = data.StructLayout({"kind": 2, "skip": skip_width, "count": COUNT_WIDTH + 1})
        m.submodules.unpack_jobs = unpack_jobs = Queue(
            unpack_layout, config.descriptors_in_flight)

        # Burst generator. Bursts end at multiples of their greatest length, which keeps them
        # inside 4 KiB.
        job = self.job.payload
        job_log2 = Mux(job.kind == ElementKind.INT64, 1, 0)  # of 32-bit words in an element
        skip = Signal(skip_width)
        beats_width = COUNT_WIDTH + 2
        total = Signal(beats_width)
        word_skip = job.base[2:beat_log2]
        m.d.comb += [
            skip.eq(Mux(job_log2, word_skip >> 1, word_skip)),
            total.eq((((skip + job.count) << job_log2) + (1 << per_beat_log2) - 1)
                     >> per_beat_log2),
        ]

        active = Signal()
        address = Signal(64 - beat_log2)
        remaining = Signal(beats_width)
        position = Signal(COUNT_WIDTH)  # of the first element in the burst
        ahead = Signal(skip_width)      # elements in front of the array in its first beat
        wide_job = Signal()
        block = derived.array_burst_beats
        to_boundary = Signal(range(block + 1))
        length = Signal(range(block + 1))
        m.d.comb += [
            to_boundary.eq(block - address[:block.bit_length() - 1]),
            length.eq(Mux(remaining < to_boundary, remaining, to_boundary)),
            reader.i.valid.eq(active),
            reader.i.payload.address.eq(Cat(Const(0, beat_log2), address)),
            reader.i.payload.beats.eq(length),
            reader.i.payload.position.eq(position),
            unpack_jobs.i.payload.kind.eq(job.kind),
            unpack_jobs.i.payload.skip.eq(skip),
            unpack_jobs.i.payload.count.eq(job.count),
            unpack_jobs.i.valid.eq(self.job.valid & ~active),
            self.job.ready.eq(unpack_jobs.i.ready & ~active),
        ]
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [
                active.eq((job.kind != ElementKind.SEQUENTIAL) & (job.count != 0)),
                address.eq(job.base[beat_log2:]),
                remaining.eq(total),
                position.eq(0),
                ahead.eq(skip),
                wide_job.eq(job_log2),
            ]
        with m.If(reader.i.valid & reader.i.ready):
            m.d.sync += [
                address.eq(address + length),
                remaining.eq(remaining - length),
                position.eq(position + Mux(wide_job, length << per_beat_log2 >> 1,
                                           length << per_beat_log2) - ahead),
                ahead.eq(0),
                active.eq(remaining != length),
            ]

        # Unpacker: a shift register of one beat.
        unpack = unpack_jobs.o.payload
        wide = unpack.kind == ElementKind.INT64
        sequential = unpack.kind == ElementKind.SEQUENTIAL
        running = Signal()
        beat = Signal(config.data_width)
        left = Signal(range((1 << per_beat_log2) + 1))  # elements left in the beat
        to_skip = Signal(skip_width)
        count = Signal(COUNT_WIDTH + 1)
        number = Signal(COUNT_WIDTH)
        skipping = to_skip != 0
        taken = self.o.valid & self.o.ready
        shift = (left != 0) & (skipping | taken)
        last = taken & (count == 1)
        m.d.comb += [
            self.o.valid.eq(running & (sequential | ((left != 0) & ~skipping))),
            self.o.payload.eq(Mux(sequential, number,
                                  Mux(wide, beat[:64], beat[:32].as_signed()))),
            reader.data.ready.eq(running & ~sequential & ~last
                                 & ((left == 0) | ((left == 1) & shift))),
            unpack_jobs.o.ready.eq(unpack_jobs.o.valid & running & last),
        ]
        with m.If(~running & unpack_jobs.o.valid):
            with m.If(unpack.count == 0):
                m.d.comb += unpack_jobs.o.ready.eq(1)
            with m.Else():
                m.d.sync += running.eq(1)
            m.d.sync += [
                to_skip.eq(unpack.skip), count.eq(unpack.count), number.eq(0), left.eq(0)]
        with m.If(taken):
            m.d.sync += [count.eq(count - 1), number.eq(number + 1)]
        with m.If(skipping & (left != 0)):
            m.d.sync += to_skip.eq(to_skip - 1)
        with m.If(shift):
            m.d.sync += [beat.eq(Mux(wide, beat >> 64, beat >> 32)), left.eq(left - 1)]
        with m.If(reader.data.ready & reader.data.valid):
            m.d.sync += [
                beat.eq(reader.data.payload),
                left.eq(Mux(wide, (1 << per_beat_log2) >> 1, 1 << per_beat_log2)),
            ]
        with m.If(last):
            m.d.sync += [running.eq(0), left.eq(0)]
        return m
