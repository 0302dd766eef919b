"""A 64-bit address space made of NumPy arrays."""

from bisect import bisect_right, insort

import numpy as np

__all__ = ["ADDRESS_MASK", "DECERR", "SLVERR", "Memory", "MemoryFault"]

ADDRESS_MASK = (1 << 64) - 1
#: AXI4 responses: somebody there who refuses; nobody there.
SLVERR, DECERR = 2, 3


class MemoryFault(Exception):
    """An access that the memory answers with an error; ``address`` is its first byte at fault."""

    def __init__(self, address, response):
        super().__init__(f"no memory at address {address:#x}" if response == DECERR
                         else f"memory at address {address:#x} is not writable")
        self.address = address
        self.response = response


class _Region:
    def __init__(self, address, array, writable):
        self.address = address
        self.bytes = array.reshape(-1).view(np.uint8)
        self.end = address + len(self.bytes)
        self.writable = writable


class Memory:
    """A sparse 64-bit address space whose content is the mapped arrays' own bytes."""

    def __init__(self):
        self._starts = []
        self._regions = {}

    def map(self, address, array, writable=True):
        """Make the bytes of ``array`` the memory from ``address`` on; nothing is copied.

        Parameters
        ----------
        address : int
            Of the first byte.
        array : numpy.ndarray
            C-contiguous, not empty, of any dtype; must outlive the mapping.
        writable : bool
            False: writes there are answered with SLVERR.

        Raises
        ------
        TypeError, ValueError
            Not such an array; outside the address space; an overlap with what is mapped.
        """
        if not isinstance(array, np.ndarray):
            raise TypeError(f"array must be a numpy.ndarray, not {type(array).__name__}")
        if not array.flags.c_contiguous or array.nbytes == 0:
            raise ValueError("array must be C-contiguous and not empty, "
                             f"not of shape {array.shape} and strides {array.strides}")
        if writable and not array.flags.writeable:
            raise ValueError("array must be writable to be mapped with writable=True")
        address = int(address)
        end = address + array.nbytes
        if not 0 <= address < end <= ADDRESS_MASK + 1:
            raise ValueError(f"address must be from 0 to 2**64 - {array.nbytes}, not {address:#x}")
        before = bisect_right(self._starts, end - 1) - 1
        if before >= 0 and self._regions[self._starts[before]].end > address:
            other = self._regions[self._starts[before]]
            raise ValueError(f"address must not overlap what is mapped, not {address:#x} to "
                             f"{end:#x}: {other.address:#x} to {other.end:#x} is")
        self._regions[address] = _Region(address, array, bool(writable))
        insort(self._starts, address)

    def unmap(self, address):
        """Remove the array that was mapped at ``address``; ValueError if none was."""
        if address not in self._regions:
            raise ValueError(f"address must be that of a mapped array, not {address!r}")
        del self._regions[address]
        self._starts.remove(address)

    def _region(self, address):
        """Return the region that holds the byte at ``address``, or None."""
        before = bisect_right(self._starts, address) - 1
        if before < 0:
            return None
        region = self._regions[self._starts[before]]
        return region if address < region.end else None

    def pieces(self, address, n_bytes, write):
        """Return (bytes view, its offset in the access) of each region touched, or raise."""
        pieces, done = [], 0
        while done < n_bytes:
            at = (address + done) & ADDRESS_MASK
            region = self._region(at)
            if region is None:
                raise MemoryFault(at, DECERR)
            if write and not region.writable:
                raise MemoryFault(at, SLVERR)
            begin = at - region.address
            piece = region.bytes[begin:begin + n_bytes - done]
            pieces.append((piece, done))
            done += len(piece)
        return pieces

    def read(self, address, n_bytes):
        """Return ``n_bytes`` bytes from ``address``; MemoryFault where nothing is mapped."""
        return b"".join(piece.tobytes() for piece, _ in self.pieces(address, n_bytes, False))

    def write(self, address, data):
        """Write bytes to ``address``; MemoryFault before anything is written."""
        data = np.frombuffer(data, np.uint8)
        for piece, done in self.pieces(address, len(data), True):
            piece[...] = data[done:done + len(piece)]

    def view(self, address, shape, dtype, strides=None, write=False):
        """Return an array over the memory itself, or None unless one mapped array holds it all.

        Parameters
        ----------
        address : int
            Of the first element.
        shape : tuple of int
            Of the result; no dimension is 0.
        dtype : numpy dtype
            Of the elements.
        strides : tuple of int or None
            Bytes, not negative; None is C order.
        write : bool
            Whether it is to be written.

        Returns
        -------
        numpy.ndarray or None
        """
        dtype = np.dtype(dtype)
        if strides is None:
            strides = tuple(dtype.itemsize * int(np.prod(shape[n + 1:])) for n in range(len(shape)))
        region = self._region(address)
        extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (region is None or address + extent + dtype.itemsize > region.end
                or (write and not region.writable)):
            return None
        return np.ndarray(shape, dtype, buffer=region.bytes, offset=address - region.address,
                          strides=strides)
