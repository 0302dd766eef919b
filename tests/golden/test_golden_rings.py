"""The functional model's two rings: casts, waits, counts from memory, and their errors."""

import numpy as np
import pytest
from test_golden_machine import Image, Rig, make

from tcast import golden
from tcast.golden.memory import SLVERR
from tcast.hw import descriptor as layout
from tcast.hw.config import EngineConfig
from tcast.hw.registers import CastReader, ErrorCode, Reader

I32, I64, U32 = np.int32, np.int64, np.uint32
KINDS = {np.dtype(I32): layout.ElementKind.INT32, np.dtype(I64): layout.ElementKind.INT64}
CONFIG = EngineConfig.preset("tiny64")  # stays on the chip up to 64 lookups, lines of 64 bytes
CAST_RING = 0x9000_0000


class Rings(Rig):
    """A machine with both rings of eight."""

    def __init__(self, config=CONFIG):
        super().__init__(config=config)
        self.rings = {"": self.ring, "cast_": np.zeros((8, layout.DESCRIPTOR_BYTES), np.uint8)}
        self.machine.map(CAST_RING, self.rings["cast_"])
        self.write_pair("cast_ring_base", CAST_RING)
        self.write("cast_ring_size_log2", 3)
        self.slots = {"": 0, "cast_": 0}
        self.image = Image(self.machine)
        self.write("irq_enable", 7)

    def hand(self, prefix, *descriptors):
        """Hand descriptors of one unit over."""
        ring = self.rings[prefix]
        fields = layout.CAST_FIELDS if prefix else layout.FIELDS
        for values in descriptors:
            ring[self.slots[prefix]] = np.frombuffer(layout.pack(values, fields), np.uint8)
            self.slots[prefix] = (self.slots[prefix] + 1) % len(ring)
        self.write(f"{prefix}ring_tail", self.slots[prefix])

    def space(self, n_bytes):
        """Map memory that holds guards, at a multiple of 64 bytes; return (address, array)."""
        array = np.full(max(n_bytes, 1) + 16, 0xAA, np.uint8)
        return self.image._place(array, 64), array

    def cast(self, indices, offsets, num_rows, row_kind=None, **changes):
        """Return (descriptor of a cast, its result arrays by name)."""
        n = len(indices)
        row_kind = np.dtype(row_kind or indices.dtype)
        needed = CONFIG.derived.cast_scratch_bytes(n)
        sizes = {"scratch_base": needed, "bags_base": 4 * n, "segments_base": 4 * n + 4,
                 "rows_base": row_kind.itemsize * n, "count_base": 4}
        places = {name: self.space(size) for name, size in sizes.items()}
        values = {
            "index_kind": KINDS[indices.dtype], "row_kind": KINDS[row_kind],
            "offset_kind": 0 if offsets is None else KINDS[offsets.dtype],
            "n_lookups": n, "n_bags": n if offsets is None else len(offsets) - 1,
            "num_rows": num_rows, "scratch_bytes": needed, "interrupt": 1,
            "index_base": self.image.array(indices),
            "offset_base": 0 if offsets is None else self.image.array(offsets),
        } | {name: address for name, (address, _) in places.items()} | changes
        return values, {name: array for name, (_, array) in places.items()}

    def error(self):
        """Return the error record: unit, code, slot, position, value, limit."""
        return (*(self.read(f"error_{name}") for name in ("unit", "code", "descriptor",
                                                          "position")),
                self.read_pair("error_value"), self.read_pair("error_limit"))


def batch(seed, n_bags=20, num_rows=30, index=I64, offset=I64):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    offsets = np.append(0, np.cumsum(rng.integers(0, 9, n_bags))).astype(offset)
    return rng.integers(0, num_rows, offsets[-1]).astype(index), offsets, num_rows


def results_of(casting, row_kind):
    return {"bags_base": casting.bags.astype(I32),
            "segments_base": casting.segment_offsets.astype(I32),
            "rows_base": casting.rows.astype(row_kind),
            "count_base": np.array([casting.n_segments], U32)}


def check_results(arrays, expected):
    for name, array in expected.items():
        assert arrays[name][:array.nbytes].tobytes() == array.tobytes(), name
        assert (arrays[name][array.nbytes:] == 0xAA).all(), name  # not a byte more
    assert (arrays["scratch_base"] == 0xAA).all()


@pytest.mark.parametrize("index, offset, rows", [
    (I32, I32, I32), (I64, I64, I64), (I32, I64, I64), (I64, I32, I32)])
@pytest.mark.parametrize("n_bags", [1, 7, 40])
def test_a_cast_is_goldens(index, offset, rows, n_bags):
    rig = Rings()
    indices, offsets, num_rows = batch(n_bags, n_bags, index=index, offset=offset)
    values, arrays = rig.cast(indices, offsets, num_rows, rows)
    rig.hand("cast_", values)
    casting = golden.cast(indices, offsets, num_rows)
    check_results(arrays, results_of(casting, rows))
    assert rig.read("cast_segments") == casting.n_segments
    assert rig.read("cast_completed") == rig.read("cast_ring_head") == 1
    assert rig.read("irq_status") == 4 and rig.machine.wait(0)
    assert rig.read_pair("counter_casts") == 1
    assert rig.read("completed") == rig.read("ring_head") == 0


def test_a_cast_without_bags_gives_the_positions():
    rig = Rings()
    indices, offsets, num_rows = batch(3)
    values, arrays = rig.cast(indices, None, num_rows)
    rig.hand("cast_", values)
    positions = golden.cast(indices, offsets, num_rows).positions
    assert arrays["bags_base"][:4 * len(indices)].tobytes() == positions.astype(I32).tobytes()


def test_a_cast_of_nothing():
    rig = Rings()
    values, arrays = rig.cast(np.zeros(0, I64), np.zeros(4, I64), 0)
    rig.hand("cast_", values | {"n_bags": 3, "index_base": 0})
    check_results(arrays, {"segments_base": np.zeros(1, I32), "count_base": np.zeros(1, U32),
                           "bags_base": np.zeros(0, I32), "rows_base": np.zeros(0, I64)})
    assert rig.read("cast_completed") == 1


# waiting


def step(rig, seed=5):
    """Return (cast, its arrays, forward, fused backward that waits for it), and what is expected.

    The expected: (pooled, its live rows), (updated, its live rows).
    """
    indices, offsets, num_rows = batch(seed, index=I32)
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((num_rows, 8)).astype(np.float32)
    grad_out = rng.standard_normal((len(offsets) - 1, 8)).astype(np.float32)
    cast, arrays = rig.cast(indices, offsets, num_rows)
    out = np.zeros_like(grad_out)
    forward, live_out, _ = make(rig.image, weight, out, indices=indices, offsets=offsets,
                                interrupt=1)
    backward, live, _ = make(
        rig.image, grad_out, weight, lr=0.5, n_lookups=len(indices), interrupt=1,
        index_kind=1, index_base=cast["bags_base"], segment_kind=1,
        offset_base=cast["segments_base"], n_segments=len(indices), target_kind=1,
        target_base=cast["rows_base"], waits=1, wait_count=1, counted=1,
        count_base=cast["count_base"])
    casting = golden.cast(indices, offsets, num_rows)
    updated = weight.copy()
    golden.backward_update(updated, grad_out, casting, golden.SGD(0.5))
    pooled = golden.embedding_bag(weight, indices, offsets)
    return cast, arrays, forward, backward, (pooled, live_out), (updated, live)


@pytest.mark.parametrize("cast_first", [True, False])
def test_the_backward_waits_for_its_cast(cast_first):
    rig = Rings()
    cast, _, forward, backward, pooled, updated = step(rig)
    if cast_first:
        rig.hand("cast_", cast)
        assert rig.read("status") == 0
    rig.hand("", forward, backward)
    if not cast_first:
        assert golden.bits_equal(*pooled) and not golden.bits_equal(*updated)
        assert rig.read("status") == 1 and rig.read("ring_head") == 1  # busy, no error
        rig.hand("cast_", cast)
    assert golden.bits_equal(*pooled) and golden.bits_equal(*updated)
    assert rig.read("status") == 0
    assert (rig.read("completed"), rig.read("cast_completed")) == (2, 1)
    assert rig.read("irq_status") == 5


def test_a_cast_waits_for_the_other_unit():
    rig = Rings()
    cast, arrays, forward, *_ = step(rig)
    rig.hand("cast_", cast | {"waits": 1, "wait_count": 1})
    assert (arrays["count_base"] == 0xAA).all() and rig.read("status") == 1
    rig.hand("", forward)
    assert not (arrays["count_base"] == 0xAA).all() and rig.read("status") == 0


def test_a_wait_for_what_never_comes_stays_busy():
    rig = Rings()
    _, _, forward, backward, *_ = step(rig)
    rig.hand("", backward)
    rig.write("control", 0)
    assert rig.read("status") == 1 and not rig.machine.wait(0)
    rig.write("control", 2)  # a soft reset ends it
    assert rig.read("status") == 0
    rig.write("control", 1)
    rig.slots[""] = 0
    rig.hand("", forward)
    assert rig.read("ring_head") == 1


@pytest.mark.parametrize("completed, wanted, goes", [
    (0, 0, True), (5, 5, True), (5, 6, False), (5, 4, True), (0, 2**32 - 1, True),
    (2**32 - 1, 0, False), (100, 100 + 2**31, False), (100, 101 + 2**31, True),
    (2**32 - 2, 2**32 - 2, True)])
def test_counts_are_compared_modulo_their_width(completed, wanted, goes):
    rig = Rings()
    _, _, _, backward, *_ = step(rig)
    rig.machine._values["cast_completed"] = completed
    rig.hand("", backward | {"wait_count": wanted, "counted": 0, "n_lookups": 0, "n_segments": 0,
                             "segment_kind": 0})
    assert rig.read("completed") == goes and rig.read("status") == (not goes)


def test_completed_wraps():
    rig = Rings()
    cast, _, forward, *_ = step(rig)
    rig.machine._values["cast_completed"] = rig.machine._values["completed"] = 2**32 - 1
    rig.hand("cast_", cast)
    rig.hand("", forward)
    assert rig.read("cast_completed") == rig.read("completed") == 0


def test_soft_reset_clears_both_rings_and_counts():
    rig = Rings()
    cast, _, forward, *_ = step(rig)
    rig.hand("cast_", cast, cast)
    rig.hand("", forward)
    rig.write("control", 2)
    for name in ("ring_head", "ring_tail", "completed", "cast_ring_head", "cast_ring_tail",
                 "cast_completed", "cast_segments", "error_unit"):
        assert rig.read(name) == 0, name
    assert rig.read_pair("cast_ring_base") == CAST_RING


def test_an_engine_without_the_unit_leaves_its_ring_alone():
    rig = Rings(EngineConfig.preset("tiny64", cast_port=0))
    assert not rig.read("feature") & 16 and Rings().read("feature") & 16
    cast, _, _, backward, *_ = step(rig)
    rig.hand("cast_", cast)
    assert rig.read("cast_ring_head") == rig.read("status") == 0
    rig.hand("", backward)
    assert rig.error() == (0, ErrorCode.DESCRIPTOR, 0, 0x02, 1, 0)


# a number of segments that stands in memory


def test_a_number_of_segments_above_the_field():
    rig = Rings()
    cast, arrays, _, backward, *_ = step(rig)
    rig.hand("cast_", cast)
    found = int(arrays["count_base"][:4].view(U32)[0])
    rig.hand("", backward | {"n_segments": found}, backward | {"n_segments": found - 1})
    assert rig.error() == (0, ErrorCode.SEGMENT_COUNT, 1, 0, found, found - 1)
    assert rig.read("ring_head") == 1


def test_a_number_of_segments_of_32_bits():
    rig = Rings()
    cast, arrays, _, backward, *_ = step(rig)
    rig.hand("cast_", cast)
    arrays["count_base"][:4] = 0xFF
    rig.hand("", backward)
    assert rig.error()[4] == 2**32 - 1


@pytest.mark.parametrize("changes, error", [
    ({"count_base": 0x66_0004}, (ErrorCode.READ_RESPONSE, 0, 0, 3, Reader.COUNT)),
    ({"count_base": 2}, (ErrorCode.DESCRIPTOR, 0, 0x60, 2, 0)),
    ({"segment_kind": 0}, (ErrorCode.DESCRIPTOR, 0, 0x02, 1, 0)),
])
def test_a_number_of_segments_that_cannot_be_read(changes, error):
    rig = Rings()
    _, _, _, backward, *_ = step(rig)
    rig.hand("", backward | {"waits": 0} | changes)
    assert rig.error() == (0, *error)


def test_a_number_of_segments_outside_the_windows():
    rig = Rings()
    _, _, _, backward, *_ = step(rig)
    rig.write_pair("window0_limit", 0x10_0000_0000)
    rig.hand("", backward | {"waits": 0, "count_base": 0x20_0000_0004})
    assert rig.error() == (0, ErrorCode.WINDOW_READ, 0, 0, 0x20_0000_0000, Reader.COUNT)


# errors of casts


@pytest.mark.parametrize("field, value, limit", [
    ("index_kind", 0, 2), ("index_kind", 3, 2), ("offset_kind", 3, 2), ("row_kind", 0, 2),
    ("row_kind", 3, 2), ("n_lookups", 2**24 + 1, 2**24), ("num_rows", 0, 0),
    ("num_rows", 2**31 + 1, 2**31), ("index_base", 0x7004, 0), ("offset_base", 0x7002, 0),
    ("bags_base", 0x7004, 0), ("segments_base", 0x7004, 0), ("rows_base", 0x7004, 0),
    ("count_base", 0x7004, 0)])
@pytest.mark.parametrize("waits", [0, 1])
def test_cast_field_is_refused(field, value, limit, waits):
    rig = Rings()
    indices, offsets, num_rows = batch(1, index=I64, offset=I32)
    values, arrays = rig.cast(indices, offsets, num_rows, I32)
    good, _ = rig.cast(indices, offsets, num_rows)
    rig.hand("cast_", good)
    rig.hand("cast_", values | {field: value, "waits": waits, "wait_count": 9})
    byte = next(item.lsb for item in layout.CAST_FIELDS if item.name == field) // 8
    assert rig.error() == (1, ErrorCode.DESCRIPTOR, 1, byte, value, limit)
    assert rig.read("status") == 2 and rig.read("irq_status") == 6
    assert rig.read("cast_ring_head") == 1 and (arrays["count_base"] == 0xAA).all()


def test_rows_of_64_bits_may_be_above_2_31():
    rig = Rings()
    indices = np.array([2**32 - 2, 2**31, 5, 2**31])
    values, arrays = rig.cast(indices, None, 2**32 - 1)
    rig.hand("cast_", values)
    assert (arrays["rows_base"][:24].view(I64) == [5, 2**31, 2**32 - 2]).all()


def test_scratch_memory_is_needed_above_the_units_own():
    rig = Rings()
    for n, needed in ((64, 0), (65, 2 * 576), (72, 2 * 576), (73, 2 * 640)):
        values, _ = rig.cast(np.zeros(n, I64), None, 3)
        assert values["scratch_bytes"] == needed
    rig.hand("cast_", values)
    assert rig.read("cast_completed") == 1
    rig.hand("cast_", values | {"scratch_bytes": needed - 1})
    assert rig.error() == (1, ErrorCode.DESCRIPTOR, 1, 0x14, needed - 1, needed)
    rig = Rings()
    values, _ = rig.cast(np.zeros(65, I64), None, 3)
    rig.hand("cast_", values | {"scratch_base": values["scratch_base"] + 32})
    assert rig.error()[:4] == (1, ErrorCode.DESCRIPTOR, 0, 0x28)


def test_bags_need_as_many_lookups():
    rig = Rings()
    values, _ = rig.cast(np.zeros(9, I64), None, 3)
    rig.hand("cast_", values | {"n_bags": 8})
    assert rig.error() == (1, ErrorCode.DESCRIPTOR, 0, 0x0C, 8, 9)


@pytest.mark.parametrize("index, place, value", [(I32, 3, -1), (I64, 0, -7), (I64, 11, 30),
                                                 (I64, 5, 2**40)])
def test_cast_index_out_of_range(index, place, value):
    rig = Rings()
    indices = np.arange(12, dtype=index)
    indices[place] = value
    indices[11] = max(indices[11], 30)  # a later one is not the one reported
    values, arrays = rig.cast(indices, None, 30)
    rig.hand("cast_", values)
    assert rig.error() == (1, ErrorCode.INDEX_RANGE, 0, place, value % 2**64, 30)
    assert (arrays["count_base"] == 0xAA).all()


@pytest.mark.parametrize("offsets, error", [
    ([1, 4, 12], (ErrorCode.OFFSET_FIRST, 0, 1, 0)),
    ([0, 5, 4, 12], (ErrorCode.OFFSET_ORDER, 2, 4, 5)),
    ([0, 4, 13], (ErrorCode.OFFSET_RANGE, 2, 13, 12)),
    ([0, 4, 11], (ErrorCode.OFFSET_LAST, 2, 11, 12)),
    ([0], (ErrorCode.OFFSET_LAST, 0, 0, 12))])
def test_cast_offsets_out_of_order_and_range(offsets, error):
    rig = Rings()
    values, _ = rig.cast(np.zeros(12, I32), np.array(offsets), 3)
    rig.hand("cast_", values)
    code, *rest = error
    assert rig.error() == (1, code, 0, *rest)


@pytest.mark.parametrize("name, code, reader", [
    ("index_base", ErrorCode.WINDOW_READ, CastReader.INDEX),
    ("offset_base", ErrorCode.WINDOW_READ, CastReader.OFFSET),
    *((name, ErrorCode.WINDOW_WRITE, 0) for name in (
        "scratch_base", "bags_base", "segments_base", "rows_base", "count_base"))])
def test_cast_outside_the_windows(name, code, reader):
    rig = Rings()
    indices, offsets, num_rows = batch(2)
    assert len(indices) > 64  # scratch memory is used
    rig.write_pair("window0_limit", 0x10_0000_0000)
    values, arrays = rig.cast(indices, offsets, num_rows)
    rig.hand("cast_", values | {name: 0x20_0000_0000})
    assert rig.error() == (1, code, 0, 0, 0x20_0000_0000, reader)
    assert all((array == 0xAA).all() for array in arrays.values())


def test_scratch_memory_is_read_too():
    rig = Rings()
    indices, offsets, num_rows = batch(2)
    values, _ = rig.cast(indices, offsets, num_rows)
    rig.write_pair("window0_limit", 0x10_0000_0000)
    rig.write_pair("window1_base", 0x20_0000_0000)
    rig.write_pair("window1_limit", 0x20_0001_0000)
    rig.write("window1_access", 2)
    rig.machine.map(0x20_0000_0000, np.zeros(1 << 16, np.uint8))
    rig.hand("cast_", values | {"scratch_base": 0x20_0000_0000})
    assert rig.error() == (1, ErrorCode.WINDOW_READ, 0, 0, 0x20_0000_0000, CastReader.PAIR)


@pytest.mark.parametrize("name", ["scratch_base", "bags_base", "segments_base", "rows_base",
                                  "count_base"])
def test_cast_where_memory_refuses_to_be_written(name):
    rig = Rings()
    indices, offsets, num_rows = batch(2)
    values, _ = rig.cast(indices, offsets, num_rows)
    rig.machine.map(0x66_0000, np.zeros(1 << 14, np.uint8), writable=False)
    rig.hand("cast_", values | {name: 0x66_0000})
    assert rig.error()[:2] == (1, ErrorCode.WRITE_RESPONSE) and rig.error()[4] == SLVERR


def test_an_error_of_one_unit_stops_the_other():
    rig = Rings()
    cast, _, forward, backward, _, updated = step(rig)
    rig.hand("", forward, backward)
    rig.hand("cast_", cast | {"num_rows": 0})
    assert rig.error()[:2] == (1, ErrorCode.DESCRIPTOR)
    assert rig.read("status") == 2  # what waits is not busy any more
    rig.hand("cast_", cast)
    assert rig.read("cast_completed") == 0 and not golden.bits_equal(*updated)


def test_ring_of_casts_outside_the_windows_and_unmapped():
    rig = Rings()
    rig.write_pair("window0_limit", 0x8FFF_FFFF)
    rig.hand("cast_", {"n_lookups": 1})
    assert rig.error() == (1, ErrorCode.WINDOW_READ, 0, 0, CAST_RING, CastReader.DESCRIPTOR)
    rig = Rings()
    rig.machine.unmap(CAST_RING)
    rig.hand("cast_", {"n_lookups": 1})
    assert rig.error() == (1, ErrorCode.READ_RESPONSE, 0, 0, 3, CastReader.DESCRIPTOR)
