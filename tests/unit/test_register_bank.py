"""The register bank against the register map, field by field, over AXI4-Lite."""

import random
from collections import Counter

import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from tcast.hw.axi import RESP_OKAY, RESP_SLVERR
from tcast.hw.config import EngineConfig
from tcast.hw.fields import Access
from tcast.hw.register_bank import RegisterBank, member_fields
from tcast.hw.registers import ADDRESS_WIDTH, REGISTERS, by_name, constant_values

CONFIG = EngineConfig.preset("tiny64")
OFFSETS = {register.offset: register for register in REGISTERS}
UNMAPPED = [offset for offset in range(0, 1 << ADDRESS_WIDTH, 4) if offset not in OFFSETS]
MEMBERS = member_fields(CONFIG)
CLOCK = 1e-8


class Model:
    """What the map says, in plain Python: one transaction at a time."""

    def __init__(self):
        self.values = {register.name: register.reset for register in REGISTERS}
        self.values.update(constant_values(CONFIG))
        self.pulses = Counter()

    def read(self, address):
        register = OFFSETS.get(address & ~3)
        return (RESP_SLVERR, 0) if register is None else (RESP_OKAY, self.values[register.name])

    def write(self, address, data, strobe):
        register = OFFSETS.get(address & ~3)
        if register is None or all(field.access == Access.R for field in register.fields):
            return RESP_SLVERR
        if register.name.startswith("window") and register.name != "window_lock" and \
                self.values["window_lock"]:
            return RESP_SLVERR
        lanes = sum(0xFF << 8 * lane for lane in range(4) if strobe >> lane & 1)
        for field in register.fields:
            mask = field.mask & lanes & ~(field.fixed << field.lsb)
            old = self.values[register.name]
            match field.access:
                case Access.RW:
                    self.values[register.name] = old & ~mask | data & mask
                case Access.W1S:
                    self.values[register.name] = old | data & mask
                case Access.W1C:
                    self.values[register.name] = old & ~(data & mask)
                case Access.PULSE:
                    if data & mask:
                        self.pulses[f"{register.name}_{field.name}"] += 1
        return RESP_OKAY

    def member(self, name):
        value = position = 0
        for register, field in MEMBERS[name]:
            part = (self.values[register.name] & field.mask) >> field.lsb
            value |= part << position
            position += field.width
        return value


class Bench:
    """A bank in pysim: an AXI4-Lite manager with random waits, and checks of the bus rules."""

    def __init__(self, seed=0, stall=0.0):
        print(f"SEED={seed} stall={stall}")
        self.random = random.Random(seed)
        self.stall = stall
        self.dut = RegisterBank(CONFIG)
        self.sim = Simulator(self.dut)
        self.sim.add_clock(CLOCK)
        self.pulses = Counter()
        self.sim.add_testbench(self._watchdog, background=True)
        self.sim.add_testbench(self._watch_pulses, background=True)
        for channel, payload in (("b", ("bresp",)), ("r", ("rresp", "rdata"))):
            self.sim.add_testbench(self._watch_channel(channel, payload), background=True)

    async def _watchdog(self, ctx):
        for _ in range(100_000):
            await ctx.tick()
        raise AssertionError("the bench hangs")

    async def _watch_pulses(self, ctx):
        names = [name for name, ((_, field), *_) in MEMBERS.items() if field.access == Access.PULSE]
        async for _, reset, *values in ctx.tick().sample(*(getattr(self.dut, n) for n in names)):
            assert not reset
            for name, value in zip(names, values, strict=True):
                self.pulses[name] += value

    def _watch_channel(self, channel, payload):
        async def watch(ctx):
            bus = self.dut.s_axil
            valid, ready = getattr(bus, f"{channel}valid"), getattr(bus, f"{channel}ready")
            waiting = None
            tick = ctx.tick().sample(valid, ready, *(getattr(bus, name) for name in payload))
            async for _, _, is_valid, is_ready, *values in tick:
                if waiting is not None:
                    assert is_valid and values == waiting, f"{channel} changed before acceptance"
                waiting = values if is_valid and not is_ready else None
        return watch

    async def _wait(self, ctx):
        while self.random.random() < self.stall:
            await ctx.tick()

    async def _send(self, ctx, channel, **payload):
        bus = self.dut.s_axil
        await self._wait(ctx)
        for name, value in payload.items():
            ctx.set(getattr(bus, name), value)
        ctx.set(getattr(bus, f"{channel}valid"), 1)
        await ctx.tick().until(getattr(bus, f"{channel}ready"))
        ctx.set(getattr(bus, f"{channel}valid"), 0)

    async def _receive(self, ctx, channel, *payload):
        bus = self.dut.s_axil
        await self._wait(ctx)
        ctx.set(getattr(bus, f"{channel}ready"), 1)
        values = await ctx.tick().sample(*(getattr(bus, name) for name in payload)).until(
            getattr(bus, f"{channel}valid"))
        ctx.set(getattr(bus, f"{channel}ready"), 0)
        return tuple(values)

    async def read(self, ctx, address):
        await self._send(ctx, "ar", araddr=address)
        return await self._receive(ctx, "r", "rresp", "rdata")

    async def write(self, ctx, address, data, strobe=0xF):
        aw, w = {"awaddr": address}, {"wdata": data, "wstrb": strobe}
        order = [("aw", aw), ("w", w)]
        self.random.shuffle(order)
        for channel, payload in order:
            await self._send(ctx, channel, **payload)
        return (await self._receive(ctx, "b", "bresp"))[0]


def run(body, seed=0, stall=0.0):
    """Simulate ``body(bench, ctx)``; fail where it does not come to its end."""
    bench = Bench(seed, stall)
    ended = []

    async def testbench(ctx):
        await body(bench, ctx)
        ended.append(True)

    bench.sim.add_testbench(testbench)
    bench.sim.run()
    assert ended
    return bench


def writable(field):
    return field.access in (Access.RW, Access.W1S)


def test_reset_values():
    async def body(bench, ctx):
        model = Model()
        for register in REGISTERS:
            assert await bench.read(ctx, register.offset) == model.read(register.offset), register
        for name, halves in MEMBERS.items():
            if writable(halves[0][1]):
                assert ctx.get(getattr(bench.dut, name)) == model.member(name), name

    run(body)


def test_identity_follows_the_configuration():
    for preset in ("tiny64", "ddr512"):
        config = EngineConfig.preset(preset)
        values = constant_values(config)
        assert values["id"].to_bytes(4, "little") == b"TCST"
        assert values["config_hash"] == config.hash
        assert values["capability"] & 0xFF == config.data_width // 32
        assert values["capability"] >> 8 & 0xFFF == config.dim_max


def test_every_field():
    """Write ones, zeros and a pattern to each register; nothing but its own fields may change."""
    async def body(bench, ctx):
        model = Model()
        # The lock last: it would shut the windows.
        for register in sorted(REGISTERS, key=lambda register: register.name == "window_lock"):
            for data in (0xFFFF_FFFF, 0, 0xA5C3_965A, 0x5A3C_69A5):
                response = await bench.write(ctx, register.offset, data)
                assert response == model.write(register.offset, data, 0xF), register
                assert await bench.read(ctx, register.offset) == model.read(register.offset)
                for name, halves in MEMBERS.items():
                    if writable(halves[0][1]):
                        assert ctx.get(getattr(bench.dut, name)) == model.member(name), name
        for register in REGISTERS:
            assert await bench.read(ctx, register.offset) == model.read(register.offset), register
        assert +bench.pulses == model.pulses

    run(body)


def test_strobes_write_their_byte_lanes_only():
    async def body(bench, ctx):
        model = Model()
        writables = [r for r in REGISTERS if any(f.access != Access.R for f in r.fields)
                     and r.name != "window_lock"]
        for register in writables:
            for strobe in range(16):
                data = bench.random.getrandbits(32)
                assert await bench.write(ctx, register.offset, data, strobe) == \
                    model.write(register.offset, data, strobe)
                assert await bench.read(ctx, register.offset) == model.read(register.offset)
        assert +bench.pulses == model.pulses
        offset = by_name()["window_lock"].offset
        assert await bench.write(ctx, offset, 1, 0b1110) == RESP_OKAY
        assert (await bench.read(ctx, offset))[1] == 0

    run(body)


def test_status_inputs_are_shown():
    async def body(bench, ctx):
        model = Model()
        for _ in range(3):
            for name, halves in MEMBERS.items():
                if halves[0][1].access != Access.R:
                    continue
                width = sum(field.width for _, field in halves)
                value = bench.random.getrandbits(width)
                ctx.set(getattr(bench.dut, name), value)
                for register, field in halves:
                    part = (value & (1 << field.width) - 1) << field.lsb
                    model.values[register.name] = \
                        model.values[register.name] & ~field.mask | part
                    value >>= field.width
            for register in REGISTERS:
                assert await bench.read(ctx, register.offset) == model.read(register.offset)

    run(body)


def test_unmapped_addresses_answer_slverr():
    async def body(bench, ctx):
        for address in UNMAPPED:
            assert await bench.read(ctx, address) == (RESP_SLVERR, 0), hex(address)
            assert await bench.write(ctx, address, 0xFFFF_FFFF) == RESP_SLVERR, hex(address)
        model = Model()
        for register in REGISTERS:
            assert await bench.read(ctx, register.offset) == model.read(register.offset), register

    assert not +run(body).pulses


def test_locked_windows_refuse_writes_until_hardware_reset():
    registers = by_name()
    windows = [r for r in REGISTERS if r.name.startswith("window") and r.name != "window_lock"]

    async def body(bench, ctx):
        model = Model()

        async def both(offset, data):
            response = await bench.write(ctx, offset, data)
            assert response == model.write(offset, data, 0xF)
            return response

        for register in windows:
            assert await both(register.offset, 0x1234_5003) == RESP_OKAY
        lock = registers["window_lock"].offset
        assert await both(lock, 1) == RESP_OKAY
        for register in windows:
            assert await both(register.offset, 0xFFFF_FFFF) == RESP_SLVERR
        assert await both(lock, 0) == RESP_OKAY        # ignored: only ones are written
        ctx.set(bench.dut.reset_done, 1)               # a soft reset does not unlock
        await ctx.tick()
        ctx.set(bench.dut.reset_done, 0)
        assert await both(windows[0].offset, 0) == RESP_SLVERR
        for register in REGISTERS:
            assert await bench.read(ctx, register.offset) == model.read(register.offset)
        assert ctx.get(bench.dut.window_lock) == 1
        assert ctx.get(bench.dut.window3_limit) == 0x1234_5003_1234_5FFF

    run(body)


def test_soft_reset_clears_enable_and_tail_alone():
    registers = by_name()

    async def body(bench, ctx):
        model = Model()
        for name in ("control", "irq_enable", "ring_base_lo", "ring_size_log2", "ring_tail"):
            await bench.write(ctx, registers[name].offset, 0xFFFF_FFF9)
            model.write(registers[name].offset, 0xFFFF_FFF9, 0xF)
        assert ctx.get(bench.dut.control_enable) == 1
        ctx.set(bench.dut.reset_done, 1)
        await ctx.tick()
        ctx.set(bench.dut.reset_done, 0)
        assert ctx.get(bench.dut.control_enable) == 0
        assert ctx.get(bench.dut.ring_tail) == 0
        model.values.update(control=0, ring_tail=0)
        for register in REGISTERS:
            assert await bench.read(ctx, register.offset) == model.read(register.offset)

    run(body)


def test_interrupt_causes_stick_and_are_cleared_by_ones():
    registers = by_name()
    status, enable = registers["irq_status"].offset, registers["irq_enable"].offset

    async def body(bench, ctx):
        async def pulse(name):
            ctx.set(getattr(bench.dut, name), 1)
            await ctx.tick()
            ctx.set(getattr(bench.dut, name), 0)
            await ctx.tick().repeat(2)

        await pulse("irq_status_done")
        assert await bench.read(ctx, status) == (RESP_OKAY, 1)
        assert ctx.get(bench.dut.irq) == 0                     # not enabled
        await bench.write(ctx, enable, 1)
        await ctx.tick().repeat(2)
        assert ctx.get(bench.dut.irq) == 1
        await pulse("irq_status_error")
        await bench.write(ctx, status, 0)                      # zeros clear nothing
        assert await bench.read(ctx, status) == (RESP_OKAY, 3)
        await bench.write(ctx, status, 1, 0b1110)              # nor do lanes without strobe
        assert await bench.read(ctx, status) == (RESP_OKAY, 3)
        await bench.write(ctx, status, 1)
        assert await bench.read(ctx, status) == (RESP_OKAY, 2)
        await ctx.tick().repeat(2)
        assert ctx.get(bench.dut.irq) == 0
        await bench.write(ctx, enable, 2)
        await ctx.tick().repeat(2)
        assert ctx.get(bench.dut.irq) == 1
        await bench.write(ctx, status, 2)
        await ctx.tick().repeat(2)
        assert ctx.get(bench.dut.irq) == 0

    run(body)


def test_a_cause_that_comes_with_its_clear_stays():
    status = by_name()["irq_status"].offset

    async def body(bench, ctx):
        bus = bench.dut.s_axil
        ctx.set(bench.dut.irq_status_done, 1)
        await ctx.tick()
        ctx.set(bench.dut.irq_status_done, 0)
        for set_again, left in ((1, 1), (0, 0)):
            ctx.set(bus.awaddr, status)
            ctx.set(bus.wdata, 1)
            ctx.set(bus.wstrb, 0xF)
            ctx.set(bus.awvalid, 1)
            ctx.set(bus.wvalid, 1)
            await ctx.tick()                                   # accepted
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 0)
            await ctx.tick()                                   # decoded
            ctx.set(bench.dut.irq_status_done, set_again)      # the cycle that performs the write
            await ctx.tick()
            assert ctx.get(bus.bvalid)
            ctx.set(bench.dut.irq_status_done, 0)
            ctx.set(bus.bready, 1)
            await ctx.tick()
            ctx.set(bus.bready, 0)
            assert await bench.read(ctx, status) == (RESP_OKAY, left)

    run(body)


def test_latency():
    """RVALID three cycles after AR; BVALID and the effect three cycles after AW."""
    async def body(bench, ctx):
        bus = bench.dut.s_axil
        ctx.set(bus.araddr, 0)
        ctx.set(bus.arvalid, 1)
        ctx.set(bus.awaddr, by_name()["control"].offset)
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wdata, 3)
        ctx.set(bus.wstrb, 1)
        ctx.set(bus.wvalid, 1)
        seen = []
        for _ in range(6):
            await ctx.tick()
            for channel in ("ar", "aw", "w"):
                ctx.set(getattr(bus, f"{channel}valid"), 0)
            seen.append((ctx.get(bus.rvalid), ctx.get(bus.bvalid),
                         ctx.get(bench.dut.control_enable),
                         ctx.get(bench.dut.control_soft_reset)))
        assert seen == [(0, 0, 0, 0)] * 2 + [(1, 1, 1, 1)] + [(1, 1, 1, 0)] * 3

    run(body)


def test_no_combinational_path():
    """Flipping any input between clock edges changes no output, in whatever state."""
    async def body(bench, ctx):
        dut, bus = bench.dut, bench.dut.s_axil
        inputs = [getattr(bus, name) for name in (
            "awaddr", "awvalid", "wdata", "wstrb", "wvalid", "bready", "araddr", "arvalid",
            "rready")]
        inputs += [getattr(dut, name) for name, halves in MEMBERS.items()
                   if halves[0][1].access in (Access.R, Access.W1C)]
        inputs.append(dut.reset_done)
        outputs = [bus.awready, bus.wready, bus.bvalid, bus.bresp, bus.arready, bus.rvalid,
                   bus.rdata, bus.rresp, dut.irq]
        outputs += [getattr(dut, name) for name, halves in MEMBERS.items()
                    if halves[0][1].access in (Access.RW, Access.W1S, Access.PULSE)]
        for _ in range(60):
            before = [ctx.get(output) for output in outputs]
            for signal in inputs:
                old = ctx.get(signal)
                ctx.set(signal, ~old & (1 << len(signal)) - 1)
                assert [ctx.get(output) for output in outputs] == before, signal
                ctx.set(signal, bench.random.getrandbits(len(signal)) if len(signal) == 1 else
                        old ^ 4)
            assert [ctx.get(output) for output in outputs] == before
            await ctx.tick()

    run(body)


@pytest.mark.parametrize("seed, stall", [(1, 0.0), (2, 0.3), (3, 0.7), (4, 0.9)])
def test_random_interleavings(seed, stall):
    """AW, W, B, AR and R each at its own pace; writes take effect in order."""
    count = 300
    source = random.Random(seed)
    offsets = [r.offset for r in REGISTERS] + source.sample(UNMAPPED, 10)
    lock = by_name()["window_lock"].offset
    accesses = [(source.choice(offsets) | source.randrange(4), source.getrandbits(32),
                 source.choice((15, 15, source.randrange(16)))) for _ in range(count)]
    # The lock comes late, else the windows would be shut from the start.
    accesses = [access for n, access in enumerate(accesses)
                if access[0] & ~3 != lock or n > 200] + [(lock, 1, 15), (0x80, 5, 15)]
    # Reads that do not depend on the writes beside them.
    reads = [source.choice([r.offset for r in REGISTERS
                            if all(f.access == Access.R for f in r.fields)] + UNMAPPED[:9])
             for _ in range(count)]
    bench = Bench(seed, stall)
    model = Model()
    done = []

    async def send_addresses(ctx):
        for address, _, _ in accesses:
            await bench._send(ctx, "aw", awaddr=address)

    async def send_data(ctx):
        for _, data, strobe in accesses:
            await bench._send(ctx, "w", wdata=data, wstrb=strobe)

    async def take_responses(ctx):
        for access in accesses:
            assert (await bench._receive(ctx, "b", "bresp"))[0] == model.write(*access), access
        await ctx.tick()
        for name, halves in MEMBERS.items():
            if writable(halves[0][1]):
                assert ctx.get(getattr(bench.dut, name)) == model.member(name), name
        done.append("writes")

    async def send_reads(ctx):
        for address in reads:
            await bench._send(ctx, "ar", araddr=address)

    async def take_reads(ctx):
        for address in reads:
            assert await bench._receive(ctx, "r", "rresp", "rdata") == model.read(address)
        done.append("reads")

    for testbench in (send_addresses, send_data, take_responses, send_reads, take_reads):
        bench.sim.add_testbench(testbench)
    bench.sim.run()
    assert sorted(done) == ["reads", "writes"]
    assert +bench.pulses == model.pulses


def test_reset_drops_accesses_in_work():
    reset = Signal()
    bank = RegisterBank(CONFIG)
    sim = Simulator(ResetInserter(reset)(bank))
    sim.add_clock(CLOCK)

    async def body(ctx):
        bus = bank.s_axil
        for cycles in range(5):
            for channel in ("ar", "aw", "w"):
                ctx.set(getattr(bus, f"{channel}valid"), 1)
            ctx.set(bus.awaddr, by_name()["ring_tail"].offset)
            ctx.set(bus.wdata, 5)
            ctx.set(bus.wstrb, 15)
            await ctx.tick()
            for channel in ("ar", "aw", "w"):
                ctx.set(getattr(bus, f"{channel}valid"), 0)
            for _ in range(cycles):
                await ctx.tick()
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            for _ in range(4):
                assert not ctx.get(bus.bvalid) and not ctx.get(bus.rvalid)
                assert ctx.get(bank.ring_tail) == 0
                assert ctx.get(bus.awready) and ctx.get(bus.wready) and ctx.get(bus.arready)
                await ctx.tick()

    sim.add_testbench(body)
    sim.run()
