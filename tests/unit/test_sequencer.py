"""Sequencer: ring, checks, the parts of a descriptor, ordering and completion."""

from dataclasses import replace

import pytest
from stream_bench import SMALL, StreamBench

from tcast.hw import descriptor
from tcast.hw.config import EngineConfig
from tcast.hw.registers import ErrorCode, Reader
from tcast.hw.sequencer import Sequencer

WIDE = EngineConfig(name="wide", data_width=1024, dim_max=128, burst_beats_max=32)
GOOD = {
    "index_kind": 2, "segment_kind": 1, "target_kind": 1, "sink": 1, "dim": 64,
    "n_lookups": 100, "n_segments": 7, "src_base": 0x123_0000_0080, "src_stride": 512,
    "src_rows": 1000, "dst_base": 0x456_0000_0000, "dst_stride": 256, "dst_rows": 50,
    "index_base": 0x1008, "offset_base": 0x2004, "target_base": 0x3004, "lr": 0x3DCCCCCD,
    "weight_base": 0x5004, "scale_base": 0x6008,
}
NARROW = GOOD | {"dim": 8, "src_stride": 64, "dst_stride": 32}


class Ring:
    """A Sequencer with a ring in memory; each job queue takes everything at once."""

    def __init__(self, jobs, *, config=SMALL, base=0x7_0000_1000, size_log2=4, tail=None,
                 latency=4, missed=(), bad=None, counts=()):
        self.bench = bench = StreamBench(Sequencer(config), limit=3000)
        dut, beat_bytes = bench.dut, config.derived.beat_bytes
        self.latency = latency
        data = [descriptor.pack(job) for job in jobs]
        self.fetches = bench.sink(dut.fetch)
        self.counts = bench.sink(dut.count_fetch)
        self.jobs = {name: bench.sink(getattr(dut, name)) for name in dut.jobs}
        self.head, self.error = bench.watch(dut.head), []
        names = ("valid", "code", "slot", "position", "value", "limit")
        self._error = [bench.watch(getattr(dut.error, name)) for name in names]
        self.interrupt, self.completed = bench.watch(dut.interrupt), bench.watch(dut.completed)
        self.busy = bench.watch(dut.busy)
        self.base = base

        async def memory(ctx):
            ctx.set(dut.ring_base, base)
            ctx.set(dut.ring_size_log2, size_log2)
            ctx.set(dut.tail, len(jobs) if tail is None else tail)
            ctx.set(dut.enable, 1)
            served = 0
            while True:
                await ctx.tick()
                if len(self.fetches.items) == served:
                    continue
                burst = self.fetches.items[served]
                served += 1
                for _ in range(latency):
                    await ctx.tick()
                if served - 1 in missed:
                    ctx.set(dut.missed_slot, burst["position"])
                    ctx.set(dut.fetch_missed, 1)
                    await ctx.tick()
                    ctx.set(dut.fetch_missed, 0)
                    continue
                word = data[(burst["address"] - base) // 128]
                for n in range(0, 128, beat_bytes):
                    ctx.set(dut.fetched.valid, 1)
                    ctx.set(dut.fetched.payload,
                            int.from_bytes(word[n:n + beat_bytes], "little"))
                    resp = bad[2] if bad and bad[:2] == (served - 1, n // beat_bytes) else 0
                    ctx.set(dut.fetch_resp, resp)
                    await ctx.tick()
                ctx.set(dut.fetched.valid, 0)
        bench.process(memory, background=True)

        async def number_in_memory(ctx):
            """Answer the reads of ``counts``, beats in the order in which they are asked for."""
            for served, beat in enumerate(counts):
                while len(self.counts.items) == served:
                    await ctx.tick()
                for _ in range(latency):
                    await ctx.tick()
                ctx.set(dut.count_fetched.valid, 1)
                ctx.set(dut.count_fetched.payload, beat)
                await ctx.tick()
                ctx.set(dut.count_fetched.valid, 0)
        bench.process(number_in_memory, background=True)

    def pulse(self, at, *names):
        """Let inputs be high in cycle ``at``."""
        async def process(ctx):
            for _ in range(at):
                await ctx.tick()
            for name in names:
                ctx.set(getattr(self.bench.dut, name), 1)
            await ctx.tick()
            for name in names:
                ctx.set(getattr(self.bench.dut, name), 0)
        self.bench.process(process, background=True)
        return self

    def hold(self, at, **inputs):
        """Set inputs from cycle ``at`` on."""
        async def process(ctx):
            for _ in range(at):
                await ctx.tick()
            for name, value in inputs.items():
                ctx.set(getattr(self.bench.dut, name), value)
        self.bench.process(process, background=True)
        return self

    def run(self, cycles):
        self.bench.idle(cycles)
        self.bench.run()
        return self

    @property
    def records(self):
        return [record[1:] for record in zip(*self._error, strict=True) if record[0]]

    @property
    def started(self):
        return len(self.jobs["update_job"].items)


@pytest.mark.parametrize("config", [SMALL, WIDE, EngineConfig(name="mid", data_width=256)],
                         ids=lambda config: config.name)
def test_sequencer_hands_out_the_parts(config):
    job = {**GOOD, "dim": 64} if config is not SMALL else {**GOOD, "dim": 16}
    beat = config.derived.beat_bytes
    beats = 4 * job["dim"] // beat
    ring = Ring([job], config=config).run(80)
    parts = {name: sink.items for name, sink in ring.jobs.items()}
    row = {"row_beats": beats, "slot": 0}
    assert parts == {
        "index_job": [{"kind": 2, "base": 0x1008, "count": 100}],
        "offset_job": [{"kind": 1, "base": 0x2004, "count": 8}],
        "target_job": [{"kind": 1, "base": 0x3004, "count": 7}],
        "weight_job": [], "scale_job": [],
        "segment_job": [{"unit": 0, "n_lookups": 100, "n_segments": 7, "slot": 0}],
        "walk_job": [{"n_lookups": 100, "weighted": 0}], "count_job": [7],
        "reduce_job": [{"row_beats": beats, "one_beat": int(beats == 1), "weighted": 0}],
        "source_job": [row | {"base": job["src_base"], "stride_beats": job["src_stride"] // beat,
                              "n_rows": 1000, "increasing": 0, "read": 0}],
        "sink_job": [row | {"base": job["dst_base"], "stride_beats": job["dst_stride"] // beat,
                            "n_rows": 50, "increasing": 1, "read": 1}],
        "update_job": [{"update": 1, "scaled": 0, "lr": 0x3DCCCCCD, "n_segments": 7,
                        "row_beats": beats}],
    }
    assert not ring.records


def test_sequencer_reads_weights_and_scales_where_they_are_wanted():
    ring = Ring([NARROW | {"weighted": 1, "relaxed": 1},
                 NARROW | {"scaled": 1, "sink": 0, "relaxed": 1}]).run(120)
    assert ring.jobs["weight_job"].items == [{"kind": 1, "base": 0x5004, "count": 100}]
    assert ring.jobs["scale_job"].items == [{"kind": 1, "base": 0x6008, "count": 7}]
    for name, flag in (("walk_job", "weighted"), ("reduce_job", "weighted")):
        assert [item[flag] for item in ring.jobs[name].items] == [1, 0]
    assert [item["scaled"] for item in ring.jobs["update_job"].items] == [0, 1]


def test_sequencer_reads_no_offsets_for_unit_segments():
    ring = Ring([NARROW | {"segment_kind": 0, "n_segments": 100, "sink": 0}]).run(60)
    assert not ring.jobs["offset_job"].items
    assert ring.jobs["segment_job"].items[0]["unit"] == 1
    assert ring.jobs["sink_job"].items[0]["increasing"] == 0
    assert ring.jobs["sink_job"].items[0]["read"] == 0


LARGEST = {"n_lookups": (1 << 32) - 1, "n_segments": (1 << 32) - 1}


def test_sequencer_counts_one_offset_more_than_the_largest_number_of_segments():
    ring = Ring([NARROW | LARGEST]).run(60)
    assert ring.jobs["offset_job"].items[0]["count"] == 1 << 32


#: (change, field at fault, limit), for 8-byte beats and dim_max 16.
BAD = [
    ({"index_kind": 3}, "index_kind", 2), ({"segment_kind": 3}, "segment_kind", 2),
    ({"target_kind": 3}, "target_kind", 2), ({"sink": 2}, "sink", 1), ({"sink": 3}, "sink", 1),
    ({"scaled": 1}, "scaled", 0), ({"weighted": 1, "weight_base": 2}, "weight_base", 0),
    ({"scaled": 1, "sink": 0, "scale_base": 1}, "scale_base", 0),
    ({"dim": 0}, "dim", 16), ({"dim": 18}, "dim", 16), ({"dim": 7}, "dim", 16),
    ({"dim": 65535}, "dim", 16),
    ({"segment_kind": 0}, "n_segments", 100),
    ({"src_base": 4}, "src_base", 0), ({"dst_base": (1 << 64) - 1}, "dst_base", 0),
    ({"src_stride": 24}, "src_stride", 32), ({"src_stride": 36}, "src_stride", 32),
    ({"src_stride": 8 << 16}, "src_stride", 32), ({"src_stride": (1 << 32) - 8}, "src_stride", 32),
    ({"dst_stride": 0}, "dst_stride", 32), ({"dst_stride": 33}, "dst_stride", 32),
    ({"dst_stride": 8 << 16}, "dst_stride", 32),
    ({"index_base": 0x1004}, "index_base", 0), ({"offset_base": 2}, "offset_base", 0),
    ({"target_base": 1}, "target_base", 0),
    ({"scaled": 1, "dim": 0, "dst_base": 4}, "scaled", 0),  # the first is reported
]


@pytest.mark.parametrize(("change", "name", "limit"), BAD, ids=lambda x: str(x))
def test_sequencer_refuses(change, name, limit):
    job = NARROW | change
    byte = next(field.lsb // 8 for field in descriptor.FIELDS if field.name == name)
    ring = Ring([job, NARROW]).run(60)
    assert ring.records == [(ErrorCode.DESCRIPTOR, 0, byte, job[name], limit)]
    assert ring.started == 0 and ring.head[-1] == 0


@pytest.mark.parametrize("change", [
    {"dim": 2}, {"dim": 16, "src_stride": 64, "dst_stride": 64}, {"src_stride": 8 * 0xFFFF},
    {"index_kind": 0, "index_base": 3}, {"target_kind": 0, "target_base": 1},
    {"weight_base": 1, "scale_base": 2},
    {"n_lookups": 0, "n_segments": 0, "segment_kind": 0, "offset_base": 1},
    {"src_rows": 0, "dst_rows": 0}, {"lr": (1 << 32) - 1}, {"dst_base": (1 << 64) - 8},
], ids=str)
def test_sequencer_accepts(change):
    ring = Ring([NARROW | change]).run(60)
    assert not ring.records and ring.started == 1


def test_sequencer_waits_for_all_before_unless_relaxed():
    """The second is not relaxed: it is fetched meanwhile, and starts when the first completed."""
    ring = Ring([NARROW, NARROW, NARROW | {"relaxed": 1}]).pulse(150, "written")
    ring.pulse(200, "gathered").run(300)
    starts = ring.jobs["update_job"].cycles
    assert len(ring.fetches.items) == 3
    assert ring.fetches.cycles[1] < 60
    assert starts[1] > 200 and len(starts) == 3
    assert ring.head[199] == 0 and ring.head[-1] == 1


def test_sequencer_waits_for_the_other_unit():
    """Until the cast unit has completed as many as it says, modulo 2**32; those behind wait too."""
    two_rings = replace(SMALL, cast_port=1)
    waits = NARROW | {"waits": 1, "wait_count": 2, "relaxed": 1}
    ring = Ring([NARROW, waits, NARROW | {"relaxed": 1}], config=two_rings)
    # One less, and one that is 2**31 ahead of it, which counts as behind.
    ring.hold(0, other_completed=1).hold(150, other_completed=0x8000_0002)
    ring.hold(151, other_completed=1).hold(300, other_completed=2).run(400)
    starts = ring.jobs["update_job"].cycles
    assert len(starts) == 3 and starts[0] < 60
    assert 300 < starts[1] <= 305 and starts[1] < starts[2]


@pytest.mark.parametrize("completed", [2, 3, 0x8000_0001])
def test_sequencer_does_not_wait_for_what_has_completed(completed):
    ring = Ring([NARROW | {"waits": 1, "wait_count": 2}], config=replace(SMALL, cast_port=1))
    ring.hold(0, other_completed=completed).run(80)
    assert ring.started == 1


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=lambda config: config.name)
@pytest.mark.parametrize("lane", range(4))
@pytest.mark.parametrize("count", [0, 1, 7])
def test_sequencer_takes_the_number_of_segments_from_memory(config, lane, count):
    """A word of its beat; every part has the number, and it is read when the turn has come."""
    lanes = config.derived.lanes
    lane %= lanes
    job = (NARROW if config is SMALL else GOOD) | {
        "counted": 1, "count_base": 0x8_0000_0000 + 4 * lane}
    beat = sum((count if n == lane else 99 + n) << 32 * n for n in range(lanes))
    ring = Ring([job | {"counted": 0}, job], config=config, counts=[beat])
    ring.pulse(200, "written", "gathered").run(300)
    assert ring.counts.items == [
        {"address": 0x8_0000_0000, "beats": 1, "position": 0, "end": 0}]
    assert ring.counts.cycles[0] > 200, "what is before it may write the number"
    parts = {name: sink.items[-1] for name, sink in ring.jobs.items() if sink.items}
    assert parts["update_job"]["n_segments"] == parts["segment_job"]["n_segments"] == count
    assert parts["offset_job"]["count"] == count + 1 and parts["target_job"]["count"] == count
    assert parts["count_job"] == count and not ring.records


def test_sequencer_reports_a_number_of_segments_that_is_too_large():
    job = NARROW | {"counted": 1, "count_base": 0x8000}
    ring = Ring([NARROW, job, NARROW], counts=[8])
    ring.pulse(200, "written", "gathered").run(300)
    assert ring.records == [(ErrorCode.SEGMENT_COUNT, 1, 0, 8, 7)]
    assert ring.started == 1 and ring.head[-1] == 1


def test_sequencer_completes_in_either_order():
    """Written first, gathered first, both at once: one completion each; interrupts as asked."""
    jobs = [NARROW | {"relaxed": 1, "interrupt": n % 2} for n in range(4)]
    ring = Ring(jobs).pulse(200, "written").pulse(210, "written").pulse(220, "gathered")
    ring.pulse(230, "gathered").pulse(240, "gathered").pulse(250, "written")
    ring.pulse(260, "written", "gathered").run(280)
    done = [cycle for cycle, pulse in enumerate(ring.completed) if pulse]
    assert [cycle // 10 for cycle in done] == [22, 23, 25, 26]
    assert [cycle for cycle, pulse in enumerate(ring.interrupt) if pulse] == [done[1], done[3]]
    assert ring.head[-1] == 4 and not ring.busy[-1] and ring.busy[-30]


def test_sequencer_keeps_so_many_in_flight():
    ring = Ring([NARROW | {"relaxed": 1}] * 8)
    ring.run(400)
    assert ring.started == SMALL.descriptors_in_flight


def test_sequencer_fetches_ahead():
    """As many as there is room for, behind the one that waits to start."""
    ring = Ring([NARROW] * 8)
    ring.run(400)
    assert ring.started == 1
    assert len(ring.fetches.items) == 2 + SMALL.derived.descriptors_ahead
    assert ring.fetches.cycles[1] == ring.fetches.cycles[0] + 1


def test_sequencer_is_busy_with_what_is_fetched():
    """Disabled, it runs what it has fetched, and says so as long as there is any."""
    ring = Ring([NARROW] * 8).hold(100, enable=0)
    for n in range(4):
        ring.pulse(150 + 50 * n, "written", "gathered")
    ring.run(500)
    assert ring.started == 4 and ring.head[-1] == 4
    assert all(ring.busy[10:300]) and not ring.busy[-1]


def test_sequencer_keeps_a_descriptor_while_a_queue_is_full():
    """A unit that does not take its part: nothing is lost."""
    bench_jobs = [NARROW | {"relaxed": 1, "n_segments": n} for n in range(6)]
    ring = Ring(bench_jobs)
    for n in range(6):
        ring.pulse(300 + n, "written", "gathered")
    ring.run(500)
    assert [item["n_segments"] for item in ring.jobs["update_job"].items] == list(range(6))


@pytest.mark.parametrize("size_log2", [1, 2, 3])
def test_sequencer_wraps_around_the_ring(size_log2):
    """More descriptors than slots, the tail written again and again."""
    slots = 1 << size_log2
    ring = Ring([NARROW] * slots, size_log2=size_log2, tail=1)
    for n in range(2 * slots + 1):
        ring.hold(60 * n, tail=(n + 1) % slots)
        ring.pulse(60 * n + 50, "written", "gathered")
    ring.run(60 * (2 * slots + 1) + 30)
    assert [item["position"] for item in ring.fetches.items] == [
        n % slots for n in range(2 * slots + 1)]
    assert [(item["address"] - ring.base) // 128 for item in ring.fetches.items] == [
        n % slots for n in range(2 * slots + 1)]
    assert [item["slot"] for item in ring.jobs["segment_job"].items] == [
        n % slots for n in range(2 * slots + 1)]
    assert sum(ring.completed) == 2 * slots + 1 and ring.head[-1] == 1


def test_sequencer_reaches_the_last_slot_of_the_largest_ring():
    ring = Ring([NARROW], size_log2=15, tail=(1 << 15) | 1, base=(1 << 64) - 128)
    ring.run(20)
    assert ring.fetches.items == [
        {"address": (1 << 64) - 128, "beats": 16, "position": 0, "end": 0}]


def test_sequencer_does_nothing_with_a_ring_of_one_slot():
    """Head and tail cannot differ."""
    ring = Ring([NARROW], size_log2=0, tail=1).run(30)
    assert not ring.fetches.items and not ring.busy[-1]


def test_sequencer_reports_a_bad_one_after_those_before():
    ring = Ring([NARROW, NARROW | {"dim": 0}, NARROW]).pulse(150, "written", "gathered")
    ring.run(250)
    assert ring.records == [(ErrorCode.DESCRIPTOR, 1, 4, 0, 16)]
    at = ring._error[0].index(1)
    assert at > 150 and ring.started == 1 and ring.head[-1] == 1


def test_sequencer_reports_a_missed_fetch_after_those_before():
    ring = Ring([NARROW, NARROW], missed=(1,)).pulse(150, "written", "gathered").run(250)
    assert ring.records == [
        (ErrorCode.WINDOW_READ, 1, 1, ring.base + 128, Reader.DESCRIPTOR)]
    assert ring._error[0].index(1) > 150 and ring.started == 1


@pytest.mark.parametrize("beat", [0, 3, 15])
def test_sequencer_reports_a_bad_response_after_those_before(beat):
    """Even where what came is a good descriptor."""
    ring = Ring([NARROW, NARROW], bad=(1, beat, 2)).pulse(150, "written", "gathered").run(250)
    assert ring.records == [(ErrorCode.READ_RESPONSE, 1, beat, 2, Reader.DESCRIPTOR)]
    assert ring._error[0].index(1) > 150 and ring.started == 1


def test_sequencer_halts():
    """Nothing starts and nothing completes."""
    ring = Ring([NARROW] * 3).hold(100, halt=1).pulse(120, "written", "gathered").run(200)
    assert ring.started == 1 and not any(ring.completed) and ring.head[-1] == 0


def test_sequencer_stops_fetching_when_disabled():
    ring = Ring([NARROW | {"relaxed": 1}] * 3).hold(5, enable=0).run(100)
    assert ring.started == len(ring.fetches.items) == 2


def test_sequencer_forgets_all_in_a_reset():
    ring = Ring([NARROW | {"relaxed": 1}] * 3).pulse(60, "written", "gathered")
    ring.bench.reset_once(150)
    ring.hold(150, enable=0).run(200)
    assert ring.head[149] == 1 and ring.head[-1] == 0
    assert ring.busy[149] and not ring.busy[-1]


def test_sequencer_starts_seven_cycles_after_the_last_beat():
    ring = Ring([NARROW])
    valid = ring.bench.watch(ring.bench.dut.fetched.valid)
    ring.run(60)
    last = max(cycle for cycle, high in enumerate(valid) if high)
    assert ring.jobs["update_job"].cycles[0] - last == 7
