"""Address windows: what the engine may read and write, whatever a descriptor or an index says."""

from amaranth.hdl import Cat
from amaranth.lib import data

from .config import PAGE_BYTES
from .registers import N_WINDOWS

__all__ = ["PAGE_LOG2", "allowed", "matches", "windows_layout"]

PAGE_LOG2 = PAGE_BYTES.bit_length() - 1


def windows_layout():
    """Return the layout of all windows: first and last page, and what each allows."""
    page = 64 - PAGE_LOG2
    return data.ArrayLayout(data.StructLayout(
        {"base": page, "limit": page, "read": 1, "write": 1}), N_WINDOWS)


def matches(windows, address, kind):
    """Return one bit for each window: whether a burst at ``address`` is inside it, and allowed.

    A burst never crosses a page, so one comparison of page numbers covers all of its bytes.
    """
    page = address[PAGE_LOG2:]
    # `>=` is a carry chain; to `<=` yosys adds a test of equality, half as large. That the window
    # allows it is one more digit of the second chain: less stands behind, where time is short.
    return Cat((page >= window.base) & (Cat(window.limit, window[kind]) >= Cat(page, 1))
               for window in windows)


def allowed(windows, address, kind):
    """Return whether a burst at ``address`` is inside a window that allows ``kind``."""
    return matches(windows, address, kind).any()
