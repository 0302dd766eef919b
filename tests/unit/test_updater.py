"""Updater: SGD to the bit, or nothing at all."""

import numpy as np
import pytest
from engine_bench import special_rows
from stream_bench import SMALL, STALLS, StreamBench
from test_reducer import from_beats, to_beats

from tcast.golden import SGD, bits_equal, scatter_update
from tcast.golden.numerics import mul
from tcast.hw.config import EngineConfig
from tcast.hw.updater import Updater

CONFIGS = [
    SMALL,
    EngineConfig(**{**SMALL.as_dict(), "name": "deep", "add_stages": 6, "mul_stages": 7}),
    EngineConfig(**{**SMALL.as_dict(), "name": "wide", "data_width": 128, "mul_stages": 3}),
]


class Update:
    """An Updater at work on jobs (learning rate, None or "scaled", row_beats, n_segments)."""

    def __init__(self, config, jobs, stall=(1, 1), seed=0):
        lanes = self.lanes = config.derived.lanes
        rng = np.random.default_rng(seed)
        self.bench = bench = StreamBench(Updater(config), seed=seed)
        sums, old, scales, self.expected = [], [], [], []
        for lr, row_beats, n in jobs:
            gradient = special_rows(rng, n, lanes * row_beats)
            sums += to_beats(gradient, lanes)
            result = gradient
            if lr == "scaled":
                scale = special_rows(rng, n, 1)
                scales += scale.view(np.uint32)[:, 0].tolist()
                result = mul(gradient, scale)
            elif lr is not None:
                weight = special_rows(rng, n, lanes * row_beats)
                old += to_beats(weight, lanes)
                result = weight.copy()
                scatter_update(result, np.arange(n), gradient, SGD(lr))
            self.expected.append((lr, result.reshape(-1, lanes)))
        bench.source(bench.dut.job, [
            {"update": int(isinstance(lr, (int, float))), "scaled": int(lr == "scaled"),
             "n_segments": n, "row_beats": row_beats,
             "lr": int(np.float32(lr).view(np.uint32)) if isinstance(lr, (int, float)) else 0}
            for lr, row_beats, n in jobs])
        bench.source(bench.dut.scales, scales, stall[0])
        bench.source(bench.dut.sums, sums, stall[0])
        bench.source(bench.dut.old, old, stall[0])
        self.o = bench.sink(bench.dut.o, len(sums), stall[1])
        self.pushed = bench.watch(bench.dut.pushed)
        self.taken = bench.watch(bench.dut.sums.valid & bench.dut.sums.ready)

    def check(self):
        self.bench.run()
        got, at = from_beats(self.o.items, self.lanes), 0
        for lr, expected in self.expected:
            part = got[at:at + len(expected)]
            if lr is None:  # a copy keeps the payloads of NaNs, too
                assert np.array_equal(part.view(np.uint32), expected.view(np.uint32))
            else:
                assert bits_equal(part, expected)
            at += len(expected)
        assert sum(self.pushed) == len(got) == at


JOBS = [(0.1, 3, 5), (None, 3, 4), ("scaled", 2, 5), (0.5, 1, 6), ("scaled", 1, 4), (None, 8, 0),
        (0.0, 8, 2), (None, 1, 2), (None, 1, 1), (2, 2, 1), ("scaled", 3, 1)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_updater_updates_or_copies(config, stall):
    """Jobs of both kinds, of different rows, and an empty one, behind each other."""
    jobs = [(lr, min(beats, config.derived.row_beats_max), n) for lr, beats, n in JOBS]
    Update(config, jobs, stall).check()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_updater_takes_one_beat_per_cycle_without_gap_between_jobs(config):
    run = Update(config, [(0.1, 2, 10), (None, 1, 10), ("scaled", 1, 9), (0.3, 1, 1), (0.3, 1, 1)])
    run.check()
    first = run.taken.index(1)
    # None but behind a job of one beat: the next one comes in the cycle after it.
    assert run.taken[first:first + 42] == [1] * 40 + [0, 1]
    assert run.o.cycles[0] - first == config.mul_stages + config.add_stages + 3


def test_updater_holds_no_more_than_its_buffer():
    """Nobody writes: it takes write_buffer_beats and stops."""
    bench = StreamBench(Updater(SMALL))
    bench.source(bench.dut.job, [
        {"update": 0, "n_segments": 1000, "row_beats": 1, "lr": 0, "scaled": 0}], repeat=True)
    bench.source(bench.dut.sums, [5], repeat=True)
    taken = bench.watch(bench.dut.sums.valid & bench.dut.sums.ready)
    bench.idle(200)
    bench.run()
    assert sum(taken) == SMALL.write_buffer_beats


def test_updater_drops_what_is_inside_in_a_reset():
    bench = StreamBench(Updater(SMALL))
    bench.source(bench.dut.job, [
        {"update": 0, "n_segments": 20, "row_beats": 1, "lr": 0, "scaled": 0}], repeat=True)
    bench.source(bench.dut.sums, range(20))
    bench.reset_once(40)
    valid = bench.watch(bench.dut.o.valid)
    bench.idle(60)
    bench.run()
    assert valid[39] and not any(valid[41:])
