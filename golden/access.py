"""What a unit sees of memory: arrays behind address windows, and the faults that stop it."""

from dataclasses import dataclass

import numpy as np

from .memory import ADDRESS_MASK, MemoryFault

__all__ = ["INT32", "INT64", "READ_RESPONSE", "SEQUENTIAL", "WINDOW_READ", "ErrorRecord", "Guard",
           "Stop", "Unit", "Window"]

PAGE_LOG2 = 12
SEQUENTIAL, INT32, INT64 = 0, 1, 2   # hw.descriptor.ElementKind

# Numbers of hw.registers.ErrorCode; a test compares them.
OFFSET_FIRST, OFFSET_ORDER, OFFSET_RANGE = 5, 6, 7
WINDOW_READ, READ_RESPONSE = 8, 10


@dataclass(frozen=True)
class ErrorRecord:
    """What stopped the engine.

    Attributes
    ----------
    code : int
        A number of ``hw.registers.ErrorCode``, which also says what the others hold.
    descriptor : int
        Ring slot.
    position : int
        Where in the descriptor's work.
    value, limit : int
        What was at fault, modulo 2**64, and the limit that it broke.
    unit : int
        Whose descriptor: 0 the gather-scatter unit's, 1 the cast unit's.
    """

    code: int
    descriptor: int
    position: int
    value: int
    limit: int
    unit: int = 0


@dataclass(frozen=True)
class Window:
    """Addresses from the page of ``base`` to the page of ``limit``, and what may be done there."""

    base: int
    limit: int
    read: bool
    write: bool


class Stop(Exception):
    """Carries the error record out of the checks."""

    def __init__(self, code, position, value, limit):
        self.fields = (int(code), int(position), int(value) & ADDRESS_MASK,
                       int(limit) & ADDRESS_MASK)


class Guard:
    """The address windows; without any, everything is allowed."""

    def __init__(self, windows):
        self.pages = None if windows is None else [
            (window.base >> PAGE_LOG2, window.limit >> PAGE_LOG2, window.read, window.write)
            for window in windows]

    def first_outside(self, address, n_bytes, write):
        """Return the address of the first burst of an access that is not allowed, or None."""
        if self.pages is None:
            return None
        page, last = address >> PAGE_LOG2, (address + n_bytes - 1) >> PAGE_LOG2
        while page <= last:
            at = page & (ADDRESS_MASK >> PAGE_LOG2)
            reach = max((limit for base, limit, *allowed in self.pages
                         if base <= at <= limit and allowed[write]), default=None)
            if reach is None:
                return max(page << PAGE_LOG2, address) & ADDRESS_MASK
            page += reach - at + 1
        return None

    def allowed(self, addresses, write):
        """Return for each address (uint64 array) whether its page is allowed."""
        if self.pages is None:
            return np.ones(addresses.shape, bool)
        pages = addresses >> np.uint64(PAGE_LOG2)
        result = np.zeros(addresses.shape, bool)
        for base, limit, *allowed in self.pages:
            if allowed[write]:
                result |= (pages >= np.uint64(base)) & (pages <= np.uint64(limit))
        return result


class Unit:
    """One descriptor at work: its memory, its windows, and the arrays that it reads.

    Parameters
    ----------
    memory : Memory
    descriptor : mapping of str to int
    beat_bytes : int
    windows : sequence of Window or None
    """

    def __init__(self, memory, descriptor, beat_bytes, windows):
        self.memory = memory
        self.descriptor = descriptor
        self.beat_bytes = beat_bytes
        self.guard = Guard(windows)

    def array(self, base, kind, count, reader):
        """Return ``count`` integers from memory as int64; the beats that cover them are read."""
        if count == 0:
            return np.zeros(0, np.int64)
        size = 4 if kind == INT32 else 8
        first = base - base % self.beat_bytes
        last = -(-(base + count * size) // self.beat_bytes) * self.beat_bytes
        outside = self.guard.first_outside(first, last - first, write=False)
        if outside is not None:
            element = 0 if outside == first else ((outside - base) & ADDRESS_MASK) // size
            raise Stop(WINDOW_READ, element, outside, reader)
        try:
            data = self.memory.read(base, count * size)
        except MemoryFault as fault:
            beats = ((fault.address - first) & ADDRESS_MASK) // self.beat_bytes
            raise Stop(READ_RESPONSE, beats, fault.response, reader) from None
        return np.frombuffer(data, np.int32 if kind == INT32 else np.int64).astype(np.int64)

    def offset_array(self, base, kind, count, n_lookups, reader):
        """Return ``count`` checked offsets: from 0, not falling, at most ``n_lookups``."""
        offsets = self.array(base, kind, count, reader)
        falls = np.append(False, offsets[1:] < offsets[:-1])
        beyond = offsets > n_lookups
        wrong = falls | beyond
        wrong[0] |= offsets[0] != 0
        if wrong.any():
            s = int(np.argmax(wrong))
            if s == 0 and offsets[0] != 0:
                raise Stop(OFFSET_FIRST, 0, offsets[0], 0)
            if falls[s]:
                raise Stop(OFFSET_ORDER, s, offsets[s], offsets[s - 1])
            raise Stop(OFFSET_RANGE, s, offsets[s], n_lookups)
        return offsets
