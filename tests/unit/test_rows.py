"""RowNumberer, RowAddresser and BurstSplitter: from row numbers to bursts."""

import numpy as np
import pytest
from stream_bench import SMALL, STALLS, StreamBench

from tcast.hw.config import EngineConfig
from tcast.hw.registers import ErrorCode
from tcast.hw.rows import BurstSplitter, RowAddresser, RowNumberer

WIDE = EngineConfig(name="wide", data_width=1024, dim_max=128, burst_beats_max=2)


def request(number, position=0, end=0):
    return {"number": number % (1 << 64), "position": position, "end": end}


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_numberer_counts_and_ends_each_job(stall):
    bench = StreamBench(RowNumberer())
    counts = [3, 0, 0, 1, 20, 0]
    numbers = [bench.random.randrange(1 << 64) for _ in range(sum(counts))]
    bench.source(bench.dut.job, counts)
    bench.source(bench.dut.i, numbers, stall[0])
    sink = bench.sink(bench.dut.o, sum(counts) + len(counts), stall[1],
                      significant=lambda item: item["end"] or item)
    bench.run()
    rest, expected = iter(numbers), []
    for count in counts:
        expected += [(next(rest), n, 0) for n in range(count)]
        expected.append((None, count, 1))
    assert [(None if item["end"] else item["number"], item["position"], item["end"])
            for item in sink.items] == expected


def row_job(base, stride_beats=1, n_rows=1 << 31, row_beats=1, increasing=0, read=0, slot=3):
    return {"base": base, "stride_beats": stride_beats, "n_rows": n_rows, "row_beats": row_beats,
            "increasing": increasing, "read": read, "slot": slot}


class Addresses:
    """A RowAddresser at work on jobs (job, row numbers)."""

    def __init__(self, jobs, stall=(1, 1), *, pass_end=False, endless=False, config=SMALL):
        self.bench = bench = StreamBench(
            RowAddresser(config, ErrorCode.TARGET_RANGE, pass_end=pass_end))
        bench.source(bench.dut.job, [values for values, _ in jobs], repeat=endless)
        bench.source(bench.dut.i, [
            item for _, numbers in jobs for item in
            [*(request(number, n) for n, number in enumerate(numbers)),
             request(0, len(numbers), 1)]], stall[0], repeat=endless)
        self.expected = []
        beat = config.derived.beat_bytes
        for values, numbers in jobs:
            self.expected += [{
                "address": (values["base"] + number * values["stride_beats"] * beat) % (1 << 64),
                "beats": values["row_beats"], "position": position, "read": values["read"],
                "end": 0} for position, number in enumerate(numbers)]
            if pass_end:
                self.expected.append("end")
        self.o = bench.sink(bench.dut.o, None if endless else len(self.expected), stall[1])
        self.error = {name: bench.watch(getattr(bench.dut.error, name))
                      for name in ("valid", "code", "slot", "position", "value", "limit")}

    @property
    def items(self):
        return ["end" if item["end"] else item for item in self.o.items]

    @property
    def records(self):
        rows = zip(*self.error.values(), strict=True)
        return [record[1:] for record in rows if record[0]]


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=str)
@pytest.mark.parametrize("pass_end", [False, True])
@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_addresser_multiplies_and_adds(stall, pass_end, config):
    """Largest strides and rows, sums that wrap at 2**64, jobs one behind the other."""
    rng = np.random.default_rng(11)
    beat = config.derived.beat_bytes
    jobs = []
    for _ in range(6):
        base = int(rng.integers(0, 1 << 62)) * 4 // beat * beat
        numbers = [int(number) for number in rng.integers(0, (1 << 32) - 1, rng.integers(0, 6))]
        jobs.append((row_job(base, int(rng.integers(1, 1 << 16)), (1 << 32) - 1,
                             int(rng.integers(1, 3)), read=int(rng.integers(0, 2))), numbers))
    jobs.append((row_job((1 << 64) - beat, 0xFFFF, (1 << 32) - 1), [(1 << 32) - 2, 1, 0]))
    run = Addresses(jobs, stall, pass_end=pass_end, config=config)
    run.bench.run()
    assert run.items == run.expected
    assert not run.records


def test_addresser_takes_six_cycles_and_one_row_per_cycle():
    run = Addresses([(row_job(0), list(range(30)))])
    first = run.bench.watch(run.bench.dut.i.ready)
    run.bench.run()
    assert run.o.cycles == list(range(first.index(1) + 6, first.index(1) + 36))


def test_addresser_idles_two_cycles_between_descriptors():
    run = Addresses([(row_job(0), [1, 2]), (row_job(640), [3]), (row_job(0), [4])], pass_end=True)
    run.bench.run()
    assert run.items == run.expected
    first = run.o.cycles[0]
    assert [cycle - first for cycle in run.o.cycles] == [0, 1, 2, 5, 6, 9, 10]


@pytest.mark.parametrize(("fields", "numbers", "code", "limit"), [
    ({"n_rows": 10}, [3, 10], ErrorCode.TARGET_RANGE, 10),
    ({"n_rows": 10}, [3, 9, -1], ErrorCode.TARGET_RANGE, 10),
    ({"n_rows": 10}, [-(1 << 63)], ErrorCode.TARGET_RANGE, 10),
    ({"n_rows": 10}, [1 << 32], ErrorCode.TARGET_RANGE, 10),
    ({"n_rows": 10}, [(1 << 63) - 1], ErrorCode.TARGET_RANGE, 10),
    ({"n_rows": 0}, [0], ErrorCode.TARGET_RANGE, 0),
    ({"n_rows": (1 << 32) - 1}, [(1 << 32) - 1], ErrorCode.TARGET_RANGE, (1 << 32) - 1),
    ({"increasing": 1}, [3, 4, 4], ErrorCode.TARGET_ORDER, 4),
    ({"increasing": 1}, [0, 0], ErrorCode.TARGET_ORDER, 0),
    ({"increasing": 1}, [5, 2], ErrorCode.TARGET_ORDER, 5),
    ({"increasing": 1, "n_rows": 10}, [9, 10], ErrorCode.TARGET_RANGE, 10),
])
def test_addresser_stops_at_a_bad_number(fields, numbers, code, limit):
    """Exactly one record; what was before it leaves, neither it nor anything behind does."""
    run = Addresses([(row_job(64, **fields), [*numbers, 1])], endless=True)
    run.bench.idle(40)
    run.bench.run()
    assert run.records == [(code, 3, len(numbers) - 1, numbers[-1] % (1 << 64), limit)]
    assert [item["position"] for item in run.o.items] == list(range(len(numbers) - 1))


def test_addresser_compares_with_the_row_before_in_the_same_job_only():
    run = Addresses([(row_job(0, increasing=1), [7, 8]), (row_job(0, increasing=1), [0, 8]),
                     (row_job(0), [8, 8])])
    run.bench.run()
    assert run.items == run.expected and not run.records


def test_addresser_forgets_rows_in_a_reset():
    run = Addresses([(row_job(0), list(range(1000)))], (1, 0.5), endless=True)
    valid = run.bench.watch(run.bench.dut.o.valid)
    job = run.bench.watch(run.bench.dut.job.ready)
    run.bench.reset_once(20)
    run.bench.idle(30)
    run.bench.run()
    assert any(valid[:20]) and not any(valid[21:24]) and not any(job)


def split(config, rows):
    """Return the bursts of rows."""
    beat, block = config.derived.beat_bytes, config.burst_beats_max
    bursts = []
    for row in rows:
        if row["end"]:
            bursts.append({"beats": 0, "position": row["position"], "end": 1})
            continue
        at, left = row["address"] // beat, row["beats"]
        while left:
            beats = min(left, block - at % block)
            bursts.append({"address": at * beat % (1 << 64), "beats": beats,
                           "position": row["position"], "end": 0})
            at, left = at + beats, left - beats
    return bursts


CONFIGS = [SMALL, WIDE, EngineConfig(name="single", data_width=1024, burst_beats_max=1)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_splitter_splits(config, stall):
    rng = np.random.default_rng(1)
    beat, longest = config.derived.beat_bytes, config.derived.row_beats_max
    rows = []
    for n in range(60):
        start = int(rng.choice([0, 0x1000, (1 << 64) - 0x1000])) + beat * int(
            rng.integers(0, 0x1000 // beat))
        rows.append({"address": start, "beats": int(rng.choice([1, 2, longest - 1, longest])) or 1,
                     "position": n, "read": 0, "end": int(rng.random() < 0.2)})
    expected = split(config, rows)
    bench = StreamBench(BurstSplitter(config))
    bench.source(bench.dut.i, rows, stall[0])
    sink = bench.sink(bench.dut.o, len(expected), stall[1])
    bench.run()
    got = [{key: value for key, value in item.items() if not (item["end"] and key == "address")}
           for item in sink.items]
    assert got == expected
    for item in got:
        if not item["end"]:
            assert item["address"] % 4096 + item["beats"] * beat <= 4096


@pytest.mark.parametrize("beats", [1, 5, 8])
def test_splitter_makes_one_burst_per_cycle(beats):
    """Rows of one burst and of two, without a gap; two cycles from row to burst."""
    rows = [{"address": 8 * beats * n, "beats": beats, "position": n, "read": 0, "end": 0}
            for n in range(40)]
    expected = split(SMALL, rows)
    bench = StreamBench(BurstSplitter(SMALL))
    bench.source(bench.dut.i, rows)
    sink = bench.sink(bench.dut.o, len(expected))
    bench.run()
    assert sink.cycles == list(range(2, 2 + len(expected)))
