"""Bits, images and guards: equal things pass, and every kind of difference is named."""

import numpy as np
import pytest

from tcast.equality import GUARD, PAGE_BYTES, ImageIo, MismatchError, same_bits, same_image


def test_same_bits_takes_any_nan_but_not_the_other_zero():
    a = np.array([[1, np.nan], [0, -0.0]], np.float32)
    b = a.copy()
    b.view(np.uint32)[0, 1] = 0xFFC12345
    same_bits("x", a, b)
    b[1, 1] = 0.0
    with pytest.raises(MismatchError, match=r"x\[1, 1\] must be .*0\.0.*0x00000000.*0x80000000"):
        same_bits("x", a, b)
    with pytest.raises(MismatchError, match=r"must have shape \(2,\), not \(2, 2\)"):
        same_bits("x", a, a[0])


class Memory:
    """An engine that does what ``run`` says when it is waited for."""

    def __init__(self, run=lambda memory: None):
        self.run, self.mapped = run, {}

    def read_register(self, offset):
        return 0

    def write_register(self, offset, value):
        pass

    def map(self, address, array, writable=True):
        data = array.reshape(-1).view(np.uint8)
        for start, (other, _) in self.mapped.items():
            assert address + len(data) <= start or start + len(other) <= address
        self.mapped[address] = (data, writable)

    def unmap(self, address):
        del self.mapped[address]

    def wait(self, max_cycles):
        self.run(self)
        return True

    def close(self):
        pass

    def poke(self, address, value):
        for start, (data, writable) in self.mapped.items():
            if start <= address < start + len(data):
                assert writable
                data[address - start] = value
                return
        raise AssertionError(f"{address:#x} is not mapped")


def submit(run=lambda memory: None):
    """Run one submission of three arrays and return the ImageIo and what stays mapped."""
    memory = Memory(run)
    io = ImageIo(memory)
    ring = np.zeros(128, np.uint8)
    io.map(0x10000, ring, writable=False)
    io.write_register(0, 0)
    arrays = {0x20010: np.arange(6, dtype=np.float32), 0x20040: np.zeros(2, np.float32),
              0x20FF8: np.ones(5, np.float32), 0x30000: np.full(1024, 2, np.float32)}
    for address, array in arrays.items():
        io.map(address, array)
    io.wait(1)
    for address in arrays:
        io.unmap(address)
    return io, memory


def test_image_covers_whole_pages_and_is_full_of_guards():
    io, memory = submit()
    assert list(io.image) == [0x10000, 0x20000, 0x30000]
    assert [len(data) for data in io.image.values()] == [PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES]
    image = io.image[0x20000]
    assert image[0x10:0x28].view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert (image[0x28:0x40] == GUARD).all() and (image[0x48:0xFF8] == GUARD).all()
    assert io.guard_bytes == 4 * PAGE_BYTES - 128 - 24 - 8 - 20 - 4096
    assert io.stray is None
    # The ring and the guards of its page stay; everything else is gone.
    assert sorted(memory.mapped) == [0x10000, 0x10080]


def test_equal_runs_are_equal_and_the_bytes_are_counted():
    assert same_image("run", submit()[0], submit()[0]) == 4 * PAGE_BYTES


@pytest.mark.parametrize(("address", "words"), [
    (0x20012, "1 bytes of memory differ; the first, at 0x20012, must be 0x00, not 0x77"),
    (0x20028, "guard byte at 0x20028 must be 0xaa, not 0x77"),
    (0x20000, "guard byte at 0x20000"),
    (0x2100C, "guard byte at 0x2100c"),
    (0x21FFF, "guard byte at 0x21fff"),
    (0x10080, "guard byte at 0x10080"),
])
def test_one_stray_byte_anywhere_is_found(address, words):
    good, bad = submit()[0], submit(lambda memory: memory.poke(address, 0x77))[0]
    with pytest.raises(MismatchError, match=words):
        same_image("run", bad, good)
