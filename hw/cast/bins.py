"""Bins: one pass of the radix sort: count the digits, place the bins, send each pair to its bin."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from ..delay import delay
from ..queue import Queue
from .tally import Tally
from .types import PAIR_COUNT_WIDTH, line, pair

__all__ = ["Bins"]

#: Lines that wait to be written, and pairs that may become one.
_LINES = 16


class Bins(wiring.Component):
    """Sort pairs by one digit of their row, stably: a counting sort.

    A bin holds the pairs of one digit. `prefix` turns the numbers of pairs, counted before, into
    each bin's place in the list. Then every pair goes behind the others of its bin. Bins collect
    what they write in lines; `flush` writes those that are not full. While pairs are sorted by one
    digit, those of the next are counted.

    Contract: between two of ``counting``, ``prefix``, pairs and ``flush`` the unit is ``idle``.

    Parameters
    ----------
    config : EngineConfig
    lanes : int
        Rows counted a cycle.

    Members
    -------
    number : In(4)
        Which digit: bits ``number × cast_digit_bits`` of the row and up.
    last : In(1)
        There is no digit behind this one.
    top : In(cast_digit_bits)
        The greatest value of this digit.
    counting : In({row[lanes], count})
        Rows whose digit 0 is counted: always taken.
    prefix, flush : In(1)
        Pulses: place the bins, and forget the counts; write the lines that are not full.
    i : In(stream.Signature(pair()))
        The pairs.
    written, position, pair : Out
        Where in the list each pair goes.
    keep : In(1)
        Make no lines.
    lines : Out(stream.Signature(line()))
        Lines of the list; two bins may share one, each writes its own part.
    idle : Out(1)
        Nothing is under way, and every line has left.

    Timing: one pair per cycle; prefix and flush take a cycle for each bin and ten more. Three
    cycles from a pair to its place.
    Reset: the counts hold anything until a prefix has forgotten them.   Errors: none.
    Resources: for each bin a line, ``lanes`` counters, two places.
    """

    def __init__(self, config, lanes):
        self.config = config
        self.lanes = lanes
        bits = config.cast_digit_bits
        super().__init__({
            "number": In(4), "last": In(1), "top": In(bits),
            "counting": In(data.StructLayout({
                "row": data.ArrayLayout(32, lanes), "count": range(lanes + 1)})),
            "prefix": In(1), "flush": In(1),
            "i": In(stream.Signature(pair())),
            "written": Out(1), "position": Out(PAIR_COUNT_WIDTH), "pair": Out(pair()),
            "keep": In(1),
            "lines": Out(stream.Signature(line(config.derived))),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        """Counters and places in memories; everything moves on each cycle, by credit."""
        m = Module()
        derived, bits = self.config.derived, self.config.cast_digit_bits
        size_log2 = (derived.cast_line_bytes // 8).bit_length() - 1
        size = 1 << size_log2
        width = PAIR_COUNT_WIDTH

        def digit(row, number):
            return Cat(row, Const(0, 2 * bits)).word_select(number, bits)

        # Scan: prefix and flush.
        scanning = Signal()
        flushing = Signal()
        bin_ = Signal(bits)
        credit = Signal(range(_LINES + 1), init=_LINES)
        step = scanning & (~flushing | (credit != 0))
        placing = step & ~flushing
        with m.If(self.prefix | self.flush):
            m.d.sync += [scanning.eq(1), flushing.eq(self.flush), bin_.eq(0)]
        with m.If(step):
            m.d.sync += bin_.eq(bin_ + 1)
            with m.If(bin_ == self.top):
                m.d.sync += scanning.eq(0)

        # A pair, or a bin to be flushed, goes in.
        accept = self.i.valid & self.i.ready
        enter = accept | (step & flushing)
        waits = Signal()        # the last bins are on their way
        m.d.comb += self.i.ready.eq((credit != 0) & ~scanning & ~waits)
        row = self.i.payload.row

        # Counters: in COUNT one for each lane, else the first counts for the next digit.
        olds = []
        for lane in range(self.lanes):
            m.submodules[f"counter_{lane}"] = counter = Tally(width, bits)
            counted = self.counting.count > lane
            m.d.comb += [
                counter.valid.eq(placing | counted),
                counter.address.eq(Mux(placing, bin_, self.counting.row[lane][:bits])),
                counter.load.eq(placing),
            ]
            if lane == 0:
                with m.If(accept):
                    m.d.comb += [
                        counter.valid.eq(~self.last),
                        counter.address.eq(digit(row, self.number + 1)),
                    ]
            olds.append(counter.old)

        # Places: where each bin starts, and where its next pair goes.
        m.submodules.places = places = Tally(width, bits)
        m.submodules.starts = starts = Memory(shape=width, depth=1 << bits, init=[])
        start_read = starts.read_port()
        start_write = starts.write_port()
        total = Signal(width)     # three cycles behind the scan
        running = Signal(width)
        placed = delay(m, placing, 3, "placing")
        placed_bin = delay(m, bin_, 3, "bin")
        m.d.sync += total.eq(sum(olds[1:], olds[0]))
        with m.If(self.prefix):
            m.d.sync += running.eq(0)
        with m.If(placed):
            m.d.sync += running.eq(running + total)
        entered_bin = Mux(flushing, bin_, digit(row, self.number))
        m.d.comb += [
            start_write.addr.eq(placed_bin),
            start_write.data.eq(running),
            start_write.en.eq(placed),
            start_read.addr.eq(entered_bin),
            places.valid.eq(placed | enter),
            places.load.eq(placed),
            places.data.eq(running),
            places.keep.eq(~placed & flushing),
            places.address.eq(Mux(placed, placed_bin, entered_bin)),
        ]

        # Two cycles later: into the line of its bin.
        valid = Signal(3)
        m.d.sync += valid.eq(Cat(enter, valid))
        flush = delay(m, flushing, 2, "flush")
        here = delay(m, entered_bin, 2, "here")
        mine = delay(m, self.i.payload, 2, "mine")
        start = delay(m, start_read.data, 1, "start")
        position = places.old
        slot = position[:size_log2]
        m.d.comb += [
            self.written.eq(valid[1] & ~flush),
            self.position.eq(position),
            self.pair.eq(mine),
        ]
        m.submodules.collected = collected = Memory(
            shape=data.ArrayLayout(64, size), depth=1 << bits, init=[])
        write = collected.write_port(granularity=1)
        read = collected.read_port()
        m.d.comb += [
            write.addr.eq(here),
            write.data.eq(Cat(mine.as_value() for _ in range(size))),
            write.en.eq((self.written << slot)[:size]),
            read.addr.eq(here),
        ]
        leaves = Mux(flush, (slot != 0) & (position != start), slot == size - 1)

        # One more: out with the line if it is full, or has to leave.
        leaving = Signal()
        m.d.sync += leaving.eq(valid[1] & leaves & ~self.keep)
        out_position = delay(m, position, 1, "out_position")
        out_start = delay(m, start, 1, "out_start")
        out_pair = delay(m, mine, 1, "out_pair")
        out_flush = delay(m, flush, 1, "out_flush")
        m.submodules.queue = queue = Queue(line(derived), _LINES + 1)
        connect(m, queue.o, flipped(self.lines))
        number = out_position >> size_log2
        full = Cat(read.data.as_value()[:64 * (size - 1)], out_pair.as_value())
        m.d.comb += [
            queue.i.valid.eq(leaving),  # ready by credit
            queue.i.payload.number.eq(number),
            queue.i.payload.data.eq(Mux(out_flush, read.data.as_value(), full)),
            queue.i.payload.first.eq(
                Mux((out_start >> size_log2) == number, out_start[:size_log2], 0)),
            queue.i.payload.last.eq(
                Mux(out_flush, out_position[:size_log2] - 1, size - 1)),
        ]
        unused = valid[2] & ~leaving
        left = self.lines.valid & self.lines.ready
        m.d.sync += credit.eq(credit - enter + unused + left)
        m.d.comb += waits.eq(Cat(delay(m, placing, n, f"waits_{n}") for n in range(1, 4)).any())
        m.d.comb += self.idle.eq(~scanning & ~waits & (credit == _LINES) & ~self.prefix
                                 & ~self.flush)
        return m
