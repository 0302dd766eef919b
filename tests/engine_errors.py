"""Passes and casts that stop the engine, with the record each must leave: for model and RTL."""

import numpy as np

import tcast
from tcast.host.driver import Cast, Pass
from tcast.hw.registers import CastReader, ErrorCode, Reader

I32, I64, U32, F32 = np.int32, np.int64, np.uint32, np.float32


def indices_of(count, position, value, dtype=I64):
    array = np.zeros(count, dtype)
    array[position] = value
    return array


def engine_errors():
    """Yield (id, pass, code, position, value, limit, words of the message)."""
    source, target = np.ones((20, 4), F32), np.zeros((6, 4), F32)
    offsets = np.arange(0, 13, 2)
    sgd = tcast.SGD(1.0)

    def forward(**changes):
        values = dict(source=source, target=target.copy(), offsets=offsets,
                      indices=np.zeros(12, I64))
        return Pass(**values | changes)

    def update(rows):
        return Pass(source=source[:3], target=target.copy(), rows=np.array(rows), optimizer=sgd)

    yield ("index", forward(indices=indices_of(12, 7, 20)), ErrorCode.INDEX_RANGE, 7, 20, 20,
           ["index of lookup 7", "below 20", "not 20"])
    yield ("index -1", forward(indices=indices_of(12, 3, -1, I32)), ErrorCode.INDEX_RANGE, 3, -1,
           20, ["index of lookup 3", "not -1"])
    yield ("index 2**63-1", forward(indices=indices_of(12, 0, 2**63 - 1)), ErrorCode.INDEX_RANGE,
           0, 2**63 - 1, 20, ["not 9223372036854775807"])
    yield ("sequential index", forward(indices=None, offsets=None, n_lookups=21,
                                       target=np.zeros((30, 4), F32)),
           ErrorCode.INDEX_RANGE, 20, 20, 20, ["index of lookup 20"])
    yield ("target", forward(rows=np.array([0, 1, 2, 3, 6, 5])), ErrorCode.TARGET_RANGE, 4, 6, 6,
           ["target of segment 4", "below 6", "not 6"])
    yield ("target -5", forward(rows=np.array([0, 1, -5, 3, 4, 5])), ErrorCode.TARGET_RANGE, 2,
           -5, 6, ["target of segment 2", "not -5"])
    yield ("sequential target", forward(target=np.zeros((5, 4), F32)), ErrorCode.TARGET_RANGE, 5,
           5, 5, ["target of segment 5"])
    yield ("order", update([0, 4, 4]), ErrorCode.TARGET_ORDER, 2, 4, 4,
           ["target of segment 2", "above the one before it, 4", "not 4"])
    yield ("first offset", forward(offsets=offsets + 1), ErrorCode.OFFSET_FIRST, 0, 1, 0,
           ["offsets[0]", "not 1"])
    falling = offsets.copy()
    falling[3] = 1
    yield ("falling offset", forward(offsets=falling), ErrorCode.OFFSET_ORDER, 3, 1, 4,
           ["offsets[3]", "before it, 4", "not 1"])
    yield ("negative offset", forward(offsets=np.array([0, -1, 2, 3, 4, 5, 6])),
           ErrorCode.OFFSET_ORDER, 1, -1, 0, ["offsets[1]", "not -1"])
    beyond = offsets.copy()
    beyond[6] = 13
    yield ("offset beyond", forward(offsets=beyond), ErrorCode.OFFSET_RANGE, 6, 13, 12,
           ["offsets[6]", "at most 12", "not 13"])
    yield ("segments in memory", forward(count=np.array([7], U32)), ErrorCode.SEGMENT_COUNT, 0, 7,
           6, ["number of segments in memory", "at most 6", "not 7"])
    yield ("count outside", forward(count=np.array([6], U32), fields={"count_base": 0x6004}),
           ErrorCode.WINDOW_READ, 0, 0x6000, Reader.COUNT, ["reader COUNT", "0x6000"])
    for field, value, position, limit in [
            ("index_kind", 3, 0x00, 2), ("sink", 2, 0x00, 1), ("weight_base", 2, 0x48, 0),
            ("dim", 3, 0x04, 1024), ("dim", 2048, 0x04, 1024), ("src_base", 4, 0x10, 0),
            ("src_stride", 8, 0x18, 16), ("dst_stride", 20, 0x28, 16), ("index_base", 4, 0x30, 0)]:
        extra = {"weighted": 1} if field == "weight_base" else {}
        yield (f"{field} {value}", forward(fields={field: value} | extra),
               ErrorCode.DESCRIPTOR, position,
               value, limit, [field, f"byte 0x{position:02x}", hex(value)])
    yield ("read outside", forward(fields={"src_base": 0x5000}), ErrorCode.WINDOW_READ, 0, 0x5000,
           Reader.ROW, ["reader ROW", "0x5000", "outside the windows"])
    yield ("offsets outside", forward(fields={"offset_base": 0x6000}), ErrorCode.WINDOW_READ, 0,
           0x6000, Reader.OFFSET, ["reader OFFSET", "0x6000"])
    yield ("write outside", forward(fields={"dst_base": 0x7000}), ErrorCode.WINDOW_WRITE, 0,
           0x7000, 0, ["segment 0", "0x7000", "outside the windows"])
    # In a page of the window, but past the end of the array that lies there.
    yield ("no memory to read", forward(indices=indices_of(12, 1, 20), fields={"src_rows": 30}),
           ErrorCode.READ_RESPONSE, 2, 3, Reader.ROW, ["DECERR", "reader ROW", "after 2 beats"])
    yield ("no memory to write", forward(target=np.zeros((5, 4), F32), fields={"dst_rows": 6}),
           ErrorCode.WRITE_RESPONSE, 5, 3, 0, ["DECERR", "write", "after 5 bursts"])


def cast_errors():
    """Yield (id, cast, code, position, value, limit, words of the message).

    Positions are None where they count accesses in the hardware's own order.
    """
    def cast(indices=None, offsets=None, num_rows=20, **fields):
        return Cast(indices=np.zeros(12, I64) if indices is None else indices,
                    offsets=np.arange(0, 13, 2) if offsets is None else offsets,
                    num_rows=num_rows, fields=fields)

    yield ("index", cast(indices_of(12, 7, 20)), ErrorCode.INDEX_RANGE, 7, 20, 20,
           ["index of lookup 7", "below 20", "not 20"])
    yield ("index -1", cast(indices_of(12, 3, -1, I32)), ErrorCode.INDEX_RANGE, 3, -1, 20,
           ["index of lookup 3", "not -1"])
    yield ("index 2**40", cast(indices_of(12, 11, 2**40)), ErrorCode.INDEX_RANGE, 11, 2**40, 20,
           ["index of lookup 11"])
    yield ("first offset", cast(offsets=np.array([2, 12])), ErrorCode.OFFSET_FIRST, 0, 2, 0,
           ["offsets[0]", "not 2"])
    yield ("falling offset", cast(offsets=np.array([0, 9, 4, 12])), ErrorCode.OFFSET_ORDER, 2, 4,
           9, ["offsets[2]", "before it, 9", "not 4"])
    yield ("offset beyond", cast(offsets=np.array([0, 13], I32)), ErrorCode.OFFSET_RANGE, 1, 13,
           12, ["offsets[1]", "at most 12", "not 13"])
    yield ("last offset", cast(offsets=np.array([0, 4, 11])), ErrorCode.OFFSET_LAST, 2, 11, 12,
           ["offsets[2]", "the last, must be 12", "not 11"])
    for field, value, position, limit in [
            ("index_kind", 0, 0x00, 2), ("offset_kind", 3, 0x00, 2), ("row_kind", 3, 0x00, 2),
            ("n_lookups", 2**24 + 1, 0x08, 2**24), ("num_rows", 0, 0x10, 0),
            ("index_base", 4, 0x18, 0), ("offset_base", 2, 0x20, 0), ("bags_base", 4, 0x30, 0),
            ("count_base", 4, 0x48, 0)]:
        yield (f"{field} {value}", cast(**{field: value}), ErrorCode.DESCRIPTOR, position, value,
               limit, [field, f"byte 0x{position:02x}", hex(value)])
    yield ("read outside", cast(index_base=0x5000), ErrorCode.WINDOW_READ, 0, 0x5000,
           CastReader.INDEX, ["reader INDEX", "0x5000", "outside the windows"])
    yield ("offsets outside", cast(offset_base=0x6000), ErrorCode.WINDOW_READ, 0, 0x6000,
           CastReader.OFFSET, ["reader OFFSET", "0x6000"])
    for field in ("bags_base", "segments_base", "rows_base", "count_base"):
        yield (f"{field} outside", cast(**{field: 0x7000}), ErrorCode.WINDOW_WRITE, None, 0x7000,
               0, ["a result", "0x7000", "outside the windows"])
