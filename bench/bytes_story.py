"""Cycles and bytes of the three ways to do a backward pass and its update. Writes docs/results/.

    python bench/bytes_story.py [WORKLOAD ...]

baseline: expand, coalesce, scatter update. casted: casted gather-reduce, scatter update. fused: one
pass. Bytes are the beats that crossed the bus. Every result is compared with the golden model.
"""

import sys
from dataclasses import replace

import numpy as np
from results import table, write

from tcast import golden
from tcast.commands.console import progress
from tcast.equality import same_bits
from tcast.golden import SGD
from tcast.host.driver import EngineDevice
from tcast.hw.config import EngineConfig
from tcast.sim.simulation import Simulation
from tcast.workloads import WORKLOADS, draw

PRESET, LATENCY, SEED = "ddr512", 64, 0
LR = SGD(0.1)
#: About as many lookups has a step, over the tables that are measured.
LOOKUPS = 16_384
TRACES = {"uniform": ("uniform", 1.0), "power law 1.05": ("powerlaw", 1.05),
          "power law 1.2": ("powerlaw", 1.2)}
WAYS = {"baseline": ("expand", "coalesce", "scatter update"),
        "casted": ("casted gather-reduce", "scatter update"), "fused": ("fused backward",)}


def workload_of(name):
    """Return (scale, Workload): rows and batch scaled alike, so that lookups share rows as much."""
    workload = WORKLOADS[name]
    tables = workload.tables
    if len(set(tables)) == 1:
        workload = replace(workload, tables=tables[:1])
    scale = LOOKUPS / workload.lookups
    return scale, workload.scaled(scale)


def passes(device, item):
    """Run every pass on one table; yield (name, counters)."""
    casting = golden.cast(item.indices, item.offsets, len(item.weight))
    expanded = device.expand(item.grad_out, item.offsets)
    yield "expand", device.counters()
    grads = device.coalesce(expanded, casting)
    yield "coalesce", device.counters()
    casted = device.casted_gather_reduce(item.grad_out, casting)
    yield "casted gather-reduce", device.counters()
    same_bits("grads", casted, golden.casted_gather_reduce(item.grad_out, casting))
    same_bits("grads, baseline", grads, casted)
    old = item.weight[casting.rows]
    expected = old.copy()
    golden.scatter_update(expected, np.arange(len(old), dtype=casting.rows.dtype), casted, LR)
    device.scatter_update(item.weight, casting.rows, casted, LR)
    yield "scatter update", device.counters()
    same_bits("weight", item.weight[casting.rows], expected)
    item.weight[casting.rows] = old
    device.backward_update(item.weight, item.grad_out, casting, LR)
    yield "fused backward", device.counters()
    same_bits("weight, fused", item.weight[casting.rows], expected)


def measure(device, scale, workload, trace, bar, task):
    """Return the sums over the workload's tables."""
    beat = device.config.derived.beat_bytes
    sums = {name: {"cycles": 0, "read_bytes": 0, "written_bytes": 0}
            for names in WAYS.values() for name in names}
    lookups = segments = 0
    distribution, exponent = TRACES[trace]
    for item in draw(workload, distribution, exponent, SEED):
        bar.update(task, description=f"{item.name}, {trace}")
        lookups += item.indices.size
        for name, counters in passes(device, item):
            sums[name]["cycles"] += counters["cycles"]
            sums[name]["read_bytes"] += counters["r_beats"] * beat
            sums[name]["written_bytes"] += counters["w_beats"] * beat
        segments += counters["segments"]
        bar.update(task, advance=1)
    ways = {way: {key: sum(sums[name][key] for name in names)
                  for key in ("cycles", "read_bytes", "written_bytes")}
            for way, names in WAYS.items()}
    for each in ways.values():
        each["bytes"] = each["read_bytes"] + each["written_bytes"]
    return {"workload": workload.name, "trace": trace, "scale": scale,
            "tables": len(workload.tables), "batch": workload.batch,
            "lookups": lookups, "distinct_rows": segments,
            "passes": sums, "ways": ways}


def row_of(result):
    """Return the table row of one result."""
    ways = result["ways"]

    def share(way, key):
        return f"{ways[way][key] / ways['baseline'][key]:.2f}"

    return (result["workload"], result["trace"], f"{result['lookups']:,}",
            f"{result['lookups'] / result['distinct_rows']:.2f}",
            *(f"{ways[way]['cycles']:,}" for way in WAYS),
            share("casted", "cycles"), share("fused", "cycles"),
            *(f"{ways[way]['bytes']:,}" for way in WAYS),
            share("casted", "bytes"), share("fused", "bytes"))


def main():
    """Measure and write."""
    names = sys.argv[1:] or list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            print(f"workload must be one of {', '.join(WORKLOADS)}, not {name!r}", file=sys.stderr)
            return 2
    config = EngineConfig.preset(PRESET)
    workloads = [workload_of(name) for name in names]
    results = []
    with progress() as bar:
        task = bar.add_task(f"building {config.name}", total=None)
        simulation = Simulation(
            config, latency=LATENCY, seed=SEED,
            on_build=lambda what: bar.update(task, description=f"{config.name}: {what}"))
        bar.update(task, completed=0,
                   total=len(TRACES) * sum(len(workload.tables) for _, workload in workloads))
        with EngineDevice(simulation, config) as device:
            for scaled in workloads:
                results += [measure(device, *scaled, trace, bar, task) for trace in TRACES]
    totals = {way: sum(each["ways"][way]["bytes"] for each in results) for way in WAYS}
    write("bytes", "Bytes of the backward pass", [
        f"`{PRESET}`, memory latency {LATENCY}. Rows and batch of the published workloads, scaled "
        f"alike to {LOOKUPS:,} lookups: one table of each rm model, whose tables are all alike, "
        "and all 26 of dlrmv2. Bytes are R and W beats of the bus, indices, offsets and "
        "descriptors among them; cycles are from doorbell to done, pass by pass. Results equal to "
        "the golden model to the bit.", "",
        f"**Over all rows the fused pass moves {totals['fused'] / totals['baseline']:.2f} of the "
        f"baseline's bytes, the casted one {totals['casted'] / totals['baseline']:.2f}.** Columns "
        "with ÷ are shares of the baseline.", "",
        *table(("workload", "trace", ">lookups", ">per distinct row",
                *(f">cycles, {way}" for way in WAYS), ">casted ÷", ">fused ÷",
                *(f">bytes, {way}" for way in WAYS), ">casted ÷", ">fused ÷"),
               [row_of(each) for each in results]), "",
        "What must move: with n lookups, u distinct rows and rows of r bytes, baseline reads "
        "(n + n + 2u)·r and writes (n + u + u)·r, casted reads (n + 2u)·r and writes 2u·r, fused "
        "reads (n + u)·r and writes u·r, besides the arrays. Where every lookup has a row of its "
        "own (u = n) that is 7, 5 and 3 rows a lookup; the more lookups share a row, the closer "
        "all come to 3 : 1 : 1."],
        {"preset": PRESET, "latency": LATENCY, "seed": SEED, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
