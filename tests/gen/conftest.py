"""A small component with the ports of the engine, for tests that need no real one."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from tcast.gen import verilog
from tcast.hw.config import EngineConfig
from tcast.hw.register_bank import RegisterBank


class StandIn(wiring.Component):
    """The register bank behind the engine's ports; it never uses the memory port."""

    def __init__(self, config):
        self.config = config
        super().__init__(verilog.engine_signature(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank = bank = RegisterBank(self.config)
        wiring.connect(m, wiring.flipped(self.s_axil), bank.s_axil)
        m.d.comb += self.irq.eq(bank.irq)
        return m


@pytest.fixture
def stand_in(monkeypatch):
    """Generators take StandIn for the engine: quick."""
    monkeypatch.setattr(verilog, "Engine", StandIn)
    return StandIn


@pytest.fixture
def tiny():
    return EngineConfig.preset("tiny64")
