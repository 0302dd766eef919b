"""The window check, at every edge."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from tcast.hw.registers import N_WINDOWS
from tcast.hw.windows import allowed, windows_layout

TOP = (1 << 52) - 1


class Check(wiring.Component):
    """`allowed` as a component."""

    windows: In(windows_layout())
    address: In(64)
    read: Out(1)
    write: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.read.eq(allowed(self.windows, self.address, "read")),
                     self.write.eq(allowed(self.windows, self.address, "write"))]
        return m


SETS = [
    [],
    [(0, 0, 1, 0)],
    [(5, 9, 1, 1)],
    [(5, 9, 1, 0), (9, 12, 0, 1)],
    [(9, 5, 1, 1)],
    [(TOP, TOP, 0, 1)],
    [(0, TOP, 1, 1)],
    [(1, 1, 1, 0), (3, 3, 0, 1), (5, 5, 1, 1), (7, 7, 0, 0)],
]


@pytest.mark.parametrize("windows", SETS, ids=str)
def test_allowed_at_every_edge(windows):
    pages = {0, 1, TOP - 1, TOP}
    for base, limit, *_ in windows:
        pages |= {max(base - 1, 0), base, limit, min(limit + 1, TOP)}
    dut = Check()

    async def look(ctx):
        for n in range(N_WINDOWS):
            values = windows[n] if n < len(windows) else (0, TOP, 0, 0)
            ctx.set(dut.windows[n],
                    dict(zip(("base", "limit", "read", "write"), values, strict=True)))
        for page in sorted(pages):
            for byte in (0, 4095):
                ctx.set(dut.address, page << 12 | byte)
                for kind, column in (("read", 2), ("write", 3)):
                    expected = any(window[0] <= page <= window[1] and window[column]
                                   for window in windows)
                    assert ctx.get(getattr(dut, kind)) == expected, (kind, hex(page))
    simulator = Simulator(dut)
    simulator.add_testbench(look)
    simulator.run()
