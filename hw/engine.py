"""Engine: the core with its registers, its error record and its reset."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi import axi4_signature, axil_signature
from .config import EngineConfig
from .core import Core
from .counters import PerformanceCounters
from .register_bank import RegisterBank
from .registers import ADDRESS_WIDTH, COUNTERS, N_WINDOWS
from .types import error_record
from .windows import PAGE_LOG2

__all__ = ["Engine"]


class Engine(wiring.Component):
    """The tensor gather-scatter engine. Source: Tensor Casting (HPCA 2021), and docs/.

    Contract: docs/programming.md. Descriptors in a ring in memory are worked off in order; the
    bits they write are those of golden.machine.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    m_axi : Out(axi4_signature())
        Memory. Reads carry the ID of their Reader, writes ID 0. RREADY and BREADY are always high.
    s_axil : In(axil_signature())
        Registers, tcast.hw.registers.
    irq : Out(1)
        Level; see the registers irq_status and irq_enable.

    Timing: after the fill latency one read beat and one write beat a cycle.
    Reset: synchronous. A soft reset, by register, first waits for all transfers in flight.
    Errors: the first one is recorded and stops the engine; transfers in flight finish, and only a
    soft reset leaves that state.
    """

    def __init__(self, config):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self.config = config
        super().__init__({
            "m_axi": Out(axi4_signature(config.data_width)),
            "s_axil": In(axil_signature(ADDRESS_WIDTH)),
            "irq": Out(1),
        })

    def elaborate(self, platform):
        """Connect the bank to the core; keep the error and the reset between them."""
        m = Module()
        core_reset = Signal()
        m.submodules.bank = bank = RegisterBank(self.config)
        core = Core(self.config)
        m.submodules.core = ResetInserter(core_reset)(core)
        connect(m, flipped(self.s_axil), bank.s_axil)
        connect(m, core.m_axi, flipped(self.m_axi))
        m.d.comb += self.irq.eq(bank.irq)

        # Soft reset: stop issuing, wait for what is in flight, reset the core. The core halts a
        # cycle after it is told, and the reset that reaches all of it comes from a register.
        resetting = Signal()
        halted = Signal()
        error = Signal(error_record())
        m.d.comb += [
            core.halt.eq(resetting | error.valid),
            bank.reset_done.eq(core_reset),
            bank.status_resetting.eq(resetting),
        ]
        m.d.sync += [
            halted.eq(resetting & ~core_reset),
            core_reset.eq(halted & core.idle & ~core_reset),
        ]
        with m.If(bank.control_soft_reset):
            m.d.sync += resetting.eq(1)
        with m.If(core_reset):
            m.d.sync += resetting.eq(0)

        # The first error.
        with m.If(core_reset):
            m.d.sync += error.eq(0)
        with m.Elif(core.error.valid & ~error.valid & ~resetting):
            m.d.sync += error.eq(core.error)
            m.d.comb += bank.irq_status_error.eq(1)
        m.d.comb += [
            bank.error_code.eq(error.code),
            bank.error_descriptor.eq(error.slot),
            bank.error_position.eq(error.position),
            bank.error_value.eq(error.value),
            bank.error_limit.eq(error.limit),
            bank.status_error.eq(error.valid),
            bank.status_busy.eq((core.busy & ~error.valid) | ~core.idle),
            bank.irq_status_done.eq(core.interrupt),
        ]

        # The ring and the windows.
        m.d.comb += [
            core.enable.eq(bank.control_enable),
            core.ring_base.eq(bank.ring_base),
            core.ring_size_log2.eq(bank.ring_size_log2),
            core.tail.eq(bank.ring_tail),
            bank.ring_head.eq(core.head),
        ]
        for n in range(N_WINDOWS):
            m.d.comb += [
                core.windows[n].base.eq(getattr(bank, f"window{n}_base")[PAGE_LOG2:]),
                core.windows[n].limit.eq(getattr(bank, f"window{n}_limit")[PAGE_LOG2:]),
                core.windows[n].read.eq(getattr(bank, f"window{n}_access_read")),
                core.windows[n].write.eq(getattr(bank, f"window{n}_access_write")),
            ]

        m.submodules.counters = counters = PerformanceCounters()
        m.d.comb += [
            counters.events.eq(core.events),
            counters.clear.eq(bank.control_clear_counters),
        ]
        m.d.comb += [getattr(counters, name).eq(getattr(self.m_axi, name))
                     for name in PerformanceCounters.BUS]
        m.d.comb += [getattr(bank, f"counter_{name}").eq(getattr(counters, name))
                     for name, _ in COUNTERS]
        return m
