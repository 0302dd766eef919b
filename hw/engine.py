"""Engine: the core and the cast unit with their registers, their error record and their reset."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi import axi4_signature, axil_signature
from .axi_merge import AxiMerge
from .cast import CastUnit
from .config import EngineConfig
from .core import Core
from .counters import PerformanceCounters
from .register_bank import RegisterBank
from .registers import ADDRESS_WIDTH, CAST_COUNTERS, COUNTERS, N_WINDOWS
from .types import error_record
from .windows import PAGE_LOG2

__all__ = ["Engine"]


class Engine(wiring.Component):
    """The tensor gather-scatter engine. Source: Tensor Casting (HPCA 2021), and docs/.

    Contract: docs/programming.md. Descriptors in two rings in memory, one for each unit, are worked
    off in order; the bits they write are those of golden.machine.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    m_axi : Out(axi4_signature())
        Memory. Reads carry the ID of their Reader, writes ID 0. RREADY and BREADY are always high.
        With ``cast_port`` 1 the cast unit is on it too, see AxiMerge.
    m_axi_cast : Out(axi4_signature())
        The cast unit's, with ``cast_port`` 2 only.
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
        port = Out(axi4_signature(config.data_width))
        super().__init__({
            "m_axi": port,
            **({"m_axi_cast": port} if config.cast_port == 2 else {}),
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
        units = [core]
        if self.config.cast_port:
            cast = CastUnit(self.config)
            m.submodules.cast = ResetInserter(core_reset)(cast)
            units.append(cast)
        if self.config.cast_port == 1:
            m.submodules.merge = merge = AxiMerge(self.config)
            connect(m, core.m_axi, merge.first)
            connect(m, cast.m_axi, merge.second)
            connect(m, merge.port, flipped(self.m_axi))
        else:
            connect(m, core.m_axi, flipped(self.m_axi))
        if self.config.cast_port == 2:
            connect(m, cast.m_axi, flipped(self.m_axi_cast))
        idle = Cat(unit.idle for unit in units).all()
        busy = Cat(unit.busy for unit in units).any()
        m.d.comb += self.irq.eq(bank.irq)

        # Soft reset: stop issuing, wait for what is in flight, reset the units. The core halts a
        # cycle after it is told, and the reset that reaches all of them comes from a register.
        resetting = Signal()
        halted = Signal()
        error = Signal(error_record())
        m.d.comb += [
            *(unit.halt.eq(resetting | error.valid) for unit in units),
            bank.reset_done.eq(core_reset),
            bank.status_resetting.eq(resetting),
        ]
        m.d.sync += [
            halted.eq(resetting & ~core_reset),
            core_reset.eq(halted & idle & ~core_reset),
        ]
        with m.If(bank.control_soft_reset):
            m.d.sync += resetting.eq(1)
        with m.If(core_reset):
            m.d.sync += resetting.eq(0)

        # The first error.
        erring = Signal()  # the cast unit
        with m.If(core_reset):
            m.d.sync += [error.eq(0), erring.eq(0)]
        for number, unit in enumerate(units):
            with m.Elif(unit.error.valid & ~error.valid & ~resetting):
                m.d.sync += [error.eq(unit.error), erring.eq(number)]
                m.d.comb += bank.irq_status_error.eq(1)
        m.d.comb += [
            bank.error_code.eq(error.code),
            bank.error_unit.eq(erring),
            bank.error_descriptor.eq(error.slot),
            bank.error_position.eq(error.position),
            bank.error_value.eq(error.value),
            bank.error_limit.eq(error.limit),
            bank.status_error.eq(error.valid),
            bank.status_busy.eq((busy & ~error.valid) | ~idle),
            bank.irq_status_done.eq(core.interrupt),
        ]

        # The rings and the windows.
        for unit, prefix in zip(units, ("", "cast_"), strict=False):
            m.d.comb += [
                unit.enable.eq(bank.control_enable),
                unit.ring_base.eq(getattr(bank, f"{prefix}ring_base")),
                unit.ring_size_log2.eq(getattr(bank, f"{prefix}ring_size_log2")),
                unit.tail.eq(getattr(bank, f"{prefix}ring_tail")),
                getattr(bank, f"{prefix}ring_head").eq(unit.head),
                getattr(bank, f"{prefix}completed").eq(unit.count),
            ]
            for n in range(N_WINDOWS):
                window = unit.windows[n]
                m.d.comb += [
                    window.base.eq(getattr(bank, f"window{n}_base")[PAGE_LOG2:]),
                    window.limit.eq(getattr(bank, f"window{n}_limit")[PAGE_LOG2:]),
                    window.read.eq(getattr(bank, f"window{n}_access_read")),
                    window.write.eq(getattr(bank, f"window{n}_access_write")),
                ]

        m.submodules.counters = counters = PerformanceCounters(cast=len(units) > 1)
        if self.config.cast_port:
            bus, halted = cast.m_axi, resetting | error.valid
            m.d.comb += [
                core.other_completed.eq(cast.count),
                cast.other_completed.eq(core.count),
                bank.cast_segments.eq(cast.segments),
                bank.irq_status_cast_done.eq(cast.interrupt),
                counters.cast_events.cast_cycles.eq(cast.busy & ~halted),
                counters.cast_events.cast_work_cycles.eq(cast.working & ~halted),
                counters.cast_events.cast_r_beats.eq(bus.rvalid),
                counters.cast_events.cast_w_beats.eq(bus.wvalid & bus.wready),
                counters.cast_events.cast_read_bursts.eq(bus.arvalid & bus.arready),
                counters.cast_events.cast_write_bursts.eq(bus.awvalid & bus.awready),
                counters.cast_events.casts.eq(cast.descriptor),
            ]
        m.d.comb += [
            counters.events.eq(core.events),
            counters.clear.eq(bank.control_clear_counters),
        ]
        m.d.comb += [getattr(counters, name).eq(getattr(core.m_axi, name))
                     for name in PerformanceCounters.BUS]
        m.d.comb += [getattr(bank, f"counter_{name}").eq(getattr(counters, name))
                     for name, _ in COUNTERS + (CAST_COUNTERS if self.config.cast_port else ())]
        return m
