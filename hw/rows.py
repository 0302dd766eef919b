"""From row numbers to bursts: bounds check, address, burst splitter."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .registers import ErrorCode
from .types import COUNT_WIDTH, burst, error_record, row, row_job, row_request

__all__ = ["BurstSplitter", "RowAddresser"]


class RowAddresser(wiring.Component):
    """Check row numbers and turn them into addresses: base + number × stride.

    Contract: rows leave in order; a number that is negative, not below n_rows, or (where the job
    asks for it) not greater than the one before it raises ``error``, and neither it nor anything
    behind it leaves. ``end`` passes through and ends the job.

    Parameters
    ----------
    config : EngineConfig
    range_code : ErrorCode
        How an out-of-range number is reported.

    Members
    -------
    job : In(stream.Signature(row_job()))
        Held until its end has left.
    i : In(stream.Signature(row_request()))
        Row numbers.
    o : Out(stream.Signature(row()))
        Rows.
    error : Out(error_record())
        The first bad row number.

    Timing: four cycles; one row per cycle; four idle cycles between descriptors.
    Reset: forgets all rows.
    Resources: one COUNT_WIDTH × 16-bit multiplier with registers on both sides.
    """

    def __init__(self, config, range_code):
        self.config = config
        self.range_code = range_code
        derived = config.derived
        super().__init__({
            "job": In(stream.Signature(row_job(derived))),
            "i": In(stream.Signature(row_request())),
            "o": Out(stream.Signature(row(derived))),
            "error": Out(error_record()),
        })

    def elaborate(self, platform):
        """Four registers: checked, multiplied, multiplied (for the DSP's output), added."""
        m = Module()
        beat_log2 = self.config.derived.beat_bytes_log2
        job = self.job.payload
        number = self.i.payload.number

        ending = Signal()  # the end is on its way: the job's registers must not change before
        failed = Signal()
        started = Signal()
        previous = Signal(COUNT_WIDTH)
        out_of_range = (number[COUNT_WIDTH:] != 0) | (number[:COUNT_WIDTH] >= job.n_rows)
        not_increasing = job.increasing & started & (number[:COUNT_WIDTH] <= previous)
        bad = ~self.i.payload.end & (out_of_range | not_increasing)

        stages = 4
        valid = [Signal(name=f"valid_{n}") for n in range(stages)]
        position = [Signal(COUNT_WIDTH, name=f"position_{n}") for n in range(stages)]
        end = [Signal(name=f"end_{n}") for n in range(stages)]
        checked = Signal(COUNT_WIDTH)
        product = [Signal(COUNT_WIDTH + len(job.stride_beats), name=f"product_{n}")
                   for n in range(2)]
        address = Signal(64 - beat_log2)

        advance = Signal()  # all stages move together; the last one waits for the consumer
        accept = self.job.valid & ~ending & ~failed
        m.d.comb += [
            advance.eq(~valid[-1] | self.o.ready),
            self.i.ready.eq(advance & accept & ~bad),
            self.error.valid.eq(self.i.valid & accept & bad),
            self.error.slot.eq(job.slot),
            self.error.code.eq(Mux(out_of_range, self.range_code, ErrorCode.TARGET_ORDER)),
            self.error.position.eq(self.i.payload.position),
            self.error.value.eq(number),
            self.error.limit.eq(Mux(out_of_range, job.n_rows, previous)),
            self.o.valid.eq(valid[-1]),
            self.o.payload.address.eq(Cat(Const(0, beat_log2), address)),
            self.o.payload.beats.eq(job.row_beats),
            self.o.payload.position.eq(position[-1]),
            self.o.payload.read.eq(job.read),
            self.o.payload.end.eq(end[-1]),
            self.job.ready.eq(self.o.valid & self.o.ready & end[-1]),
        ]
        with m.If(self.error.valid):
            m.d.sync += failed.eq(1)
        with m.If(advance):
            m.d.sync += [
                valid[0].eq(self.i.valid & accept & ~bad),
                position[0].eq(self.i.payload.position),
                end[0].eq(self.i.payload.end),
                checked.eq(number[:COUNT_WIDTH]),
                product[0].eq(checked * job.stride_beats),
                product[1].eq(product[0]),
                address.eq(job.base[beat_log2:] + product[1]),
            ]
            for n in range(1, stages):
                m.d.sync += [valid[n].eq(valid[n - 1]), position[n].eq(position[n - 1]),
                             end[n].eq(end[n - 1])]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [previous.eq(number[:COUNT_WIDTH]), started.eq(1)]
            with m.If(self.i.payload.end):
                m.d.sync += ending.eq(1)
        with m.If(self.job.ready):
            m.d.sync += [ending.eq(0), started.eq(0)]
        return m


class BurstSplitter(wiring.Component):
    """Split rows into bursts that end at multiples of the longest burst, so inside 4 KiB.

    Members
    -------
    i : In(stream.Signature(row()))
        Rows of one beat or more; an ``end`` passes through as a burst of no beats.
    o : Out(stream.Signature(burst()))
        Bursts.

    Timing: two cycles; one burst per cycle.
    Reset: forgets the row.   Errors: none.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "i": In(stream.Signature(row(derived))),
            "o": Out(stream.Signature(burst(derived))),
        })

    def elaborate(self, platform):
        """The row's rest in registers; the burst's length behind another register."""
        m = Module()
        derived = self.config.derived
        beat_log2 = derived.beat_bytes_log2
        block_log2 = self.config.burst_beats_max.bit_length() - 1
        active = Signal()
        end = Signal()
        address = Signal(64 - beat_log2)
        remaining = Signal(derived.row_beats_width)
        position = Signal(COUNT_WIDTH)

        to_boundary = Signal(block_log2 + 1)
        m.d.comb += to_boundary.eq((1 << block_log2) - address[:block_log2])
        fits = remaining <= to_boundary
        out_free = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(~active | (out_free & fits))
        with m.If(out_free):
            m.d.sync += [
                self.o.valid.eq(active),
                self.o.payload.address.eq(Cat(Const(0, beat_log2), address)),
                self.o.payload.beats.eq(Mux(fits, remaining, to_boundary)),
                self.o.payload.position.eq(position),
                self.o.payload.end.eq(end),
            ]
            with m.If(active):
                m.d.sync += [
                    address[:block_log2].eq(0),
                    address[block_log2:].eq(address[block_log2:] + 1),
                    remaining.eq(remaining - to_boundary),
                    active.eq(~fits),
                ]
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [
                active.eq(1),
                end.eq(self.i.payload.end),
                address.eq(self.i.payload.address[beat_log2:]),
                remaining.eq(Mux(self.i.payload.end, 0, self.i.payload.beats)),
                position.eq(self.i.payload.position),
            ]
        return m
