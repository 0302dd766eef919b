"""SegmentLengths and SegmentWalker: from offsets to row requests and tokens."""

import numpy as np
import pytest
from stream_bench import STALLS, StreamBench

from tcast.hw.registers import ErrorCode
from tcast.hw.segments import SegmentLengths, SegmentWalker

#: Segment lengths at which something changes: 8 partial sums, empty, long.
EDGES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 40]


def lengths_job(n_lookups, n_segments, unit=0, slot=0):
    return {"unit": unit, "n_lookups": n_lookups, "n_segments": n_segments, "slot": slot}


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_lengths_of_jobs(stall):
    rng = np.random.default_rng(3)
    jobs, offsets, expected = [], [], []
    for n in range(20):
        lengths = rng.choice(EDGES, int(rng.choice([0, 1, 2, 20]))).tolist()
        if n % 4 == 3:
            lengths = [1] * len(lengths)
            jobs.append(lengths_job(len(lengths), len(lengths), unit=1))
        else:
            jobs.append(lengths_job(sum(lengths) + int(rng.integers(0, 3)), len(lengths)))
            offsets += [0, *np.cumsum(lengths).tolist()]
        expected += [{"length": length, "end": 0} for length in lengths]
        expected.append({"length": 0, "end": 1})
    bench = StreamBench(SegmentLengths())
    bench.source(bench.dut.job, jobs)
    bench.source(bench.dut.offsets, offsets, stall[0])
    sink = bench.sink(bench.dut.o, len(expected), stall[1])
    error = bench.watch(bench.dut.error.valid)
    bench.run()
    assert sink.items == expected
    assert not any(error)


def test_lengths_leave_one_per_cycle():
    bench = StreamBench(SegmentLengths())
    bench.source(bench.dut.job, [lengths_job(99, 33)])
    bench.source(bench.dut.offsets, range(0, 100, 3))
    sink = bench.sink(bench.dut.o, 34)
    bench.run()
    assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + 34))


BIG = (1 << 32) - 1
MINUS = (1 << 64) - 1


@pytest.mark.parametrize(("n_lookups", "offsets", "code", "position", "limit"), [
    (9, [1, 2, 3], ErrorCode.OFFSET_FIRST, 0, 0),
    (9, [MINUS, 2, 3], ErrorCode.OFFSET_FIRST, 0, 0),
    (9, [1 << 32, 2, 3], ErrorCode.OFFSET_FIRST, 0, 0),
    (9, [0, 5, 4], ErrorCode.OFFSET_ORDER, 2, 5),
    (9, [0, MINUS, 4], ErrorCode.OFFSET_ORDER, 1, 0),
    (9, [0, 3, 1 << 63], ErrorCode.OFFSET_ORDER, 2, 3),
    (9, [0, 10, 10], ErrorCode.OFFSET_RANGE, 1, 9),
    (9, [0, 4, 10], ErrorCode.OFFSET_RANGE, 2, 9),
    (9, [0, 4, (1 << 32) + 5], ErrorCode.OFFSET_RANGE, 2, 9),
    (9, [0, 4, (1 << 63) - 1], ErrorCode.OFFSET_RANGE, 2, 9),
    (0, [0, 0, 1], ErrorCode.OFFSET_RANGE, 2, 0),
    (BIG, [0, BIG, 1 << 32], ErrorCode.OFFSET_RANGE, 2, BIG),
])
@pytest.mark.parametrize("p", (1, 0.5))
def test_bad_offset_is_recorded_once_and_stops(n_lookups, offsets, code, position, limit, p):
    bench = StreamBench(SegmentLengths())
    bench.source(bench.dut.job, [lengths_job(n_lookups, 2, slot=5)], repeat=True)
    bench.source(bench.dut.offsets, [*offsets, 0, 0, 0], p, repeat=True)
    sink = bench.sink(bench.dut.o)
    names = ("valid", "code", "slot", "position", "value", "limit")
    seen = [bench.watch(getattr(bench.dut.error, name)) for name in names]
    bench.idle(30)
    bench.run()
    records = [record[1:] for record in zip(*seen, strict=True) if record[0]]
    assert records == [(code, 5, position, offsets[position], limit)]
    assert [item["length"] for item in sink.items] == np.diff(offsets[:position]).tolist()


def test_largest_offsets_pass():
    bench = StreamBench(SegmentLengths())
    bench.source(bench.dut.job, [lengths_job(BIG, 3)])
    bench.source(bench.dut.offsets, [0, 1, BIG, BIG])
    sink = bench.sink(bench.dut.o, 4)
    bench.run()
    assert [item["length"] for item in sink.items] == [1, BIG - 1, 0, 0]


def walk(jobs):
    """Return the row requests and tokens of jobs (lengths, indices, weights or None)."""
    rows, tokens = [], []
    for lengths, indices, weights in jobs:
        position = 0
        for length in lengths:
            top = max(0, min(length, 8) - 1)
            for i in range(length):
                rows.append({"number": indices[position], "position": position, "end": 0})
                tokens.append({"leaf": i % 8, "first": int(i < 8), "final": int(length - i <= 8),
                               "last": int(i == length - 1), "top_leaf": top, "empty": 0, "end": 0,
                               "weight": weights[position] if weights else 0})
                position += 1
            if not length:
                tokens.append({"leaf": 0, "first": 1, "final": 1, "last": 1, "top_leaf": 0,
                               "empty": 1, "end": 0, "weight": 0})
        rows.append("end")
        tokens.append("end")
    return rows, tokens


def ends(items):
    return ["end" if item["end"] else item for item in items]


class Walk:
    """A SegmentWalker at work on jobs (unused indices, lengths, has weights)."""

    def __init__(self, jobs, stall=(1, 1), seed=0):
        self.bench = bench = StreamBench(SegmentWalker(), seed=seed)

        def numbers(n, width):
            return [bench.random.randrange(1 << width) for _ in range(n)]
        jobs = [(lengths, numbers(sum(lengths) + unused, 64),
                 numbers(sum(lengths) + unused, 32) if weighted else None)
                for unused, lengths, weighted in jobs]
        bench.source(bench.dut.job, [
            {"n_lookups": len(indices), "weighted": int(weights is not None)}
            for _, indices, weights in jobs])
        bench.source(bench.dut.segments, [
            {"length": length, "end": end} for lengths, _, _ in jobs
            for length, end in [*((length, 0) for length in lengths), (0, 1)]], stall[0])
        bench.source(bench.dut.indices, [i for _, indices, _ in jobs for i in indices], stall[0])
        bench.source(bench.dut.weights, [w for *_, weights in jobs for w in weights or ()],
                     stall[0])
        self.weighted = [weights is not None for lengths, _, weights in jobs
                         for _ in range(sum(max(1, length) for length in lengths) + 1)]
        self.expected = walk(jobs)
        # A lookup leaves on both in the same cycle, so the valid of each waits for the other.
        self.rows = bench.sink(bench.dut.rows, len(self.expected[0]), stall[1], steady=False)
        self.tokens = bench.sink(bench.dut.tokens, len(self.expected[1]), stall[1], steady=False)
        self.issued = bench.watch(bench.dut.issued)

    def check(self):
        self.bench.run()
        # The weight of a token that has none means nothing.
        tokens = [token if weighted and not token["empty"] else token | {"weight": 0}
                  for token, weighted in zip(self.tokens.items, self.weighted, strict=True)]
        assert (ends(self.rows.items), ends(tokens)) == self.expected
        assert sum(self.issued) == sum(row != "end" for row in self.expected[0])


@pytest.mark.parametrize("stall", STALLS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_walker_walks(seed, stall):
    rng = np.random.default_rng(seed)
    Walk([(int(rng.choice([0, 0, 1, 9])), rng.choice(EDGES, int(rng.choice([0, 1, 2, 9]))).tolist(),
           bool(rng.integers(2))) for _ in range(8)], stall, seed).check()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lengths", [[length] * 12 for length in EDGES if length]
                         + [EDGES, [1, 0, 1, 0, 0, 2], [0] * 20], ids=str)
def test_walker_takes_one_cycle_per_lookup_and_per_empty_segment(lengths, weighted):
    """No gap between segments of any length."""
    run = Walk([(0, lengths, weighted)])
    run.check()
    tokens = sum(max(1, length) for length in lengths) + 1
    assert run.tokens.cycles == list(range(run.tokens.cycles[0], run.tokens.cycles[0] + tokens))


def test_walker_says_what_it_waits_for():
    bench = StreamBench(SegmentWalker())
    bench.source(bench.dut.job, [{"n_lookups": 2, "weighted": 0}], repeat=True)

    async def feed(ctx):
        for _ in range(10):
            await ctx.tick()
        ctx.set(bench.dut.segments.payload.length, 1)
        ctx.set(bench.dut.segments.valid, 1)
        await ctx.tick()
        ctx.set(bench.dut.segments.valid, 0)
        for _ in range(10):
            await ctx.tick()
    bench.process(feed)
    bench.sink(bench.dut.rows)
    bench.sink(bench.dut.tokens)
    wants_segment = bench.watch(bench.dut.wants_segment)
    wants_index = bench.watch(bench.dut.wants_index)
    bench.run()
    assert all(wants_segment[2:10]) and not any(wants_segment[12:])
    assert not any(wants_index[:10]) and all(wants_index[12:])


def test_walker_forgets_its_segment_in_a_reset():
    """Reset in the middle of a segment: what follows starts at position 0 and leaf 0."""
    bench = StreamBench(SegmentWalker())
    bench.source(bench.dut.segments, [{"length": 100, "end": 0}], repeat=True)
    bench.source(bench.dut.indices, [7], repeat=True)
    bench.source(bench.dut.job, [{"n_lookups": 1000, "weighted": 0}], repeat=True)
    bench.sink(bench.dut.rows)
    tokens = bench.sink(bench.dut.tokens)
    bench.reset_once(20)
    bench.idle(60)
    bench.run()
    starts = [n for n, token in enumerate(tokens.items) if token["leaf"] == 0 and token["first"]]
    assert len(starts) == 2 and starts[1] % 8
    assert [token["leaf"] for token in tokens.items[starts[1]:]] == [
        n % 8 for n in range(len(tokens.items) - starts[1])]
