"""The emitted Verilog: ports, names, determinism, clock and reset."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from tcast.gen.verilog import (
    _plain_module_names,
    emit_component,
    emit_verilog,
    engine_signature,
    signature_ports,
)
from tcast.hw.config import PRESETS, EngineConfig
from tcast.hw.registers import ID_VALUE

# The contract with every user of the Verilog, written out on purpose.
READ_ADDRESS = WRITE_ADDRESS = {
    "id": 4, "addr": 64, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4, "prot": 3,
    "qos": 4, "valid": 1}


def contract(width):
    inputs = {"aclk": 1, "aresetn": 1}
    outputs = {"irq": 1}
    for channel in ("ar", "aw"):
        outputs.update({f"m_axi_{channel}{name}": bits for name, bits in READ_ADDRESS.items()})
        inputs[f"m_axi_{channel}ready"] = 1
    inputs.update(m_axi_rid=4, m_axi_rdata=width, m_axi_rresp=2, m_axi_rlast=1, m_axi_rvalid=1,
                  m_axi_wready=1, m_axi_bid=4, m_axi_bresp=2, m_axi_bvalid=1)
    outputs.update(m_axi_rready=1, m_axi_wdata=width, m_axi_wstrb=width // 8, m_axi_wlast=1,
                   m_axi_wvalid=1, m_axi_bready=1)
    inputs.update(s_axil_awaddr=12, s_axil_awprot=3, s_axil_awvalid=1, s_axil_wdata=32,
                  s_axil_wstrb=4, s_axil_wvalid=1, s_axil_bready=1, s_axil_araddr=12,
                  s_axil_arprot=3, s_axil_arvalid=1, s_axil_rready=1)
    outputs.update(s_axil_awready=1, s_axil_wready=1, s_axil_bresp=2, s_axil_bvalid=1,
                   s_axil_arready=1, s_axil_rdata=32, s_axil_rresp=2, s_axil_rvalid=1)
    return {(name, "input", bits) for name, bits in inputs.items()} | {
        (name, "output", bits) for name, bits in outputs.items()}


def declared_ports(text, module):
    """Return the ports that the Verilog itself declares."""
    body = re.search(rf"^module {module}\(.*?^endmodule", text, re.M | re.S)[0]
    return {(name, direction, int(msb) + 1 if msb else 1) for direction, msb, name in
            re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", body, re.M)}


@pytest.mark.parametrize("preset", PRESETS)
def test_ports_are_the_contract(stand_in, preset):
    config = EngineConfig.preset(preset)
    expected = contract(config.data_width)
    assert declared_ports(emit_verilog(config), config.name) == expected
    ports = signature_ports(engine_signature(config))
    assert {(port.name, port.direction, port.width) for port in ports} == expected
    assert len(ports) == len(expected)


def test_header_names_the_configuration(stand_in, tiny):
    text = emit_verilog(tiny)
    head = text[:text.index("/*")]
    assert all(line.startswith("//") for line in head.splitlines())
    for key, value in tiny.as_dict().items():
        assert f"//   {key} = {value}\n" in head
    assert f"{tiny.hash:#010x}" in head


def test_names_are_plain_and_no_path_is_left(stand_in, tiny):
    text = emit_verilog(tiny)
    assert os.sep + "work" not in text
    assert ".py" not in text and "src =" not in text
    modules = re.findall(r"^module (\S+?) ?\(", text, re.M)
    assert sorted(modules) == [
        tiny.name, f"{tiny.name}_engine", f"{tiny.name}_engine_bank"]


def test_module_names_that_would_collide_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        _plain_module_names(r"\t.a.b (x) \t.a_b (y)", "t")


EMIT = """
import hashlib, sys
from tcast.gen.verilog import emit_verilog
from tcast.gen.manifest import manifest_text
from tcast.hw.config import EngineConfig
config = EngineConfig.preset("tiny64")
print(hashlib.sha256((emit_verilog(config) + manifest_text(config)).encode()).hexdigest())
"""


def test_same_bytes_in_every_process(tmp_path):
    digests = set()
    for seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed[0]}"}
        run = subprocess.run([sys.executable, "-c", EMIT], env=environment, cwd=tmp_path,
                             capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1
    assert digests != {hashlib.sha256(b"").hexdigest() + "\n"}


BENCH = """
`timescale 1ns/1ns
module bench;
  reg aclk = 0, aresetn = 0, arvalid = 0;
  wire arready, rvalid;
  wire [31:0] rdata;
  integer cycles = 0;
  top dut(.aclk(aclk), .aresetn(aresetn), .s_axil_araddr(12'h000), .s_axil_arvalid(arvalid),
          .s_axil_arready(arready), .s_axil_rvalid(rvalid), .s_axil_rdata(rdata),
          .s_axil_rready(1'b0), .s_axil_awvalid(1'b0), .s_axil_wvalid(1'b0),
          .s_axil_bready(1'b0), .s_axil_awaddr(12'b0), .s_axil_wdata(32'b0),
          .s_axil_wstrb(4'b0));
  always #5 aclk = ~aclk;
  always @(negedge aclk) begin
    cycles = cycles + 1;
    arvalid = cycles >= 3 && cycles < 5;   // accepted only where reset is inactive
    if (cycles == 9) begin
      $display("rvalid %b in reset", rvalid);
      aresetn = 1;
    end
    if (cycles >= 10) arvalid = cycles == 12;
    if (cycles == 20) begin
      $display("rvalid %b rdata %h", rvalid, rdata);
      $finish;
    end
  end
endmodule
"""


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_clock_and_active_low_reset(stand_in, tiny, tmp_path):
    (tmp_path / "top.v").write_text(emit_component(stand_in(tiny), "top"))
    (tmp_path / "bench.v").write_text(BENCH)
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "top.v", "bench.v"], cwd=tmp_path,
                   check=True)
    text = subprocess.run(["vvp", "bench"], cwd=tmp_path, check=True, capture_output=True,
                          text=True).stdout
    assert "rvalid 0 in reset" in text
    assert f"rvalid 1 rdata {ID_VALUE:08x}" in text
