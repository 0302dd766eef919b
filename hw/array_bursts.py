"""ArrayBursts: the bursts that cover an array in memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .descriptor import ElementKind
from .types import COUNT_WIDTH, array_job, burst

__all__ = ["ArrayBursts"]


class ArrayBursts(wiring.Component):
    """Cover an array in whole beats by bursts that end at multiples of their greatest length.

    Parameters
    ----------
    config : EngineConfig
    block : int
        Greatest length in beats; a power of two, and no more than 4 KiB.

    Members
    -------
    job : In(stream.Signature(array_job()))
        What to read; a SEQUENTIAL array, and one without elements, has no bursts.
    o : Out(stream.Signature(burst()))
        The bursts; the position is that of the first element in it.

    Timing: one cycle from job to o, one burst per cycle, one idle cycle between jobs.
    Reset: forgets the job.   Errors: none.
    """

    def __init__(self, config, block):
        self.config = config
        self.block = block
        super().__init__({
            "job": In(stream.Signature(array_job())),
            "o": Out(stream.Signature(burst(config.derived))),
        })

    def elaborate(self, platform):
        """The rest of the array in registers."""
        m = Module()
        beat_log2 = self.config.derived.beat_bytes_log2
        per_beat_log2 = beat_log2 - 2  # of 32-bit words
        job = self.job.payload
        wide = job.kind == ElementKind.INT64
        skip = Signal(per_beat_log2)   # elements in front of the array in its first beat
        total = Signal(COUNT_WIDTH + 2)
        word_skip = job.base[2:beat_log2]
        m.d.comb += [
            skip.eq(Mux(wide, word_skip >> 1, word_skip)),
            total.eq((((skip + job.count) << wide) + (1 << per_beat_log2) - 1) >> per_beat_log2),
        ]

        active = Signal()
        address = Signal(64 - beat_log2)
        remaining = Signal(COUNT_WIDTH + 2)
        position = Signal(COUNT_WIDTH)
        ahead = Signal(per_beat_log2)
        was_wide = Signal()
        to_boundary = Signal(range(self.block + 1))
        length = Signal(range(self.block + 1))
        words = length << per_beat_log2
        m.d.comb += [
            to_boundary.eq(self.block - address[:self.block.bit_length() - 1]),
            length.eq(Mux(remaining < to_boundary, remaining, to_boundary)),
            self.o.valid.eq(active),
            self.o.payload.address.eq(Cat(Const(0, beat_log2), address)),
            self.o.payload.beats.eq(length),
            self.o.payload.position.eq(position),
            self.job.ready.eq(~active),
        ]
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [
                active.eq((job.kind != ElementKind.SEQUENTIAL) & (job.count != 0)),
                address.eq(job.base[beat_log2:]),
                remaining.eq(total),
                position.eq(0),
                ahead.eq(skip),
                was_wide.eq(wide),
            ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                address.eq(address + length),
                remaining.eq(remaining - length),
                position.eq(position + Mux(was_wide, words >> 1, words) - ahead),
                ahead.eq(0),
                active.eq(remaining != length),
            ]
        return m
