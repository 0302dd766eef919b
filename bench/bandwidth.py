"""How many cycles carry a useful beat, in every cell of a grid of work, rows, buses and latencies.

    python bench/bandwidth.py [--full] [--only WORD] [--jobs N]

Writes docs/results/bandwidth.md, .json and .svg. The memory answers after a fixed number of cycles
and moves a beat a cycle each way. Every result is compared with the golden model to the bit.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from bandwidth_report import report
from results import ROOT, write

from tcast import golden
from tcast.commands.console import progress
from tcast.equality import same_bits
from tcast.golden import SGD, trace
from tcast.host.driver import EngineDevice, Pass
from tcast.hw.config import EngineConfig
from tcast.hw.registers import START_CYCLES
from tcast.sim.simulation import Simulation

PRESETS = ("ddr512", "ecp5-128")
ROW_BYTES = (64, 128, 256, 512)
LATENCIES = (20, 64, 128, 256)
LOOKUPS = 16_384
TABLE_ROWS = 65_536
BAG = 20            #: Lookups per bag where the bags are not what is varied.
RING = 64           #: Descriptors of the ring, each of RING_BAGS bags.
RING_BAGS = 32
LR = SGD(0.1)
SEED = 0

#: Traces of the backward pass: distribution, exponent of the power law, mean segment length. Where
#: nearly every lookup has a row of its own, only a flat power law is one at all.
TRACES = (("uniform", None, 1.02), ("uniform", None, 2.8), ("uniform", None, 7.7),
          ("powerlaw", 0.4, 1.02), ("powerlaw", 1.05, 2.8), ("powerlaw", 1.05, 7.7))


@dataclass(frozen=True)
class Work:
    """One kind of work: its row of the target table, what is varied, and what it must reach."""

    group: str
    case: str
    target: float


def works():
    """Return every Work of the grid."""
    found = [Work("forward", f"bags of {bag}", 0.99) for bag in (1, 3, 20, 80)]
    found.append(Work("forward", "bags of 0 to 100", 0.99))
    for kind, target in (("casted gather-reduce", 0.99), ("fused backward", 0.98)):
        found += [Work(kind, f"{name} {mean}", target) for name, _, mean in TRACES]
    found += [Work("scatter update", "uniform 1.02", 0.98), Work("expand", f"bags of {BAG}", 0.98),
              Work("coalesce", "powerlaw 2.8", 0.98)]
    found += [Work("ring", f"bags of {bag}", 0.95) for bag in (1, 3, 20)]
    found += [Work("forward", case, 0.99) for case in
              ("int64", "weights", "int64, weights", "mean")]
    found += [Work("casted gather-reduce", "powerlaw 2.8, weights", 0.99),
              Work("fused backward", "powerlaw 2.8, weights", 0.98)]
    return found


def bag_offsets(bag, lookups=LOOKUPS):
    """Return offsets of bags of ``bag`` lookups, the last one shorter."""
    return np.append(np.arange(0, lookups, bag), lookups).astype(np.int32)


def mixed_offsets(rng):
    """Return offsets of bags of 0 to 100 lookups."""
    ends = np.cumsum(rng.integers(0, 101, LOOKUPS // 25))
    return np.concatenate([[0], ends[ends < LOOKUPS], [LOOKUPS]]).astype(np.int32)


@cache
def trace_of(distribution, exponent, mean):
    """Return (rows of the table, int32 lookups [LOOKUPS]) with ``mean`` lookups per distinct row.

    The table's size is what is looked for.
    """
    def lookups(rows):
        rng = np.random.default_rng(SEED)
        drawn = trace.uniform(rng, rows, LOOKUPS) if distribution == "uniform" \
            else trace.powerlaw(rng, rows, LOOKUPS, exponent)
        return drawn.astype(np.int32)

    low, high = 256, 1 << 23
    while high > low * 1.002:
        middle = int((low * high) ** 0.5)
        if LOOKUPS / len(np.unique(lookups(middle))) > mean:
            low = middle
        else:
            high = middle
    return high, lookups(high)


def casting_of(case, weighted):
    """Return (table rows, offsets, Casting) of the trace named by ``case``."""
    name, mean = case.split(",")[0].split()
    rows, indices = trace_of(*next(
        item for item in TRACES if item[0] == name and item[2] == float(mean)))
    offsets = bag_offsets(BAG)
    weights = np.random.default_rng(SEED).random(LOOKUPS, np.float32) if weighted else None
    return rows, offsets, golden.cast(indices, offsets, rows, weights)


class Job:
    """The passes of one work on rows of one size, and what they must write."""

    def __init__(self, work, row_bytes):
        self.work = work
        self.dim = row_bytes // 4
        self.rng = np.random.default_rng([SEED, row_bytes])
        self.old = None
        weighted = "weights" in work.case
        getattr(self, work.group.replace(" ", "_").replace("-", "_"))(weighted)

    def _values(self, *shape):
        return self.rng.standard_normal(shape, np.float32)

    def _write(self, expected, **arrays):
        self.expected = expected
        self.target = np.zeros_like(expected)
        self.rows = slice(None)
        self.passes = [Pass(target=self.target, **arrays)]

    def forward(self, weighted):
        """Sum bags."""
        case = self.work.case
        offsets = mixed_offsets(self.rng) if "to" in case else bag_offsets(
            int(case.split()[-1]) if "bags" in case else BAG)
        weight = self._values(TABLE_ROWS, self.dim)
        kind = np.int64 if "int64" in case else np.int32
        indices = self.rng.integers(0, TABLE_ROWS, LOOKUPS).astype(kind)
        weights = self.rng.random(LOOKUPS, np.float32) if weighted else None
        mean = case == "mean"
        self._write(
            golden.embedding_bag(weight, indices, offsets, weights, "mean" if mean else "sum"),
            source=weight, indices=indices, offsets=offsets.astype(kind), weights=weights,
            scales=golden.reciprocals(offsets) if mean else None)

    def ring(self, _):
        """Sum the bags of many small tables, a relaxed descriptor for each."""
        bag = int(self.work.case.split()[-1])
        rows, lookups = 1024, RING_BAGS * bag
        weight = self._values(RING, rows, self.dim)
        indices = self.rng.integers(0, rows, (RING, lookups)).astype(np.int32)
        offsets = bag_offsets(bag, lookups)
        self.expected = np.stack([golden.embedding_bag(weight[n], indices[n], offsets)
                                  for n in range(RING)])
        self.target, self.rows = np.zeros_like(self.expected), slice(None)
        self.passes = [Pass(source=weight[n], target=self.target[n], indices=indices[n],
                            offsets=offsets, relaxed=True) for n in range(RING)]

    def casted_gather_reduce(self, weighted):
        """Sum the gradients of each row."""
        _, offsets, casting = casting_of(self.work.case, weighted)
        source = self._values(len(offsets) - 1, self.dim)
        self._write(golden.casted_gather_reduce(source, casting), source=source,
                    indices=casting.bags, offsets=casting.segment_offsets, weights=casting.weights)

    def expand(self, _):
        """Copy each bag's gradient to its lookups."""
        offsets = bag_offsets(BAG)
        source = self._values(len(offsets) - 1, self.dim)
        self._write(golden.expand(source, offsets), source=source,
                    indices=golden.bag_ids(offsets))

    def coalesce(self, _):
        """Sum expanded gradients."""
        _, _, casting = casting_of(self.work.case, False)
        source = self._values(LOOKUPS, self.dim)
        self._write(golden.coalesce(source, casting), source=source,
                    indices=casting.positions, offsets=casting.segment_offsets)

    def _update(self, rows, casting, grads, **arrays):
        # Only the rows that are touched hold values: the table may have millions.
        self.rows = casting.rows
        self.old = self._values(len(self.rows), self.dim)
        self.expected = self.old.copy()
        golden.scatter_update(self.expected, np.arange(len(self.rows)), grads, LR)
        self.target = np.zeros((rows, self.dim), np.float32)
        self.passes = [Pass(target=self.target, rows=self.rows, optimizer=LR, **arrays)]

    def fused_backward(self, weighted):
        """Sum the gradients of each row and update it."""
        rows, offsets, casting = casting_of(self.work.case, weighted)
        source = self._values(len(offsets) - 1, self.dim)
        self._update(rows, casting, golden.casted_gather_reduce(source, casting), source=source,
                     indices=casting.bags, offsets=casting.segment_offsets,
                     weights=casting.weights)

    def scatter_update(self, _):
        """Update rows from sums."""
        rows, _, casting = casting_of(self.work.case, False)
        source = self._values(len(casting.rows), self.dim)
        self._update(rows, casting, source, source=source)

    def run(self, device):
        """Run on ``device``, compare, and return the engine's counters."""
        if self.old is not None:
            self.target[self.rows] = self.old
        else:
            self.target.view(np.uint8)[...] = 0xAA
        device.submit(self.passes)
        same_bits(f"{self.work.group}, {self.work.case}", self.target[self.rows], self.expected)
        return device.counters()


def cell(work, preset, row_bytes, latency, counters):
    """Return the figures of one cell, of JSON types."""
    steady = counters["steady_cycles"]
    read, written = (counters[f"steady_{way}_beats"] / steady for way in "rw")
    useful = max(counters["r_beats"] - descriptor_beats(preset, counters), counters["w_beats"])
    arrival = counters["work_cycles"] + START_CYCLES
    return {
        **asdict(work), "preset": preset, "row_bytes": row_bytes, "latency": latency,
        "utilisation": round(max(read, written), 5), "r_busy": round(read, 5),
        "w_busy": round(written, 5), "useful_beats": useful,
        "total_from_arrival": arrival, "total_from_doorbell": counters["cycles"],
        "startup_and_gaps": arrival - useful, "bound": 2 * latency + 200,
        "counters": counters}


def descriptor_beats(preset, counters):
    """Return the R beats that were descriptors."""
    return counters["descriptors"] * 128 // EngineConfig.preset(preset).derived.beat_bytes


@cache
def simulation(preset):
    """Return this process's EngineDevice of ``preset``."""
    config = EngineConfig.preset(preset)
    return EngineDevice(Simulation(config, seed=SEED), config)


def latencies(work, row_bytes, full):
    """Return the latencies that a work and row size are measured with.

    The forward pass has all. What is like it has all on the shortest rows, which need the most
    bursts in flight, and the longest on the others.
    """
    bags = work.group == "forward" and work.case.startswith("bags of")
    whole = full or bags or row_bytes == min(ROW_BYTES)
    return LATENCIES if whole else LATENCIES[-1:]


def measure(work, row_bytes, full):
    """Return the cells of one work and row size."""
    job = Job(work, row_bytes)
    cells = []
    for preset in PRESETS:
        device = simulation(preset)
        for latency in latencies(work, row_bytes, full):
            device.io.set_memory(latency=latency)
            cells.append(cell(work, preset, row_bytes, latency, job.run(device)))
    return cells


def main():
    """Measure the grid and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD",
                        help="only work whose name has this in it; prints, writes nothing")
    parser.add_argument("--full", action="store_true", help="every latency with every row")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    chosen = [work for work in works() if arguments.only in f"{work.group}, {work.case}"]
    if not chosen:
        parser.error(f"no work has {arguments.only!r} in its name")
    cells = []
    with progress() as bar:
        task = bar.add_task("building", total=None)
        for preset in PRESETS:
            Simulation(EngineConfig.preset(preset), on_build=lambda what, preset=preset: bar.update(
                task, description=f"{preset}: {what}")).close()
        grid = [(work, size, arguments.full) for work in chosen for size in ROW_BYTES]
        bar.update(task, total=len(grid), completed=0, description="measuring")
        with ProcessPoolExecutor(arguments.jobs) as pool:
            runs = [pool.submit(measure, *item) for item in grid]
            for number, run in enumerate(as_completed(runs), 1):
                found = run.result()
                cells += found
                words = "{group}, {case}, {row_bytes} B".format(**found[0])
                bar.update(task, advance=1, description=words)
                print(f"{number}/{len(grid)} {words}: "
                      f"{min(each['utilisation'] for each in found):.4f}", flush=True)
    order = {(work.group, work.case): n for n, work in enumerate(works())}
    cells.sort(key=lambda each: (order[each["group"], each["case"]],
                                 PRESETS.index(each["preset"]), each["row_bytes"],
                                 each["latency"]))
    lines, picture = report(cells)
    if arguments.only:
        print("\n".join(lines))
    else:
        (ROOT / "docs" / "results" / "bandwidth.svg").write_text(picture)
        write("bandwidth", "Saturating the memory", lines, {"seed": SEED, "cells": cells})
    return 0


if __name__ == "__main__":
    sys.exit(main())
