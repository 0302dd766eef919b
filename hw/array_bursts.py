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
    words_only : bool
        Every job is INT32.

    Members
    -------
    job : In(stream.Signature(array_job()))
        What to read; a SEQUENTIAL array, and one without elements, has no bursts.
    o : Out(stream.Signature(burst()))
        The bursts; the position is that of the first element in it.

    Timing: three cycles from job to o, a burst every two cycles; the next job is taken when the
    last burst has left.
    Reset: forgets the job.   Errors: none.
    """

    def __init__(self, config, block, *, words_only=False):
        self.config = config
        self.block = block
        self.words_only = words_only
        super().__init__({
            "job": In(stream.Signature(array_job())),
            "o": Out(stream.Signature(burst(config.derived))),
        })

    def elaborate(self, platform):
        """Count blocks: the bytes between two multiples of the longest burst.

        A burst covers what the array has of a block, which keeps it inside 4 KiB. The first and the
        last word of the array say where the first burst begins and where the last one ends.
        """
        m = Module()
        beat_log2 = self.config.derived.beat_bytes_log2
        per_beat_log2 = beat_log2 - 2  # of 32-bit words
        block = self.block
        block_log2 = block.bit_length() - 1
        words_log2 = block_log2 + per_beat_log2  # of 32-bit words in a block
        job = self.job.payload
        job_wide = Const(0) if self.words_only else job.kind == ElementKind.INT64
        job_counted = Const(0) if self.words_only else job.kind == ElementKind.SEQUENTIAL
        first_word = job.base[2:2 + words_log2]

        starting, preparing, active = Signal(), Signal(), Signal()
        wide = Signal()
        base = Signal(64 - beat_log2)
        ahead = Signal(words_log2)         # words of the first block in front of the array
        end = Signal(COUNT_WIDTH + 3)      # the array's last word, counted from the first block
        last_block = end[words_log2:]
        block_number = Signal(COUNT_WIDTH + 3 - words_log2)
        next_block = Signal.like(block_number)
        at_end = Signal()                  # while preparing: block_number is last_block
        first, last = Signal(), Signal()
        length = Signal(range(block + 1))
        words_before = Signal(COUNT_WIDTH + 1)  # words of the array in front of this block
        m.d.comb += [
            self.job.ready.eq(~active & ~preparing & ~starting),
            self.o.valid.eq(active),
            self.o.payload.address.eq(Cat(
                Const(0, beat_log2),
                base[:block_log2] & first.replicate(block_log2),
                base[block_log2:] + block_number)),
            self.o.payload.beats.eq(length),
            self.o.payload.position.eq(Mux(wide, words_before >> 1, words_before)),
        ]
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [
                starting.eq(~job_counted & (job.count != 0)),
                wide.eq(job_wide),
                base.eq(job.base[beat_log2:]),
                ahead.eq(first_word),
                end.eq(Mux(job_wide, job.count << 1, job.count) + (first_word - 1)),
                block_number.eq(0), next_block.eq(1), first.eq(1), words_before.eq(0),
            ]
        with m.If(starting):
            m.d.sync += [starting.eq(0), preparing.eq(1), at_end.eq(last_block == 0)]
        with m.If(preparing):
            m.d.sync += [
                preparing.eq(0), active.eq(1), last.eq(at_end),
                length.eq(Mux(at_end, end[per_beat_log2:words_log2] + 1, block)
                          - Mux(first, ahead[per_beat_log2:], 0)),
            ]
        with m.If(active):
            # Of the block behind this one, whether or not this one leaves now.
            m.d.sync += at_end.eq(next_block == last_block)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                active.eq(0), preparing.eq(~last), first.eq(0),
                block_number.eq(next_block), next_block.eq(next_block + 1),
                words_before.eq(words_before + (1 << words_log2) - Mux(first, ahead, 0)),
            ]
        return m
