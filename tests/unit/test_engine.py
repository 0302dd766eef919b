"""The engine against golden: every primitive, every error, resets, counters."""

from dataclasses import replace

import numpy as np
import pytest
from engine_bench import EngineBench, Table, job, special_rows
from stream_bench import SMALL

from tcast import golden
from tcast.hw.engine import Engine
from tcast.hw.registers import ErrorCode, Reader

MEMORIES = {
    "slow": {"latency": 70},
    "mixed": {"latency": 30, "stall": 0.2, "reorder": True},
}


def workload(rng, *, n_rows=30, lengths=(3, 0, 1, 9, 0, 2, 17), dtype=np.int64):
    """Return indices and offsets of bags of the given lengths, with repeated rows."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)
    return rng.integers(0, n_rows, int(offsets[-1])).astype(dtype), offsets


@pytest.mark.parametrize("memory", MEMORIES)
def test_all_primitives(memory):
    """Design §2's table in one ring: each primitive sees what those before it wrote."""
    bench = EngineBench(SMALL, 1, **MEMORIES[memory])
    rng = bench.rng
    n_rows, dim = 30, 6
    indices, offsets = workload(rng, dtype=np.int32 if memory == "slow" else np.int64)
    cast = golden.cast(indices, offsets, n_rows)
    n, n_bags, n_unique = len(indices), len(offsets) - 1, len(cast.rows)
    weight = special_rows(rng, n_rows, dim)
    grad = special_rows(rng, n_bags, dim)

    def blank(rows):
        return Table(bench, np.zeros((rows, dim)), gap=int(rng.integers(0, 3)),
                     skip=int(rng.integers(0, 512)))
    table, grad_out = Table(bench, weight, gap=1, skip=509), Table(bench, grad, skip=3)
    twin = Table(bench, weight, gap=2)
    out, rows_out, expanded, coalesced, casted, scattered = map(
        blank, (n_bags, n, n, n_unique, n_unique, n_rows))
    narrow = {name: np.asarray(value).astype(np.int32) for name, value in (
        ("bags", cast.bags), ("offsets", cast.segment_offsets), ("rows", cast.rows))}
    order = np.argsort(indices, kind="stable")
    jobs = [
        job(bench, table, out, index=indices, offsets=offsets),                     # forward
        job(bench, table, rows_out, index=indices),                                 # unpooled
        job(bench, grad_out, expanded, index=golden.bag_ids(offsets)),              # expand
        job(bench, expanded, coalesced, index=order, offsets=narrow["offsets"]),    # coalesce
        job(bench, grad_out, casted, index=narrow["bags"], offsets=cast.segment_offsets),
        job(bench, coalesced, scattered, targets=narrow["rows"]),                   # plain scatter
        job(bench, coalesced, twin, targets=cast.rows, sgd=0.1),                    # scatter update
        job(bench, grad_out, table, index=cast.bags, offsets=narrow["offsets"],
            targets=narrow["rows"], sgd=0.1),                                       # fused backward
    ]
    bench.check(jobs, size_log2=4)

    optimizer = golden.SGD(0.1)
    gradients = golden.casted_gather_reduce(grad, cast)
    updated = weight.copy()
    golden.backward_update(updated, grad, cast, optimizer)
    expected = np.zeros((n_rows, dim), np.float32)
    golden.scatter(expected, cast.rows, gradients)
    for result, wanted in (
            (out, golden.embedding_bag(weight, indices, offsets)),
            (rows_out, weight[indices]),
            (expanded, golden.expand(grad, offsets)),
            (coalesced, gradients), (casted, gradients), (scattered, expected),
            (twin, updated), (table, updated)):
        assert golden.bits_equal(result.now(), wanted)


def random_job(bench, rng, **fields):
    """Return a valid descriptor of random sizes and kinds, on tables of its own."""
    lanes = bench.config.derived.lanes
    dim = lanes * int(rng.integers(1, bench.config.derived.row_beats_max + 1))
    n_rows = int(rng.integers(1, 30))
    lengths = rng.choice([0, 1, 2, 7, 8, 9, 15, 16, 17], int(rng.integers(0, 7)))
    kinds = [np.int32, np.int64]
    indices, offsets = workload(rng, n_rows=n_rows, lengths=lengths, dtype=kinds[rng.integers(2)])
    unused = rng.integers(0, n_rows, int(rng.choice([0, 0, 5, 40]))).astype(indices.dtype)
    segments = len(lengths)
    n_targets = segments + int(rng.integers(1, 9))
    targets = np.sort(rng.choice(n_targets, segments, replace=False)).astype(kinds[rng.integers(2)])
    source = Table(bench, special_rows(rng, n_rows, dim), gap=int(rng.integers(0, 3)),
                   skip=int(rng.integers(0, 4096 // bench.config.derived.beat_bytes)))
    target = Table(bench, special_rows(rng, n_targets, dim), gap=int(rng.integers(0, 3)),
                   skip=int(rng.integers(0, 4096 // bench.config.derived.beat_bytes)))
    index = np.concatenate([indices, unused])
    sgd = float(rng.random()) if rng.random() < 0.5 else None
    return job(bench, source, target, index=index, offsets=offsets,
               targets=targets if rng.random() < 0.7 else None, sgd=sgd,
               weights=special_rows(rng, len(index), 1) if rng.random() < 0.5 else None,
               scales=special_rows(rng, segments, 1) if sgd is None and rng.random() < 0.5
               else None,
               skip=int(rng.integers(0, 5)), interrupt=int(rng.random() < 0.5), **fields)


@pytest.mark.parametrize("seed", range(3))
def test_random_rings(seed):
    """Kinds, sinks, row sizes and overlap change from descriptor to descriptor."""
    bench = EngineBench(SMALL, seed, **list(MEMORIES.values())[seed % 2])
    bench.check([random_job(bench, bench.rng, relaxed=int(bench.rng.random() < 0.6))
                 for _ in range(4)])


@pytest.mark.parametrize("config", [
    replace(SMALL, name="wide", data_width=128),
    replace(SMALL, name="long_rows", dim_max=32, add_stages=2),
    replace(SMALL, name="deep", dim_max=4, add_stages=6, mul_stages=7),
], ids=lambda config: config.name)
def test_configurations(config):
    bench = EngineBench(config, 7, latency=12, stall=0.1)
    bench.check([random_job(bench, bench.rng)])


def small_case(bench, *, n=6, dim=4, n_rows=9, **changes):
    """Return a forward pass over ``n`` bags of two, as keyword arguments, and its two tables."""
    source = Table(bench, special_rows(bench.rng, n_rows, dim))
    target = Table(bench, np.zeros((n, dim)))
    arrays = {"index": bench.rng.integers(0, n_rows, 2 * n).astype(np.int32),
              "offsets": np.arange(0, 2 * n + 1, 2, dtype=np.int32),
              "targets": np.arange(n, dtype=np.int32)}
    return source, target, arrays | changes


@pytest.mark.parametrize("case", ["no bags", "no lookups", "empty bags", "unused", "none at all",
                                  "one row"])
def test_degenerate_passes(case):
    bench = EngineBench(SMALL, 3)
    source, target, arrays = small_case(bench)
    jobs = {
        "no bags": {"offsets": np.zeros(1, np.int64), "targets": None},
        "no lookups": {"index": np.zeros(0, np.int32), "offsets": np.zeros(7, np.int32)},
        "empty bags": {"offsets": np.zeros(7, np.int32)},
        "unused": {"offsets": np.array([0, 1, 1, 3, 3, 3, 4], np.int64)},
        "none at all": {"index": np.zeros(0, np.int64), "offsets": None, "targets": None},
        "one row": {"index": np.array([8]), "offsets": None, "targets": np.array([5])},
    }
    bench.check([job(bench, source, target, **arrays | jobs[case])] * 2)


def test_unused_lookups_do_not_lose_descriptors():
    """A descriptor completes when its indices are used up, not when its writes are answered: job
    queues would run over."""
    bench = EngineBench(SMALL, limit=6000)
    source, target, arrays = small_case(bench)
    idle = arrays | {"index": np.zeros(60, np.int32), "offsets": np.zeros(1, np.int32),
                     "targets": None}
    bench.check([*[job(bench, source, target, **idle) for _ in range(7)],
                 job(bench, source, target, **arrays)], size_log2=4)


def test_every_element_skip_and_page_end():
    """Arrays that end in their first beat, and that cross 4 KiB."""
    bench = EngineBench(replace(SMALL, data_width=128), 5)
    jobs = []
    for skip in (0, 1, 3, 1023, 1022):
        source, target, arrays = small_case(bench, n=1)
        arrays["offsets"][1] = len(arrays["index"]) - 1
        jobs.append(job(bench, source, target, **arrays, skip=skip, relaxed=1))
    bench.check(jobs)


# Errors: golden machine has the record.

BAD_ARRAYS = {
    ErrorCode.INDEX_RANGE: ("index", 5, [9, -1, -(1 << 31), (1 << 31) - 1]),
    ErrorCode.TARGET_RANGE: ("targets", 5, [6, -1]),
    ErrorCode.OFFSET_FIRST: ("offsets", 0, [1, -1]),
    ErrorCode.OFFSET_ORDER: ("offsets", 4, [5, -1]),
    ErrorCode.OFFSET_RANGE: ("offsets", 6, [13, (1 << 31) - 1]),
}


@pytest.mark.parametrize(("name", "at", "value", "wide"), [
    (name, at, value, wide) for name, at, values in BAD_ARRAYS.values()
    for n, value in enumerate(values) for wide in (False, True) if n or not wide])
def test_bad_element(name, at, value, wide):
    """The record is golden's, and no request goes outside the tables."""
    bench = EngineBench(SMALL, 2)
    source, target, arrays = small_case(bench)
    if wide:
        arrays = {key: array.astype(np.int64) for key, array in arrays.items()}
        value <<= 20 if abs(value) > 99 else 0
    arrays[name][at] = value
    bench.check([job(bench, source, target, **arrays)])
    for burst in bench.reads:
        if burst.reader == Reader.ROW:
            assert source.base <= burst.address < source.base + source.stride * len(source.rows)
    for burst in bench.writes:
        assert target.base <= burst.address < target.base + target.stride * len(target.rows)


@pytest.mark.parametrize("value", [3, 2, 0])
def test_bad_target_order(value):
    bench = EngineBench(SMALL, 2)
    source, target, arrays = small_case(bench)
    arrays["targets"][4] = value
    bench.check([job(bench, source, target, **arrays, sgd=0.5)])


def test_repeated_targets_keep_the_last_row():
    bench = EngineBench(SMALL, 2)
    source, target, arrays = small_case(bench)
    arrays["targets"][:] = [2, 2, 0, 2, 5, 2]
    bench.check([job(bench, source, target, **arrays)])


def test_bad_descriptor_behind_a_good_one():
    """The good one completes first; the record has the ring slot."""
    bench = EngineBench(SMALL, 2)
    source, target, arrays = small_case(bench)
    good = job(bench, source, target, **arrays)
    bench.check([good, good | {"dim": 3}, good])


@pytest.mark.parametrize("closed", ["index", "offset", "target", "source", "old", "target row",
                                    "ring"])
def test_outside_windows(closed):
    """Everything is readable but one page; the record is golden's, and nothing touches the page."""
    bench = EngineBench(SMALL, 4)
    # Every array and table goes over a page end, behind which there is nothing else.
    source = Table(bench, special_rows(bench.rng, 9, 4), skip=500)
    target = Table(bench, np.zeros((9, 4)), skip=500)
    arrays = {"index": np.array([0, 1, 2, 3, 4, 5, 8, 1], np.int32),
              "offsets": np.arange(9, dtype=np.int32), "targets": np.arange(8, dtype=np.int32)}
    values = job(bench, source, target, **arrays, skip=1021)
    page = {"index": values["index_base"], "offset": values["offset_base"],
            "target": values["target_base"], "source": source.base, "old": target.base,
            "target row": target.base, "ring": bench.ring - 4096}[closed] // 4096 * 4096 + 4096
    access = 1 if closed == "target row" else 0
    values |= {"sink": int(closed == "old"), "lr": 0x3F000000}
    windows = [(0, page - 1, 3), (page, page + 4095, access), (page + 4096, (1 << 64) - 1, 3)]
    bench.check([values], windows=windows)


def test_fetch_outside_windows_lets_those_before_complete():
    """The ring goes over a page end, behind which nothing may be read."""
    bench = EngineBench(SMALL, 4)
    bench.ring = 0x40_0000_0000 + 4096 - 128
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays)
    behind = bench.ring + 128
    bench.check([values, values], windows=[(0, behind - 1, 3), (behind + 4096, (1 << 64) - 1, 3)])


@pytest.mark.parametrize("part", ["ring", "index", "offset", "target", "source", "old"])
@pytest.mark.parametrize("response", [2, 3])
def test_bad_read_response(part, response):
    """Position: beats that the reader had received; nothing completes; no write of bad data."""
    bench = EngineBench(SMALL, 6)
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays, sgd=0.5)
    address, reader = {
        "ring": (bench.ring + 72, Reader.DESCRIPTOR), "index": (values["index_base"], Reader.INDEX),
        "offset": (values["offset_base"] + 12, Reader.OFFSET),
        "target": (values["target_base"] + 4, Reader.TARGET),
        "source": (source.base + source.stride * int(arrays["index"][3]) + 8, Reader.ROW),
        "old": (target.base + 3 * target.stride + 8, Reader.OLD_ROW)}[part]
    address = address // 8 * 8
    bench.image.faults.append((address, address + 7, response, "r"))
    source_position = next(
        2 * n + 1 for n, index in enumerate(arrays["index"]) if index == arrays["index"][3])
    position = {"ring": 9, "index": 0, "offset": 2, "target": 1, "source": source_position,
                "old": 7}[part]

    async def script(ctx):
        await bench.start(ctx, [values])
        assert await bench.until_idle(ctx) == 2
        assert await bench.read_error(ctx) == (
            ErrorCode.READ_RESPONSE, 0, position, response, reader)
        assert await bench.read(ctx, "irq_status") == 2
        assert await bench.read(ctx, "ring_head") == 0
    bench.run(script)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_bad_write_response(at):
    """Even the last write's: the descriptor has not completed."""
    bench = EngineBench(SMALL, 6)
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays)
    address = target.base + at * target.stride
    bench.image.faults.append((address, address + 7, 2, "w"))

    async def script(ctx):
        await bench.start(ctx, [values])
        assert await bench.until_idle(ctx) == 2
        assert await bench.read_error(ctx) == (ErrorCode.WRITE_RESPONSE, 0, at, 2, 0)
        assert await bench.read(ctx, "irq_status") == 2
        assert await bench.read(ctx, "ring_head") == 0
        assert await bench.read_pair(ctx, "counter_descriptors") == 0
        cycles = await bench.read_pair(ctx, "counter_cycles")
        assert await bench.read_pair(ctx, "counter_cycles") == cycles  # stopped
    bench.run(script)


def test_soft_reset_leaves_every_error_behind():
    """One error after the other on the same engine, and a good pass at the end."""
    bench = EngineBench(SMALL, 8, latency=9, stall=0.2)
    source, target, arrays = small_case(bench)
    good = job(bench, source, target, **arrays)
    broken = {key: array.copy() for key, array in arrays.items()}
    broken["index"][3] = 99
    broken["offsets"][2] = 1
    jobs = [good | {"dim": 0},
            job(bench, source, target, **arrays | {"index": broken["index"]}),
            job(bench, source, target, **arrays | {"offsets": broken["offsets"]}),
            good | {"dst_rows": 4}, good | {"dst_base": 0x7777_0000_0000}]
    codes = [ErrorCode.DESCRIPTOR, ErrorCode.INDEX_RANGE, ErrorCode.OFFSET_ORDER,
             ErrorCode.TARGET_RANGE, ErrorCode.WRITE_RESPONSE]

    async def script(ctx):
        for values, code in zip(jobs, codes, strict=True):
            await bench.start(ctx, [good | {"relaxed": 1}, values])
            assert await bench.until_idle(ctx) == 2
            assert await bench.read(ctx, "error_code") == code
            await bench.soft_reset(ctx)
            assert await bench.read_error(ctx) == (0, 0, 0, 0, 0)
            assert await bench.read(ctx, "ring_head") == await bench.read(ctx, "ring_tail") == 0
            await bench.write(ctx, "irq_status", 3)
            bench.image.put(target.base, np.zeros((6, 4), np.float32))
        await bench.start(ctx, [good])
        assert await bench.until_idle(ctx) == 0
        assert golden.bits_equal(target.now(), golden.embedding_bag(
            source.rows, arrays["index"], arrays["offsets"]))
    bench.run(script)


def test_soft_reset_at_any_time():
    """Every transfer in flight ends, whole; the next pass finds nothing of the one before."""
    bench = EngineBench(SMALL, 9, latency=15, stall=0.3)
    source, target, arrays = small_case(bench, n=9, dim=16)
    values = job(bench, source, target, **arrays)
    expected = golden.embedding_bag(source.rows, arrays["index"], arrays["offsets"])

    async def script(ctx):
        for wait in (0, 17, 29, 41, 66, 133, 200):
            await bench.start(ctx, [values])
            for _ in range(wait):
                await ctx.tick()
            await bench.soft_reset(ctx)
            assert bench.unanswered == 0 and bench.unread == 0
            assert await bench.read(ctx, "error_code") == 0
        bench.image.put(target.base, np.zeros((9, 16), np.float32))
        await bench.start(ctx, [values])
        assert await bench.until_idle(ctx) == 0
        assert golden.bits_equal(target.now(), expected)
    bench.run(script)


def test_soft_reset_waits_for_the_memory():
    """`resetting` stays while reads and writes are unanswered."""
    bench = EngineBench(SMALL, 10)
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays)

    async def script(ctx):
        for held in ("hold_writes", "hold_reads"):
            setattr(bench, held, {Reader.ROW} if held == "hold_reads" else True)
            await bench.start(ctx, [values])
            for _ in range(150):
                await ctx.tick()
            await bench.write(ctx, "control", 2)
            for _ in range(20):
                assert await bench.read(ctx, "status") == 5
            setattr(bench, held, False)
            await bench.until(ctx, "status", lambda value: value == 0)
    bench.run(script)


def test_interrupts():
    """One for each descriptor that asks; masked and cleared as the map says."""
    bench = EngineBench(SMALL, 11)
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays)

    async def script(ctx):
        await bench.start(ctx, [values | {"interrupt": 0}, values])
        await bench.until(ctx, "ring_head", lambda head: head == 1)
        assert not ctx.get(bench.dut.irq)
        await bench.until_idle(ctx)
        assert ctx.get(bench.dut.irq) and await bench.read(ctx, "irq_status") == 1
        await bench.write(ctx, "irq_enable", 2)
        await ctx.tick()
        assert not ctx.get(bench.dut.irq)
        await bench.write(ctx, "irq_status", 1)
        assert await bench.read(ctx, "irq_status") == 0
    bench.run(script)


# Counters: `check` has compared each with the bus, and the causes with `cycles`.

def counters_of(**memory):
    bench = EngineBench(SMALL, 12, **{"latency": 10} | memory)
    source, target, arrays = small_case(bench)
    return bench.check([job(bench, source, target, **arrays)])


def test_counters_count_what_was_done():
    counters = counters_of()
    assert {name: counters[name] for name in (
        "row_beats", "rows", "segments", "w_beats", "write_bursts", "descriptors",
        "read_useful", "r_beats", "w_stall")} == {
        "row_beats": 24, "rows": 12, "segments": 6, "w_beats": 12, "write_bursts": 6,
        "descriptors": 1,
        # 16 of the descriptor; 7 offsets, 12 indices, 6 targets, each one behind a beat's start.
        "read_useful": 24 + 16 + 4 + 7 + 4, "r_beats": 24 + 16 + 4 + 7 + 4, "w_stall": 0}


def test_counter_read_memory_counts_the_latency():
    short, long = counters_of(latency=10), counters_of(latency=110)
    # Descriptor, then arrays, then rows: three times the latency. Six writes, of which four may be
    # unanswered: twice the latency is `read_drain`.
    assert long["read_memory"] - short["read_memory"] == 300
    assert long["read_drain"] - short["read_drain"] == 200
    assert long["cycles"] - short["cycles"] == 500


def test_counter_read_address_counts_what_nobody_accepts():
    counters = counters_of()
    stalled = counters_of(stall=0.8)
    assert stalled["read_address"] > counters["read_address"]
    assert stalled["w_stall"] > 0


def test_counter_read_credit_counts_a_blocked_writer():
    """Nothing is answered for long: the buffers fill up, and the rows wait for room."""
    bench = EngineBench(SMALL, 13)
    source, target, arrays = small_case(bench, n=40, dim=16)
    arrays["index"], arrays["offsets"] = arrays["index"][:40], np.arange(41)
    values = job(bench, source, target, **arrays)

    async def script(ctx):
        bench.hold_writes = True
        await bench.start(ctx, [values])
        for _ in range(600):
            await ctx.tick()
        before = await bench.read_counters(ctx)
        for _ in range(100):
            await ctx.tick()
        after = await bench.read_counters(ctx)
        assert after["read_credit"] - before["read_credit"] >= 100
        assert bench.unanswered == SMALL.writes_outstanding
        bench.hold_writes = False
        await bench.until_idle(ctx)
    bench.run(script)
    assert golden.bits_equal(target.now(), golden.embedding_bag(
        source.rows, arrays["index"], arrays["offsets"]))


def test_counters_clear():
    bench = EngineBench(SMALL, 14)
    source, target, arrays = small_case(bench)
    values = job(bench, source, target, **arrays)

    async def script(ctx):
        await bench.start(ctx, [values])
        await bench.until_idle(ctx)
        counters = await bench.read_counters(ctx)
        assert counters["cycles"] and counters["rows"] and counters["r_beats"]
        await bench.write(ctx, "control", 4 | 1)
        assert not any((await bench.read_counters(ctx)).values())
    bench.run(script)


@pytest.mark.parametrize(("dim", "length"), [(16, 8), (2, 1), (4, 3)])
def test_read_channel_moves_a_beat_per_cycle(dim, length):
    """Once rows arrive no cycle is lost, at a latency that the buffers cover."""
    config = replace(SMALL, writes_outstanding=64, array_buffer_beats=64)
    bench = EngineBench(config, 15, latency=24)
    n = 320 // (dim // 2 * length)
    source = Table(bench, special_rows(bench.rng, 50, dim))
    target = Table(bench, np.zeros((n, dim)))
    values = job(bench, source, target, offsets=np.arange(n + 1) * length,
                 index=bench.rng.integers(0, 50, n * length).astype(np.int32))
    counters = bench.check([values])
    idle = counters["cycles"] - counters["read_useful"]
    lost = idle - counters["read_drain"] - 3 * 24  # descriptor, arrays, first row
    assert lost <= 30, counters


def test_engine_wants_a_configuration():
    with pytest.raises(TypeError, match="config must be an EngineConfig, not 'ddr512'"):
        Engine("ddr512")


def test_ring_of_raw_bytes_of_ones_is_refused():
    bench = EngineBench(SMALL, 16)
    bench.check([b"\xff" * 128])
