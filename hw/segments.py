"""From offsets and indices to row requests: segment lengths, then a walk over their lookups."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .register_slice import RegisterSlice
from .registers import ErrorCode
from .types import COUNT_WIDTH, error_record, row_request, segment, segment_job, token, walk_job

__all__ = ["SegmentLengths", "SegmentWalker"]


class SegmentLengths(wiring.Component):
    """Turn offsets into checked segment lengths.

    Contract: for each job, its segments' lengths in order, then one ``end``. offsets[0] must be 0,
    none may be smaller than the one before it, none greater than n_lookups; a ``unit`` job takes
    no offsets, and each of its segments has one lookup.

    Members
    -------
    job : In(stream.Signature(segment_job()))
        Held until its end has left.
    offsets : In(stream.Signature(64))
        n_segments + 1 elements for each job that is not ``unit``.
    o : Out(stream.Signature(segment()))
        Lengths.
    error : Out(error_record())
        The first bad offset; nothing behind it leaves.

    Timing: one length per cycle, two cycles behind its offset; two idle cycles between jobs.
    Reset: forgets the job.
    """

    def __init__(self):
        super().__init__({
            "job": In(stream.Signature(segment_job())),
            "offsets": In(stream.Signature(64)),
            "o": Out(stream.Signature(segment())),
            "error": Out(error_record()),
        })

    def elaborate(self, platform):
        """A register in front of the check, a slice behind it."""
        m = Module()
        job = self.job.payload
        m.submodules.leaving = leaving = RegisterSlice(segment())
        connect(m, leaving.o, flipped(self.o))
        failed = Signal()
        advance = leaving.i.ready

        # A job has one offset more than segments. Where it is `unit` they are only counted.
        count = Signal(COUNT_WIDTH + 1)
        all_taken = Signal()
        take = self.job.valid & ~all_taken & ~failed & advance
        accept = take & (job.unit | self.offsets.valid)
        m.d.comb += self.offsets.ready.eq(take & ~job.unit)
        held_valid, held_first = Signal(), Signal()
        held, position = Signal(64), Signal(COUNT_WIDTH)
        negative, low = held[-1], held[:COUNT_WIDTH]
        # What the check needs to know of `held`, found on its way in: whether its upper half is not
        # 0, or any of it; whether its lower half is less than the offset before, or too large.
        high, some, less, beyond = Signal(), Signal(), Signal(), Signal()
        previous = Signal(COUNT_WIDTH)  # the offset before `held`
        arriving = self.offsets.payload[:COUNT_WIDTH]
        with m.If(advance):
            m.d.sync += [
                held_valid.eq(accept), held_first.eq(count == 0),
                held.eq(self.offsets.payload), position.eq(count),
                high.eq(self.offsets.payload[COUNT_WIDTH:].any()),
                some.eq(self.offsets.payload.any()),
                less.eq(arriving < Mux(held_valid, low, previous)),
                beyond.eq(job.n_lookups < arriving),
            ]
        with m.If(accept):
            m.d.sync += [count.eq(count + 1), all_taken.eq(count == job.n_segments)]

        # The check.
        first_bad = held_first & some
        order_bad = ~held_first & (negative | (~high & less))
        range_bad = high | beyond
        bad = held_valid & ~job.unit & (first_bad | order_bad | range_bad)
        end = all_taken & ~held_valid & self.job.valid & ~failed
        m.d.comb += [
            leaving.i.valid.eq((held_valid & ~held_first & ~bad & ~failed) | end),
            leaving.i.payload.end.eq(end),
            leaving.i.payload.length.eq(Mux(end, 0, Mux(job.unit, 1, low - previous))),
            self.job.ready.eq(end & advance),
            self.error.slot.eq(job.slot),
            self.error.position.eq(position),
            self.error.value.eq(held),
            self.error.limit.eq(Mux(first_bad, 0, Mux(order_bad, previous, job.n_lookups))),
            self.error.code.eq(Mux(first_bad, ErrorCode.OFFSET_FIRST,
                                   Mux(order_bad, ErrorCode.OFFSET_ORDER,
                                       ErrorCode.OFFSET_RANGE))),
            self.error.valid.eq(bad & ~failed),
        ]
        with m.If(bad):
            m.d.sync += failed.eq(1)
        with m.If(advance & held_valid):
            m.d.sync += previous.eq(low)
        with m.If(self.job.ready):
            m.d.sync += [count.eq(0), all_taken.eq(0)]
        return m


class SegmentWalker(wiring.Component):
    """Walk over the lookups of the segments: a row request and a reducer token for each.

    Contract: a segment without lookups makes one ``empty`` token and no request. Behind the last
    segment of a descriptor the indices that no segment used are dropped, then ``end`` leaves on
    both outputs. A lookup and the end leave on both in the same cycle: each valid waits for the
    other's ready, so neither ready may depend on its valid.

    Members
    -------
    job : In(stream.Signature(walk_job()))
        Held until its end.
    segments : In(stream.Signature(segment()))
        Lengths.
    indices : In(stream.Signature(64))
        n_lookups row numbers.
    weights : In(stream.Signature(64))
        n_lookups weights in the low halves, for a ``weighted`` job.
    rows : Out(stream.Signature(row_request()))
        Rows wanted.
    tokens : Out(stream.Signature(token()))
        What the reducer does with them.
    wants_index, wants_segment : Out(1)
        Waiting for an index or its weight, or for a segment.
    issued : Out(1)
        Pulse: a lookup was issued.

    Timing: one lookup, or one empty segment, per cycle, without a gap between segments.
    Reset: forgets the job.   Errors: none.
    """

    def __init__(self):
        super().__init__({
            "job": In(stream.Signature(walk_job())),
            "segments": In(stream.Signature(segment())),
            "indices": In(stream.Signature(64)),
            "weights": In(stream.Signature(64)),
            "rows": Out(stream.Signature(row_request())),
            "tokens": Out(stream.Signature(token())),
            "wants_index": Out(1),
            "wants_segment": Out(1),
            "issued": Out(1),
        })

    def elaborate(self, platform):
        """The current segment in registers, the next one taken with its last lookup."""
        m = Module()
        # What is in the registers: a segment with lookups left, one without, the end, or nothing.
        lookup, empty, ending, none = Signal(), Signal(), Signal(), Signal(init=1)
        last = Signal()       # with the next token the segment is over
        final = Signal()      # remaining <= 8
        remaining = Signal(COUNT_WIDTH)
        leaf = Signal(3)
        first = Signal()      # row number < 8
        top_leaf = Signal(3)
        # Indices taken, and one more; so whether any is left is known when the end comes.
        position, position_1 = Signal(COUNT_WIDTH), Signal(COUNT_WIDTH, init=1)
        unused = Signal()
        weighted = self.job.payload.weighted

        # All but a lookup that waits for its index or weight leave when there is room on both
        # outputs. Indices that no segment used go before the end.
        has_weight = self.weights.valid | ~weighted
        found = self.indices.valid & has_weight
        room = self.rows.ready & self.tokens.ready
        step = lookup & found & room
        drain, finishing = ending & unused, ending & ~unused
        finish = finishing & room
        done = (empty | found) & room & last
        take_index = (lookup & room) | drain
        load = self.segments.valid & self.segments.ready
        m.d.comb += [
            self.rows.valid.eq(((lookup & found) | finishing) & self.tokens.ready),
            self.tokens.valid.eq(((lookup & found) | finishing | empty) & self.rows.ready),
            self.indices.ready.eq(take_index & has_weight),
            self.weights.ready.eq(take_index & self.indices.valid & weighted),
            self.rows.payload.number.eq(self.indices.payload),
            self.rows.payload.position.eq(position),
            self.rows.payload.end.eq(ending),
            self.tokens.payload.leaf.eq(leaf),
            self.tokens.payload.first.eq(first),
            self.tokens.payload.final.eq(final),
            self.tokens.payload.last.eq(last),
            self.tokens.payload.top_leaf.eq(top_leaf),
            self.tokens.payload.empty.eq(empty),
            self.tokens.payload.end.eq(ending),
            self.tokens.payload.weight.eq(self.weights.payload[:32]),
            self.wants_index.eq(lookup & ~found),
            self.wants_segment.eq(none & self.job.valid),
            self.issued.eq(step),
            self.job.ready.eq(finish),
            # The end must leave before the next descriptor's first segment comes in: its position
            # counts from 0.
            self.segments.ready.eq(self.job.valid & (none | done)),
        ]
        with m.If(step):
            m.d.sync += [
                remaining.eq(remaining - 1),
                last.eq(remaining == 2),
                final.eq(remaining < 10),
                leaf.eq(leaf + 1),
            ]
            with m.If(leaf == 7):
                m.d.sync += first.eq(0)
        with m.If(done | finish):
            m.d.sync += [lookup.eq(0), empty.eq(0), ending.eq(0), last.eq(0), none.eq(1)]
        n_lookups = self.job.payload.n_lookups
        taken = self.indices.valid & self.indices.ready
        m.d.sync += unused.eq(Mux(taken, position_1 != n_lookups, position != n_lookups))
        with m.If(taken):
            m.d.sync += [position.eq(position_1), position_1.eq(position_1 + 1)]
        with m.If(finish):
            m.d.sync += [position.eq(0), position_1.eq(1)]
        length = self.segments.payload.length
        with m.If(load):
            m.d.sync += [
                lookup.eq((length != 0) & ~self.segments.payload.end),
                empty.eq((length == 0) & ~self.segments.payload.end),
                ending.eq(self.segments.payload.end),
                none.eq(0),
                remaining.eq(length),
                last.eq((length[1:] == 0) & ~self.segments.payload.end),
                final.eq(length < 9),
                leaf.eq(0),
                first.eq(1),
                top_leaf.eq(Mux(length >= 8, 7, Mux(length == 0, 0, length[:3] - 1))),
            ]
        return m
