"""Updater: applies the optimizer to rows on their way to memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .delay import delay
from .fp import Adder, Multiplier
from .queue import Queue
from .types import COUNT_WIDTH, update_job

__all__ = ["Updater"]


class Updater(wiring.Component):
    """SGD: w ← RN(w − RN(lr·g)); without ``update`` w ← RN(scale·g), or g bit for bit.

    Contract: n_segments × row_beats beats for each job; jobs follow each other without a gap,
    but for an idle cycle behind a job of one beat.

    Members
    -------
    job : In(stream.Signature(update_job()))
        Taken as soon as the one before it is in work; every other cycle at the most.
    sums : In(stream.Signature(data_width))
        g: the reduced rows.
    scales : In(stream.Signature(64))
        One for each row in the low half, for jobs that are ``scaled`` (and not ``update``).
    old : In(stream.Signature(data_width))
        w: the old rows, for jobs with ``update``.
    o : Out(stream.Signature(data_width))
        The new rows, ready to be written.
    pushed : Out(1)
        Pulse: a new beat entered the output queue.

    Timing: one beat per cycle; mul_stages + add_stages + 3 cycles.
    Reset: drops what is inside.   Errors: none.
    Resources: one multiplier and one adder per lane, write_buffer_beats beats of memory.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "job": In(stream.Signature(update_job(derived))),
            "sums": In(stream.Signature(config.data_width)),
            "scales": In(stream.Signature(64)),
            "old": In(stream.Signature(config.data_width)),
            "o": Out(stream.Signature(config.data_width)),
            "pushed": Out(1),
        })

    def elaborate(self, platform):
        """Free-running arithmetic between two queues, with room reserved in the second."""
        m = Module()
        config, derived = self.config, self.config.derived
        depth = config.write_buffer_beats
        m.submodules.output = output = Queue(config.data_width, depth + 1)
        connect(m, output.o, flipped(self.o))

        # The job in work, in registers. What can be known a cycle before is: whether there is
        # room, and whether the next beat is its row's last, in the last row, and so the last one.
        # The job behind it waits in registers, too, and its source sees nothing of this.
        job, running = Signal(update_job(derived)), Signal()
        following, waits = Signal.like(job), Signal()
        # Of the one behind: whether its rows are of one beat, and whether it has 0, 1 or 2 of them.
        following_single, following_rows = Signal(), Signal(3)
        single = Signal()                     # a row has one beat
        no_old, no_scale = Signal(), Signal()  # of the job, apart from the bits that select data
        last_col, last_row, last = Signal(), Signal(), Signal()
        col = Signal(derived.row_beats_width)
        rows_left = Signal(COUNT_WIDTH)       # with this one
        row_follows = Signal()                # rows_left is 2
        credit = Signal(range(depth + 1), init=depth)
        # Credit is 3 or more, and was so a cycle ago: two may be claimed yet.
        enough, room = Signal(init=1), Signal(init=1)
        has_operand = (self.old.valid | no_old) & (self.scales.valid | no_scale)
        ready = running & room & has_operand
        go = ready & self.sums.valid
        m.d.comb += [
            self.sums.ready.eq(ready),
            self.old.ready.eq(running & room & ~no_old & self.sums.valid),
            self.scales.ready.eq(running & room & ~no_scale & self.sums.valid & last_col),
            self.job.ready.eq(~waits),
        ]
        col_follows = col + 2 == job.row_beats
        m.d.sync += row_follows.eq(Mux(go & last_col, rows_left == 3, rows_left == 2))
        with m.If(go):
            with m.If(last_col):
                m.d.sync += [
                    col.eq(0), rows_left.eq(rows_left - 1),
                    last_col.eq(single), last_row.eq(row_follows), last.eq(single & row_follows)]
            with m.Else():
                m.d.sync += [
                    col.eq(col + 1), last_col.eq(col_follows), last.eq(col_follows & last_row)]
        with m.If(~waits):
            m.d.sync += [
                following.eq(self.job.payload), waits.eq(self.job.valid),
                following_single.eq(self.job.payload.row_beats == 1),
                following_rows.eq(Cat(self.job.payload.n_segments == n for n in range(3))),
            ]
        with m.If(~running | (go & last)):
            with m.If(waits):
                m.d.sync += waits.eq(0)
            m.d.sync += [
                # A job without segments is over as soon as it is here.
                running.eq(waits & ~following_rows[0]),
                job.eq(following), no_old.eq(~following.update), no_scale.eq(~following.scaled),
                single.eq(following_single),
                last_col.eq(following_single),
                last_row.eq(following_rows[1]),
                last.eq(following_single & following_rows[1]),
                row_follows.eq(following_rows[2]),
                rows_left.eq(following.n_segments),
                col.eq(0),
            ]
        # w, or g where nothing is updated, waits beside the multiplier and passes the subtractor.
        valid = Signal(1 + config.mul_stages + config.add_stages)
        m.d.sync += valid.eq(Cat(go, valid))
        # A beat claims its credit a cycle late, and room is known a cycle late: they are beside the
        # output, far from here.
        claimed, returned = valid[0], self.o.valid & self.o.ready
        with m.If(claimed ^ returned):
            m.d.sync += [credit.eq(credit + Cat(1, claimed.replicate(len(credit) - 1))),
                         enough.eq(Mux(returned, credit >= 2, credit >= 4))]
        m.d.sync += room.eq(enough)
        sums = delay(m, self.sums.payload, 1, "sums")
        factor = delay(m, Mux(job.scaled, self.scales.payload[:32], job.lr), 1, "factor")
        scaled = delay(m, job.scaled, 1 + config.mul_stages, "scaled")
        kept = delay(m, Mux(job.update, self.old.payload, self.sums.payload),
                     1 + config.mul_stages, "kept")
        keep = delay(m, ~job.update, 1 + config.mul_stages, "keep")
        results = []
        for lane in range(derived.lanes):
            m.submodules[f"multiplier_{lane}"] = multiplier = Multiplier(config.mul_stages)
            m.submodules[f"subtractor_{lane}"] = subtractor = Adder(
                config.add_stages, subtract=True)
            m.d.comb += [
                multiplier.a.eq(factor),
                multiplier.b.eq(sums.word_select(lane, 32)),
                subtractor.a.eq(Mux(scaled, multiplier.o, kept.word_select(lane, 32))),
                subtractor.b.eq(multiplier.o),
                subtractor.pass_a.eq(keep),
            ]
            results.append(subtractor.o)
        m.d.comb += [
            output.i.valid.eq(valid[-1]),  # ready by credit
            output.i.payload.eq(Cat(results)),
            self.pushed.eq(valid[-1]),
        ]
        return m
