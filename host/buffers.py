"""Arrays from memory that is used again: fresh pages cost as much as the work done in them.

The system zeroes every page that a process touches for the first time, which takes longer than
sorting or summing what goes into it, and large arrays are given back as soon as they are freed.
"""

import math

import numpy as np

__all__ = ["Buffers", "aligned_empty"]

#: Alignment of the arrays in bytes: a cache line, so that no row of whole lines lies on one more.
ALIGNMENT = 64
#: Arrays below this many bytes are left to NumPy, whose allocator keeps their pages.
SMALLEST = 1 << 14


def aligned_empty(shape, dtype=np.float32):
    """Return a new array of undefined content that starts on a cache line, for a table say.

    NumPy's own start 16 bytes behind a page, so that each row of whole lines lies on one line more
    and each vector of 64 bytes on two.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    block = np.empty(n_bytes + ALIGNMENT, np.uint8)
    begin = -block.__array_interface__["data"][0] % ALIGNMENT
    return block[begin:begin + n_bytes].view(dtype).reshape(shape)


class _Lender:
    """Owner of a block as long as an array in it lives; then the block goes back."""

    __slots__ = ("__array_interface__", "_block", "_buffers", "_size")

    def __init__(self, interface, buffers, block, size):
        self.__array_interface__ = interface
        self._buffers, self._block, self._size = buffers, block, size

    def __del__(self):
        self._buffers._take_back(self._block, self._size)


class Buffers:
    """Makes arrays of undefined content, and takes their memory back when they are gone.

    Safe for several threads. Blocks are of sizes that are powers of two and their halves between.

    Parameters
    ----------
    most_free_bytes : int
        Memory that is kept beyond what is in use; more is given back to the system.
    """

    def __init__(self, most_free_bytes=256 << 20):
        self._most_free_bytes = most_free_bytes
        self._free_bytes = 0
        self._free = {}  # bytes of a block -> blocks

    def empty(self, shape, dtype):
        """Return a C-contiguous array, aligned to ALIGNMENT bytes if it has SMALLEST or more."""
        dtype = np.dtype(dtype)
        shape = shape if isinstance(shape, tuple) else (shape,)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < SMALLEST:
            return np.empty(shape, dtype)
        size = 1 << (n_bytes - 1).bit_length()
        if n_bytes <= size * 3 // 4:
            size = size * 3 // 4
        try:
            block = self._free[size].pop()  # one step, so that two threads cannot both have it
            self._free_bytes -= size
        except (KeyError, IndexError):
            block = np.empty(size + ALIGNMENT, np.uint8)
        begin = block.__array_interface__["data"][0]
        interface = {"version": 3, "shape": shape, "typestr": dtype.str,
                     "data": (begin + -begin % ALIGNMENT, False)}
        # Views have an array as their base, and that array the lender: it goes when all are gone.
        return np.asarray(_Lender(interface, self, block, size))

    def _take_back(self, block, size):
        if self._free_bytes + size <= self._most_free_bytes:
            self._free_bytes += size
            self._free.setdefault(size, []).append(block)

    def clear(self):
        """Give back what is free."""
        self._free, self._free_bytes = {}, 0
