"""Every rule of the protocol checkers fires when it is broken, and none without cause.

The checkers are simulated alone; a test is a list of the pins' values, cycle by cycle. A legal list
gives no report; the same list with one thing changed gives the report that is expected, first.
"""

import ctypes

import pytest

from tcast.sim.runner import build_library
from tcast.sim.simulation import HERE

AXI = {"arid": 4, "araddr": 64, "arlen": 8, "arsize": 3, "arburst": 2, "arlock": 1, "arcache": 4,
       "arprot": 3, "arqos": 4, "arvalid": 1, "arready": 1, "rid": 4, "rdata": 64, "rresp": 2,
       "rlast": 1, "rvalid": 1, "rready": 1, "awid": 4, "awaddr": 64, "awlen": 8, "awsize": 3,
       "awburst": 2, "awlock": 1, "awcache": 4, "awprot": 3, "awqos": 4, "awvalid": 1,
       "awready": 1, "wdata": 64, "wstrb": 8, "wlast": 1, "wvalid": 1, "wready": 1, "bid": 4,
       "bresp": 2, "bvalid": 1, "bready": 1}
LITE = {"awaddr": 12, "awprot": 3, "awvalid": 1, "awready": 1, "wdata": 32, "wstrb": 4,
        "wvalid": 1, "wready": 1, "bresp": 2, "bvalid": 1, "bready": 1, "araddr": 12, "arprot": 3,
        "arvalid": 1, "arready": 1, "rdata": 32, "rresp": 2, "rvalid": 1, "rready": 1}

HARNESS = """
#include <string>
#include <vector>
#include "Vtop.h"
#include "verilated.h"
static std::vector<std::string> reports;
extern "C" void tb_violation(const char *message) {{ reports.push_back(message); }}
extern "C" void *make() {{ return new Vtop(); }}
extern "C" void drop(void *top) {{ delete static_cast<Vtop *>(top); }}
extern "C" int count() {{ return reports.size(); }}
extern "C" const char *report(int i) {{ return reports[i].c_str(); }}
extern "C" void clear() {{ reports.clear(); }}
extern "C" void edge(void *handle, int resetn, const uint64_t *pins) {{
  Vtop &top = *static_cast<Vtop *>(handle);
  top.aresetn = resetn;
  {assignments}
  top.aclk = 0;
  top.eval();
  top.aclk = 1;
  top.eval();
}}
"""


class Checker:
    """A checker alone; `run` returns what it reports over a list of cycles."""

    def __init__(self, name, pins, folder, flags):
        self.pins = list(pins)
        harness = folder / f"{name}.cpp"
        assignments = "\n  ".join(f"top.{pin} = pins[{i}];" for i, pin in enumerate(self.pins))
        harness.write_text(HARNESS.format(assignments=assignments))
        self.library = ctypes.CDLL(str(build_library([HERE / "hdl" / f"{name}.sv"], name, [harness],
                                                     flags=flags)))
        self.library.make.restype = ctypes.c_void_p
        self.library.report.restype = ctypes.c_char_p
        self.library.drop.argtypes = [ctypes.c_void_p]
        self.library.edge.argtypes = [ctypes.c_void_p, ctypes.c_int,
                                      ctypes.POINTER(ctypes.c_uint64)]

    def run(self, cycles, idle):
        top = self.library.make()
        self.library.clear()
        for cycle in [{"resetn": 0}] * 3 + [{}] + cycles + [{}] * 3:
            unknown = set(cycle) - set(self.pins) - {"resetn"}
            assert not unknown, unknown
            values = (ctypes.c_uint64 * len(self.pins))(
                *(cycle.get(pin, idle.get(pin, 0)) for pin in self.pins))
            self.library.edge(top, cycle.get("resetn", 1), values)
        self.library.drop(top)
        return [self.library.report(i).decode() for i in range(self.library.count())]


@pytest.fixture(scope="module")
def axi(tmp_path_factory):
    checker = Checker("axi_checker", AXI, tmp_path_factory.mktemp("axi"), ["-GWIDTH=64"])
    return lambda cycles: checker.run(cycles, {"rready": 1, "bready": 1})


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    checker = Checker("axil_checker", LITE, tmp_path_factory.mktemp("axil"), [])
    return lambda cycles: checker.run(cycles, {"rready": 1, "bready": 1})


def ar(id=0, address=0x1000, beats=2, ready=1, **changes):
    return {"arvalid": 1, "arready": ready, "arid": id, "araddr": address, "arlen": beats - 1,
            "arsize": 3, "arburst": 1} | changes


def aw(id=0, address=0x1000, beats=2, ready=1, **changes):
    return {"awvalid": 1, "awready": ready, "awid": id, "awaddr": address, "awlen": beats - 1,
            "awsize": 3, "awburst": 1} | changes


def r(last, id=0, **changes):
    return {"rvalid": 1, "rid": id, "rlast": last} | changes


def w(last, ready=1, **changes):
    return {"wvalid": 1, "wready": ready, "wstrb": 0xFF, "wlast": last} | changes


def b(id=0, **changes):
    return {"bvalid": 1, "bid": id} | changes


LEGAL = {
    "read": [ar(), r(0), {}, r(1)],
    "read waits": [ar(ready=0), ar(ready=0), ar(), r(0), r(1)],
    "reads of two IDs interleave": [ar(id=1), ar(id=2), r(0, 2), r(0, 1), r(1, 1), r(1, 2)],
    "reads of one ID": [ar(beats=1), ar(beats=3) | r(1), r(0), r(0), r(1)],
    "longest read": [ar(beats=256), *[r(i == 255) for i in range(256)]],
    "whole page": [ar(address=0x1800, beats=256), *[r(i == 255) for i in range(256)]],
    "read error": [ar(beats=1), r(1, rresp=2)],
    "write": [aw(), w(0), w(1), b()],
    "data with address": [aw() | w(0), w(1), b()],
    "data before address": [w(0), w(1), {}, aw(), b()],
    "data partly before address": [w(0), aw(), w(1), b()],
    "last data with address": [w(0), aw() | w(1), b()],
    "write waits": [aw(ready=0) | w(0, ready=0), aw(ready=0) | w(0), aw(), w(1, ready=0), w(1),
                    b()],
    "writes overlap": [aw(), aw(beats=1) | w(0), w(1), w(1) | b(), b(bresp=3)],
    "reset ends all": [ar(), aw() | w(0), {"resetn": 0}, {"resetn": 0}, {}, ar(beats=1), r(1)],
}

BROKEN = {
    "ARVALID is high in reset": [{"resetn": 0}, {"resetn": 0} | ar()],
    "AWVALID is high in reset": [{"resetn": 0}, {"resetn": 0} | aw()],
    "WVALID is high in reset": [{"resetn": 0}, {"resetn": 0} | w(0)],
    "RVALID is high in reset": [{"resetn": 0}, {"resetn": 0} | r(0)],
    "BVALID is high in reset": [{"resetn": 0}, {"resetn": 0} | b()],
    "ARVALID is high at the first edge after reset": [{"resetn": 0}, ar(), r(0), r(1)],
    "AWVALID is high at the first edge after reset": [{"resetn": 0}, aw(), w(0), w(1), b()],
    "WVALID is high at the first edge after reset": [{"resetn": 0}, w(0), w(1), aw(), b()],
    "ARVALID fell before ARREADY": [ar(ready=0), {}],
    "AWVALID fell before AWREADY": [aw(ready=0), {}],
    "WVALID fell before WREADY": [aw() | w(0, ready=0), {}],
    "RVALID fell before RREADY": [ar(), r(0, rready=0), {}],
    "BVALID fell before BREADY": [aw(beats=1) | w(1), b(bready=0), {}],
    "RREADY is low while RVALID is high": [ar(), r(0, rready=0), r(0), r(1)],
    "BREADY is low while BVALID is high": [aw(beats=1) | w(1), b(bready=0), b()],
    "ARBURST is not INCR": [ar(arburst=0), r(0), r(1)],
    "AWBURST is not INCR": [aw(awburst=2), w(0), w(1), b()],
    "ARSIZE is not the bus width": [ar(arsize=2), r(0), r(1)],
    "AWSIZE is not the bus width": [aw(awsize=4), w(0), w(1), b()],
    "ARLOCK is set": [ar(arlock=1), r(0), r(1)],
    "AWLOCK is set": [aw(awlock=1), w(0), w(1), b()],
    "ARADDR is not aligned to the beat": [ar(address=0x1004), r(0), r(1)],
    "AWADDR is not aligned to the beat": [aw(address=0x1001), w(0), w(1), b()],
    "a read burst crosses 4 KiB": [ar(address=0x1FF8), r(0), r(1)],
    "a write burst crosses 4 KiB": [aw(address=0x1FF8), w(0), w(1), b()],
    "R without a read burst of its ID": [ar(id=1), r(0, id=2)],
    "RLAST is not at the last beat": [ar(), r(1)],
    "RRESP is EXOKAY": [ar(), r(0, rresp=1), r(1)],
    "BRESP is EXOKAY": [aw(beats=1) | w(1), b(bresp=1)],
    "WSTRB is not all ones": [aw(), w(0), w(1, wstrb=0x7F), b()],
    "WLAST is not at the last beat": [aw(), w(1)],
    "WLAST was not at the last beat of its AWLEN": [w(0), w(0), w(1), aw()],
    "a W burst is longer than 256 beats": [w(0)] * 256,
    "B without an AW": [w(1), b()],
    "B before its WLAST": [aw(), w(0), b()],
    "BID is not that of the oldest write burst": [aw(id=1, beats=1) | w(1), b(id=2)],
}

#: The same rule, broken in another way.
BROKEN_TOO = [
    ("RLAST is not at the last beat", [ar(), r(0), r(0)]),
    ("WLAST is not at the last beat", [aw(), w(0), w(0)]),
    ("WLAST was not at the last beat of its AWLEN", [w(0), aw() | w(0)]),
    ("WLAST was not at the last beat of its AWLEN", [aw(beats=3) | w(1)]),
    ("WLAST was not at the last beat of its AWLEN", [w(0), w(0), aw()]),
    ("B without an AW", [aw(beats=1) | w(1) | b()]),
    ("B without an AW", [b()]),
    ("B before its WLAST", [aw(beats=1) | w(1), b() | aw(beats=1), b()]),
    ("R without a read burst of its ID", [ar() | r(0)]),
    ("R without a read burst of its ID", [ar(beats=1), r(1), r(1)]),
    ("a read burst crosses 4 KiB", [ar(address=0x1808, beats=256)]),
]


@pytest.mark.parametrize("name", LEGAL)
def test_legal_traffic_is_not_reported(axi, name):
    assert axi(LEGAL[name]) == []


@pytest.mark.parametrize(("rule", "cycles"), [*BROKEN.items(), *BROKEN_TOO])
def test_every_rule_fires(axi, rule, cycles):
    # R and B can only wait, and so break a rule by waiting, against the rule that they never do.
    reports = [text for text in axi(cycles) if text == rule or "READY is low" not in text]
    assert reports[0] == rule


CHANGES = [("AR", ar, name) for name in
           ("arid", "araddr", "arlen", "arsize", "arburst", "arlock", "arcache", "arprot", "arqos")]
CHANGES += [("AW", aw, name.replace("ar", "aw", 1)) for _, _, name in CHANGES]


@pytest.mark.parametrize(("channel", "request_", "pin"), CHANGES)
def test_every_bit_of_a_waiting_address_is_watched(axi, channel, request_, pin):
    before = request_(ready=0)
    for bit in range(AXI[pin]):
        after = before | {pin: before.get(pin, 0) ^ 1 << bit}
        assert f"the {channel} payload changed before {channel}READY" in axi([before, after])


@pytest.mark.parametrize("pin", ["wdata", "wstrb", "wlast"])
def test_waiting_write_data_is_watched(axi, pin):
    before = w(0, ready=0)
    for bit in range(AXI[pin]):
        after = before | {pin: before.get(pin, 0) ^ 1 << bit}
        assert axi([aw(), before, after])[0] == "the W payload changed before WREADY"


@pytest.mark.parametrize("pin", ["rid", "rdata", "rresp", "rlast"])
def test_waiting_read_data_is_watched(axi, pin):
    before = r(0, rready=0)
    for bit in range(AXI[pin]):
        after = before | {pin: before.get(pin, 0) ^ 1 << bit}
        assert "the R payload changed before RREADY" in axi([ar(), before, after])


@pytest.mark.parametrize("pin", ["bid", "bresp"])
def test_waiting_responses_are_watched(axi, pin):
    before = b(bready=0)
    for bit in range(AXI[pin]):
        after = before | {pin: before.get(pin, 0) ^ 1 << bit}
        assert "the B payload changed before BREADY" in axi([aw(beats=1) | w(1), before, after])


READ, RESPONSE = {"arvalid": 1, "arready": 1, "araddr": 4}, {"rvalid": 1, "rdata": 7}
WRITE_ADDRESS = {"awvalid": 1, "awready": 1, "awaddr": 4}
WRITE_DATA = {"wvalid": 1, "wready": 1, "wdata": 9, "wstrb": 15}
ANSWER = {"bvalid": 1}

LITE_LEGAL = {
    "read": [READ, RESPONSE],
    "reads overlap": [READ, READ | RESPONSE, RESPONSE],
    "read waits": [READ | {"arready": 0}, READ, {}, {}, RESPONSE | {"rready": 0}, RESPONSE],
    "write": [WRITE_ADDRESS | WRITE_DATA, ANSWER],
    "data first": [WRITE_DATA, {}, WRITE_ADDRESS, {}, ANSWER | {"bready": 0}, ANSWER],
    "manager takes its time": [WRITE_ADDRESS, *[{}] * 100, WRITE_DATA, ANSWER],
    "slow but in time": [READ, *[{}] * 62, RESPONSE],
    "errors": [READ, RESPONSE | {"rresp": 2}, WRITE_ADDRESS | WRITE_DATA, ANSWER | {"bresp": 3}],
}
LITE_BROKEN = [
    ("s_axil RVALID is high in reset", [{"resetn": 0}, {"resetn": 0} | RESPONSE]),
    ("s_axil BVALID is high in reset", [{"resetn": 0}, {"resetn": 0} | ANSWER]),
    ("s_axil AR did not stay until ARREADY", [READ | {"arready": 0}, {}]),
    ("s_axil AR did not stay until ARREADY", [READ | {"arready": 0}, READ | {"araddr": 8},
                                              RESPONSE]),
    ("s_axil AW did not stay until AWREADY", [WRITE_ADDRESS | {"awready": 0}, {}]),
    ("s_axil AW did not stay until AWREADY", [WRITE_ADDRESS | {"awready": 0},
                                              WRITE_ADDRESS | {"awprot": 1}]),
    ("s_axil W did not stay until WREADY", [WRITE_DATA | {"wready": 0}, {}]),
    ("s_axil W did not stay until WREADY", [WRITE_DATA | {"wready": 0}, WRITE_DATA | {"wstrb": 1}]),
    ("s_axil R did not stay until RREADY", [READ, RESPONSE | {"rready": 0}, {}]),
    ("s_axil R did not stay until RREADY", [READ, RESPONSE | {"rready": 0},
                                            RESPONSE | {"rdata": 8}]),
    ("s_axil B did not stay until BREADY", [WRITE_ADDRESS | WRITE_DATA, ANSWER | {"bready": 0},
                                            {}]),
    ("s_axil B did not stay until BREADY", [WRITE_ADDRESS | WRITE_DATA, ANSWER | {"bready": 0},
                                            ANSWER | {"bresp": 2}]),
    ("s_axil R without an AR", [RESPONSE]),
    ("s_axil R without an AR", [READ | RESPONSE]),
    ("s_axil R without an AR", [READ, RESPONSE, RESPONSE]),
    ("s_axil B before its AW and W", [ANSWER]),
    ("s_axil B before its AW and W", [WRITE_ADDRESS, ANSWER]),
    ("s_axil B before its AW and W", [WRITE_DATA, ANSWER]),
    ("s_axil B before its AW and W", [WRITE_DATA | WRITE_ADDRESS | ANSWER]),
    ("s_axil RRESP is EXOKAY", [READ, RESPONSE | {"rresp": 1}]),
    ("s_axil BRESP is EXOKAY", [WRITE_DATA | WRITE_ADDRESS, ANSWER | {"bresp": 1}]),
    ("s_axil does not answer a read", [READ, *[{}] * 70, RESPONSE]),
    ("s_axil does not answer a read", [READ | {"arready": 0}] * 70),
    ("s_axil does not answer a write", [WRITE_DATA | WRITE_ADDRESS, *[{}] * 70, ANSWER]),
    ("s_axil does not answer a write", [WRITE_DATA | WRITE_ADDRESS | {"awready": 0},
                                        *[WRITE_ADDRESS | {"awready": 0}] * 70]),
]


@pytest.mark.parametrize("name", LITE_LEGAL)
def test_legal_register_traffic_is_not_reported(lite, name):
    assert lite(LITE_LEGAL[name]) == []


@pytest.mark.parametrize(("rule", "cycles"), LITE_BROKEN)
def test_every_register_rule_fires(lite, rule, cycles):
    assert lite(cycles)[0] == rule
