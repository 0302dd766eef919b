"""Reducer: the bits of the eight-partial sum, one beat per cycle."""

import numpy as np
import pytest
from engine_bench import special_rows
from stream_bench import SMALL, STALLS, StreamBench
from test_segments import EDGES, walk

from tcast.golden import bits_equal, gather_reduce
from tcast.hw.config import EngineConfig
from tcast.hw.reducer import Reducer


def config(**changes):
    return EngineConfig(**{**SMALL.as_dict(), **changes})


DEEP = config(name="deep", add_stages=6, dim_max=8)
ODD = config(name="odd", add_stages=4)
WIDE = config(name="wide", data_width=128, add_stages=1)


def to_beats(rows, lanes):
    """Return the beats of rows, float32 [n, D], as a list of integers."""
    data = np.ascontiguousarray(rows, np.float32).tobytes()
    return [int.from_bytes(data[n:n + 4 * lanes], "little") for n in range(0, len(data), 4 * lanes)]


def from_beats(beats, lanes):
    """Return beats as float32 [n, lanes]."""
    data = b"".join(beat.to_bytes(4 * lanes, "little") for beat in beats)
    return np.frombuffer(data, np.float32).reshape(-1, lanes)


class Reduce:
    """A Reducer at work on jobs (row_beats, segment lengths).

    ``weighted`` says of which jobs the rows have weights, in turn.
    """

    def __init__(self, config, jobs, stall=(1, 1), seed=0, weighted=(False,)):
        self.lanes = lanes = config.derived.lanes
        rng = np.random.default_rng(seed)
        self.bench = bench = StreamBench(Reducer(config), seed=seed)
        beats, tokens, self.expected = [], [], []
        self.rows = [special_rows(rng, sum(lengths), lanes * row_beats)
                     for row_beats, lengths in jobs]
        end = {"leaf": 0, "first": 0, "final": 0, "last": 0, "top_leaf": 0, "empty": 0, "end": 1,
               "weight": 0}
        weighted = [weighted[n % len(weighted)] for n in range(len(jobs))]
        for (_, lengths), rows, has_weights in zip(jobs, self.rows, weighted, strict=True):
            beats += to_beats(rows, lanes)
            weights = special_rows(rng, len(rows), 1)[:, 0] if has_weights else None
            words = weights.view(np.uint32).tolist() if has_weights else None
            tokens += [end if token == "end" else token
                       for token in walk([(lengths, range(len(rows)), words)])[1]]
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            self.expected.append(gather_reduce(rows, np.arange(len(rows)), offsets, weights))
        bench.source(bench.dut.job, [
            {"row_beats": row_beats, "one_beat": int(row_beats == 1),
             "weighted": int(has_weights)}
            for (row_beats, _), has_weights in zip(jobs, weighted, strict=True)])
        bench.source(bench.dut.tokens, tokens, stall[0])
        bench.source(bench.dut.rows, beats, stall[0])
        n = sum(len(lengths) * row_beats for row_beats, lengths in jobs)
        self.o = bench.sink(bench.dut.o, n, stall[1])
        self.done = bench.watch(bench.dut.segment_done)
        self.blocked = bench.watch(bench.dut.blocked)
        self.taken = bench.watch(bench.dut.tokens.valid & bench.dut.tokens.ready)

    def check(self):
        self.bench.run()
        at = 0
        for expected in self.expected:
            n = expected.size // self.lanes
            assert bits_equal(from_beats(self.o.items[at:at + n], self.lanes),
                              expected.reshape(n, self.lanes))
            at += n
        assert sum(self.done) == sum(len(expected) for expected in self.expected)


@pytest.mark.parametrize("config", [SMALL, DEEP, ODD, WIDE], ids=lambda config: config.name)
def test_reducer_sums_segments_of_every_edge_length(config):
    Reduce(config, [(1, [*EDGES, 8, 1, 0, 9])]).check()


@pytest.mark.parametrize("config", [SMALL, DEEP], ids=lambda config: config.name)
@pytest.mark.parametrize("row_beats", [2, 3, "max"])
def test_reducer_sums_rows_of_many_beats(config, row_beats):
    row_beats = config.derived.row_beats_max if row_beats == "max" else row_beats
    Reduce(config, [(row_beats, [0, 1, 2, 9, 8, 1, 17, 3])]).check()


@pytest.mark.parametrize("stall", STALLS[1:], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_reducer_sums_jobs_of_different_rows_under_stalls(seed, stall):
    rng = np.random.default_rng(seed)
    jobs = [(int(rng.integers(1, 5)), rng.choice(EDGES[:-1], int(rng.integers(0, 5))).tolist())
            for _ in range(4)]
    Reduce(ODD, jobs, stall, seed, weighted=(False, True)).check()


@pytest.mark.parametrize("mul_stages", [1, 4, 7])
def test_reducer_weights_rows(mul_stages):
    """Rows with weights and without, in jobs one behind the other; empty segments stay +0."""
    Reduce(config(name="weighted", mul_stages=mul_stages, add_stages=2),
           [(1, [0, 1, 9, 2]), (2, [3, 0, 1]), (1, [17])], weighted=(True, False, True)).check()


@pytest.mark.parametrize("config", [SMALL, DEEP], ids=lambda config: config.name)
@pytest.mark.parametrize("lengths", [[length] * 6 for length in EDGES if length < 17]
                         + [EDGES], ids=str)
def test_reducer_takes_one_beat_per_cycle(config, lengths):
    """Whatever the length of the segments and the depth of the adder, for rows of one beat."""
    run = Reduce(config, [(1, lengths)])
    run.check()
    first = run.taken.index(1)
    n = sum(max(1, length) for length in lengths) + 1
    assert run.taken[first:first + n] == [1] * n
    assert not any(run.blocked)


def test_reducer_loses_one_cycle_between_descriptors():
    """The end token takes the cycle of a beat."""
    run = Reduce(SMALL, [(1, [3, 1]), (2, [2]), (1, [1])])
    run.check()
    first = run.taken.index(1)
    assert run.taken[first:first + 12] == [1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("config", [SMALL, DEEP, ODD], ids=lambda config: config.name)
def test_reducer_latency(config):
    run = Reduce(config, [(1, [1])])
    run.check()
    # Two more cycles in the output queue.
    assert run.o.cycles[0] - run.taken.index(1) == run.bench.dut.latency + 2 \
        == config.mul_stages + 4 * (config.add_stages + 2) + 3


def test_reducer_blocks_rather_than_lose_sums():
    """A consumer that stops for long: `blocked` rises, and every sum is there afterwards."""
    run = Reduce(SMALL, [(1, [1] * 120)], stall=(1, 0.02))
    run.check()
    assert any(run.blocked)


def test_reducer_drops_its_rows_in_a_reset():
    """Reset inside a segment of nine: the next segment's sum holds none of its rows."""
    bench = StreamBench(Reducer(SMALL))
    one = to_beats(np.ones((1, 2)), 2)[0]
    token = {"leaf": 0, "first": 1, "final": 0, "last": 0, "top_leaf": 1, "empty": 0, "end": 0,
             "weight": 0}
    stuck = [{**token, "final": 1}, {**token, "leaf": 2, "top_leaf": 3, "final": 1}]
    fresh = [{**token, "final": 1}, {**token, "leaf": 1, "final": 1, "last": 1}]

    async def drive(ctx):
        dut = bench.dut
        ctx.set(dut.job.payload, {"row_beats": 1, "one_beat": 1, "weighted": 0})
        ctx.set(dut.job.valid, 1)
        ctx.set(dut.rows.payload, one)
        for tokens, wait in ((stuck, 40), (fresh, 40)):
            for item in tokens:
                ctx.set(dut.tokens.payload, item)
                ctx.set(dut.tokens.valid, 1)
                ctx.set(dut.rows.valid, 1)
                await ctx.tick()
            ctx.set(dut.tokens.valid, 0)
            ctx.set(dut.rows.valid, 0)
            for _ in range(wait):
                await ctx.tick()
            ctx.set(bench.reset, tokens is stuck)
            await ctx.tick()
            ctx.set(bench.reset, 0)
    bench.process(drive)
    sink = bench.sink(bench.dut.o)
    bench.run()
    assert from_beats(sink.items, 2).tolist() == [[2, 2]]
