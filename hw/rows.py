"""From row numbers to bursts: count, bounds check, address, burst splitter."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .registers import ErrorCode
from .types import COUNT_WIDTH, burst, error_record, row, row_job, row_request

__all__ = ["BurstSplitter", "RowAddresser", "RowNumberer"]


class RowNumberer(wiring.Component):
    """Count row numbers, and put an ``end`` behind the last of each descriptor.

    Members
    -------
    job : In(stream.Signature(COUNT_WIDTH))
        How many; held until the end has left.
    i : In(stream.Signature(64))
        Row numbers.
    o : Out(stream.Signature(row_request()))
        The same with their position; of ``end`` the number means nothing.

    Timing: no latency; one per cycle.   Reset: starts over.   Errors: none.
    """

    def __init__(self):
        super().__init__({
            "job": In(stream.Signature(COUNT_WIDTH)),
            "i": In(stream.Signature(64)),
            "o": Out(stream.Signature(row_request())),
        })

    def elaborate(self, platform):
        """Count."""
        m = Module()
        position = Signal(COUNT_WIDTH)
        end = position == self.job.payload
        m.d.comb += [
            self.o.payload.number.eq(self.i.payload),
            self.o.payload.position.eq(position),
            self.o.payload.end.eq(end),
            self.o.valid.eq(self.job.valid & (end | self.i.valid)),
            self.i.ready.eq(self.job.valid & ~end & self.o.ready),
            self.job.ready.eq(end & self.o.ready),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += position.eq(Mux(end, 0, position + 1))
        return m


class RowAddresser(wiring.Component):
    """Check row numbers and turn them into addresses: base + number × stride.

    Contract: rows leave in order; a number that is negative, not below n_rows, or (where the job
    asks for it) not greater than the one before it raises ``error``, and neither it nor anything
    behind it leaves. ``end`` ends the job.

    Parameters
    ----------
    config : EngineConfig
    range_code : ErrorCode
        How an out-of-range number is reported.
    pass_end : bool
        Whether ``end`` leaves, too.

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

    def __init__(self, config, range_code, *, pass_end=False):
        self.config = config
        self.range_code = range_code
        self.pass_end = pass_end
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
        leaving_end = valid[-1] & end[-1]
        drop = leaving_end & (not self.pass_end)
        m.d.comb += [
            advance.eq(~valid[-1] | self.o.ready | drop),
            self.i.ready.eq(advance & accept & ~bad),
            self.error.valid.eq(self.i.valid & accept & bad),
            self.error.slot.eq(job.slot),
            self.error.code.eq(Mux(out_of_range, self.range_code, ErrorCode.TARGET_ORDER)),
            self.error.position.eq(self.i.payload.position),
            self.error.value.eq(number),
            self.error.limit.eq(Mux(out_of_range, job.n_rows, previous)),
            self.o.valid.eq(valid[-1] & ~drop),
            self.o.payload.address.eq(Cat(Const(0, beat_log2), address)),
            self.o.payload.beats.eq(job.row_beats),
            self.o.payload.position.eq(position[-1]),
            self.o.payload.read.eq(job.read),
            self.o.payload.end.eq(end[-1]),
            self.job.ready.eq(leaving_end & advance),
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
