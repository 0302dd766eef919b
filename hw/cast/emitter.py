"""Emitter: the sorted pairs become a casting: bags, and for each run of a row its start and row."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .array_writer import words
from .types import PAIR_COUNT_WIDTH, pairs

__all__ = ["Emitter"]


class Emitter(wiring.Component):
    """Find where the row changes.

    Members
    -------
    job : In(stream.Signature({count, wide}))
        Number of pairs; whether rows are written with 64 bits. Held until the last word has left.
    i : In(stream.Signature(pairs(cast_pairs)))
        The pairs, sorted.
    bags : Out(stream.Signature(words(cast_pairs)))
        The bag of each pair.
    starts : Out(stream.Signature(words(cast_pairs)))
        Where each run starts, then ``count``; behind that, as an array of its own, U.
    rows : Out(stream.Signature(words(2 × cast_pairs)))
        The row of each run.
    distinct : Out(PAIR_COUNT_WIDTH)
        Runs so far: U.

    Timing: as many pairs a cycle as come in.
    Reset: forgets the job.   Errors: none.
    """

    def __init__(self, config):
        self.most = most = config.derived.cast_pairs
        super().__init__({
            "job": In(stream.Signature(data.StructLayout({"count": PAIR_COUNT_WIDTH, "wide": 1}))),
            "i": In(stream.Signature(pairs(most))),
            "bags": Out(stream.Signature(words(most))),
            "starts": Out(stream.Signature(words(most))),
            "rows": Out(stream.Signature(words(2 * most))),
            "distinct": Out(PAIR_COUNT_WIDTH),
        })

    def elaborate(self, platform):
        """The comparison, a register, then what is new goes to the front."""
        m = Module()
        most = self.most
        job = self.job.payload
        taken = Signal(PAIR_COUNT_WIDTH)    # pairs
        previous = Signal(32)
        count = self.i.payload.count
        items = [self.i.payload.item[n] for n in range(most)]

        held = Signal(data.StructLayout({"pairs": pairs(most), "new": most}))
        at = Signal(PAIR_COUNT_WIDTH)       # of the first pair in `held`
        full = Signal()
        sent = Signal()
        ready = self.bags.ready & self.starts.ready & self.rows.ready
        take = self.i.valid & self.i.ready
        m.d.comb += self.i.ready.eq(self.job.valid & (~full | sent))
        with m.If(sent):
            m.d.sync += full.eq(0)
        with m.If(take):
            changes = [(taken == 0) | (items[0].row != previous)]
            changes += [items[n].row != items[n - 1].row for n in range(1, most)]
            m.d.sync += [
                full.eq(1),
                held.pairs.eq(self.i.payload),
                held.new.eq(Cat(change & (count > n) for n, change in enumerate(changes))),
                at.eq(taken),
                taken.eq(taken + count),
                previous.eq(Mux(count == most, items[-1].row, items[0].row)),
            ]

        # Behind the last pair the ends of the three arrays, then U.
        state = Signal(2)
        pairs_, ends, total = range(3)
        number = sum((held.new[n] for n in range(1, most)), held.new[0])
        with m.If((state == pairs_) & self.job.valid & ~full & (taken == job.count)):
            m.d.sync += state.eq(ends)
        with m.Switch(state):
            with m.Case(pairs_):
                m.d.comb += sent.eq(full & ready)
                for out in (self.bags, self.starts, self.rows):
                    m.d.comb += out.valid.eq(sent)
                m.d.comb += [
                    self.bags.payload.count.eq(held.pairs.count),
                    self.starts.payload.count.eq(number),
                    self.rows.payload.count.eq(Mux(job.wide, number << 1, number)),
                ]
                first = [held.pairs.item[n] for n in range(most)]
                row = [pair.row for pair in first]
                start = [(at + n)[:PAIR_COUNT_WIDTH] for n in range(most)]
                if most == 2:
                    # The second comes first where the first is not new.
                    row[0] = Mux(held.new[0], row[0], row[1])
                    start[0] = Mux(held.new[0], start[0], start[1])
                for n in range(most):
                    m.d.comb += [
                        self.bags.payload.word[n].eq(first[n].bag),
                        self.starts.payload.word[n].eq(start[n]),
                    ]
                wide = [word for value in row for word in (value, Const(0, 32))]
                for n in range(2 * most):
                    m.d.comb += self.rows.payload.word[n].eq(
                        Mux(job.wide, wide[n], row[n] if n < most else 0))
                with m.If(sent):
                    m.d.sync += self.distinct.eq(self.distinct + number)
            with m.Case(ends):
                for out in (self.bags, self.starts, self.rows):
                    m.d.comb += [out.valid.eq(ready), out.payload.end.eq(1)]
                m.d.comb += [self.starts.payload.count.eq(1),
                             self.starts.payload.word[0].eq(job.count)]
                with m.If(ready):
                    m.d.sync += state.eq(total)
            with m.Case(total):
                m.d.comb += [
                    self.starts.valid.eq(1),
                    self.starts.payload.end.eq(1),
                    self.starts.payload.count.eq(1),
                    self.starts.payload.word[0].eq(self.distinct),
                ]
                with m.If(self.starts.ready):
                    m.d.comb += self.job.ready.eq(1)
                    m.d.sync += [state.eq(pairs_), taken.eq(0), self.distinct.eq(0)]
        return m
