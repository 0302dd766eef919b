"""The functional model against the functions, for every primitive and every error."""

import time

import numpy as np
import pytest

from tcast import golden
from tcast.golden.machine import (
    FIELD_BYTES,
    ErrorRecord,
    Machine,
    RegisterError,
    Window,
    execute,
)
from tcast.golden.memory import Memory, MemoryFault
from tcast.hw import descriptor as layout
from tcast.hw import registers
from tcast.hw.config import EngineConfig
from tcast.hw.registers import ErrorCode, Reader

LANES, DIM_MAX = 4, 128
BEAT = 4 * LANES
PAGE = 4096
GUARD = 0xAA
KINDS = {np.dtype(np.int32): layout.ElementKind.INT32, np.dtype(np.int64): layout.ElementKind.INT64}
OPEN = [Window(0, 2**64 - 1, True, True)]


class Image:
    """Places arrays in memory, rows with guard bytes behind each, and says what is where."""

    def __init__(self, target, at=0x7_0000_0000):
        self.target, self.next = target, at

    def _place(self, array, align):
        address = -(-self.next // align) * align
        self.target.map(address, array)
        self.next = address + array.nbytes + 3 * BEAT
        return address

    def array(self, values):
        """Map a copy of an integer vector at an address aligned to its element alone."""
        values = np.array(values)
        self.next += values.itemsize
        return self._place(values, values.itemsize) if values.size else self.next

    def rows(self, values, gap_beats=1):
        """Map a copy of a matrix; return (base, stride, its live view in memory)."""
        stride = values.shape[1] * 4 + gap_beats * BEAT
        memory = np.full((max(1, len(values)), stride), GUARD, np.uint8)
        memory[:len(values), :values.shape[1] * 4] = values.view(np.uint8)
        base = self._place(memory, BEAT)
        live = np.ndarray(values.shape, np.float32, buffer=memory.data, strides=(stride, 4))
        return base, stride, live, memory


def make(image, src, dst, *, indices=None, offsets=None, targets=None, lr=None, n_lookups=None,
         weights=None, scales=None, gap=1, **fields):
    """Return the descriptor of one pass, and the live target rows and their memory."""
    n = n_lookups if n_lookups is not None else len(indices if indices is not None else src)
    s = n if offsets is None else len(offsets) - 1
    src_base, src_stride, _, _ = image.rows(src, gap)
    dst_base, dst_stride, live, memory = image.rows(dst, gap)
    values = {
        "dim": src.shape[1], "n_lookups": n, "n_segments": s, "src_base": src_base,
        "src_stride": src_stride, "src_rows": len(src), "dst_base": dst_base,
        "dst_stride": dst_stride, "dst_rows": len(dst)}
    for name, kind, array in (("index_base", "index_kind", indices),
                              ("offset_base", "segment_kind", offsets),
                              ("target_base", "target_kind", targets)):
        if array is not None:
            values[name] = image.array(array)
            values[kind] = KINDS[array.dtype]
    if lr is not None:
        values |= {"sink": layout.Sink.SGD, "lr": golden.SGD(lr).lr_bits}
    for name, flag, array in (("weight_base", "weighted", weights),
                              ("scale_base", "scaled", scales)):
        if array is not None:
            values |= {name: image.array(array), flag: 1}
    values |= fields
    return layout.unpack(layout.pack(values)), live, memory


def run(memory, descriptor, windows=OPEN, **options):
    return execute(memory, descriptor, lanes=LANES, dim_max=DIM_MAX, windows=windows, **options)


def case(seed, dtype=np.int64, dim=12, n_rows=40, n_bags=17):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, n_bags)
    offsets = np.append(0, np.cumsum(lengths)).astype(dtype)
    indices = rng.integers(0, n_rows, offsets[-1] + 3).astype(dtype)
    weight = rng.standard_normal((n_rows, dim)).astype(np.float32)
    grad_out = rng.standard_normal((n_bags, dim)).astype(np.float32)
    return weight, indices, offsets, grad_out


def check(descriptor, memory, live, buffer, expected):
    before = buffer.copy()
    assert run(memory, descriptor) is None
    assert golden.bits_equal(live, expected)
    dim_bytes = 4 * live.shape[1]
    np.testing.assert_array_equal(buffer[:, dim_bytes:], before[:, dim_bytes:])  # between rows


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("gap", [0, 1])
def test_every_primitive_equals_its_function(dtype, gap):
    weight, indices, offsets, grad_out = case(1, dtype)
    n = int(offsets[-1])
    casting = golden.cast(indices, offsets, len(weight))
    optimizer = golden.SGD(0.3)
    expanded = golden.expand(grad_out, offsets)
    grads = golden.casted_gather_reduce(grad_out, casting)
    updated = weight.copy()
    golden.backward_update(updated, grad_out, casting, optimizer)
    per_sample = np.linspace(-2, 3, len(indices), dtype=np.float32)
    weighted = golden.cast(indices, offsets, len(weight), per_sample)
    weighted_update = weight.copy()
    golden.backward_update(weighted_update, grad_out, weighted, optimizer)
    scattered = weight.copy()
    golden.scatter(scattered, casting.rows, grads)

    def blank(rows):
        return np.full((rows, weight.shape[1]), 7, np.float32)

    passes = {
        "forward": (weight, blank(len(grad_out)), dict(indices=indices, offsets=offsets),
                    golden.embedding_bag(weight, indices, offsets)),
        "unpooled": (weight, blank(len(indices)), dict(indices=indices),
                     golden.gather(weight, indices)),
        "expand": (grad_out, blank(n), dict(indices=golden.bag_ids(offsets)), expanded),
        "coalesce": (expanded, blank(casting.n_segments),
                     dict(indices=casting.positions, offsets=casting.segment_offsets), grads),
        "casted gather-reduce": (grad_out, blank(casting.n_segments),
                                 dict(indices=casting.bags, offsets=casting.segment_offsets),
                                 grads),
        "scatter update": (grads, weight, dict(targets=casting.rows, lr=0.3), updated),
        "fused backward": (grad_out, weight,
                           dict(indices=casting.bags, offsets=casting.segment_offsets,
                                targets=casting.rows, lr=0.3), updated),
        "plain scatter": (grads, weight, dict(targets=casting.rows), scattered),
        "weighted forward": (weight, blank(len(grad_out)),
                             dict(indices=indices, offsets=offsets, weights=per_sample),
                             golden.embedding_bag(weight, indices, offsets, per_sample)),
        "mean forward": (weight, blank(len(grad_out)),
                         dict(indices=indices, offsets=offsets,
                              scales=golden.reciprocals(offsets)),
                         golden.embedding_bag(weight, indices, offsets, mode="mean")),
        "weighted backward": (grad_out, weight,
                              dict(indices=weighted.bags, offsets=weighted.segment_offsets,
                                   targets=weighted.rows, weights=weighted.weights, lr=0.3),
                              weighted_update),
    }
    for name, (src, dst, arrays, expected) in passes.items():
        print(name)
        memory = Memory()
        check_args = make(Image(memory), src, dst, gap=gap, **arrays)
        check(check_args[0], memory, *check_args[1:], expected)


def test_mixed_integer_widths_and_top_of_address_space():
    weight, indices, offsets, grad_out = case(2)
    memory = Memory()
    descriptor, live, buffer = make(
        Image(memory, 2**64 - (1 << 16)), weight, np.zeros_like(grad_out),
        indices=indices.astype(np.int32), offsets=offsets.astype(np.int64))
    check(descriptor, memory, live, buffer, golden.embedding_bag(weight, indices, offsets))


def test_copies_keep_the_bits_of_nan():
    pattern = np.array([[0x7F800001, 0xFFC12345, 0x80000000, 1]], np.uint32).view(np.float32)
    memory = Memory()
    descriptor, live, _ = make(Image(memory), pattern, np.zeros((1, 4), np.float32))
    assert run(memory, descriptor) is None
    np.testing.assert_array_equal(live.view(np.uint32), pattern.view(np.uint32))


def test_repeated_target_keeps_its_last_row():
    src = np.arange(24, dtype=np.float32).reshape(6, 4)
    memory = Memory()
    descriptor, live, _ = make(Image(memory), src, np.zeros((3, 4), np.float32),
                               targets=np.array([1, 2, 1, 0, 2, 1], np.int32))
    assert run(memory, descriptor) is None
    np.testing.assert_array_equal(live, src[[3, 5, 4]])


def test_empty_passes():
    src = np.ones((2, 4), np.float32)
    for arrays, expected in (
            (dict(n_lookups=0), np.zeros((2, 4))),  # no segment: nothing is written
            (dict(indices=np.zeros(0, np.int32), offsets=np.zeros(1, np.int32)), np.zeros((2, 4))),
            (dict(indices=np.zeros(5, np.int32), offsets=np.zeros(3, np.int32)), np.zeros((2, 4)))):
        memory = Memory()
        descriptor, live, _ = make(Image(memory), src, np.full((2, 4), 3, np.float32), **arrays)
        assert run(memory, descriptor) is None
        np.testing.assert_array_equal(live, expected + (3 if descriptor["n_segments"] == 0 else 0))


def test_rows_scattered_over_several_mappings():
    """A table in pieces, one of them ending in the middle of a row."""
    weight, indices, offsets, grad_out = case(3)
    memory = Memory()
    casting = golden.cast(indices, offsets, len(weight))
    image = Image(memory, 0x9_0000_0000)
    cut = 48 * 11 + 32
    pieces = []
    for values in (grad_out, weight):
        data = values.copy().view(np.uint8).reshape(-1)
        head, tail = data[:cut].copy(), data[cut:].copy()
        address = image.next = image.next + PAGE
        memory.map(address, head)
        memory.map(address + cut, tail)
        image.next += data.size + PAGE
        pieces.append((address, head, tail))
    descriptor = layout.unpack(layout.pack({
        "index_kind": 2, "segment_kind": 2, "target_kind": 2, "sink": layout.Sink.SGD,
        "dim": 12, "n_lookups": casting.n_lookups, "n_segments": casting.n_segments,
        "src_base": pieces[0][0], "src_stride": 48, "src_rows": len(grad_out),
        "dst_base": pieces[1][0], "dst_stride": 48, "dst_rows": len(weight),
        "index_base": image.array(casting.bags),
        "offset_base": image.array(casting.segment_offsets),
        "target_base": image.array(casting.rows), "lr": golden.SGD(0.5).lr_bits}))
    assert run(memory, descriptor) is None
    golden.backward_update(weight, grad_out, casting, golden.SGD(0.5))
    got = np.concatenate(pieces[1][1:]).view(np.float32).reshape(weight.shape)
    assert golden.bits_equal(got, weight)


# Errors. Each leaves memory as it was.


def fails(memory, descriptor, *expected, windows=OPEN, **options):
    before = [(region.address, region.bytes.copy()) for region in memory._regions.values()]
    record = run(memory, descriptor, windows, slot=5, **options)
    code, position, value, limit = map(int, expected)
    assert record == ErrorRecord(code, 5, position, value & (2**64 - 1), limit & (2**64 - 1))
    for address, data in before:
        np.testing.assert_array_equal(memory._regions[address].bytes, data)


def fused(memory, seed=4, **changes):
    weight, indices, offsets, grad_out = case(seed)
    casting = golden.cast(indices, offsets, len(weight))
    arrays = dict(indices=casting.bags, offsets=casting.segment_offsets, targets=casting.rows)
    for name, edit in changes.items():
        arrays[name] = edit(arrays[name].copy())
    return make(Image(memory), grad_out, weight, lr=0.1, **arrays)[0]


@pytest.mark.parametrize("field, value, limit", [
    ("index_kind", 3, 2), ("segment_kind", 3, 2), ("target_kind", 3, 2), ("sink", 2, 1),
    ("sink", 3, 1), ("scaled", 1, 0), ("dim", 132, DIM_MAX),
    ("dim", 0, DIM_MAX), ("dim", 10, DIM_MAX), ("src_base", 0x1008, 0), ("dst_base", 0x1004, 0),
    ("src_stride", 56, 48), ("dst_stride", 72, 48), ("src_stride", 32, 48),
    ("dst_stride", 32, 48), ("src_stride", BEAT << 16, 48), ("index_base", 0x1004, 0),
    ("offset_base", 0x1004, 0), ("target_base", 0x1004, 0)])
def test_descriptor_field_is_refused(field, value, limit):
    memory = Memory()
    descriptor = fused(memory) | {field: value}
    fails(memory, descriptor, ErrorCode.DESCRIPTOR, FIELD_BYTES[field], value, limit)


def test_sequential_segments_need_as_many_lookups():
    memory = Memory()
    descriptor = fused(memory) | {"segment_kind": 0}
    fails(memory, descriptor, ErrorCode.DESCRIPTOR, 0x0C, descriptor["n_segments"],
          descriptor["n_lookups"])


def test_unused_array_base_is_not_checked():
    memory = Memory()
    descriptor, _, _ = make(Image(memory), np.ones((2, 4), np.float32),
                            np.zeros((2, 4), np.float32), index_base=3, offset_base=1,
                            target_base=7)
    assert run(memory, descriptor) is None


def edit(position, value):
    def change(array):
        array[position] = value
        return array
    return change


@pytest.mark.parametrize("name, position, value, code, limit", [
    ("indices", 9, 17, ErrorCode.INDEX_RANGE, 17),
    ("indices", 0, -1, ErrorCode.INDEX_RANGE, 17),
    ("targets", 4, 40, ErrorCode.TARGET_RANGE, 40),
    ("targets", 4, -2**63, ErrorCode.TARGET_RANGE, 40),
    ("offsets", 0, 2, ErrorCode.OFFSET_FIRST, 0),
    ("offsets", 0, -1, ErrorCode.OFFSET_FIRST, 0),
    ("offsets", 0, 10**6, ErrorCode.OFFSET_FIRST, 0)])
def test_value_out_of_range(name, position, value, code, limit):
    memory = Memory()
    fails(memory, fused(memory, **{name: edit(position, value)}), code, position, value, limit)


def test_offsets_out_of_order_and_range():
    memory = Memory()
    descriptor = fused(memory)
    casting_offsets = memory.view(descriptor["offset_base"], (4,), np.int64)
    before = int(casting_offsets[2])
    casting_offsets[3] = before - 1
    fails(memory, descriptor, ErrorCode.OFFSET_ORDER, 3, before - 1, before)
    casting_offsets[3] = descriptor["n_lookups"] + 1
    fails(memory, descriptor, ErrorCode.OFFSET_RANGE, 3, descriptor["n_lookups"] + 1,
          descriptor["n_lookups"])


def test_the_earlier_lookup_is_reported():
    """Range and window faults of rows are met in the order of lookups."""
    memory = Memory()
    descriptor = fused(memory, indices=lambda a: edit(5, 99)(edit(9, -3)(a)))
    fails(memory, descriptor, ErrorCode.INDEX_RANGE, 5, 99, 17)


def test_targets_must_increase_for_sgd_alone():
    memory = Memory()
    descriptor = fused(memory)
    targets = memory.view(descriptor["target_base"], (4,), np.int64, write=True)
    targets[3] = targets[2]
    fails(memory, descriptor, ErrorCode.TARGET_ORDER, 3, targets[2], targets[2])
    assert run(memory, descriptor | {"sink": layout.Sink.WRITE}) is None


def test_sequential_numbers_are_checked_too():
    src, dst = np.ones((6, 4), np.float32), np.zeros((6, 4), np.float32)
    memory = Memory()
    descriptor, _, _ = make(Image(memory), src, dst)
    fails(memory, descriptor | {"src_rows": 4}, ErrorCode.INDEX_RANGE, 4, 4, 4)
    fails(memory, descriptor | {"dst_rows": 0}, ErrorCode.TARGET_RANGE, 0, 0, 0)
    # Counts far beyond what is there must not take memory or time.
    huge = 2**32 - 1
    fails(memory, descriptor | {"n_lookups": huge, "n_segments": huge}, ErrorCode.INDEX_RANGE, 6, 6,
          6)


def test_lookups_in_no_segment_are_not_checked():
    memory = Memory()
    weight, indices, offsets, grad_out = case(5)
    indices[-3:] = -1, 10**12, 2**62
    descriptor, live, buffer = make(Image(memory), weight, grad_out, indices=indices,
                                    offsets=offsets)
    check(descriptor, memory, live, buffer, golden.embedding_bag(weight, indices, offsets))


# Windows. One array a page, so that each can be fenced off alone.


def paged():
    """Return (memory, descriptor, first page of each array) of a fused backward."""
    memory = Memory()
    weight, indices, offsets, grad_out = case(6, n_rows=1000, n_bags=400, dim=16)
    casting = golden.cast(indices, offsets, len(weight))
    descriptor = fused(Memory()) | {
        "dim": 16, "n_lookups": casting.n_lookups, "n_segments": casting.n_segments,
        "src_rows": len(grad_out), "dst_rows": len(weight), "src_stride": 64, "dst_stride": 64}
    arrays = {"src_base": grad_out, "dst_base": weight, "index_base": casting.bags,
              "offset_base": casting.segment_offsets, "target_base": casting.rows}
    at = 0x5_0000_0000
    for name, array in arrays.items():
        memory.map(at, array)
        descriptor[name] = at
        at += 16 * PAGE
    return memory, descriptor, casting


def everything_but(first, n_bytes, read=True, write=True):
    """Windows over all but one range, in which reading or writing is not allowed."""
    return [Window(0, first - 1, True, True),
            Window(first, first + n_bytes - 1, not read, not write),
            Window(first + n_bytes, 2**64 - 1, True, True)]


def test_windows_as_wide_as_the_arrays_suffice():
    memory, descriptor, _ = paged()
    end = descriptor["target_base"] + 16 * PAGE - 1
    readable = Window(descriptor["src_base"], end, True, False)
    table = Window(descriptor["dst_base"], descriptor["dst_base"] + 16 * PAGE - 1, False, True)
    assert run(memory, descriptor, [readable, table]) is None


@pytest.mark.parametrize("name, reader, size", [
    ("offset_base", Reader.OFFSET, 8), ("index_base", Reader.INDEX, 8),
    ("target_base", Reader.TARGET, 8)])
def test_array_outside_the_windows(name, reader, size):
    memory, descriptor, _ = paged()
    base = descriptor[name]
    fails(memory, descriptor, ErrorCode.WINDOW_READ, 0, base, reader,
          windows=everything_but(base, PAGE))
    # Only from the second page on: the element that stands there.
    fails(memory, descriptor, ErrorCode.WINDOW_READ, PAGE // size, base + PAGE, reader,
          windows=everything_but(base + PAGE, PAGE))
    assert run(memory, descriptor, everything_but(base, PAGE, read=False)) is None


def test_array_that_does_not_start_at_a_beat():
    memory = Memory()
    index = np.zeros(3000, np.int32)
    memory.map(0x10000, np.zeros(4 * PAGE, np.uint8))
    descriptor, _, _ = make(Image(memory), np.ones((2, 4), np.float32),
                            np.zeros((3000, 4), np.float32), indices=index)
    base = descriptor["index_base"] = 0x10FF4
    fails(memory, descriptor, ErrorCode.WINDOW_READ, 0, 0x10FF0, Reader.INDEX,
          windows=everything_but(0x10000, PAGE))
    fails(memory, descriptor, ErrorCode.WINDOW_READ, (0x11000 - base) // 4, 0x11000, Reader.INDEX,
          windows=everything_but(0x11000, PAGE))


def test_gathered_row_outside_the_windows():
    memory, descriptor, casting = paged()
    page = descriptor["src_base"] + PAGE
    lookup = int(np.argmax(casting.bags >= PAGE // 64))
    fails(memory, descriptor, ErrorCode.WINDOW_READ, lookup,
          descriptor["src_base"] + 64 * int(casting.bags[lookup]), Reader.ROW,
          windows=everything_but(page, 14 * PAGE))


def test_row_that_straddles_into_a_forbidden_page():
    memory = Memory()
    memory.map(0x20000, np.zeros(4 * PAGE, np.uint8))
    descriptor, _, _ = make(Image(memory), np.ones((4, 16), np.float32),
                            np.zeros((4, 16), np.float32), gap=0)
    windows = everything_but(0x21000, PAGE)
    # Row 1 is the one that crosses: 0x20fe0 to 0x21020.
    fails(memory, descriptor | {"src_base": 0x20FA0}, ErrorCode.WINDOW_READ, 1, 0x21000,
          Reader.ROW, windows=windows)
    fails(memory, descriptor | {"dst_base": 0x20FA0}, ErrorCode.WINDOW_WRITE, 1, 0x21000, 0,
          windows=windows)
    fails(memory, descriptor | {"dst_base": 0x20FA0, "sink": 1}, ErrorCode.WINDOW_READ, 1, 0x21000,
          Reader.OLD_ROW, windows=windows)
    assert run(memory, descriptor | {"dst_base": 0x20F00}, windows) is None


def test_target_row_outside_the_windows():
    memory, descriptor, casting = paged()
    base = descriptor["dst_base"]
    segment = int(np.argmax(casting.rows >= PAGE // 64))
    address = base + 64 * int(casting.rows[segment])
    fails(memory, descriptor, ErrorCode.WINDOW_READ, segment, address, Reader.OLD_ROW,
          windows=everything_but(base + PAGE, 14 * PAGE, write=False))
    fails(memory, descriptor, ErrorCode.WINDOW_WRITE, segment, address, 0,
          windows=everything_but(base + PAGE, 14 * PAGE, read=False))


def test_no_window_allows_nothing():
    memory, descriptor, _ = paged()
    fails(memory, descriptor, ErrorCode.WINDOW_READ, 0, descriptor["offset_base"], Reader.OFFSET,
          windows=[])


def test_adjacent_windows_are_one():
    memory, descriptor, _ = paged()
    middle = descriptor["index_base"] + PAGE
    assert run(memory, descriptor, [Window(0, middle - 1, True, True),
                                    Window(middle, 2**64 - 1, True, True)]) is None


def test_addresses_wrap():
    """A table that goes on at address 0: rows on both sides, and the windows see both."""
    memory = Memory()
    high, low = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    memory.map(2**64 - 32, high)
    memory.map(0, low)
    src = np.arange(16, dtype=np.float32).reshape(4, 4)
    descriptor, _, _ = make(Image(memory), src, src)
    descriptor |= {"dst_base": 2**64 - 32, "dst_stride": 16}
    fails(memory, descriptor, ErrorCode.WINDOW_WRITE, 2, 0, 0,
          windows=[Window(PAGE, 2**64 - 1, True, True)])
    assert run(memory, descriptor) is None
    np.testing.assert_array_equal(np.concatenate([high, low]), src)


# Responses.


@pytest.mark.parametrize("name, reader", [
    ("offset_base", Reader.OFFSET), ("index_base", Reader.INDEX), ("target_base", Reader.TARGET),
    ("src_base", Reader.ROW), ("dst_base", Reader.OLD_ROW)])
def test_read_of_unmapped_memory(name, reader):
    memory, descriptor, _ = paged()
    memory.unmap(descriptor[name])
    fails(memory, descriptor, ErrorCode.READ_RESPONSE, 0, 3, reader)


def test_read_response_counts_beats():
    memory, descriptor, casting = paged()
    base = descriptor["src_base"]
    memory.unmap(base)
    memory.map(base, np.zeros((10, 16), np.float32))
    memory.map(base + 10 * 64, np.zeros(8, np.float32))  # half of row 10
    lookup = int(np.argmax(casting.bags >= 10))
    half = 2 if casting.bags[lookup] == 10 else 0
    fails(memory, descriptor, ErrorCode.READ_RESPONSE, 4 * lookup + half, 3, Reader.ROW)


@pytest.mark.parametrize("sink", layout.Sink)
def test_write_response(sink):
    memory, descriptor, _ = paged()
    base = descriptor["dst_base"]
    memory.unmap(base)
    memory.map(base, np.zeros((1000, 16), np.float32), writable=False)
    fails(memory, descriptor | {"sink": sink}, ErrorCode.WRITE_RESPONSE, 0, 2, 0)


def test_write_response_counts_bursts():
    """Bursts end at multiples of the longest burst: rows of 64 beats from 0x30010 on, by eight."""
    memory = Memory()
    src = np.ones((4, DIM_MAX), np.float32)
    descriptor, _, _ = make(Image(memory), src, src)
    row_bytes = DIM_MAX * 4
    memory.map(0x30010, np.zeros(row_bytes * 2, np.uint8))
    descriptor |= {"dst_base": 0x30010, "dst_stride": row_bytes, "sink": 0}
    # 512 bytes in bursts of up to 128 that end at multiples of 128: five each.
    fails(memory, descriptor, ErrorCode.WRITE_RESPONSE, 10, 3, 0, burst_beats_max=8)
    # By 4 KiB alone: one each.
    fails(memory, descriptor, ErrorCode.WRITE_RESPONSE, 2, 3, 0)


def test_numbers_are_those_of_the_definitions():
    from tcast.golden import access, cast_pass, machine

    modules = ((machine, Reader), (cast_pass, registers.CastReader), (access, ()))
    found = set()
    for module, readers in modules:
        names = vars(module)
        for code in ErrorCode:
            for name in {f"_{code.name}", code.name} & set(names):
                assert names[name] == code
                found.add(code)
        for reader in readers:
            assert names[f"_READ_{reader.name}"] == reader
        for kind in layout.ElementKind:
            assert names[kind.name] == kind
    assert found == set(ErrorCode) - {ErrorCode.NONE}
    assert (layout.Sink.WRITE, layout.Sink.SGD) == (machine.WRITE, machine.SGD)
    assert layout.DESCRIPTOR_BYTES == machine.DESCRIPTOR_BYTES
    assert layout.CAST_LOOKUPS_MAX == cast_pass.LOOKUPS_MAX
    for fields, checked in ((layout.FIELDS, FIELD_BYTES),
                            (layout.CAST_FIELDS, cast_pass.CAST_FIELD_BYTES)):
        first_bits = {field.name: field.lsb for field in fields}
        for name, byte in checked.items():
            assert byte == first_bits[name] // 8


def test_hundred_thousand_lookups_are_fast():
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((10_000, 64)).astype(np.float32)
    casting = golden.cast(rng.integers(0, 10_000, 100_000), np.arange(0, 100_001, 40), 10_000)
    grad_out = rng.standard_normal((2_500, 64)).astype(np.float32)
    expected = weight.copy()
    golden.backward_update(expected, grad_out, casting, golden.SGD(0.1))
    memory = Memory()
    descriptor, live, _ = make(Image(memory), grad_out, weight, lr=0.1, indices=casting.bags,
                               offsets=casting.segment_offsets, targets=casting.rows)
    start = time.perf_counter()
    assert run(memory, descriptor) is None
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} s")
    assert golden.bits_equal(live, expected)
    assert seconds < 1  # 0.03 s measured on two cores


# Memory.


def test_memory_reads_and_writes_across_mappings():
    memory = Memory()
    first, second = np.arange(8, dtype=np.uint8), np.arange(8, 12, dtype=np.uint16)
    memory.map(0x100, first)
    memory.map(0x108, second)
    assert memory.read(0x106, 4) == bytes([6, 7, 8, 0])
    memory.write(0x107, b"\xaa\xbb")
    assert first[7] == 0xAA and second[0] == 0xBB
    with pytest.raises(MemoryFault) as fault:
        memory.write(0x10E, b"1234")
    assert (fault.value.address, fault.value.response) == (0x110, 3)
    assert second[3] == 11  # nothing was written
    memory.unmap(0x100)
    with pytest.raises(MemoryFault, match="no memory at address 0x100"):
        memory.read(0x100, 1)
    assert memory.view(0x100, (4,), np.uint8) is None
    assert memory.view(0x108, (4,), np.uint16).tolist() == [0xBB, 9, 10, 11]
    assert memory.view(0x108, (5,), np.uint16) is None
    memory.map(0x100, first)


def test_memory_refuses():
    memory = Memory()
    memory.map(0x100, np.zeros(16, np.uint8))
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    for arguments, error, message in (
            ((0x10F, np.zeros(1)), ValueError, "must not overlap what is mapped"),
            ((0xFF, np.zeros(2, np.uint8)), ValueError, "must not overlap"),
            ((0x0, np.zeros(4096)), ValueError, "must not overlap"),
            ((0x104, np.zeros(1, np.uint8)), ValueError, "must not overlap"),
            ((2**64 - 4, np.zeros(1)), ValueError, "address must be from 0"),
            ((-8, np.zeros(1)), ValueError, "address must be from 0"),
            ((0, np.zeros((4, 4))[:, :2]), ValueError, "array must be C-contiguous"),
            ((0, np.zeros(0)), ValueError, "and not empty"),
            ((0, [1]), TypeError, "array must be a numpy.ndarray, not list"),
            ((0, frozen), ValueError, "array must be writable")):
        with pytest.raises(error, match=message):
            memory.map(*arguments)
    with pytest.raises(ValueError, match="address must be that of a mapped array, not 1"):
        memory.unmap(1)
    memory.map(2**64 - 8, frozen[:1], writable=False)
    with pytest.raises(MemoryFault, match="not writable"):
        memory.write(2**64 - 8, b"1")


# The machine: registers and ring.


class Rig:
    """A machine with a ring of four, its windows open, and a driver's few moves."""

    def __init__(self, ring=0x8000_0080, config=None):
        self.config = config or EngineConfig.preset("tiny64")
        self.machine = Machine(self.config, registers, layout)
        self.map = registers.by_name()
        self.ring = np.zeros((4, layout.DESCRIPTOR_BYTES), np.uint8)
        self.machine.map(ring, self.ring)
        self.write_pair("ring_base", ring)
        self.write("ring_size_log2", 2)
        self.write_pair("window0_limit", 2**64 - 1)
        self.write("window0_access", 3)
        self.write("irq_enable", 3)
        self.write("control", 1)
        self.slot = 0

    def write(self, name, value):
        self.machine.write_register(self.map[name].offset, value)

    def read(self, name):
        return self.machine.read_register(self.map[name].offset)

    def write_pair(self, name, value):
        self.write(f"{name}_lo", value & 0xFFFFFFFF)
        self.write(f"{name}_hi", value >> 32)

    def read_pair(self, name):
        return self.read(f"{name}_lo") | self.read(f"{name}_hi") << 32

    def submit(self, *descriptors):
        for descriptor in descriptors:
            self.ring[self.slot] = np.frombuffer(layout.pack(descriptor), np.uint8)
            self.slot = (self.slot + 1) % 4
        self.write("ring_tail", self.slot)

    def passes(self, image, n):
        """Return n copy descriptors with the interrupt bit, and their live targets."""
        made = [make(image, np.full((3, 4), k + 1, np.float32), np.zeros((3, 4), np.float32),
                     interrupt=1) for k in range(n)]
        return [descriptor for descriptor, _, _ in made], [live for _, live, _ in made]


def test_identity_registers():
    rig = Rig()
    assert rig.read("id").to_bytes(4, "little") == b"TCST"
    assert rig.read("config_hash") == rig.config.hash
    assert rig.read("capability") & 0xFF == 2
    for name, value in registers.constant_values(rig.config).items():
        assert rig.read(name) == value


def test_ring_runs_wraps_and_interrupts():
    rig = Rig()
    descriptors, live = rig.passes(Image(rig.machine), 7)
    assert not rig.machine.wait(1000)
    rig.submit(*descriptors[:3])
    assert rig.read("ring_head") == 3 and rig.machine.wait(0)
    assert rig.read("irq_status") == 1
    rig.write("irq_status", 1)
    assert not rig.machine.wait(0)
    rig.submit(*descriptors[3:6])
    assert rig.read("ring_head") == 2
    rig.write("irq_enable", 2)
    assert not rig.machine.wait(0)  # masked
    rig.submit(descriptors[6] | {"interrupt": 0})
    for k, rows in enumerate(live):
        assert (rows == k + 1).all()
    assert rig.read_pair("counter_descriptors") == 7
    assert rig.read_pair("counter_rows") == rig.read_pair("counter_segments") == 21
    assert rig.read_pair("counter_row_beats") == rig.read_pair("counter_w_beats") == 42
    rig.write("control", 1 | 4)
    assert rig.read_pair("counter_rows") == 0


def test_nothing_runs_before_it_is_enabled():
    rig = Rig()
    rig.write("control", 0)
    descriptors, live = rig.passes(Image(rig.machine), 1)
    rig.submit(*descriptors)
    assert rig.read("ring_head") == 0 and (live[0] == 0).all()
    rig.write("control", 1)
    assert rig.read("ring_head") == 1 and (live[0] == 1).all()


def test_error_stops_until_soft_reset():
    rig = Rig()
    descriptors, live = rig.passes(Image(rig.machine), 3)
    bad = descriptors[1] | {"src_rows": 2}
    rig.submit(descriptors[0], bad, descriptors[2])
    assert rig.read("status") == 2 and rig.read("irq_status") == 3
    assert rig.read("ring_head") == 1
    assert rig.read("error_code") == ErrorCode.INDEX_RANGE
    assert (rig.read("error_descriptor"), rig.read("error_position")) == (1, 2)
    assert (rig.read_pair("error_value"), rig.read_pair("error_limit")) == (2, 2)
    assert (live[0] == 1).all() and (live[1] == 0).all() and (live[2] == 0).all()
    rig.write("control", 1)
    rig.write("ring_tail", 0)
    assert (live[2] == 0).all()  # still stopped

    rig.write("control", 2)
    assert rig.read("status") == rig.read("error_code") == rig.read("ring_head") == 0
    assert rig.read("control") == rig.read("ring_tail") == 0
    assert rig.read("irq_status") == 3  # the bank keeps it
    rig.write("irq_status", 3)
    rig.write("control", 1)
    rig.slot = 0
    rig.submit(descriptors[2])
    assert rig.read("ring_head") == 1 and (live[2] == 3).all()


def test_error_values_are_64_bits():
    rig = Rig()
    descriptor, _, _ = make(Image(rig.machine), np.ones((2, 4), np.float32),
                            np.zeros((1, 4), np.float32), indices=np.array([-5]))
    rig.submit(descriptor)
    assert rig.read_pair("error_value") == 2**64 - 5


def test_ring_outside_the_windows_and_unmapped():
    rig = Rig()
    rig.write("window0_access", 2)
    rig.submit({"dim": 2})
    assert rig.read("error_code") == ErrorCode.WINDOW_READ
    assert rig.read_pair("error_value") == 0x8000_0080
    assert rig.read_pair("error_limit") == Reader.DESCRIPTOR
    rig = Rig()
    rig.machine.unmap(0x8000_0080)
    rig.submit({"dim": 2})
    assert rig.read("error_code") == ErrorCode.READ_RESPONSE
    assert rig.read_pair("error_value") == 3


def test_windows_lock():
    rig = Rig()
    rig.write("window1_base_lo", 0x12345678)
    assert rig.read("window1_base_lo") == 0x12345000  # whole pages
    rig.write("window1_limit_lo", 0)
    assert rig.read("window1_limit_lo") == 0xFFF
    rig.write("window_lock", 1)
    for name in ("window1_base_lo", "window0_access", "window3_limit_hi"):
        before = rig.read(name)
        with pytest.raises(RegisterError, match="SLVERR"):
            rig.write(name, 1)
        assert rig.read(name) == before
    rig.write("window_lock", 0)
    assert rig.read("window_lock") == 1
    rig.write("control", 2)
    assert rig.read("window_lock") == 1


def test_register_accesses_that_the_bus_refuses():
    rig = Rig()
    for offset in (0xFFC, 0x014, 2):
        with pytest.raises(RegisterError, match="offset must be that of a register"):
            rig.machine.read_register(offset)
        with pytest.raises(RegisterError, match="offset must be that of a register"):
            rig.machine.write_register(offset, 0)
    with pytest.raises(RegisterError, match="ring_head is only read"):
        rig.write("ring_head", 1)
    with pytest.raises(ValueError, match="value must be from 0"):
        rig.write("ring_tail", 2**32)
    rig.write("ring_tail", 2**32 - 4)
    assert rig.read("ring_tail") == 0xFFFC  # bits without a field


def test_close_forgets_the_mappings():
    rig = Rig()
    rig.machine.close()
    rig.machine.close()
    rig.submit({"dim": 2})
    assert rig.read("error_code") == ErrorCode.READ_RESPONSE
