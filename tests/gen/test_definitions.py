"""The single definitions: registers, descriptor and error codes make sense in themselves."""

import random

import pytest

from tcast.hw import descriptor, registers
from tcast.hw.fields import Access


def overlap(fields):
    used = 0
    for field in fields:
        if used & field.mask:
            return field.name
        used |= field.mask
    return None


def test_registers_have_their_own_place():
    offsets = [register.offset for register in registers.REGISTERS]
    assert len(set(offsets)) == len(offsets) and sorted(offsets) == offsets
    assert all(offset % 4 == 0 and offset < 1 << registers.ADDRESS_WIDTH for offset in offsets)
    assert len(registers.by_name()) == len(offsets)


@pytest.mark.parametrize("register", registers.REGISTERS, ids=lambda register: register.name)
def test_register_fields(register):
    assert overlap(register.fields) is None
    for field in register.fields:
        assert field.mask < 1 << 32
        assert 0 <= field.reset < 1 << field.width
        assert 0 <= field.fixed < 1 << field.width
        assert field.doc.endswith(".")
        assert field.access in vars(Access).values()
        if field.enum:
            assert max(field.enum) < 1 << field.width
    # A register is for reading or for writing, so that SLVERR for a write has one meaning.
    assert len({field.access == Access.R for field in register.fields}) == 1


def test_descriptor_fields():
    assert overlap(descriptor.FIELDS) is None
    for field in descriptor.FIELDS:
        assert field.lsb + field.width <= 8 * descriptor.DESCRIPTOR_BYTES
        word = 64 if field.width == 64 else 32
        assert field.lsb // word == (field.lsb + field.width - 1) // word, "naturally aligned"


def test_every_error_code_is_explained():
    assert set(registers.ERROR_DOC) == set(registers.ErrorCode)


def test_descriptor_packs_and_unpacks():
    source = random.Random(5)
    for _ in range(50):
        values = {field.name: source.getrandbits(field.width) for field in descriptor.FIELDS}
        assert descriptor.unpack(descriptor.pack(values)) == values
    assert descriptor.pack({}) == bytes(descriptor.DESCRIPTOR_BYTES)
    assert descriptor.pack({"n_lookups": 0x0102_0304})[8:12] == bytes((4, 3, 2, 1))
    with pytest.raises(ValueError, match="dim must be from 0"):
        descriptor.pack({"dim": 1 << 16})
    with pytest.raises(ValueError, match="not 'dimm'"):
        descriptor.pack({"dimm": 1})
