"""ArrayReader: elements, bursts, positions, against NumPy."""

from collections import deque

import numpy as np
import pytest
from stream_bench import STALLS, StreamBench

from tcast.hw.array_reader import ArrayReader
from tcast.hw.config import EngineConfig
from tcast.hw.descriptor import ElementKind

WIDTHS = {width: EngineConfig(
    name="w", data_width=width, dim_max=64, row_buffer_beats=64, old_buffer_beats=64,
    array_buffer_beats=16, write_buffer_beats=64, burst_beats_max=16)
    for width in (64, 128, 1024)}


class Reader:
    """An ArrayReader with a memory of `latency`; ``jobs`` are (kind, base, values or count)."""

    def __init__(self, config, jobs, *, latency=10, stall=(1, 1), seed=0):
        self.config = config
        self.bench = bench = StreamBench(ArrayReader(config), seed=seed)
        self.beat_bytes = config.derived.beat_bytes
        self.expected, words = [], []
        self.bytes = {}
        self.bursts = []
        for kind, base, values in jobs:
            if kind == ElementKind.SEQUENTIAL:
                self.expected += range(values)
                count = values
            else:
                dtype = np.int32 if kind == ElementKind.INT32 else np.int64
                values = np.asarray(values, dtype)
                count = len(values)
                self.expected += [int(value) % (1 << 64) for value in values]
                self.bytes.update(
                    ((base + n) % (1 << 64), byte) for n, byte in enumerate(values.tobytes()))
            words.append({"kind": int(kind), "base": base, "count": count})
        bench.source(bench.dut.job, words)
        self.got = bench.sink(bench.dut.o, len(self.expected), stall[1])
        self.requests = bench.sink(bench.dut.bursts, p=stall[0])
        self.latency = latency
        bench.process(self.memory, background=True)

    async def memory(self, ctx):
        beats = self.bench.dut.beats
        due, seen = deque(), 0
        while True:
            await ctx.tick()
            for burst in self.requests.items[seen:]:
                seen += 1
                due.extend((self.bench.cycle + self.latency, burst["address"] + n * self.beat_bytes)
                           for n in range(burst["beats"]))
            arrives = bool(due) and due[0][0] <= self.bench.cycle
            ctx.set(beats.valid, arrives)
            if arrives:
                _, address = due.popleft()
                ctx.set(beats.payload, int.from_bytes(
                    bytes(self.bytes.get((address + n) % (1 << 64), 0xAA)
                          for n in range(self.beat_bytes)), "little"))

    def check(self):
        self.bench.run()
        assert self.got.items == self.expected
        longest = self.config.derived.array_burst_beats
        for burst in self.requests.items:
            first = burst["address"] // self.beat_bytes
            assert burst["address"] % self.beat_bytes == 0
            assert first // longest == (first + burst["beats"] - 1) // longest


def cover(config, kind, base, count):
    """Return the beats that cover an array, as (first, behind the last)."""
    size = 4 if kind == ElementKind.INT32 else 8
    beat = config.derived.beat_bytes
    return base // beat, -(-(base + count * size) // beat)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", [ElementKind.INT32, ElementKind.INT64])
def test_array_reader_at_every_skip(width, kind):
    """Arrays of 1 element to more than a burst, at every element of a beat, one job after another;
    bursts cover them exactly, and name their first element."""
    config = WIDTHS[width]
    size = 4 if kind == ElementKind.INT32 else 8
    per_beat = config.derived.beat_bytes // size
    rng = np.random.default_rng(width)
    limits = np.iinfo(np.int32 if size == 4 else np.int64)
    jobs, base = [], 0x7_0000_0000 - 0x40
    skips = sorted({0, 1 % per_beat, per_beat // 2, per_beat - 1})
    for skip in skips:
        for count in sorted({1, per_beat - skip, per_beat + 1, 5 * per_beat + 3}):
            values = rng.integers(limits.min, limits.max, count, endpoint=True)
            values[0], values[-1] = limits.min, limits.max
            jobs.append((kind, base + skip * size, values))
            base += 0x1000
    reader = Reader(config, jobs)
    reader.check()
    requests = list(reader.requests.items)
    for _, start, values in jobs:
        first, behind = cover(config, kind, start, len(values))
        while first < behind:
            burst = requests.pop(0)
            assert burst["address"] == first * config.derived.beat_bytes
            element = max(0, (burst["address"] - start) // size)
            assert burst["position"] == element
            first += burst["beats"]
        assert first == behind
    assert not requests


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_array_reader_switches_kinds(stall):
    """Empty arrays, sequences and both widths follow each other, under stalls."""
    rng = np.random.default_rng(7)
    jobs, base = [], 1 << 20
    for _ in range(24):
        kind = ElementKind(rng.integers(0, 3))
        count = int(rng.choice([0, 1, 2, 3, 17, 60]))
        if kind == ElementKind.SEQUENTIAL:
            jobs.append((kind, int(rng.integers(0, 64)), count))
        else:
            size = 4 << (kind == ElementKind.INT64)
            start = base + size * int(rng.integers(0, 512))
            jobs.append((kind, start, rng.integers(-99, 99, count)))
            base += 0x2000
    Reader(WIDTHS[128], jobs, stall=stall, latency=1 + 30 * (stall[0] == 1), seed=5).check()


def test_array_reader_hands_out_one_element_per_cycle():
    """From its first element on, over bursts and a 4 KiB boundary, under latency."""
    for kind, count in ((ElementKind.INT32, 200), (ElementKind.INT64, 100)):
        reader = Reader(WIDTHS[128], [(kind, 0x1FC0, np.arange(count))], latency=8)
        reader.check()
        assert reader.got.cycles[-1] - reader.got.cycles[0] == count - 1


def test_array_reader_loses_two_cycles_between_jobs():
    jobs = [(ElementKind.INT32, 0x1000, np.arange(20)), (ElementKind.INT64, 0x2000, np.arange(9)),
            (ElementKind.SEQUENTIAL, 0, 5)]
    reader = Reader(WIDTHS[128], jobs)
    reader.check()
    gaps = np.diff(reader.got.cycles)
    assert gaps[19] <= 3 and gaps[28] <= 3
    assert np.delete(gaps, [19, 28]).max() == 1


def test_array_reader_wraps_at_the_end_of_the_address_space():
    reader = Reader(WIDTHS[64], [(ElementKind.INT32, (1 << 64) - 16, np.arange(12))])
    reader.check()
    assert [burst["address"] for burst in reader.requests.items] == [(1 << 64) - 16, 0]


def test_array_reader_forgets_its_jobs_in_a_reset():
    """Held up in the middle of a job, then reset: nothing leaves any more."""
    bench = StreamBench(ArrayReader(WIDTHS[64]))
    bench.source(bench.dut.job, [{"kind": 0, "base": 0, "count": 1000}])
    bench.sink(bench.dut.o, p=0.5)
    bench.reset_once(30)
    valid = bench.watch(bench.dut.o.valid)
    ready = bench.watch(bench.dut.job.ready)
    bench.idle(60)
    bench.run()
    assert valid[29] and not any(valid[31:]) and all(ready[31:])
