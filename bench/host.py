"""The CPU's targets: our ratios to FBGEMM, to PyTorch, and to what memory allows. Writes results.

Every cell is one workload with one distribution of rows, on one set of tables that all contenders
share; see docs/compare.md. The tables are the published ones with rows capped at a million, and
the batch is 2,048. A second set of shapes is that of the measurements that the targets were set
with: rm1 and rm3 with ten tables of 64 columns, and dlrmv2, which is in both. Three groups of
alternating runs: SGD with one thread (ours with two threads runs beside it), SGD with two threads,
and row-wise Adagrad with one. FBGEMM's wheel has one thread.

    python bench/host.py                                  both sets, about 15 minutes
    python bench/host.py --set wide                       the second alone
    python bench/host.py --only rm3:powerlaw:1.05         one cell, nothing written
"""

import argparse
import copy
import sys
import time
from importlib import metadata
from pathlib import Path
from statistics import geometric_mean

from results import table, write

from tcast import workloads
from tcast.comparison import Backend, compare, speed
from tcast.golden import SGD, RowwiseAdagrad
from tcast.host.cpu import CpuDevice
from tcast.host.peers import Tables

#: Set of shapes -> its workloads; dlrmv2 is measured once.
SETS = {"published": ("rm1", "rm2", "rm3", "dlrmv2"), "wide": ("rm1-64", "rm3-64", "dlrmv2")}
SHAPES = workloads.WORKLOADS | {
    f"{name}-64": workloads.Workload(
        f"{name}-64", f"{name} with ten tables of 64 columns",
        (workloads.Table(1_000_000, 64, workloads.WORKLOADS[name].tables[0].pooling),) * 10, 2048)
    for name in ("rm1", "rm3")}
DISTRIBUTIONS = ("uniform", "powerlaw:1.05", "powerlaw:1.2")
BATCH, MAX_ROWS, LR, EPS, SEED = 2048, 1_000_000, 0.01, 1e-6, 0

#: Rows of the summary: key, words, least geometric mean, least worst cell (None: no target).
TARGETS = (
    ("forward_fbgemm", "forward, speed over FBGEMM TBE, 1 thread", 1.3, 1.05),
    ("forward_limit", "forward, share of the row-read limit, 1 thread", 0.92, 0.8),
    ("forward_limit_2", "the same, 2 threads", 0.92, 0.8),
    ("sgd_fbgemm", "cast + fused SGD, speed over FBGEMM EXACT_SGD, 1 thread", 3.8, 2.8),
    ("adagrad_fbgemm", "cast + fused row-wise Adagrad, speed over FBGEMM "
     "EXACT_ROWWISE_ADAGRAD, 1 thread", 1.8, 1.3),
    ("step_torch", "whole step, speed over torch EmbeddingBag(sparse) + SGD.step(), 1 thread", 10,
     6),
    ("step_torch_2", "the same, 2 threads", 10, 6),
    ("step_coalesce", "whole step, speed over the same with coalesce() before step(), 1 thread",
     10, 6),
    ("step_coalesce_2", "the same, 2 threads", 10, 6),
    ("update_limit", "fused SGD, share of the row read-modify-write limit, 1 thread", 0.75, 0.5),
    ("update_limit_2", "the same, 2 threads", 0.75, 0.5),
    ("fused_limit", "fused SGD, share of that limit and the reading of the gradient, 1 thread",
     None, None),
    ("fused_limit_2", "the same, 2 threads", None, None),
    ("threads", "whole step, 2 threads over 1 thread", 1.7, 1.5),
)


def parsed():
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORKLOAD:DISTRIBUTION",
                        help="a cell, such as rm3:powerlaw:1.05, or a workload; may be repeated")
    parser.add_argument("--set", choices=SETS, action="append", help="of shapes; both by default")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--max-rows", type=int, default=MAX_ROWS)
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch, the slow one, out")
    return parser.parse_args()


def cells(only, sets):
    """Return the list of (workload, distribution, exponent)."""
    names = dict.fromkeys(name for one in sets for name in SETS[one])
    found = [(name, distribution) for name in names for distribution in DISTRIBUTIONS]
    if only:
        found = [cell for cell in found if cell[0] in only or ":".join(cell) in only]
        if not found:
            sys.exit(f"--only must name a workload of {', '.join(names)} and perhaps one of "
                     f"{', '.join(DISTRIBUTIONS)}, not {only!r}")
    return [(name, kind, float(exponent or 1.0)) for name, distribution in found
            for kind, _, exponent in [distribution.partition(":")]]


def huge_pages():
    """Return the share of this process's memory in 2 MiB pages, or None."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = {name: int(rest.split()[0]) for name, colon, rest in
             (line.partition(":") for line in lines[1:]) if colon}
    return round(sizes["AnonHugePages"] / max(1, sizes["Rss"]), 3)


def measured(tables, batch, cpus, arguments, repeats):
    """Return (ratios, the same at the limits of memory, times: group -> backend -> phases)."""
    without_state = copy.copy(tables)
    without_state.flat_state, without_state.states = None, [None] * len(tables.states)
    torch = () if arguments.no_torch else ("torch", "torch-coalesce")
    groups = {
        "sgd, 1 thread": (without_state, SGD(LR), 1, ("cpu", "cpu 2", "fbgemm", *torch)),
        "sgd, 2 threads": (without_state, SGD(LR), 2, ("cpu 2", *torch)),
        "rowwise_adagrad, 1 thread": (tables, RowwiseAdagrad(LR, EPS), 1, ("cpu", "fbgemm")),
    }
    found, times = {}, {}
    for group, (own, rule, threads, names) in groups.items():
        backends = [Backend("cpu", cpus[name]) if name in cpus else Backend(name, threads=threads)
                    for name in names]
        print(f"  {group}: {', '.join(names)}", file=sys.stderr, flush=True)
        results, limit, source = compare(backends, own, batch, rule, repeats=repeats,
                                         threads=threads, check_lookups=200_000)
        for name, result in zip(names, results, strict=True):
            if result.skipped or not result.equal:
                sys.exit(f"{group}: {name}: {result.skipped or result.mismatches}")
        found[group] = dict(zip(names, results, strict=True), limit=limit)
        times[group] = {name: result.as_dict()["phases"] for name, result in found[group].items()}
        times[group]["limit"]["source"] = source
    one, two, adagrad = found.values()
    ratios = {
        "forward_fbgemm": speed(one["cpu"], one["fbgemm"], "forward"),
        "forward_limit": speed(one["cpu"], one["limit"], "forward"),
        "forward_limit_2": speed(two["cpu 2"], two["limit"], "forward"),
        "sgd_fbgemm": speed(one["cpu"], one["fbgemm"], "backward"),
        "adagrad_fbgemm": speed(adagrad["cpu"], adagrad["fbgemm"], "backward"),
        "update_limit": speed(one["cpu"], one["limit"], "update"),
        "update_limit_2": speed(two["cpu 2"], two["limit"], "update"),
        "fused_limit": speed(one["cpu"], one["limit"], "update", "fused"),
        "fused_limit_2": speed(two["cpu 2"], two["limit"], "update", "fused"),
        "threads": speed(one["cpu 2"], one["cpu"], "step"),
    }
    if torch:
        ratios |= {"step_torch": speed(one["cpu"], one["torch"], "step"),
                   "step_torch_2": speed(two["cpu 2"], two["torch"], "step"),
                   "step_coalesce": speed(one["cpu"], one["torch-coalesce"], "step"),
                   "step_coalesce_2": speed(two["cpu 2"], two["torch-coalesce"], "step")}
    return rounded(ratios), rounded(at_limit(times)), times


def rounded(values):
    """Return them with four digits behind the point."""
    return {key: round(value, 4) for key, value in values.items()}


def at_limit(times):
    """Return the ratios to peers at the limits of memory, with casting for nothing."""
    def ratio(group, peer, phase):
        return times[group][peer][phase]["ms"] / limit(group, phase)

    def limit(group, phase):
        phases = {"forward": ("forward",), "backward": ("fused",), "step": ("forward", "fused")}
        return sum(times[group]["limit"][each]["ms"] for each in phases[phase])
    one, two, adagrad = times
    found = {"forward_fbgemm": ratio(one, "fbgemm", "forward"),
             "sgd_fbgemm": ratio(one, "fbgemm", "backward"),
             "adagrad_fbgemm": ratio(adagrad, "fbgemm", "backward"),
             "threads": limit(one, "step") / limit(two, "step")}
    for key, peer in (("step_torch", "torch"), ("step_coalesce", "torch-coalesce")):
        if peer in times[one]:
            found |= {key: ratio(one, peer, "step"), f"{key}_2": ratio(two, peer, "step")}
    return found


def summary(grid, names):
    """Return rows (words, mean, worst, its cell, targets, met, mean at the limits of memory)."""
    rows = []
    grid = {title: cell for title, cell in grid.items() if title.split(",")[0] in names}
    for key, words, least, least_worst in TARGETS:
        values = {title: cell["ratios"][key] for title, cell in grid.items()
                  if key in cell["ratios"]}
        if not values:
            continue
        mean, worst = geometric_mean(values.values()), min(values, key=values.get)
        met = least and ("yes" if mean >= least and values[worst] >= least_worst else "no")
        limits = [cell["at_limit"][key] for cell in grid.values() if key in cell["at_limit"]]
        rows.append((words, f"{mean:.2f}", f"{values[worst]:.2f}", worst,
                     f"≥ {least:g} / ≥ {least_worst:g}" if least else "", met or "",
                     f"{geometric_mean(limits):.2f}" if limits else ""))
    return rows


def main():
    """Measure and write."""
    arguments = parsed()
    cpus = {"cpu": CpuDevice(threads=1), "cpu 2": CpuDevice(threads=2)}
    sets = arguments.set or list(SETS)
    grid, tables, key = {}, None, None
    begin = time.perf_counter()
    for name, kind, exponent in cells(arguments.only, sets):
        shape = SHAPES[name].scaled(1.0, arguments.batch, arguments.max_rows)
        title = f"{name}, {kind}" + (f" {exponent:g}" if kind == "powerlaw" else "")
        print(f"[{time.perf_counter() - begin:4.0f} s] {title}", file=sys.stderr, flush=True)
        if name != key:
            tables = None  # before the next are made
            tables = Tables([(one.rows, one.dim) for one in shape.tables], with_state=True)
            workloads.draw_weights(tables, SEED)
            key = name
        tables.flat_state[:] = 0
        batch = workloads.draw_batch(shape, kind, exponent, SEED)
        # A step of rm2 is eight million lookups; its runs are long, and differ little.
        repeats = min(arguments.repeats, 4) if shape.lookups > 4_000_000 else arguments.repeats
        ratios, limits, times = measured(tables, batch, cpus, arguments, repeats)
        grid[title] = {"ratios": ratios, "at_limit": limits, "ms": times, "lookups": shape.lookups,
                       "table_bytes": tables.flat.nbytes, "huge_pages": huge_pages(),
                       "repeats": repeats}
    seconds = time.perf_counter() - begin
    summaries = {one: rows for one in sets if (rows := summary(grid, SETS[one]))}
    overview = []
    for one, rows in summaries.items():
        overview += ["", f"Shapes {one} ({', '.join(SETS[one])}):", "", *table(
            ("ratio", ">geometric mean", ">worst cell", "which", "target", "met",
             ">mean at the limit"), rows)]
    heads = [target[0] for target in TARGETS if any(target[0] in cell["ratios"]
                                                    for cell in grid.values())]
    by_cell = table(("cell", *(f">{head}" for head in heads)),
                    [(title, *(f"{cell['ratios'].get(head, float('nan')):.2f}" for head in heads))
                     for title, cell in grid.items()])
    versions = {name: metadata.version(name) for name in ("torch", "fbgemm-gpu-cpu")}
    pages = [cell["huge_pages"] for cell in grid.values() if cell["huge_pages"] is not None]
    lines = [
        f"Batch {arguments.batch:,}; rows of a table capped at {arguments.max_rows:,}; core "
        f"`{cpus['cpu'].core}`; {', '.join(f'{k} {v}' for k, v in versions.items())}; "
        f"{min(pages, default=0):.0%} to {max(pages, default=0):.0%} of the memory in 2 MiB pages. "
        "Ratios are medians over alternating runs; what is timed, shared and evicted stands in "
        "docs/compare.md. *Mean at the limit*: the geometric mean of what the ratio would be if we "
        "took no longer than the measured limits of memory (an update's with the reading of the "
        "gradient), and casting took no time at all. "
        f"The grid took {seconds:.0f} s.",
        *overview, "", "Every cell:", "", *by_cell]
    if arguments.only:
        print("\n".join(lines))
        return
    write("host", "The CPU backend against its peers and against memory", lines,
          {"batch": arguments.batch, "max_rows": arguments.max_rows, "lr": LR, "eps": EPS,
           "seed": SEED, "core": cpus["cpu"].core, "versions": versions, "seconds": seconds,
           "summary": summaries, "cells": grid})


if __name__ == "__main__":
    main()
