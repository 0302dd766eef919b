"""Equality to the bit: of arrays, and of everything an engine can reach in memory."""

import numpy as np

from .golden import first_difference

__all__ = ["GUARD", "PAGE_BYTES", "ImageIo", "MismatchError", "same_bits", "same_image"]

#: What every byte holds that the engine may reach and that belongs to no array.
GUARD = 0xAA
#: The windows that fence the engine in are made of pages of this size.
PAGE_BYTES = 4096


class MismatchError(AssertionError):
    """Two backends that must agree to the bit do not, or a byte was written that must not be."""


def same_bits(what, got, expected):
    """Check that two arrays agree: integers in value, float32 to the bit, every NaN the same.

    Raises
    ------
    MismatchError
        Naming ``what`` and the first element that differs.
    """
    if got.shape != expected.shape:
        raise MismatchError(f"{what} must have shape {expected.shape}, not {got.shape}")
    if expected.dtype.kind == "i":
        if not np.array_equal(got, expected):
            first = tuple(int(n) for n in np.argwhere(got != expected)[0])
            raise MismatchError(f"{what}{list(first)} must be {expected[first]}, "
                                f"not {got[first]}")
        return
    difference = first_difference(got, expected)
    if difference is not None:
        index, got_bits, expected_bits = difference
        raise MismatchError(
            f"{what}{list(index)} must be {expected[index]!r} ({expected_bits:#010x}), "
            f"not {got[index]!r} ({got_bits:#010x})")


def same_image(what, got, expected, undefined=()):
    """Check two memory images byte by byte, and that every guard byte is what it was.

    Parameters
    ----------
    what : str
        What made them, for the message.
    got, expected : ImageIo
        After the same submission to two engines.
    undefined : sequence of (int, int)
        Address and size of memory that may hold anything: scratch.

    Returns
    -------
    int
        Number of bytes compared.

    Raises
    ------
    MismatchError
        Naming the first byte at fault.
    """
    for io in (got, expected):
        if io.stray is not None:
            address, value = io.stray
            raise MismatchError(f"{what}: guard byte at {address:#x} must be {GUARD:#04x}, "
                                f"not {value:#04x}")
    if list(got.image) != list(expected.image):
        raise MismatchError(f"{what}: memory must be mapped at "
                            f"{[hex(a) for a in expected.image]}, not "
                            f"{[hex(a) for a in got.image]}")
    for address, wanted in expected.image.items():
        found = got.image[address].copy()
        for begin, size in undefined:
            if address <= begin < address + len(found):
                part = slice(begin - address, begin - address + size)
                found[part] = wanted[part]
        if not np.array_equal(found, wanted):
            first = int(np.argmax(found != wanted))
            raise MismatchError(
                f"{what}: {np.count_nonzero(found != wanted)} bytes of memory differ; the first, "
                f"at {address + first:#x}, must be {wanted[first]:#04x}, not {found[first]:#04x}")
    return sum(len(data) for data in expected.image.values()) - sum(
        size for _, size in undefined)


class ImageIo:
    """An EngineIo around another that guards the memory and keeps an image of it.

    Every byte of a page (4 KiB, what the address windows are made of) that holds part of an array
    but belongs to none is mapped too, writable and full of 0xAA: a stray write that the windows
    let through lands there and is found. When the driver takes the arrays of a submission back,
    everything that is mapped is copied.

    Parameters
    ----------
    io : EngineIo
        The engine.

    Attributes
    ----------
    image : dict of int to numpy.ndarray
        Address to uint8[n]: whatever was mapped at the end of the last submission, neighbouring
        arrays and guards as one, in order of addresses.
    guard_bytes : int
        How many bytes of ``image`` are guards.
    stray : tuple of int or None
        Address and value of the first guard byte that was changed.
    """

    def __init__(self, io):
        self.io = io
        self.image = {}
        self.guard_bytes = 0
        self.stray = None
        self._pending = {}
        self._groups = []

    def read_register(self, offset):
        """Read a register of the engine."""
        self._map_pending()
        return self.io.read_register(offset)

    def write_register(self, offset, value):
        """Write a register of the engine."""
        self._map_pending()
        self.io.write_register(offset, value)

    def wait(self, max_cycles):
        """Let the engine run until its interrupt is high."""
        self._map_pending()
        return self.io.wait(max_cycles)

    def map(self, address, array, writable=True):
        """Map ``array`` at ``address`` together with the guards around it."""
        # Where the guards go is known when the last array of a submission is: at the next access.
        self._pending[address] = (array.reshape(-1).view(np.uint8), array, writable)

    def unmap(self, address):
        """Take the array back; the first of a submission's arrays makes the image."""
        if self._pending.pop(address, None) is not None:
            return
        group = next(group for group in self._groups if address in group["arrays"])
        if group["guards"] is not None:
            self._keep_image()
            for start in group["guards"]:
                self.io.unmap(start)
            group["guards"] = None
        self.io.unmap(address)
        del group["arrays"][address]
        if not group["arrays"]:
            self._groups.remove(group)

    def close(self):
        """Release the engine."""
        self.io.close()

    def _map_pending(self):
        if not self._pending:
            return
        arrays = {address: data for address, (data, _, _) in sorted(self._pending.items())}
        guards = {start: np.full(stop - start, GUARD, np.uint8) for start, stop in _gaps(arrays)}
        for address, (_, array, writable) in self._pending.items():
            self.io.map(address, array, writable=writable)
        for address, guard in guards.items():
            self.io.map(address, guard, writable=True)
        self._groups.append({"arrays": arrays, "guards": guards})
        self._pending = {}

    def _keep_image(self):
        guards = {a: g for group in self._groups for a, g in (group["guards"] or {}).items()}
        arrays = {a: d for group in self._groups for a, d in group["arrays"].items()}
        self.guard_bytes = sum(len(guard) for guard in guards.values())
        self.stray = None
        for address, guard in sorted(guards.items()):
            if (guard != GUARD).any():
                first = int(np.argmax(guard != GUARD))
                self.stray = (address + first, int(guard[first]))
                break
        self.image, run, end = {}, [], None
        for address, data in sorted((arrays | guards).items()):
            if address != end:
                run = self.image[address] = []
            run.append(data)
            end = address + len(data)
        self.image = {address: np.concatenate(run) for address, run in self.image.items()}


def _gaps(arrays):
    """Yield (start, stop) of the bytes in the pages of ``arrays`` that belong to none of them."""
    end = 0
    for address, data in arrays.items():
        page = address // PAGE_BYTES * PAGE_BYTES
        # The rest of the page in which the array before ended, if this one starts in another.
        rest = -(-end // PAGE_BYTES) * PAGE_BYTES
        if rest <= page:
            if end < rest:
                yield end, rest
            if page < address:
                yield page, address
        elif end < address:
            yield end, address
        end = address + len(data)
    rest = -(-end // PAGE_BYTES) * PAGE_BYTES
    if end < rest:
        yield end, rest
