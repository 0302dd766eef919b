"""Payloads of the streams inside the engine, as Amaranth layouts."""

from amaranth.lib import data

__all__ = ["COUNT_WIDTH", "SLOT_WIDTH", "array_job", "burst", "descriptor_beat", "error_record",
           "reduce_beat", "reduce_job", "row", "row_job", "row_request", "segment", "segment_job",
           "strobed_beat", "token", "update_job", "walk_job"]

#: Bits of a number of lookups, segments or rows.
COUNT_WIDTH = 32
#: Bits of a descriptor's slot in the ring.
SLOT_WIDTH = 16


def error_record():
    """What stopped the engine; see ErrorCode for the meaning of the numbers."""
    return data.StructLayout({
        "valid": 1, "code": 8, "slot": SLOT_WIDTH, "position": COUNT_WIDTH,
        "value": 64, "limit": COUNT_WIDTH})


def array_job():
    """One array of integers: its kind (ElementKind), address and number of elements."""
    return data.StructLayout({"kind": 2, "base": 64, "count": COUNT_WIDTH + 1})


def walk_job():
    """The lookups of one descriptor."""
    return data.StructLayout({"n_lookups": COUNT_WIDTH, "weighted": 1})


def reduce_job(derived):
    """The rows of one descriptor: their beats, whether that is one, whether they have weights."""
    return data.StructLayout(
        {"row_beats": derived.row_beats_width, "one_beat": 1, "weighted": 1})


def segment_job():
    """The segments of one descriptor."""
    return data.StructLayout({
        "unit": 1, "n_lookups": COUNT_WIDTH, "n_segments": COUNT_WIDTH, "slot": SLOT_WIDTH})


def row_job(derived):
    """How row numbers of one descriptor become addresses; strides and rows in beats."""
    return data.StructLayout({
        "base": 64, "stride_beats": derived.stride_beats_width, "n_rows": COUNT_WIDTH,
        "row_beats": derived.row_beats_width, "increasing": 1, "read": 1, "slot": SLOT_WIDTH})


def update_job(derived):
    """What happens to the reduced rows of one descriptor."""
    return data.StructLayout({
        "update": 1, "scaled": 1, "lr": 32, "n_segments": COUNT_WIDTH,
        "row_beats": derived.row_beats_width})


def segment():
    """The length of one segment in lookups; `end` stands behind the last one of a descriptor."""
    return data.StructLayout({"length": COUNT_WIDTH, "end": 1})


def row_request():
    """A row number to be looked up; `end` stands behind the last one of a descriptor."""
    return data.StructLayout({"number": 64, "position": COUNT_WIDTH, "end": 1})


def row(derived):
    """A row in memory: byte address and beats; `read` asks for its old content as well."""
    return data.StructLayout({
        "address": 64, "beats": derived.row_beats_width, "position": COUNT_WIDTH,
        "read": 1, "end": 1})


def burst(derived):
    """A burst: byte address, beats (1 to 256), and the position it is reported with."""
    return data.StructLayout({"address": 64, "beats": 9, "position": COUNT_WIDTH, "end": 1})


def strobed_beat(config):
    """A beat to be written, and which of its 32-bit words are."""
    return data.StructLayout({"data": config.data_width, "words": config.derived.lanes})


def descriptor_beat(config):
    """A beat of a descriptor, and RRESP as it came with it."""
    return data.StructLayout({"word": config.data_width, "resp": 2, "last": 1})


def token():
    """What the reducer does with the next row.

    leaf: partial sum, row number mod 8.  first: the partial takes the row as it is.
    final: the partial's last row.  last: the segment's last row.
    top_leaf: highest partial that the segment has.  empty: no row, the sum is +0.
    end: no row; the descriptor has no more.
    weight: bits of the binary32 that multiplies the row.
    """
    return data.StructLayout({
        "leaf": 3, "first": 1, "final": 1, "last": 1, "top_leaf": 3, "empty": 1, "end": 1,
        "weight": 32})


def reduce_beat(derived):
    """One beat on its way through the adder tree."""
    return data.StructLayout({
        "node": 3, "top_leaf": 3, "col": derived.col_width, "last_col": 1})
