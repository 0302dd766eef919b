"""BurstMerge: several writers, one write port."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..select import first_of, select
from ..types import burst, strobed_beat

__all__ = ["BurstMerge"]


class BurstMerge(wiring.Component):
    """Let one writer's burst go, then its beats.

    Members
    -------
    bursts : In(stream.Signature(burst())) × writers
        Smaller numbers first.
    data : In(stream.Signature(strobed_beat())) × writers
        Their beats.
    end : In(1)
        While no writer asks: send an ``end``, once. Pulse.
    o_bursts, o_data : Out
        To the write port.
    idle : Out(1)
        Nothing waits.

    Timing: one beat per cycle, without a gap between bursts.
    Reset: forgets the burst.   Errors: none.
    """

    def __init__(self, config, writers):
        self.writers = writers
        derived = config.derived
        super().__init__({
            "bursts": In(stream.Signature(burst(derived))).array(writers),
            "data": In(stream.Signature(strobed_beat(config))).array(writers),
            "end": In(1),
            "o_bursts": Out(stream.Signature(burst(derived))),
            "o_data": Out(stream.Signature(strobed_beat(config))),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        """The burst in a register; its writer's beats pass through."""
        m = Module()
        active = Signal()
        remaining = Signal(9)
        chosen = Signal(self.writers)
        moved = self.o_data.valid & self.o_data.ready
        free = (~active | (moved & (remaining == 1))) \
            & (~self.o_bursts.valid | self.o_bursts.ready)
        grants = first_of(source.valid for source in self.bursts)
        with m.If(self.o_bursts.ready):
            m.d.sync += self.o_bursts.valid.eq(0)
        earlier = Const(0)
        for source in self.bursts:
            m.d.comb += source.ready.eq(free & ~earlier)
            earlier = earlier | source.valid
        with m.If(moved):
            m.d.sync += [remaining.eq(remaining - 1), active.eq(remaining != 1)]
        with m.If(free):
            m.d.sync += [
                active.eq(earlier),
                chosen.eq(Cat(grants)),
                remaining.eq(select(grants, [each.payload.beats for each in self.bursts])),
            ]
            with m.If(earlier):
                m.d.sync += [
                    self.o_bursts.valid.eq(1),
                    Value.cast(self.o_bursts.payload).eq(
                        select(grants, [source.payload for source in self.bursts])),
                ]
        with m.If(self.end):
            m.d.sync += [self.o_bursts.valid.eq(1), self.o_bursts.payload.end.eq(1),
                         self.o_bursts.payload.beats.eq(0)]
        m.d.comb += [
            self.o_data.valid.eq(active & select(chosen, [each.valid for each in self.data])),
            Value.cast(self.o_data.payload).eq(
                select(chosen, [each.payload for each in self.data])),
            self.idle.eq(~active & ~self.o_bursts.valid),
        ]
        for n, source in enumerate(self.data):
            m.d.comb += source.ready.eq(active & chosen[n] & self.o_data.ready)
        return m
