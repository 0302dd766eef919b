"""Payloads of the streams inside the cast unit."""

from amaranth.lib import data

__all__ = ["PAIR_COUNT_WIDTH", "line", "pair", "pairs"]

#: Bits of a number of pairs, 0 to 2**24.
PAIR_COUNT_WIDTH = 25


def pair():
    """A lookup: its row, and the bag that it is in. In memory the row is the lower word."""
    return data.StructLayout({"row": 32, "bag": 32})


def pairs(most):
    """Up to ``most`` pairs: the first ``count`` hold one."""
    return data.StructLayout({"item": data.ArrayLayout(pair(), most), "count": range(most + 1)})


def line(derived):
    """A line of pairs: which one of the list, its pairs, and the first and last that count."""
    size = derived.cast_line_bytes // 8
    return data.StructLayout({
        "number": PAIR_COUNT_WIDTH, "data": 64 * size, "first": range(size), "last": range(size)})
