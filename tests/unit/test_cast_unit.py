"""CastUnit: golden's casting, bit for bit, in memory; errors before any result; windows; cycles."""

from dataclasses import replace

import numpy as np
import pytest
from cast_bench import CastBench
from stream_bench import SMALL

from tcast.hw.descriptor import CAST_LOOKUPS_MAX
from tcast.hw.registers import CastReader, ErrorCode

UNIT = replace(SMALL, cast_port=1)
CONFIGS = {
    "64 bits": UNIT,
    "128 bits, pairs by two": replace(
        UNIT, data_width=128, cast_pairs=2, cast_digit_bits=5, cast_buffer_pairs=128),
    "512 bits, nothing on the chip": replace(
        UNIT, data_width=512, dim_max=64, cast_pairs=2, cast_buffer_pairs=0, cast_digit_bits=6),
    "1024 bits": replace(UNIT, data_width=1024, dim_max=64, cast_pairs=2, cast_digit_bits=8,
                         cast_buffer_pairs=64, burst_beats_max=4),
}


def batch(seed, n, n_bags, num_rows, index_type=np.int32, offset_type=np.int32, skew=1):
    """Return (indices, offsets): rows by a power of uniform numbers, bags cut at random places."""
    rng = np.random.default_rng(seed)
    indices = (num_rows * rng.random(n) ** skew).astype(index_type)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, n + 1, n_bags - 1)), [n]])
    return indices, offsets.astype(offset_type)


@pytest.mark.parametrize("n, n_bags, num_rows, options", [
    (0, 3, 7, {}),
    (0, 3, 300, {}),                                       # in more than one pass
    (1, 1, 1, {}),
    (40, 7, 2, {}),
    (63, 90, 33, {}),                                      # empty bags
    (64, 5, 300, {"index_type": np.int64}),
    (65, 5, 300, {"offset_type": np.int64}),
    (200, 17, 1 << 31, {"row_kind": np.int64, "skew": 4}),
    (129, 129, 1 << 31, {}),
    (257, 1, 40, {"skew": 3}),
], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_casting_is_goldens(name, n, n_bags, num_rows, options):
    if num_rows == 1 << 31 and "512" in name:
        num_rows = 1 << 17      # as many passes, in less time
    options = dict(options)
    row_kind = options.pop("row_kind", np.int32)
    bench = CastBench(CONFIGS[name], seed=n)
    case = bench.case(*batch(n, n, n_bags, num_rows, **options), num_rows, row_kind=row_kind)
    assert bench.cast([case]) is None


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_memory_does(seed):
    bench = CastBench(UNIT, seed=seed, latency=3 + 20 * seed, stall=0.3, reorder=True)
    cases = [bench.case(*batch(seed + n, n, 5, 500), 500) for n in (30, 100, 0, 70)]
    assert bench.cast(cases) is None


def test_each_lookup_its_own_bag_gives_the_permutation():
    bench = CastBench(UNIT)
    indices, _ = batch(5, 90, 1, 30)
    values, results = bench.case(indices, None, 30)
    assert bench.cast([(values, results)]) is None
    found = np.frombuffer(results[values["bags_base"]], np.int32)
    assert np.array_equal(found, np.argsort(indices, kind="stable"))


@pytest.mark.parametrize("rows", [np.zeros(150), np.arange(150), np.arange(150)[::-1],
                                  np.arange(150) % 2, np.arange(150) * 16 % 401],
                         ids=["all equal", "all distinct", "falling", "by turns", "one digit"])
def test_shapes_of_lists(rows):
    bench = CastBench(UNIT)
    indices = rows.astype(np.int32)
    assert bench.cast([bench.case(indices, np.array([0, 70, 70, 150], np.int32), 401)]) is None


def _bad(name, value, limit, **fields):
    return pytest.param(name, value, limit, fields, id=f"{name} {value:#x}")


@pytest.mark.parametrize("name, value, limit, fields", [
    _bad("index_kind", 0, 2), _bad("index_kind", 3, 2), _bad("offset_kind", 3, 2),
    _bad("row_kind", 0, 2),
    _bad("n_lookups", CAST_LOOKUPS_MAX + 1, CAST_LOOKUPS_MAX),
    _bad("n_bags", 4, 70, offset_kind=0),
    _bad("num_rows", 0, 0), _bad("num_rows", (1 << 31) + 1, 1 << 31),
    _bad("scratch_bytes", 1151, 1152),
    _bad("index_base", 0x1002, 0), _bad("index_base", 0x1004, 0, index_kind=2),
    _bad("offset_base", 0x1001, 0), _bad("scratch_base", 0x1008, 0),
    _bad("bags_base", 0x1004, 0), _bad("segments_base", 0x1004, 0),
    _bad("rows_base", 0x1004, 0), _bad("count_base", 0x1004, 0),
])
def test_a_bad_field_is_reported_and_nothing_done(name, value, limit, fields):
    bench = CastBench(UNIT)
    values, _ = bench.case(*batch(1, 70, 5, 50), 50)
    record = bench.cast([(values | {name: value} | fields, {})])
    code, byte = ErrorCode.DESCRIPTOR, {
        "index_kind": 0, "offset_kind": 0, "row_kind": 0, "n_lookups": 8, "n_bags": 12,
        "num_rows": 16, "scratch_bytes": 20, "index_base": 24, "offset_base": 32,
        "scratch_base": 40, "bags_base": 48, "segments_base": 56, "rows_base": 64,
        "count_base": 72}[name]
    assert record == {"code": code, "slot": 0, "position": byte, "value": value, "limit": limit}
    assert not bench.writes
    assert all(burst.reader == CastReader.DESCRIPTOR for burst in bench.reads)


@pytest.mark.parametrize("at, value", [(0, 50), (64, 50), (69, -1), (3, 1 << 40)])
@pytest.mark.parametrize("name", ["64 bits", "128 bits, pairs by two"])
def test_a_bad_index_stops_before_anything_is_written(name, at, value):
    bench = CastBench(CONFIGS[name])
    indices, offsets = batch(1, 70, 5, 50, np.int64)
    first = bench.case(*batch(2, 20, 2, 50), 50)
    values, _ = bench.case(indices, offsets, 50)
    indices[at] = value
    bench.image.put(values["index_base"], indices)
    record = bench.cast([first, (values, {})])
    assert record == {"code": ErrorCode.INDEX_RANGE, "slot": 1, "position": at,
                      "value": value % (1 << 64), "limit": 50}


@pytest.mark.parametrize("at, value, record", [
    (0, 1, (ErrorCode.OFFSET_FIRST, 0, 1, 0)),
    (3, 71, (ErrorCode.OFFSET_RANGE, 3, 71, 70)),
    (3, 0, (ErrorCode.OFFSET_ORDER, 3, 0, 40)),
    (5, 69, (ErrorCode.OFFSET_LAST, 5, 69, 70)),
])
def test_bad_offsets_stop_before_results_are_written(at, value, record):
    bench = CastBench(UNIT)
    indices, _ = batch(1, 70, 5, 50)
    offsets = np.array([0, 10, 40, 40, 60, 70], np.int32)
    values, _ = bench.case(indices, offsets, 50)
    offsets[at] = value
    bench.image.put(values["offset_base"], offsets)
    found = bench.cast([(values, {})])  # which looks at every byte but the scratch memory's
    assert found == dict(zip(("code", "position", "value", "limit"), record, strict=True)) | {
        "slot": 0}


@pytest.mark.parametrize("name, reader, write", [
    ("index_base", CastReader.INDEX, False), ("offset_base", CastReader.OFFSET, False),
    ("scratch_base", 0, True), ("bags_base", 0, True), ("segments_base", 0, True),
    ("rows_base", 0, True), ("count_base", 0, True)])
def test_nothing_is_touched_outside_the_windows(name, reader, write):
    bench = CastBench(UNIT)
    values, results = bench.case(*batch(1, 70, 5, 50), 50)
    outside = 0x99_0000_0000
    bench.image.reserve(outside, 4096)
    windows = [(0, outside - 1, 3)]
    record = bench.cast([(values | {name: outside}, results)], windows=windows)
    assert record["code"] == (ErrorCode.WINDOW_WRITE if write else ErrorCode.WINDOW_READ)
    assert record["limit"] == reader


@pytest.mark.parametrize("name, kind, code", [
    ("index_base", "r", ErrorCode.READ_RESPONSE), ("offset_base", "r", ErrorCode.READ_RESPONSE),
    ("scratch_base", "r", ErrorCode.READ_RESPONSE),
    ("scratch_base", "w", ErrorCode.WRITE_RESPONSE), ("rows_base", "w", ErrorCode.WRITE_RESPONSE)])
def test_a_bus_error_stops_the_unit(name, kind, code):
    bench = CastBench(UNIT)
    values, results = bench.case(*batch(1, 70, 5, 50), 50)
    bench.image.faults.append((values[name], values[name] + 8, 2, kind))
    record = bench.cast([(values, results)])
    assert (record["code"], record["value"]) == (code, 2)


def test_a_pass_reads_what_the_one_before_wrote_when_all_is_answered():
    bench = CastBench(replace(UNIT, writes_outstanding=64), latency=5)
    case = bench.case(*batch(1, 70, 5, 250), 250)
    written = []

    async def script(ctx):
        bench.hold_writes = True
        await bench.start(ctx, [case[0]])
        await ctx.tick().repeat(1500)
        written.append((bench.unanswered, [each.reader for each in bench.reads]))
        bench.hold_writes = False
        await ctx.tick().until(bench.dut.descriptor)
    bench.run(script)
    unanswered, readers = written[0]
    assert unanswered > 0 and CastReader.PAIR not in readers
    assert CastReader.PAIR in [each.reader for each in bench.reads]


def test_waits_for_the_other_unit():
    bench = CastBench(UNIT, latency=5)
    case = bench.case(*batch(1, 20, 5, 50), 50, waits=1, wait_count=2)
    seen = []

    async def script(ctx):
        # Modulo 2**32: what is behind is not ahead.
        for completed in (0, 1, 0x8000_0002 + 1):
            ctx.set(bench.dut.other_completed, completed)
            if not seen:
                await bench.start(ctx, [case[0]])
            await ctx.tick().repeat(200)
            seen.append({each.reader for each in bench.reads})
            assert ctx.get(bench.dut.busy)
        ctx.set(bench.dut.other_completed, 2)
        await ctx.tick().until(bench.dut.descriptor)
    bench.run(script)
    assert seen == [{CastReader.DESCRIPTOR}] * 3
    for address, data in case[1].items():
        assert bytes(bench.image.array(address, np.uint8, len(data))) == data


@pytest.mark.parametrize("after", [30, 150, 260, 420])
def test_halted_anywhere_it_comes_to_rest(after):
    """As before a soft reset: transfers under way end, nothing new starts, nothing completes."""
    bench = CastBench(UNIT, seed=after, stall=0.2)
    case = bench.case(*batch(1, 70, 5, 250), 250)

    async def script(ctx):
        await bench.start(ctx, [case[0]])
        await ctx.tick().repeat(after)
        ctx.set(bench.dut.halt, 1)
        idle = 0
        while idle < 50:
            _, _, now = await ctx.tick().sample(bench.dut.idle)
            idle = idle + 1 if now else 0
        assert bench.unanswered == bench.unread == 0
        assert ctx.get(bench.dut.count) == 0
    bench.run(script)
    again = CastBench(UNIT, seed=after)
    assert again.cast([again.case(*batch(1, 70, 5, 250), 250)]) is None


@pytest.mark.parametrize("name, n, cycles", [
    ("64 bits", 64, 487), ("64 bits", 300, 1693), ("128 bits, pairs by two", 300, 1424)])
def test_cycles(name, n, cycles):
    """A number that changes says that a phase has got longer: docs/cast.md tells them apart."""
    bench = CastBench(CONFIGS[name])
    indices, offsets = batch(1, n, 20, 200)
    assert bench.cast([bench.case(indices, offsets, 200, skip=0)]) is None
    assert bench.cycles[0] == cycles
