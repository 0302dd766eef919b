"""From row numbers to bursts: count, bounds check, address, burst splitter."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .register_slice import RegisterSlice
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

    Timing: no latency; one per cycle; an idle cycle between jobs.
    Reset: starts over.   Errors: none.
    """

    def __init__(self):
        super().__init__({
            "job": In(stream.Signature(COUNT_WIDTH)),
            "i": In(stream.Signature(64)),
            "o": Out(stream.Signature(row_request())),
        })

    def elaborate(self, platform):
        """Count; whether the next one is the end is known before."""
        m = Module()
        running, end = Signal(), Signal()
        position, position_1 = Signal(COUNT_WIDTH), Signal(COUNT_WIDTH, init=1)
        m.d.comb += [
            self.o.payload.number.eq(self.i.payload),
            self.o.payload.position.eq(position),
            self.o.payload.end.eq(end),
            self.o.valid.eq(running & (end | self.i.valid)),
            self.i.ready.eq(running & ~end & self.o.ready),
            self.job.ready.eq(running & end & self.o.ready),
        ]
        with m.If(~running):
            m.d.sync += [running.eq(self.job.valid), end.eq(self.job.payload == 0),
                         position.eq(0), position_1.eq(1)]
        with m.Elif(self.job.ready):
            m.d.sync += running.eq(0)
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [position.eq(position_1), position_1.eq(position_1 + 1),
                         end.eq(position_1 == self.job.payload)]
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
        Held until two cycles behind its end.
    i : In(stream.Signature(row_request()))
        Row numbers.
    o : Out(stream.Signature(row()))
        Rows.
    error : Out(error_record())
        The first bad row number.

    Timing: six cycles; one row per cycle; two idle cycles between descriptors. i.ready does not
    depend on i or on o.ready, and o is a register's.
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
        """Registers: held, compared, multiplied in halves, their sum, the base added; a slice."""
        m = Module()
        derived = self.config.derived
        beat_log2 = derived.beat_bytes_log2
        job = self.job.payload

        ending = Signal()  # an end is held or compared: what comes next waits for its own job
        failed = Signal()
        started = Signal()
        newest, previous = Signal(COUNT_WIDTH), Signal(COUNT_WIDTH)

        # All stages move together, unless the slice behind them is full: so none depends on the
        # consumer's ready.
        held, held_valid, held_high = Signal(row_request()), Signal(), Signal()
        compared, compared_valid = Signal(row_request()), Signal()
        out_of_range, not_increasing = Signal(), Signal()
        stages = 3
        valid = [Signal(name=f"valid_{n}") for n in range(stages)]
        position = [Signal(COUNT_WIDTH, name=f"position_{n}") for n in range(stages)]
        end = [Signal(name=f"end_{n}") for n in range(stages)]
        # Halves of the product, each of one of the FPGA's multipliers; then their sum.
        half = COUNT_WIDTH // 2
        low, high = (Signal(half + len(job.stride_beats), name=name) for name in ("low", "high"))
        product = Signal(COUNT_WIDTH + len(job.stride_beats))
        address = Signal(64 - beat_log2)
        # What the last stages need of the job, which may be another one by then: beside the halves,
        # the product and the address.
        late = data.StructLayout({"row_beats": derived.row_beats_width, "read": 1})
        of_halves, of_product, of_address = (
            Signal(late, name=f"of_{name}") for name in ("halves", "product", "address"))
        base_of_halves, base_of_product = Signal.like(address), Signal.like(address)
        m.submodules.leaving = leaving = RegisterSlice(row(derived))
        connect(m, leaving.o, flipped(self.o))
        advance = leaving.i.ready

        number, checked = held.number[:COUNT_WIDTH], compared.number[:COUNT_WIDTH]
        bad = compared_valid & ~compared.end & (out_of_range | not_increasing)
        accept = self.job.valid & ~ending & ~failed
        m.d.comb += [
            self.i.ready.eq(advance & accept),
            self.error.valid.eq(bad & ~failed),
            self.error.slot.eq(job.slot),
            self.error.code.eq(Mux(out_of_range, self.range_code, ErrorCode.TARGET_ORDER)),
            self.error.position.eq(compared.position),
            self.error.value.eq(compared.number),
            self.error.limit.eq(Mux(out_of_range, job.n_rows, previous)),
        ]
        with m.If(bad):
            m.d.sync += failed.eq(1)
        with m.If(advance):
            m.d.sync += [
                held_valid.eq(self.i.valid & accept),
                held.eq(self.i.payload),
                held_high.eq(self.i.payload.number[COUNT_WIDTH:].any()),
                compared_valid.eq(held_valid),
                compared.eq(held),
                out_of_range.eq(held_high | (number >= job.n_rows)),
                not_increasing.eq(job.increasing & started & (newest >= number)),
                previous.eq(newest),
                valid[0].eq(compared_valid & ~bad & ~failed),
                position[0].eq(compared.position),
                end[0].eq(compared.end),
                low.eq(checked[:half] * job.stride_beats),
                high.eq(checked[half:] * job.stride_beats),
                product.eq(low + (high << half)),
                address.eq(base_of_product + product),
                base_of_halves.eq(job.base[beat_log2:]),
                base_of_product.eq(base_of_halves),
                of_halves.row_beats.eq(job.row_beats),
                of_halves.read.eq(job.read),
                of_product.eq(of_halves),
                of_address.eq(of_product),
            ]
            for n in range(1, stages):
                m.d.sync += [valid[n].eq(valid[n - 1]), position[n].eq(position[n - 1]),
                             end[n].eq(end[n - 1])]
            with m.If(held_valid):
                m.d.sync += [newest.eq(number), started.eq(1)]
            with m.If(self.i.valid & accept & self.i.payload.end):
                m.d.sync += ending.eq(1)

        m.d.comb += [
            leaving.i.valid.eq(valid[-1] & (self.pass_end | ~end[-1])),
            leaving.i.payload.address.eq(Cat(Const(0, beat_log2), address)),
            leaving.i.payload.beats.eq(of_address.row_beats),
            leaving.i.payload.position.eq(position[-1]),
            leaving.i.payload.read.eq(of_address.read),
            leaving.i.payload.end.eq(end[-1]),
            self.job.ready.eq(advance & compared_valid & compared.end & ~failed),
        ]
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
        """The row's rest in registers, a slice behind them."""
        m = Module()
        derived = self.config.derived
        beat_log2 = derived.beat_bytes_log2
        block_log2 = self.config.burst_beats_max.bit_length() - 1
        active = Signal()
        end = Signal()
        base = Signal(64 - beat_log2)
        # Blocks of the longest burst between the row's first one and this burst's.
        blocks_max = -(-derived.row_beats_max >> block_log2)
        block_number = Signal(range(blocks_max + 1))
        start = Signal(block_log2)            # in its block
        to_boundary = Signal(block_log2 + 1)  # beats from there to the next block
        remaining = Signal(derived.row_beats_width)
        position = Signal(COUNT_WIDTH)

        first_beat = self.i.payload.address[beat_log2:]
        fits = Signal()  # remaining <= to_boundary: this burst is the row's last
        room = Signal.like(to_boundary)
        m.d.comb += room.eq((1 << block_log2) - first_beat[:block_log2])
        # The beat behind the row's last: `fits` from one sum, where `room` would be two in a row.
        behind = first_beat[:block_log2] + self.i.payload.beats
        m.submodules.leaving = leaving = RegisterSlice(burst(derived))
        connect(m, leaving.o, flipped(self.o))
        m.d.comb += [
            self.i.ready.eq(~active | (leaving.i.ready & fits)),
            leaving.i.valid.eq(active),
            leaving.i.payload.address.eq(Cat(
                Const(0, beat_log2), start, base[block_log2:] + block_number)),
            leaving.i.payload.beats.eq(Mux(fits, remaining, to_boundary)),
            leaving.i.payload.position.eq(position),
            leaving.i.payload.end.eq(end),
        ]
        with m.If(active & leaving.i.ready):
            m.d.sync += [
                block_number.eq(block_number + 1),
                start.eq(0),
                to_boundary.eq(1 << block_log2),
                remaining.eq(remaining - to_boundary),
                fits.eq(remaining - to_boundary <= 1 << block_log2),
                active.eq(~fits),
            ]
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [
                active.eq(1),
                end.eq(self.i.payload.end),
                base.eq(first_beat),
                block_number.eq(0),
                start.eq(first_beat[:block_log2]),
                to_boundary.eq(room),
                fits.eq(self.i.payload.end | ~behind[block_log2:].any()
                        | (behind == 1 << block_log2)),
                remaining.eq(Mux(self.i.payload.end, 0, self.i.payload.beats)),
                position.eq(self.i.payload.position),
            ]
        return m
