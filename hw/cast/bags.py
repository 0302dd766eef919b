"""BagNumberer: pairs each index with the number of its bag."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..registers import ErrorCode
from ..types import COUNT_WIDTH, SLOT_WIDTH, error_record, segment
from .types import pair

__all__ = ["BagNumberer"]


class BagNumberer(wiring.Component):
    """Pair indices with bags.

    Contract: bag b numbers the next ``length`` indices. The bags must use up all indices.

    Members
    -------
    n_lookups, n_bags, slot : In
        Of the descriptor in work; held until ``done``.
    bags : In(stream.Signature(segment()))
        Lengths, and an end.
    indices : In(stream.Signature(32))
        Rows.
    o : Out(stream.Signature(pair()))
        The pairs.
    done : Out(1)
        Pulse: the end came, and the pairs had all left.
    error : Out(error_record())
        The bags do not use up all indices.

    Timing: one pair, or one empty bag, per cycle, without a gap between bags.
    Reset: back to bag 0.
    """

    def __init__(self):
        super().__init__({
            "n_lookups": In(COUNT_WIDTH), "n_bags": In(COUNT_WIDTH), "slot": In(SLOT_WIDTH),
            "bags": In(stream.Signature(segment())),
            "indices": In(stream.Signature(32)),
            "o": Out(stream.Signature(pair())),
            "done": Out(1),
            "error": Out(error_record()),
        })

    def elaborate(self, platform):
        """The bag in registers; the next one is taken with its last index."""
        m = Module()
        bag = Signal(COUNT_WIDTH)
        next_bag = Signal(COUNT_WIDTH)
        active = Signal()      # `remaining` is not 0
        last = Signal()        # it is 1
        remaining = Signal(COUNT_WIDTH)
        numbered = Signal(COUNT_WIDTH)
        sent = self.o.valid & self.o.ready
        end = self.bags.valid & self.bags.payload.end
        free = ~active | (sent & last)
        m.d.comb += [
            self.o.valid.eq(active & self.indices.valid),
            self.o.payload.row.eq(self.indices.payload),
            self.o.payload.bag.eq(bag),
            self.indices.ready.eq(active & self.o.ready),
            # The end waits until its predecessor has left, so that `numbered` counts it.
            self.bags.ready.eq(free & (~self.bags.payload.end | ~active)),
            self.done.eq(end & self.bags.ready & (numbered == self.n_lookups)),
            self.error.valid.eq(end & self.bags.ready & (numbered != self.n_lookups)),
            self.error.code.eq(ErrorCode.OFFSET_LAST),
            self.error.slot.eq(self.slot),
            self.error.position.eq(self.n_bags),
            self.error.value.eq(numbered),
            self.error.limit.eq(self.n_lookups),
        ]
        with m.If(sent):
            m.d.sync += [remaining.eq(remaining - 1), last.eq(remaining == 2),
                         numbered.eq(numbered + 1), active.eq(~last)]
        with m.If(self.bags.valid & self.bags.ready):
            length = self.bags.payload.length
            m.d.sync += [
                active.eq(length != 0), remaining.eq(length), last.eq(length == 1),
                bag.eq(next_bag), next_bag.eq(next_bag + 1),
            ]
            with m.If(self.bags.payload.end):
                m.d.sync += [numbered.eq(0), next_bag.eq(0)]
        return m
