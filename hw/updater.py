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

    Contract: n_segments × row_beats beats for each job; jobs follow each other without a gap.

    Members
    -------
    job : In(stream.Signature(update_job()))
        Held until its last beat has gone in.
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
        job = self.job.payload
        depth = config.write_buffer_beats
        m.submodules.output = output = Queue(config.data_width, depth + 1)
        connect(m, output.o, flipped(self.o))

        credit = Signal(range(depth + 1), init=depth)
        col = Signal(derived.row_beats_width)
        row = Signal(COUNT_WIDTH)
        last_col = (col + 1) == job.row_beats
        last_row = (row + 1) == job.n_segments
        ready = self.job.valid & (job.n_segments != 0) & (credit != 0)
        has_operand = (self.old.valid | ~job.update) & (self.scales.valid | ~job.scaled)
        go = ready & self.sums.valid & has_operand
        m.d.comb += [
            self.sums.ready.eq(ready & has_operand),
            self.old.ready.eq(ready & job.update & self.sums.valid),
            self.scales.ready.eq(go & job.scaled & last_col),
            self.job.ready.eq((job.n_segments == 0) | (go & last_col & last_row)),
        ]
        with m.If(go):
            m.d.sync += col.eq(col + 1)
            with m.If(last_col):
                m.d.sync += [col.eq(0), row.eq(Mux(last_row, 0, row + 1))]
        m.d.sync += credit.eq(credit - go + (self.o.valid & self.o.ready))

        # w, or g where nothing is updated, waits beside the multiplier and passes the subtractor.
        valid = Signal(1 + config.mul_stages + config.add_stages)
        m.d.sync += valid.eq(Cat(go, valid))
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
