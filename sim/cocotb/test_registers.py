"""A walk over the register map: every field of every register, as a bus sees it."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiResp

from ...hw.descriptor import DESCRIPTOR_BYTES
from ...hw.fields import Access
from ...hw.registers import (
    ADDRESS_WIDTH,
    N_WINDOWS,
    REGISTERS,
    ErrorCode,
    Reader,
    by_name,
    constant_values,
)
from .bench import Bench, TestbenchIo, config_of_run

OFFSET = {name: register.offset for name, register in by_name().items()}
OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR


class Bus:
    """Register accesses that return, and expect, a response."""

    def __init__(self, axil):
        self.axil = axil

    async def read(self, offset, response=OKAY):
        """Read the word at ``offset``; it must be answered with ``response``."""
        answer = await self.axil.read(offset, 4)
        assert answer.resp == response, (hex(offset), answer.resp)
        return int.from_bytes(answer.data, "little")

    async def write(self, offset, value, response=OKAY, first=0, count=4):
        """Write ``count`` bytes of ``value`` from byte ``first`` of the word at ``offset``."""
        data = value.to_bytes(4, "little")[first:first + count]
        answer = await self.axil.write(offset + first, data)
        assert answer.resp == response, (hex(offset), answer.resp)


def writable(register, access=Access.RW):
    """Return the bits of ``register`` that a write changes, as a mask."""
    return sum(field.mask & ~(field.fixed << field.lsb) for field in register.fields
               if field.access == access)


@cocotb.test()
@cocotb.parametrize(pauses=[0.0, 0.5])
async def reset_values(dut, pauses):
    """Every register reads its reset value; every address without one answers SLVERR."""
    bench = Bench(dut, register_pauses=pauses)
    await bench.start()
    bus = Bus(bench.axil)
    constants = constant_values(config_of_run())
    known = {register.offset: register for register in REGISTERS}
    for offset in range(0, 1 << ADDRESS_WIDTH, 4):
        if offset in known:
            register = known[offset]
            expected = constants.get(register.name, register.reset)
            assert await bus.read(offset) == expected, register.name
        else:
            assert await bus.read(offset, SLVERR) == 0
            if not pauses:
                await bus.write(offset, 0xFFFF_FFFF, SLVERR)
    bench.check()


@cocotb.test()
@cocotb.parametrize(pauses=[0.0, 0.5])
async def write_masks(dut, pauses):
    """Writes change exactly the bits that the map says, byte by byte; others answer SLVERR."""
    bench = Bench(dut, register_pauses=pauses)
    await bench.start()
    bus = Bus(bench.axil)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    special = {"control", "window_lock", "irq_status"}  # each has a test of its own
    walked = 0
    for register in REGISTERS:
        if register.name in special:
            continue
        before, mask = await bus.read(register.offset), writable(register)
        if all(field.access == Access.R for field in register.fields):
            await bus.write(register.offset, ~before & 0xFFFF_FFFF, SLVERR)
            assert await bus.read(register.offset) == before, register.name
            continue
        walked += 1
        value = before
        patterns = [0xFFFF_FFFF, 0, *(int(x) for x in rng.integers(0, 2**32, 3))]
        for pattern in patterns:
            await bus.write(register.offset, pattern)
            value = value & ~mask | pattern & mask
            assert await bus.read(register.offset) == value, (register.name, hex(pattern))
            for first, count in ((0, 1), (1, 1), (2, 1), (3, 1), (1, 2)):
                piece = int(rng.integers(0, 2**32))
                lanes = (0xFF if count == 1 else 0xFFFF) << 8 * first
                await bus.write(register.offset, piece, first=first, count=count)
                value = value & ~(mask & lanes) | piece & mask & lanes
                assert await bus.read(register.offset) == value, (register.name, first, count)
        await bus.write(register.offset, before)
    assert walked >= 4 + 5 * N_WINDOWS
    # Nothing else has moved.
    constants = constant_values(config_of_run())
    for register in REGISTERS:
        assert await bus.read(register.offset) == constants.get(register.name, register.reset)
    bench.check()


@cocotb.test()
async def control(dut):
    """The enable bit, the soft reset, and that pulses read as 0."""
    bench = Bench(dut)
    await bench.start()
    bus = Bus(bench.axil)
    await bus.write(OFFSET["control"], 1)                     # head equals tail: nothing to do
    assert await bus.read(OFFSET["control"]) == 1
    await bus.write(OFFSET["ring_base_lo"], 0x1000_0080)
    await bus.write(OFFSET["window0_base_lo"], 0x5000)
    await bus.write(OFFSET["irq_enable"], 3)
    await bus.write(OFFSET["control"], 0b101)                 # clear_counters beside enable
    assert await bus.read(OFFSET["control"]) == 1
    await bus.write(OFFSET["control"], 0)
    await bus.write(OFFSET["ring_tail"], 7)
    assert await bus.read(OFFSET["status"]) == 0
    await bus.write(OFFSET["control"], 0b010)
    await ClockCycles(dut.aclk, 100)
    assert await bus.read(OFFSET["control"]) == 0
    assert await bus.read(OFFSET["status"]) == 0
    assert await bus.read(OFFSET["ring_tail"]) == 0
    assert await bus.read(OFFSET["ring_base_lo"]) == 0x1000_0080  # the rest of the bank stays
    assert await bus.read(OFFSET["window0_base_lo"]) == 0x5000
    assert await bus.read(OFFSET["irq_enable"]) == 3
    bench.check()


@cocotb.test()
async def error_record_and_interrupt(dut):
    """A descriptor outside the windows: status, record, irq, write-one-to-clear, soft reset."""
    bench = Bench(dut)
    await bench.start()
    bus = Bus(bench.axil)
    base = 0x7000_0000_0000_1000
    await bus.write(OFFSET["ring_base_lo"], base % 2**32)
    await bus.write(OFFSET["ring_base_hi"], base >> 32)
    await bus.write(OFFSET["ring_size_log2"], 2)
    await bus.write(OFFSET["ring_tail"], 1)
    await bus.write(OFFSET["control"], 1)
    await ClockCycles(dut.aclk, 200)
    assert await bus.read(OFFSET["status"]) & 0b010
    assert await bus.read(OFFSET["error_code"]) == ErrorCode.WINDOW_READ
    assert await bus.read(OFFSET["error_descriptor"]) == 0
    assert await bus.read(OFFSET["error_limit_lo"]) == Reader.DESCRIPTOR
    value = (await bus.read(OFFSET["error_value_lo"])
             + (await bus.read(OFFSET["error_value_hi"]) << 32))
    assert value == base
    assert await bus.read(OFFSET["irq_status"]) == 0b10
    assert not dut.irq.value                                   # not enabled
    await bus.write(OFFSET["irq_enable"], 0b01)
    await ClockCycles(dut.aclk, 10)
    assert not dut.irq.value                                   # the other one is
    await bus.write(OFFSET["irq_enable"], 0b10)
    await ClockCycles(dut.aclk, 10)
    assert dut.irq.value
    for value, left in ((0b00, 0b10), (0b01, 0b10), (0b10, 0b00)):
        await bus.write(OFFSET["irq_status"], value)
        assert await bus.read(OFFSET["irq_status"]) == left
    await ClockCycles(dut.aclk, 10)
    assert not dut.irq.value
    await bus.write(OFFSET["control"], 0b010)
    await ClockCycles(dut.aclk, 100)
    for name in ("status", "error_code", "error_value_lo", "error_value_hi", "ring_tail",
                 "ring_head", "control"):
        assert await bus.read(OFFSET[name]) == 0, name
    bench.check()


@cocotb.test()
async def descriptor_error_names_its_field(dut):
    """A descriptor of all ones: fetched, refused, and nothing else is read or written."""
    bench = Bench(dut)
    await bench.start()
    bus = Bus(bench.axil)
    io = TestbenchIo(bench, latency=20)
    ring = np.full(4 * DESCRIPTOR_BYTES, 0xFF, np.uint8)
    io.map(0x1000, ring, writable=False)
    before = bench.counters()
    await bus.write(OFFSET["window1_limit_lo"], 0x1FFF)
    await bus.write(OFFSET["window1_base_lo"], 0x1000)
    await bus.write(OFFSET["window1_access"], 1)
    await bus.write(OFFSET["ring_base_lo"], 0x1000)
    await bus.write(OFFSET["ring_size_log2"], 2)
    await bus.write(OFFSET["irq_enable"], 0b10)
    await bus.write(OFFSET["ring_tail"], 2)
    await bus.write(OFFSET["control"], 1)
    await ClockCycles(dut.aclk, 300)
    assert dut.irq.value
    assert await bus.read(OFFSET["error_code"]) == ErrorCode.DESCRIPTOR
    assert await bus.read(OFFSET["error_position"]) == 0
    assert await bus.read(OFFSET["ring_head"]) == 0
    after = bench.counters()
    read = (after["read_beats"] - before["read_beats"]) * config_of_run().derived.beat_bytes
    assert read in (DESCRIPTOR_BYTES, 2 * DESCRIPTOR_BYTES)
    assert after["write_bursts"] == before["write_bursts"]
    io.unmap(0x1000)
    bench.check()


@cocotb.test()
async def window_lock(dut):
    """Once locked, the windows stay as they are until a hardware reset."""
    bench = Bench(dut)
    await bench.start()
    bus = Bus(bench.axil)
    names = [name for name in OFFSET if name.startswith("window") and name != "window_lock"]
    for name in names:
        await bus.write(OFFSET[name], 0xFFFF_FFFF)
    values = {name: await bus.read(OFFSET[name]) for name in names}
    await bus.write(OFFSET["window_lock"], 0)
    assert await bus.read(OFFSET["window_lock"]) == 0
    await bus.write(OFFSET["window_lock"], 1)
    for _ in range(2):
        for name in names:
            await bus.write(OFFSET[name], 0, SLVERR)
            assert await bus.read(OFFSET[name]) == values[name], name
        await bus.write(OFFSET["window_lock"], 0)
        assert await bus.read(OFFSET["window_lock"]) == 1
        await bus.write(OFFSET["control"], 0b010)              # a soft reset does not unlock
        await ClockCycles(dut.aclk, 100)
    dut.aresetn.value = 0
    await ClockCycles(dut.aclk, 3)
    dut.aresetn.value = 1
    await ClockCycles(dut.aclk, 3)
    for name in ("window_lock", *names):
        assert await bus.read(OFFSET[name]) == by_name()[name].reset, name
    await bus.write(OFFSET[names[0]], 0xFFFF_FFFF)
    assert await bus.read(OFFSET[names[0]]) == values[names[0]]
    bench.check()
