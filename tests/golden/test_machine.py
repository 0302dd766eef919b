"""The functional model against the functions, for every primitive and every error."""

import numpy as np
import pytest
from tcast import golden
from tcast.golden.machine import FIELD_BYTES, ErrorRecord, Machine, Window, execute
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
         gap=1, **fields):
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
    image = Image(memory)
    descriptor, live, _ = make(image, weight, weight, gap=0, indices=golden.bag_ids(offsets),
                               offsets=np.arange(len(indices) - 2), lr=0.5,
                               targets=np.zeros(0, np.int64))
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
    descriptor |= {
        "src_base": pieces[0][0], "dst_base": pieces[1][0], "src_rows": len(grad_out),
        "dst_rows": len(weight), "n_lookups": casting.n_lookups,
        "n_segments": casting.n_segments, "index_base": image.array(casting.bags),
        "offset_base": image.array(casting.segment_offsets),
        "target_base": image.array(casting.rows), "target_kind": 2}
    assert run(memory, descriptor) is None
    golden.backward_update(weight, grad_out, casting, golden.SGD(0.5))
    got = np.concatenate(pieces[1][1:]).view(np.float32).reshape(weight.shape)
    assert golden.bits_equal(got, weight)


# Errors. Each leaves memory as it was.


def fails(memory, descriptor, *expected, windows=OPEN, **options):
    before = [(region.address, region.bytes.copy()) for region in memory._regions.values()]
    record = run(memory, descriptor, windows, slot=5, **options)
    code, position, value, limit = expected
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
    ("sink", 3, 1), ("weighted", 1, 0), ("scaled", 1, 0), ("dim", 132, DIM_MAX),
    ("dim", 0, LANES), ("dim", 10, LANES), ("src_base", 0x1008, 0), ("dst_base", 0x1004, 0),
    ("src_stride", 56, 0), ("dst_stride", 72, 0), ("src_stride", 32, 48), ("dst_stride", 32, 48),
    ("src_stride", BEAT << 16, BEAT << 16), ("index_base", 0x1004, 0), ("offset_base", 0x1004, 0),
    ("target_base", 0x1004, 0)])
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
