"""The cast unit's work: one descriptor of CAST_FIELDS, executed on an image of memory.

Order of checks, as in machine.py for the gather-scatter unit: the descriptor's fields, in the order
of their bytes; the index array: its window, the memory's response, the range of each index; the
offset array likewise, then offsets in order, of which the last must be ``n_lookups``; the windows
of the scratch memory and of the results, and the memory's response to what is written there.

The scratch memory is checked as hardware uses it, but nothing is written there: its content is
undefined after a cast. Where a write or a read of the scratch memory is at fault, the position in
the record is 0 here; hardware counts in its own order.
"""

import numpy as np

from .access import (
    INT32,
    INT64,
    READ_RESPONSE,
    SEQUENTIAL,
    WINDOW_READ,
    ErrorRecord,
    Stop,
    Unit,
)
from .casting import cast
from .memory import MemoryFault

__all__ = ["CAST_FIELD_BYTES", "CastPass", "execute_cast"]

#: Most lookups of one cast.
LOOKUPS_MAX = 1 << 24

#: Byte of the descriptor in which each checked field starts: what a DESCRIPTOR error reports.
CAST_FIELD_BYTES = {
    "index_kind": 0x00, "offset_kind": 0x00, "row_kind": 0x00, "n_lookups": 0x08, "n_bags": 0x0C,
    "num_rows": 0x10, "scratch_bytes": 0x14, "index_base": 0x18, "offset_base": 0x20,
    "scratch_base": 0x28, "bags_base": 0x30, "segments_base": 0x38, "rows_base": 0x40,
    "count_base": 0x48,
}

# Numbers of hw.registers.ErrorCode and CastReader; a test compares them.
_DESCRIPTOR, _INDEX_RANGE, _WINDOW_WRITE, _WRITE_RESPONSE, _OFFSET_LAST = 1, 2, 9, 11, 12
_READ_DESCRIPTOR, _READ_OFFSET, _READ_INDEX, _READ_PAIR = range(4)


class CastPass(Unit):
    """One descriptor of the cast unit at work."""

    def __init__(self, memory, descriptor, config, windows):
        super().__init__(memory, descriptor, config.data_width // 8, windows)
        self.config = config

    def run(self):
        """Execute, or raise Stop with memory as it was; return the number of distinct rows."""
        d = self.descriptor
        self.check_fields()
        n = d["n_lookups"]
        indices = self.array(d["index_base"], d["index_kind"], n, _READ_INDEX)
        beyond = (indices < 0) | (indices >= d["num_rows"])
        if beyond.any():
            i = int(np.argmax(beyond))
            raise Stop(_INDEX_RANGE, i, indices[i], d["num_rows"])
        if d["offset_kind"] == SEQUENTIAL:
            offsets = np.arange(n + 1)
        else:
            offsets = self.offset_array(d["offset_base"], d["offset_kind"], d["n_bags"] + 1, n,
                                        _READ_OFFSET)
            if offsets[-1] != n:
                raise Stop(_OFFSET_LAST, d["n_bags"], offsets[-1], n)

        found = cast(indices, offsets, d["num_rows"])
        results = (
            (d["bags_base"], found.bags.astype(np.int32)),
            (d["segments_base"], found.segment_offsets.astype(np.int32)),
            (d["rows_base"], found.rows.astype(
                np.int32 if d["row_kind"] == INT32 else np.int64)),
            (d["count_base"], np.array([found.n_segments], np.uint32)),
        )
        self.check_scratch(n)
        for base, array in results:
            self.check_write(base, array.nbytes)
        for base, array in results:
            if array.size:
                self.memory.write(base, array.tobytes())
        return found.n_segments

    def check_fields(self):
        """Raise Stop for the first field that is not allowed."""
        d = self.descriptor
        n = d["n_lookups"]

        def require(ok, name, limit=0):
            if not ok:
                raise Stop(_DESCRIPTOR, CAST_FIELD_BYTES[name], d[name], limit)

        require(d["index_kind"] in (INT32, INT64), "index_kind", INT64)
        require(d["offset_kind"] <= INT64, "offset_kind", INT64)
        require(d["row_kind"] in (INT32, INT64), "row_kind", INT64)
        require(n <= LOOKUPS_MAX, "n_lookups", LOOKUPS_MAX)
        if d["offset_kind"] == SEQUENTIAL:
            require(d["n_bags"] == n, "n_bags", n)
        require(d["num_rows"] != 0 or n == 0, "num_rows")
        if d["row_kind"] == INT32:
            require(d["num_rows"] <= 1 << 31, "num_rows", 1 << 31)
        needed = self.config.derived.cast_scratch_bytes(n)
        require(d["scratch_bytes"] >= needed, "scratch_bytes", needed)
        for base, kind in (("index_base", "index_kind"), ("offset_base", "offset_kind")):
            if d[kind] != SEQUENTIAL:
                require(d[base] % (4 if d[kind] == INT32 else 8) == 0, base)
        require(not needed or d["scratch_base"] % self.config.derived.cast_line_bytes == 0,
                "scratch_base")
        for base in ("bags_base", "segments_base", "rows_base", "count_base"):
            require(d[base] % self.beat_bytes == 0, base)

    def check_write(self, base, n_bytes):
        """Raise Stop unless ``n_bytes`` from ``base`` can be written."""
        if n_bytes == 0:
            return
        outside = self.guard.first_outside(base, n_bytes, write=True)
        if outside is not None:
            raise Stop(_WINDOW_WRITE, 0, outside, 0)
        try:
            self.memory.pieces(base, n_bytes, True)
        except MemoryFault as fault:
            raise Stop(_WRITE_RESPONSE, 0, fault.response, 0) from None

    def check_scratch(self, n):
        """Raise Stop unless the passes of the sort can use their lists in scratch memory.

        Each pass writes one of the two lists, in turn, and what is behind it reads that list.
        """
        list_bytes = self.config.derived.cast_scratch_bytes(n) // 2
        digits = -(-max(1, (self.descriptor["num_rows"] - 1).bit_length())
                   // self.config.cast_digit_bits)
        for number in range(min(2, digits) if list_bytes else 0):
            base = self.descriptor["scratch_base"] + number * list_bytes
            self.check_write(base, list_bytes)
            outside = self.guard.first_outside(base, list_bytes, write=False)
            if outside is not None:
                raise Stop(WINDOW_READ, 0, outside, _READ_PAIR)
            try:
                self.memory.pieces(base, list_bytes, False)
            except MemoryFault as fault:
                raise Stop(READ_RESPONSE, 0, fault.response, _READ_PAIR) from None


def execute_cast(memory, descriptor, config, *, windows=None, slot=0):
    """Execute one decoded descriptor of the cast unit on the memory image.

    Parameters
    ----------
    memory : Memory
        Changed in place.
    descriptor : mapping of str to int
        Values of CAST_FIELDS.
    config : hw.config.EngineConfig
        What engine it is.
    windows : sequence of Window or None
        What may be accessed; None is everything.
    slot : int
        Ring slot, for the error record.

    Returns
    -------
    (ErrorRecord, None) or (None, int)
        The int is the number of distinct rows.
    """
    try:
        return None, CastPass(memory, descriptor, config, windows).run()
    except Stop as stop:
        code, *rest = stop.fields
        return ErrorRecord(code, slot, *rest, unit=1), None
