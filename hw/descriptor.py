"""Descriptors: 128 bytes in memory that select one pass of a unit.

This is the only definition of their layouts: FIELDS of the gather-scatter unit's, CAST_FIELDS of
the cast unit's. The sequencers, the driver, the C header, the reference in docs/ and the functional
model all read them.
"""

from enum import IntEnum

from .fields import Field

__all__ = ["CAST_FIELDS", "CAST_LOOKUPS_MAX", "DESCRIPTOR_BYTES", "FIELDS", "ElementKind", "Sink",
           "pack", "unpack"]

DESCRIPTOR_BYTES = 128
#: Most lookups of one cast.
CAST_LOOKUPS_MAX = 1 << 24


class ElementKind(IntEnum):
    """Where a sequence of integers comes from."""

    SEQUENTIAL = 0  # nothing is read: 0, 1, 2, …
    INT32 = 1
    INT64 = 2


class Sink(IntEnum):
    """What happens to the reduced row."""

    WRITE = 0  # overwrite the target row
    SGD = 1    # w ← RN(w − RN(lr·g)) on the target row


def _field(name, byte, width, doc, lsb=0, enum=None):
    return Field(name, 8 * byte + lsb, width, doc, enum)


FIELDS = (
    _field("index_kind", 0x00, 2,
           "Gather indices: which source row each lookup reads.", 0, ElementKind),
    _field("segment_kind", 0x00, 2,
           "Segments: SEQUENTIAL makes each lookup its own segment, else the width of `offsets`.",
           2, ElementKind),
    _field("target_kind", 0x00, 2,
           "Target rows: SEQUENTIAL writes row s for segment s.", 4, ElementKind),
    _field("sink", 0x00, 2, "What happens to each reduced row.", 6, Sink),
    _field("weighted", 0x00, 1,
           "Multiply each gathered row by weights[i] before the sum.", 8),
    _field("scaled", 0x00, 1,
           "Multiply each reduced row by scales[s]; only with the sink WRITE.", 9),
    _field("relaxed", 0x00, 1,
           "Start while earlier descriptors are still writing. Without it the descriptor sees "
           "every "
           "memory effect of those before it in the ring.", 16),
    _field("interrupt", 0x00, 1,
           "Raise the `done` interrupt when this descriptor has completed.", 17),
    _field("waits", 0x00, 1,
           "Start only when the cast unit has completed `wait_count` descriptors.", 18),
    _field("counted", 0x00, 1,
           "Read the number of segments from `count_base`; n_segments is the most allowed.", 19),
    _field("dim", 0x04, 16,
           "Row length in binary32 elements; a multiple of the lanes, 1 beat to dim_max."),
    _field("n_lookups", 0x08, 32, "Number of gathered rows N."),
    _field("n_segments", 0x0C, 32,
           "Number of segments S; equals n_lookups where segment_kind is SEQUENTIAL."),
    _field("src_base", 0x10, 64, "Address of source row 0; a multiple of the beat."),
    _field("src_stride", 0x18, 32,
           "Bytes from one source row to the next; a multiple of the beat, at least a row, "
           "below 65,536 beats."),
    _field("src_rows", 0x1C, 32, "Number of source rows; every gather index must be below it."),
    _field("dst_base", 0x20, 64, "Address of target row 0; a multiple of the beat."),
    _field("dst_stride", 0x28, 32, "Bytes from one target row to the next; as src_stride."),
    _field("dst_rows", 0x2C, 32, "Number of target rows; every target must be below it."),
    _field("index_base", 0x30, 64, "Address of indices[n_lookups]; a multiple of the element."),
    _field("offset_base", 0x38, 64,
           "Address of offsets[n_segments + 1]; a multiple of the element. offsets[0] is 0, "
           "they do "
           "not decrease, and the last is at most n_lookups; lookups behind it are ignored."),
    _field("target_base", 0x40, 64,
           "Address of targets[n_segments]; a multiple of the element. For SGD they must strictly "
           "increase; for WRITE a repeated target keeps its last row."),
    _field("weight_base", 0x48, 64,
           "Address of weights[n_lookups], binary32; a multiple of 4. Read if `weighted`."),
    _field("scale_base", 0x50, 64,
           "Address of scales[n_segments], binary32; a multiple of 4. Read if `scaled`."),
    _field("lr", 0x58, 32, "Learning rate of SGD, the bits of a binary32."),
    _field("wait_count", 0x5C, 32,
           "What the cast unit's number of completed descriptors must have reached, modulo 2**32. "
           "Used if `waits`."),
    _field("count_base", 0x60, 64,
           "Address of the number of segments, 32 bits; a multiple of 4. Read if `counted`."),
)

#: The cast unit sorts the (row, bag) pairs of a batch by row, stably, and writes golden's Casting.
CAST_FIELDS = (
    _field("index_kind", 0x00, 2, "Width of `indices`: INT32 or INT64.", 0, ElementKind),
    _field("offset_kind", 0x00, 2,
           "Bags: SEQUENTIAL makes each lookup its own bag, else the width of `offsets`.",
           2, ElementKind),
    _field("row_kind", 0x00, 2, "Width of `rows`: INT32 or INT64.", 4, ElementKind),
    _field("interrupt", 0x00, 1,
           "Raise the `cast_done` interrupt when this descriptor has completed.", 17),
    _field("waits", 0x00, 1,
           "Start only when the gather-scatter unit has completed `wait_count` descriptors.", 18),
    _field("wait_count", 0x04, 32,
           "What the gather-scatter unit's number of completed descriptors must have reached, "
           "modulo 2**32. Used if `waits`."),
    _field("n_lookups", 0x08, 32, f"Number of lookups N, at most {CAST_LOOKUPS_MAX:,}."),
    _field("n_bags", 0x0C, 32,
           "Number of bags B; equals n_lookups where offset_kind is SEQUENTIAL."),
    _field("num_rows", 0x10, 32, "Number of rows; every index must be below it."),
    _field("scratch_bytes", 0x14, 32,
           "Bytes of scratch memory: none where N fits the unit's own memory, else at least two "
           "lists of 8 bytes for each lookup, each in whole lines (64 bytes, or a beat if more)."),
    _field("index_base", 0x18, 64, "Address of indices[n_lookups]; a multiple of the element."),
    _field("offset_base", 0x20, 64,
           "Address of offsets[n_bags + 1]; a multiple of the element. offsets[0] is 0, they do "
           "not decrease, and the last is n_lookups."),
    _field("scratch_base", 0x28, 64,
           "Address of the scratch memory; a multiple of a line. Its content is lost."),
    _field("bags_base", 0x30, 64,
           "Address of bags[n_lookups], 32 bits each; a multiple of the beat. Written."),
    _field("segments_base", 0x38, 64,
           "Address of segment_offsets[U + 1], 32 bits each; a multiple of the beat. Written."),
    _field("rows_base", 0x40, 64,
           "Address of rows[U], of row_kind; a multiple of the beat. Written."),
    _field("count_base", 0x48, 64,
           "Address of U, the number of distinct rows, 32 bits; a multiple of the beat. Written."),
)


def pack(values, layout=FIELDS):
    """Return the 128 bytes of a descriptor.

    Parameters
    ----------
    values : mapping of str to int
        Field values; fields left out are 0.
    layout : tuple of Field
        FIELDS or CAST_FIELDS.

    Raises
    ------
    ValueError
        An unknown field, or a value that does not fit in its field.
    """
    fields = {field.name: field for field in layout}
    word = 0
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"descriptor field must be one of {', '.join(fields)}, not {name!r}")
        field = fields[name]
        if not 0 <= int(value) < 1 << field.width:
            raise ValueError(f"{name} must be from 0 to 2**{field.width} - 1, not {value!r}")
        word |= int(value) << field.lsb
    return word.to_bytes(DESCRIPTOR_BYTES, "little")


def unpack(data, layout=FIELDS):
    """Return the field values of 128 descriptor bytes as a dict of str to int."""
    if len(data) != DESCRIPTOR_BYTES:
        raise ValueError(f"descriptor must be {DESCRIPTOR_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    return {field.name: (word & field.mask) >> field.lsb for field in layout}
