"""Bench of the whole engine in pysim: its registers, and a memory with every freedom of AXI."""

import random
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from tcast.golden.machine import Machine
from tcast.hw import descriptor, registers
from tcast.hw.engine import Engine
from tcast.hw.registers import Reader

PAGE = 4096
GUARD = 0xAA
CLOCK = 1e-8
REGISTER = registers.by_name()


class Image:
    """Memory: pages of a 64-bit address space, made when something is placed there."""

    def __init__(self):
        self.pages = {}
        self.faults = []  # (first, last, response, "r" or "w")
        self._next = 0

    def reserve(self, address, n_bytes):
        for page in range(address // PAGE, (address + n_bytes - 1) // PAGE + 1):
            self.pages.setdefault(page % (1 << 52), bytearray([GUARD]) * PAGE)

    def put(self, address, data):
        data = np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else bytes(data)
        self.reserve(address, max(1, len(data)))
        for n, byte in enumerate(data):
            at = (address + n) % (1 << 64)
            self.pages[at // PAGE][at % PAGE] = byte

    def read(self, address, n_bytes):
        page = self.pages[address // PAGE]
        return bytes(page[address % PAGE:address % PAGE + n_bytes])

    def response(self, address, kind):
        for first, last, response, of in self.faults:
            if first <= address <= last and of == kind:
                return response
        return 0 if address // PAGE in self.pages else 3

    def array(self, address, dtype, *shape):
        n = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = bytes(self.pages[(address + i) // PAGE % (1 << 52)][(address + i) % PAGE]
                     for i in range(n))
        return np.frombuffer(data, dtype).reshape(shape).copy()


class _Harness:
    """An engine in a simulator that goes on from bench to bench: to elaborate takes longest."""

    def __init__(self, dut):
        self.dut = dut
        self.bench = self._script = None
        self.reset = Signal()
        self._simulator = Simulator(ResetInserter(self.reset)(self.dut))
        self._simulator.add_clock(CLOCK)
        self._simulator.add_process(self._memory)
        self._simulator.add_testbench(self._run, background=True)

    async def _memory(self, ctx):
        while True:
            if self.bench is None:
                await ctx.tick()
            else:
                await self.bench._memory(ctx)

    async def _run(self, ctx):
        while True:
            if self._script is None:
                await ctx.tick()
                continue
            self.bench._quiet(ctx)
            ctx.set(self.reset, 1)
            await ctx.tick()
            await ctx.tick()
            ctx.set(self.reset, 0)
            await self._script(ctx)
            self._script = None

    def run(self, bench, script):
        self.bench, self._script = bench, script
        while self._script is not None:
            self._simulator.advance()


@dataclass(frozen=True)
class Burst:
    """A request seen on the bus."""

    cycle: int
    address: int
    beats: int
    reader: int


class EngineBench:
    """An engine, and the memory around it.

    The memory answers after ``latency`` cycles, withholds every handshake with probability
    ``stall``, and with ``reorder`` mixes the beats of reads with different IDs.

    Parameters
    ----------
    config : EngineConfig
    seed : int
        Of all random choices; printed.
    limit : int
        Cycles after which a run has hung.
    """

    unit = Engine                    # what is made from the configuration
    strobes = False                  # beats are written in part
    _harnesses: ClassVar[dict] = {}  # by configuration

    def __init__(self, config, seed=0, *, latency=20, stall=0.0, reorder=False, limit=20_000):
        self.config = config
        print(f"SEED={seed} latency={latency} stall={stall} reorder={reorder}")
        self.seed, self.latency, self.stall, self.reorder = seed, latency, stall, reorder
        self.limit = limit
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.image = Image()
        self.reads, self.writes = [], []   # Burst
        self.cycle = 0
        self.r_beats = self.w_beats = self.w_stalls = self.b_count = 0
        self.first_row_cycle = self.last_beat_cycle = None
        self.descriptor_cycle = None       # of the last beat of the first descriptor
        self.steady_r_beats = self.steady_w_beats = 0
        self.unanswered = self.unread = 0  # bursts
        self.unanswered_max = 0
        self.hold_writes = False           # withhold every B
        self.hold_reads = None             # withhold R of these readers
        self.ring = 0x40_0000_0000
        self.place = 0x12_3450_0000

    # memory layout

    def put(self, array, *, skip=0, at=None):
        """Place an array ``skip`` bytes behind a page; return its address."""
        if at is None:
            at = self.place + skip
            self.place += (skip + max(1, array.nbytes) + 2 * PAGE) // PAGE * PAGE
        self.image.put(at, array)
        return at

    def space(self, n_bytes):
        """Reserve guard bytes; return their address."""
        return self.put(np.full(n_bytes, GUARD, np.uint8))

    # run

    def run(self, script):
        """Run ``async script(ctx)`` from a reset to its end."""
        harness = self._harnesses.pop(self.config, None) or _Harness(self.unit(self.config))
        self.dut, self.harness = harness.dut, harness
        harness.run(self, script)
        self._harnesses[self.config] = harness  # not if it failed: its state is lost

    def _quiet(self, ctx):
        """Ask nothing of the registers."""
        port = self.dut.s_axil
        for signal in (port.awvalid, port.wvalid, port.arvalid):
            ctx.set(signal, 0)

    async def write(self, ctx, name, value, response=0):
        port = self.dut.s_axil
        ctx.set(port.awaddr, REGISTER[name].offset)
        ctx.set(port.wdata, value)
        ctx.set(port.wstrb, 15)
        ctx.set(port.awvalid, 1)
        ctx.set(port.wvalid, 1)
        ctx.set(port.bready, 1)
        await ctx.tick()
        ctx.set(port.awvalid, 0)
        ctx.set(port.wvalid, 0)
        valid = False
        while not valid:
            _, _, valid, got = await ctx.tick().sample(port.bvalid, port.bresp)
        assert got == response, f"{name}: response {got}"

    async def read(self, ctx, name):
        port = self.dut.s_axil
        ctx.set(port.araddr, REGISTER[name].offset)
        ctx.set(port.arvalid, 1)
        ctx.set(port.rready, 1)
        await ctx.tick()
        ctx.set(port.arvalid, 0)
        valid = False
        while not valid:
            _, _, valid, value, response = await ctx.tick().sample(
                port.rvalid, port.rdata, port.rresp)
        assert response == 0, f"{name}: response {response}"
        return value

    async def write_pair(self, ctx, name, value):
        await self.write(ctx, f"{name}_lo", value & 0xFFFFFFFF)
        await self.write(ctx, f"{name}_hi", value >> 32)

    async def read_pair(self, ctx, name):
        return await self.read(ctx, f"{name}_lo") | await self.read(ctx, f"{name}_hi") << 32

    async def read_counters(self, ctx):
        """Return every performance counter as a dict."""
        return {name: await self.read_pair(ctx, f"counter_{name}")
                for name, _ in registers.COUNTERS}

    async def read_error(self, ctx):
        """Return (code, slot, position, value, limit)."""
        return (await self.read(ctx, "error_code"), await self.read(ctx, "error_descriptor"),
                await self.read(ctx, "error_position"), await self.read_pair(ctx, "error_value"),
                await self.read_pair(ctx, "error_limit"))

    def settings(self, windows=None, size_log2=3):
        """Return the register writes that open the windows and set up the ring, as a list."""
        if windows is None:
            windows = [(0, (1 << 64) - 1, 3)]
        writes = []

        def pair(name, value):
            writes.extend([(f"{name}_lo", value & 0xFFFFFFFF), (f"{name}_hi", value >> 32)])
        for n, (base, limit, access) in enumerate(windows):
            pair(f"window{n}_base", base)
            pair(f"window{n}_limit", limit)
            writes.append((f"window{n}_access", access))
        pair("ring_base", self.ring)
        writes += [("ring_size_log2", size_log2), ("irq_enable", 3), ("control", 1)]
        return writes

    def fill_ring(self, jobs, first=0, size_log2=3):
        """Put descriptors (dicts, or 128 bytes) in the ring from slot ``first`` on."""
        for n, job in enumerate(jobs):
            data = job if isinstance(job, bytes) else descriptor.pack(job)
            self.image.put(self.ring + 128 * ((first + n) % (1 << size_log2)), data)

    async def start(self, ctx, jobs, *, windows=None, size_log2=3):
        """Set the engine up and hand it the descriptors."""
        self.fill_ring(jobs, 0, size_log2)
        for name, value in self.settings(windows, size_log2):
            await self.write(ctx, name, value)
        await self.write(ctx, "ring_tail", len(jobs) % (1 << size_log2))

    async def until(self, ctx, name, condition):
        """Read a register until ``condition(value)``."""
        while not condition(value := await self.read(ctx, name)):
            pass
        return value

    async def soft_reset(self, ctx):
        """Reset the engine by its register, and wait until that has happened."""
        await self.write(ctx, "control", 2)
        await self.until(ctx, "status", lambda value: value == 0)

    async def until_idle(self, ctx):
        """Wait until status is neither busy nor resetting; return it."""
        return await self.until(ctx, "status", lambda value: not value & 0b101)

    def golden(self, jobs, *, windows=None, size_log2=3):
        """Return (Machine after the same work, its memory as {page: bytes array})."""
        self.fill_ring(jobs, 0, size_log2)
        machine = Machine(self.config, registers, descriptor)
        runs = self._runs()
        arrays = {}
        for first, last in runs:
            data = b"".join(self.image.pages[page] for page in range(first, last + 1))
            arrays[first] = np.frombuffer(data, np.uint8).copy()
            machine.map(first * PAGE, arrays[first])
        for name, value in self.settings(windows, size_log2):
            machine.write_register(REGISTER[name].offset, value)
        machine.write_register(REGISTER["ring_tail"].offset, len(jobs) % (1 << size_log2))
        after = {first + n // PAGE: bytes(array[n:n + PAGE])
                 for first, array in arrays.items() for n in range(0, len(array), PAGE)}
        return machine, after

    def _runs(self):
        """Return (first, last) of each run of pages."""
        runs = []
        for page in sorted(self.image.pages):
            if runs and runs[-1][1] == page - 1:
                runs[-1][1] = page
            else:
                runs.append([page, page])
        return runs

    def check(self, jobs, *, windows=None, size_log2=3):
        """Run descriptors on engine and golden machine: same memory, head, error and work done.

        Returns the counters.
        """
        machine, after = self.golden(jobs, windows=windows, size_log2=size_log2)
        result = {}

        async def script(ctx):
            await self.start(ctx, jobs, windows=windows, size_log2=size_log2)
            status = await self.until_idle(ctx)
            result["error"] = await self.read_error(ctx)
            assert (status >> 1 & 1) == (result["error"][0] != 0)
            result["head"] = await self.read(ctx, "ring_head")
            result["irq_status"] = await self.read(ctx, "irq_status")
            result["counters"] = await self.read_counters(ctx)
        self.run(script)

        def golden_register(name):
            return machine.read_register(REGISTER[name].offset)
        expected = tuple(
            golden_register(name) for name in ("error_code", "error_descriptor", "error_position"))
        expected += tuple(golden_register(f"{name}_lo") | golden_register(f"{name}_hi") << 32
                          for name in ("error_value", "error_limit"))
        assert result["error"] == expected
        assert result["head"] == golden_register("ring_head")
        assert result["irq_status"] == golden_register("irq_status")
        if expected[0] == 0:
            for page, data in after.items():
                assert bytes(self.image.pages[page]) == data, f"page {page << 12:#x} differs"
            for name, value in machine.counters.items():
                assert result["counters"][name] == value, name
        self.check_windows([(0, (1 << 64) - 1, 3)] if windows is None else windows)
        counters = result["counters"]
        causes = [name for name, _ in registers.COUNTERS if name.startswith("read_")
                  and name != "read_bursts"]
        assert sum(counters[name] for name in causes) == counters["cycles"]
        assert counters["read_bursts"] == len(self.reads)
        assert counters["write_bursts"] == len(self.writes)
        assert counters["r_beats"] == self.r_beats
        assert counters["w_beats"] == self.w_beats
        assert counters["w_stall"] == self.w_stalls
        if self.first_row_cycle is not None and self.w_beats:
            assert counters["steady_cycles"] == self.last_beat_cycle - self.first_row_cycle + 1
            assert counters["steady_r_beats"] == self.steady_r_beats
            assert counters["steady_w_beats"] == self.steady_w_beats
        if expected[0] == 0:
            start = self.descriptor_cycle + registers.START_CYCLES
            assert counters["work_cycles"] == max(0, self.last_beat_cycle - start + 1)
        return counters

    def check_windows(self, windows):
        """Every burst was inside a window that allows it."""
        for bursts, access in ((self.reads, 1), (self.writes, 2)):
            for burst in bursts:
                assert any(base <= burst.address // PAGE * PAGE and burst.address <= limit
                           and allowed & access for base, limit, allowed in windows), burst

    # the memory

    def _willing(self):
        return self.random.random() >= self.stall

    def _check_burst(self, address, beats, size, burst):
        beat_bytes = self.config.derived.beat_bytes
        assert 1 << size == beat_bytes and burst == 1
        assert address % beat_bytes == 0
        assert 1 <= beats <= self.config.burst_beats_max
        assert address // PAGE == (address + beats * beat_bytes - 1) // PAGE, "crosses 4 KiB"

    async def _memory(self, ctx):
        bus = self.dut.m_axi
        beat_bytes = self.config.derived.beat_bytes
        reads = {}             # ID -> deque of [ready cycle, addresses]
        announced = deque()    # (address, beats) of AW
        written = deque()      # W beats
        answers = deque()      # (ready cycle, response)
        current = None         # ID in the middle of a burst, where they are not mixed
        held = {}              # what a waiting channel may not change
        arready = awready = wready = False
        sampled = (bus.arvalid, bus.araddr, bus.arlen, bus.arsize, bus.arburst, bus.arid,
                   bus.awvalid, bus.awaddr, bus.awlen, bus.awsize, bus.awburst, bus.awid,
                   bus.wvalid, bus.wdata, bus.wstrb, bus.wlast, bus.rready, bus.bready)
        for signal in (bus.rvalid, bus.bvalid, bus.arready, bus.awready, bus.wready):
            ctx.set(signal, 0)
        rvalid = bvalid = False
        r_id = r_last = None
        while self.harness.bench is self:
            _, _, reset, *values = await ctx.tick().sample(self.harness.reset, *sampled)
            if reset:
                continue
            ar, aw, w = values[:6], values[6:12], values[12:16]
            assert values[16] and values[17], "RREADY and BREADY are always high"
            self.cycle += 1
            assert self.cycle < self.limit, f"no end after {self.cycle} cycles, SEED={self.seed}"

            # Rules of the channels that the engine drives.
            for name, now, ready in (("AR", ar, arready), ("AW", aw, awready), ("W", w, wready)):
                if name in held:
                    assert now == held[name], f"{name} changed while it waited, SEED={self.seed}"
                held.pop(name, None)
                if now[0] and not ready:
                    held[name] = now

            # What was transferred at this edge.
            if ar[0] and arready:
                _, address, length, size, burst, reader = ar
                self._check_burst(address, length + 1, size, burst)
                self.unread += 1
                self.reads.append(Burst(self.cycle, address, length + 1, reader))
                due = self.cycle + self.latency + self.random.randrange(1 + 3 * self.reorder)
                reads.setdefault(reader, deque()).append(
                    [due, deque(address + n * beat_bytes for n in range(length + 1))])
            if aw[0] and awready:
                _, address, length, size, burst, identifier = aw
                assert identifier == 0
                self._check_burst(address, length + 1, size, burst)
                self.writes.append(Burst(self.cycle, address, length + 1, 0))
                announced.append((address, length + 1))
                self.unanswered += 1
                self.unanswered_max = max(self.unanswered_max, self.unanswered)
            if w[0] and wready:
                assert self.strobes or w[2] == (1 << beat_bytes) - 1, "all strobes"
                written.append((w[1], w[2], w[3]))
                self.w_beats += 1
                self.last_beat_cycle = self.cycle
            self.w_stalls += bool(w[0] and not wready)
            if rvalid:
                self.r_beats += 1
                self.unread -= r_last
                self.last_beat_cycle = self.cycle
                if r_id == Reader.ROW and self.first_row_cycle is None:
                    self.first_row_cycle = self.cycle
                if r_id == Reader.DESCRIPTOR and r_last and self.descriptor_cycle is None:
                    self.descriptor_cycle = self.cycle
                self.steady_r_beats += (self.first_row_cycle is not None
                                        and r_id != Reader.DESCRIPTOR)
            self.steady_w_beats += bool(w[0] and wready and self.first_row_cycle is not None)
            if bvalid:
                self.b_count += 1
                self.unanswered -= 1

            # Writes whose data is complete.
            while announced and len(written) >= announced[0][1]:
                address, beats = announced.popleft()
                response = 0
                for n in range(beats):
                    data, strobe, last = written.popleft()
                    assert last == (n == beats - 1), "WLAST"
                    at = address + n * beat_bytes
                    fault = self.image.response(at, "w")
                    if fault:
                        response = fault
                    else:
                        page = self.image.pages[at // PAGE]
                        for byte, value in enumerate(data.to_bytes(beat_bytes, "little")):
                            if strobe >> byte & 1:
                                page[at % PAGE + byte] = value
                answers.append((self.cycle + self.latency, response))

            # R.
            rvalid = False
            ready = [reader for reader, queue in reads.items()
                     if queue and queue[0][0] <= self.cycle
                     and not (self.hold_reads and reader in self.hold_reads)]
            if current is not None and not self.reorder:
                ready = [current]
            if ready and self._willing():
                if self.reorder:
                    reader = self.random.choice(ready)
                else:
                    reader = min(ready, key=lambda reader: reads[reader][0][0])
                addresses = reads[reader][0][1]
                at = addresses.popleft()
                response = self.image.response(at, "r")
                data = self.image.read(at, beat_bytes) if not response else b"\xee" * beat_bytes
                rvalid, r_id, r_last = True, reader, not addresses
                current = None if r_last else reader
                if r_last:
                    reads[reader].popleft()
                ctx.set(bus.rid, reader)
                ctx.set(bus.rdata, int.from_bytes(data, "little"))
                ctx.set(bus.rresp, response)
                ctx.set(bus.rlast, r_last)
            ctx.set(bus.rvalid, rvalid)

            # B.
            bvalid = bool(answers and answers[0][0] <= self.cycle and not self.hold_writes
                          and self._willing())
            if bvalid:
                ctx.set(bus.bresp, answers.popleft()[1])
            ctx.set(bus.bvalid, bvalid)

            arready, awready, wready = self._willing(), self._willing(), self._willing()
            ctx.set(bus.arready, arready)
            ctx.set(bus.awready, awready)
            ctx.set(bus.wready, wready)


KIND = {None: 0, np.dtype(np.int32): 1, np.dtype(np.int64): 2}


class Table:
    """A table in the memory of a bench: ``rows`` [R, D] float32, ``gap`` beats between rows."""

    def __init__(self, bench, rows, *, gap=0, skip=0, at=None):
        self.rows = np.ascontiguousarray(rows, np.float32)
        n, self.dim = self.rows.shape
        beat_bytes = bench.config.derived.beat_bytes
        self.stride = 4 * self.dim + gap * beat_bytes
        image = np.full((n, self.stride), GUARD, np.uint8)
        image[:, :4 * self.dim] = self.rows.view(np.uint8).reshape(n, 4 * self.dim)
        self.base = bench.put(image, skip=skip * beat_bytes, at=at)
        self.bench = bench

    def now(self):
        """Return the rows as they are in memory."""
        n = len(self.rows)
        image = self.bench.image.array(self.base, np.uint8, n, self.stride)
        return image[:, :4 * self.dim].copy().view(np.float32).reshape(n, self.dim)


def special_rows(rng, n, dim):
    """Return [n, dim] float32: normal numbers, and here and there zeros, subnormals, inf, NaN."""
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    words = rows.view(np.uint32)
    where = rng.random((n, dim)) < 0.1
    corner = rng.choice(np.array([0, 1 << 31, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC12345,
                                  0x7F7FFFFF], np.uint32), (n, dim))
    words[where] = corner[where]
    return rows


def job(bench, source, target, *, index=None, offsets=None, targets=None, weights=None,
        scales=None, sgd=None, skip=1, n_lookups=None, n_segments=None, **fields):
    """Return the descriptor of one pass; its arrays are placed ``skip`` elements off a page."""
    def place(array):
        return 0 if array is None else bench.put(array, skip=skip * array.itemsize)
    if n_lookups is None:
        n_lookups = (len(index) if index is not None else n_segments if n_segments is not None
                     else int(offsets[-1]) if offsets is not None else len(targets))
    if n_segments is None:
        n_segments = len(offsets) - 1 if offsets is not None else n_lookups
    values = {
        "index_kind": KIND[None if index is None else index.dtype],
        "segment_kind": KIND[None if offsets is None else offsets.dtype],
        "target_kind": KIND[None if targets is None else targets.dtype],
        "sink": int(sgd is not None), "dim": source.dim,
        "weighted": int(weights is not None), "weight_base": place(weights),
        "scaled": int(scales is not None), "scale_base": place(scales),
        "n_lookups": n_lookups, "n_segments": n_segments,
        "src_base": source.base, "src_stride": source.stride, "src_rows": len(source.rows),
        "dst_base": target.base, "dst_stride": target.stride, "dst_rows": len(target.rows),
        "index_base": place(index), "offset_base": place(offsets), "target_base": place(targets),
        "lr": 0 if sgd is None else int(np.float32(sgd).view(np.uint32)), "interrupt": 1,
    }
    return values | fields
