"""What the benches share: clock and reset, and the ways to the engine as an EngineIo.

The driver is what is tested: it runs in a thread of its own (cocotb's ``bridge``), and the EngineIo
that it is given turns each of its calls into simulated time (cocotb's ``resume``).
"""

import ctypes
import itertools
import os
import random

import numpy as np
from cocotb.clock import Clock
from cocotb.task import resume
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp

from ...hw.config import EngineConfig
from ..simulation import (
    RegisterError,
    bench_interface,
    configure_memory,
    memory_counters,
)

__all__ = ["PERIOD_NS", "ArrayMemory", "Bench", "PortsIo", "TestbenchIo", "config_of_run",
           "pauses"]

PERIOD_NS = 2


def config_of_run():
    """Return the EngineConfig that the regression runs with."""
    return EngineConfig.preset(os.environ["TCAST_PRESET"])


def pauses(probability, seed):
    """Yield, for each cycle, whether a channel pauses; for cocotbext-axi's pause generators."""
    coin = random.Random(seed)
    return (coin.random() < probability for _ in itertools.count())


class Bench:
    """Clock, reset, the register port, and the reports of the checkers.

    Parameters
    ----------
    dut
        ``tb`` or ``checked_engine``.
    register_pauses : float
        Probability per cycle that a channel of s_axil pauses, on the manager's side.
    """

    def __init__(self, dut, register_pauses=0.0):
        self.dut = dut
        self.library = bench_interface(ctypes.CDLL(None))
        self.memory = ctypes.c_void_p(self.library.bench_current())
        self.axil = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.aclk, dut.aresetn,
                                  reset_active_level=False)
        write, read = self.axil.write_if, self.axil.read_if
        for part in (write, read):
            part.log.setLevel("WARNING")
        if register_pauses:
            for n, channel in enumerate((write.aw_channel, write.w_channel, write.b_channel,
                                         read.ar_channel, read.r_channel)):
                channel.set_pause_generator(pauses(register_pauses, n))

    async def start(self):
        """Start the clock and reset the engine."""
        Clock(self.dut.aclk, PERIOD_NS, unit="ns").start()
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 5)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)

    def violations(self):
        """Return what the checkers have reported and forget it."""
        n = self.library.bench_violations(self.memory)
        seen = [self.library.bench_violation(self.memory, i).decode() for i in range(n)]
        self.library.bench_clear_violations(self.memory)
        return seen

    def counters(self):
        """Return what the C++ memory has counted, by name."""
        return memory_counters(self.library, self.memory)

    def check(self):
        """Fail if a checker has reported anything."""
        seen = self.violations()
        assert not seen, "\n".join(seen[:10])


class _Io:
    """The part of an EngineIo that every bench has: registers, and waiting for irq."""

    def __init__(self, bench):
        self.bench = bench
        self.cycles = 0
        self._read = resume(self._read_async)
        self._write = resume(self._write_async)
        self._wait = resume(self._wait_async)

    async def _read_async(self, offset):
        answer = await self.bench.axil.read(offset, 4)
        if answer.resp != AxiResp.OKAY:
            raise RegisterError(f"read of register {offset:#05x} was answered {answer.resp.name}")
        return int.from_bytes(answer.data, "little")

    async def _write_async(self, offset, value):
        answer = await self.bench.axil.write(offset, int(value).to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise RegisterError(f"write of register {offset:#05x} was answered {answer.resp.name}")

    async def _wait_async(self, max_cycles):
        irq = self.bench.dut.irq
        if not irq.value:
            await First(RisingEdge(irq), Timer(max_cycles * PERIOD_NS, "ns"))
        return bool(irq.value)

    def read_register(self, offset):
        """Read a register through s_axil."""
        return self._read(offset)

    def write_register(self, offset, value):
        """Write a register through s_axil."""
        self._write(offset, value)

    def wait(self, max_cycles):
        """Let the clock run until irq or for ``max_cycles``."""
        return self._wait(max_cycles)


class TestbenchIo(_Io):
    """The engine in ``tb``: its memory is the C++ model.

    Parameters
    ----------
    bench : Bench
        Of a ``tb``.
    seed : int
        Of all that is random in the memory.
    **options
        As of :meth:`..simulation.Simulation.set_memory`.
    """

    __test__ = False  # not a pytest class

    def __init__(self, bench, seed=0, **options):
        super().__init__(bench)
        self.mapped = {}
        bench.library.bench_restore(bench.memory)
        bench.library.bench_seed(bench.memory, seed)
        configure_memory(bench.library, bench.memory, **options)

    def map(self, address, array, writable=True):
        """Make the array's own bytes the memory at ``address``."""
        if not self.bench.library.bench_map(self.bench.memory, address, array.nbytes,
                                            array.ctypes.data, writable):
            raise ValueError(f"{address:#x} is mapped already")
        self.mapped[address] = array

    def close(self):
        """Take all arrays away."""
        for address in list(self.mapped):
            self.unmap(address)

    def unmap(self, address):
        """Take the array away."""
        self.bench.library.bench_unmap(self.bench.memory, address)
        del self.mapped[address]


class ArrayMemory:
    """Arrays as the content of an AxiRam, which asks for slices. What is in no array raises.

    Attributes
    ----------
    errors : list[tuple[numpy.ndarray, bool, bool]]
        An array that is mapped, or part of one, and whether reading and writing it raises, which
        AxiRam answers with SLVERR.
    on_map : Callable[[numpy.ndarray, bool], None] or None
        Called with each array as it is mapped, and whether it is writable.
    """

    def __init__(self):
        self.regions = {}
        self.errors = []
        self.on_map = None

    def __len__(self):
        return 1 << 62  # AxiRam takes addresses modulo this; len() has no more

    def __getitem__(self, where):
        data, found = np.full(where.stop - where.start, 0xA5, np.uint8), False
        for part, at, _ in self._parts(where, reading=True):
            data[at:at + len(part)] = part
            found = True
        if not found:
            raise IndexError(f"nothing is mapped at {where.start:#x}")
        return data.tobytes()

    def __setitem__(self, where, data):
        parts = list(self._parts(where, reading=False))
        if (sum(len(part) for part, _, _ in parts) != where.stop - where.start
                or not all(writable for _, _, writable in parts)):
            raise IndexError(f"nothing writable is mapped at {where.start:#x}")
        for part, at, _ in parts:
            part[:] = np.frombuffer(data, np.uint8)[at:at + len(part)]

    def _parts(self, where, reading):
        """Yield (bytes, where they stand in the access, writable) of every array it touches."""
        for base, (region, writable) in self.regions.items():
            first, last = max(base, where.start), min(base + len(region), where.stop)
            if first >= last:
                continue
            part = region[first - base:last - base]
            for array, fails_read, fails_write in self.errors:
                if (fails_read if reading else fails_write) and np.shares_memory(part, array):
                    raise IndexError(f"{first:#x} is to answer an error")
            yield part, first - where.start, writable


class PortsIo(_Io):
    """The engine alone (``checked_engine``): m_axi ends in cocotbext-axi's AxiRam.

    Parameters
    ----------
    bench : Bench
        Of a ``checked_engine``.
    probability : float
        Probability per cycle that a channel of m_axi pauses.
    seed : int
        Of the pauses.
    """

    def __init__(self, bench, probability=0.0, seed=0):
        super().__init__(bench)
        dut = bench.dut
        self.memory = ArrayMemory()
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn,
                          reset_active_level=False, mem=self.memory)
        write, read = self.ram.write_if, self.ram.read_if
        for n, channel in enumerate((write.aw_channel, write.w_channel, write.b_channel,
                                     read.ar_channel, read.r_channel)):
            channel.log.setLevel("WARNING")
            if probability:
                channel.set_pause_generator(pauses(probability, seed + n))
        for part in (write, read):
            part.log.setLevel("ERROR")  # it would print each injected error as a warning

    def map(self, address, array, writable=True):
        """Make the array's own bytes the memory at ``address``."""
        self.memory.regions[address] = (array.reshape(-1).view(np.uint8), writable)
        if self.memory.on_map is not None:
            self.memory.on_map(array, writable)

    def unmap(self, address):
        """Take the array away."""
        del self.memory.regions[address]

    def close(self):
        """Take all arrays away."""
        self.memory.regions.clear()
