"""Reducer: sums the rows of a segment in binary32, one beat a cycle, whatever the adder's latency.

The eight partial sums of docs/numerics.md make it so. Row i goes to partial i mod 8, so a partial
is needed again eight rows later, when its sum has come back from the adder. The partials of
a finished segment are combined by a cascade of three levels, each with its own adder: a level
keeps the first row of a pair and adds the second to it. Nothing is ever scheduled, and no segment
waits for another. Between each memory and its adder stands a register: the output of a block RAM
comes late. Source: this project; the rule of the sum is the contract with the golden model.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from .delay import delay
from .fp import Adder, Multiplier
from .queue import Queue
from .types import reduce_beat, reduce_job, token

__all__ = ["Accumulator", "Combiner", "Reducer"]

#: Cycles between two rows of the same partial sum, at the least.
ROWS_BETWEEN = 8


def _lane_adders(m, config, a, b, pass_a):
    """Instantiate one adder per lane; return their results, ``add_stages`` cycles later."""
    sums = []
    for lane in range(config.derived.lanes):
        m.submodules[f"adder_{lane}"] = adder = Adder(config.add_stages)
        m.d.comb += [
            adder.a.eq(a.word_select(lane, 32)),
            adder.b.eq(b.word_select(lane, 32)),
            adder.pass_a.eq(pass_a),
        ]
        sums.append(adder.o)
    return Cat(sums)


class Accumulator(wiring.Component):
    """Add each row to its partial sum; the last row of each partial goes on to the combiners.

    Contract: beats of one row come in order of their column; rows of one segment in order.

    Members
    -------
    valid, beat, data : In
        A beat of a row: always taken.
    first, final : In(1)
        The partial takes the row as it is; this is the partial's last row.
    o_valid, o_beat, o_data : Out
        Beats of finished partials.

    Timing: add_stages + 2 cycles; one beat per cycle. A partial sum is in the memory add_stages + 3
    cycles after its row came in, or (6 stages) is passed around it: eight cycles are enough.
    Reset: drops what is inside.
    Resources: 8 × row_beats_max beats of memory, one adder per lane.
    """

    def __init__(self, config):
        self.config = config
        layout = reduce_beat(config.derived)
        super().__init__({
            "valid": In(1), "beat": In(layout), "data": In(config.data_width),
            "first": In(1), "final": In(1),
            "o_valid": Out(1), "o_beat": Out(layout), "o_data": Out(config.data_width),
        })

    def elaborate(self, platform):
        """Read the partial, add, write it back."""
        m = Module()
        config = self.config
        latency = config.add_stages + 2
        m.submodules.partials = partials = Memory(
            shape=config.data_width, depth=8 << config.derived.col_width, init=[])
        write = partials.write_port()
        read = partials.read_port()
        # Yosys sees that what is read is never written in the same cycle, and adds no logic for it.
        meet = write.en & (read.addr == write.addr)
        m.d.comb += [read.addr.eq(Cat(self.beat.col, self.beat.node)), read.en.eq(~meet)]
        found = read.data
        if latency == ROWS_BETWEEN:
            # The row that needs the partial comes eight cycles later at the least, and the partial
            # still stands at the memory's input then.
            found = Mux(delay(m, meet, 1, "around"), delay(m, write.data, 1, "passed"), found)
        sums = _lane_adders(m, config, delay(m, self.data, 2, "data"),
                            delay(m, found, 1, "partial"), delay(m, self.first, 2, "first"))
        valid = Signal(latency)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        beat = delay(m, self.beat, latency, "beat")
        final = delay(m, self.final, latency, "final")
        m.d.comb += [
            write.addr.eq(Cat(beat.col, beat.node)),
            write.data.eq(sums),
            write.en.eq(valid[-1] & ~final),
            self.o_valid.eq(valid[-1] & final),
            self.o_beat.eq(beat),
            self.o_data.eq(sums),
        ]
        return m


class Combiner(wiring.Component):
    """One level of the pairwise tree: add the rows of adjacent nodes.

    Contract: the rows of one segment come one behind the other, in any order of their nodes; a
    node whose sibling the segment does not have passes unchanged.

    Parameters
    ----------
    config : EngineConfig
    level : int
        0 combines partial sums, 1 pairs of them, 2 fours.

    Members
    -------
    valid, beat, data : In
        A beat of a node: always taken.
    o_valid, o_beat, o_data : Out
        A beat of its parent.

    Timing: add_stages + 2 cycles from the pair's second row; one beat per cycle.
    Reset: drops what is inside.
    Resources: (4 >> level) × row_beats_max beats of memory, one adder per lane.
    """

    def __init__(self, config, level):
        self.config = config
        self.level = level
        layout = reduce_beat(config.derived)
        super().__init__({
            "valid": In(1), "beat": In(layout), "data": In(config.data_width),
            "o_valid": Out(1), "o_beat": Out(layout), "o_data": Out(config.data_width),
        })

    def elaborate(self, platform):
        """Keep the first of a pair, add the second to it."""
        m = Module()
        config, level = self.config, self.level
        latency = config.add_stages + 2
        pair_bits = 2 - level
        m.submodules.waiting = waiting = Memory(
            shape=config.data_width, depth=1 << (config.derived.col_width + pair_bits), init=[])
        read = waiting.read_port()
        write = waiting.write_port()

        sibling = self.beat.node ^ 1
        single = sibling > (self.beat.top_leaf >> level)
        pair = self.beat.node[1:1 + pair_bits] if pair_bits else None
        kept = Signal(1 << pair_bits)  # pairs whose first row is here
        second = kept.bit_select(pair, 1) if pair_bits else kept
        address = Cat(self.beat.col, pair) if pair_bits else self.beat.col
        m.d.comb += [
            read.addr.eq(address),
            write.addr.eq(address),
            write.data.eq(self.data),
            write.en.eq(self.valid & ~second & ~single),
            read.en.eq(second),  # never what is being written: no logic for that
        ]
        with m.If(self.valid & self.beat.last_col & ~single):
            m.d.sync += second.eq(~second)

        sums = _lane_adders(m, config, delay(m, self.data, 2, "data"),
                            delay(m, read.data, 1, "first"), delay(m, single, 2, "single"))
        valid = Signal(latency)
        m.d.sync += valid.eq(Cat(self.valid & (second | single), valid))
        beat = delay(m, self.beat, latency, "beat")
        m.d.comb += [
            self.o_valid.eq(valid[-1]),
            self.o_beat.eq(beat),
            self.o_beat.node.eq(beat.node >> 1),  # the parent
            self.o_data.eq(sums),
        ]
        return m


class Reducer(wiring.Component):
    """Weight and sum the rows of each segment; one row of sums per segment, in order.

    Contract: the bits of golden.reference: eight partial sums, adjacent pairwise tree, +0 for an
    empty segment, a single row copied; in a ``weighted`` job RN(w·x) instead of each row x.
    Numerics: docs/numerics.md.

    Members
    -------
    job : In(stream.Signature(reduce_job()))
        Held until its end.
    tokens : In(stream.Signature(token()))
        What to do with each row.
    rows : In(stream.Signature(data_width))
        Beats of the gathered rows.
    o : Out(stream.Signature(data_width))
        Beats of the sums.
    blocked : Out(1)
        A beat waits for room at the output.
    segment_done : Out(1)
        Pulse: a segment's last beat went in.

    Timing: one beat per cycle, without a gap between rows or segments of any length; the end of a
    descriptor takes one cycle. mul_stages + 4 × (add_stages + 2) + 3 cycles from a segment's last
    row to its sum. A beat that completes a sum goes in only when the output has room for it.
    Reset: drops what is inside.   Errors: none.
    Resources: one multiplier and 4 adders per lane; 15 × row_beats_max + output_beats beats of
    memory.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "job": In(stream.Signature(reduce_job(derived))),
            "tokens": In(stream.Signature(token())),
            "rows": In(stream.Signature(config.data_width)),
            "o": Out(stream.Signature(config.data_width)),
            "blocked": Out(1),
            "segment_done": Out(1),
        })

    @property
    def latency(self):
        """Cycles from a segment's last beat at the input to the same beat in the output queue."""
        return self.config.mul_stages + 4 * (self.config.add_stages + 2) + 1

    @property
    def output_beats(self):
        """Room at the output: what is inside the pipeline, and as much again."""
        return 1 << (2 * self.latency).bit_length()

    def elaborate(self, platform):
        """Pair tokens with beats; the pipeline behind never stops."""
        m = Module()
        config, derived = self.config, self.config.derived

        m.submodules.accumulator = accumulator = Accumulator(config)
        levels = []
        for level in range(3):
            m.submodules[f"combiner_{level}"] = combiner = Combiner(config, level)
            levels.append(combiner)
        m.submodules.output = output = Queue(config.data_width, self.output_beats + 1)
        connect(m, output.o, flipped(self.o))

        # Input: one token for the beats of one row. What can be known a cycle before is: whether
        # there is room, and whether the next beat is its row's last.
        credit = Signal(range(self.output_beats + 1), init=self.output_beats)
        room = Signal(init=1)  # credit is not 0
        col = Signal(derived.col_width)
        more, then_last = Signal(), Signal()  # col is not 0; if so, whether it is the last
        row_beats = self.job.payload.row_beats
        tok = self.tokens.payload
        last_col = Mux(more, then_last, self.job.payload.one_beat)
        has_beat = tok.empty | self.rows.valid
        has_room = ~tok.last | room
        ready = self.job.valid & self.tokens.valid & ~tok.end
        go = Signal()
        m.d.comb += [
            go.eq(ready & has_beat & has_room),
            self.blocked.eq(ready & has_beat & ~has_room),
            self.rows.ready.eq(ready & ~tok.empty & has_room),
            self.tokens.ready.eq(self.job.valid & (tok.end | (has_beat & has_room & last_col))),
            self.job.ready.eq(self.tokens.valid & tok.end),
            self.segment_done.eq(go & tok.last & last_col),
        ]
        with m.If(go):
            m.d.sync += [
                col.eq(Mux(last_col, 0, col + 1)),
                more.eq(~last_col),
                then_last.eq(col + 2 == row_beats),
            ]
        claimed = go & tok.last
        returned = self.o.valid & self.o.ready
        with m.If(claimed ^ returned):
            m.d.sync += credit.eq(credit + Cat(1, claimed.replicate(len(credit) - 1)))
        m.d.sync += room.eq(returned | (room & ~(claimed & (credit == 1))))

        # One register in front of the pipeline.
        layout = reduce_beat(derived)
        beat = Signal(layout, reset_less=True)
        valid = Signal()
        word = Signal(config.data_width, reset_less=True)
        flags = Signal(data.StructLayout({"first": 1, "final": 1, "weighted": 1}), reset_less=True)
        weight = Signal(32, reset_less=True)
        m.d.sync += [
            valid.eq(go),
            beat.node.eq(tok.leaf), beat.top_leaf.eq(tok.top_leaf),
            beat.col.eq(col), beat.last_col.eq(last_col),
            word.eq(Mux(tok.empty, 0, self.rows.payload)),
            flags.first.eq(tok.first), flags.final.eq(tok.final),
            flags.weighted.eq(self.job.payload.weighted & ~tok.empty),
            weight.eq(tok.weight),
        ]

        # Weights; a row without one waits beside the multipliers.
        products = []
        for lane in range(derived.lanes):
            m.submodules[f"multiplier_{lane}"] = multiplier = Multiplier(config.mul_stages)
            m.d.comb += [multiplier.a.eq(weight), multiplier.b.eq(word.word_select(lane, 32))]
            products.append(multiplier.o)
        later = Signal(config.mul_stages)
        m.d.sync += later.eq(Cat(valid, later))
        word = delay(m, word, config.mul_stages, "word")
        flags = delay(m, flags, config.mul_stages, "flags")
        m.d.comb += [
            accumulator.valid.eq(later[-1]),
            accumulator.beat.eq(delay(m, beat, config.mul_stages, "beat")),
            accumulator.data.eq(Mux(flags.weighted, Cat(products), word)),
            accumulator.first.eq(flags.first), accumulator.final.eq(flags.final),
        ]
        for source, target in zip([accumulator, *levels], levels, strict=False):
            m.d.comb += [
                target.valid.eq(source.o_valid),
                target.beat.eq(source.o_beat),
                target.data.eq(source.o_data),
            ]
        m.d.comb += [
            output.i.valid.eq(levels[-1].o_valid),  # ready by credit
            output.i.payload.eq(levels[-1].o_data),
        ]
        return m
