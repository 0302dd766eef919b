"""`tcast cosim` on every preset and workload, with two kinds of memory. Writes docs/results/.

Arguments: names of presets and workloads; without any, all of them. Exit status 1 on any mismatch.
"""

import sys
import time

from results import table, write

from tcast.commands.cosim import cosimulate
from tcast.hw.config import PRESETS
from tcast.workloads import NAMES

#: What the memory does: as fast as its latency allows, or slow, holding back, and with arrays
#: scattered over the 64-bit space, straddling pages.
MEMORIES = {
    "latency 64": {"latency": 64},
    "latency 200, backpressure 0.2, scattered": {
        "latency": 200, "backpressure": 0.2, "placement": "scattered", "seed": 1},
}


def main():
    """Run the matrix and write it."""
    chosen = sys.argv[1:]
    unknown = [name for name in chosen if name not in (*PRESETS, *NAMES)]
    if unknown:
        print(f"argument must be one of {', '.join((*PRESETS, *NAMES))}, not {unknown[0]!r}",
              file=sys.stderr)
        return 2
    presets = [name for name in PRESETS if name in chosen] or list(PRESETS)
    workloads = [name for name in NAMES if name in chosen] or list(NAMES)
    reports, begin = [], time.perf_counter()
    for preset in presets:
        for workload in workloads:
            for memory, options in MEMORIES.items():
                report = cosimulate(preset=preset, workload=workload, **options)
                reports.append({"memory": memory, **report})
                print(f"{report['token']} {time.perf_counter() - begin:7.1f} s  {report['rerun']}",
                      flush=True)
    equal = all(report["equal"] for report in reports)
    passes = sum(operation["passes"] for report in reports for operation in report["operations"])
    compared = sum(operation["image_bytes"] for report in reports
                   for operation in report["operations"])
    guards = sum(operation["guard_bytes"] for report in reports
                 for operation in report["operations"])
    lines = [
        f"**{sum(report['equal'] for report in reports)} of {len(reports)} runs equal**: "
        f"{passes:,} passes, every result equal to the golden model to the bit; {compared:,} bytes "
        f"of memory compared after the passes, {guards:,} of them guards.", "",
        "Cycles are sums over the tables. R busy: cycles with a read beat ÷ cycles. Baseline is "
        "expand + coalesce + scatter update, casted is casted gather-reduce + scatter update.", "",
        *table(("preset", "workload", "memory", "equal", ">passes", ">forward", ">R busy",
                ">baseline", ">casted", ">fused", ">R busy", ">baseline ÷ fused"),
               [_row(report) for report in reports]), "",
        "Tables have a thousandth of their rows, batches 4 samples (`real`: 64). Commands:", "",
        *(f"- `{report['rerun']}`" for report in reports)]
    write("cosim_matrix", "Cosimulation of every preset and workload", lines,
          {"equal": equal, "reports": [_facts(report) for report in reports]})
    return 0 if equal else 1


def _facts(report):
    """Return what is kept of a report; its command gives the rest again."""
    counters = ("cycles", "r_beats", "w_beats", "rows", "segments")
    return {
        **{key: report[key] for key in ("preset", "workload", "memory", "equal", "rerun",
                                        "config_hash", "simulated_cycles")},
        "operations": {
            operation["operation"]: {
                **{key: operation[key] for key in ("equal", "passes", "utilisation",
                                                   "image_bytes", "guard_bytes", "mismatches")},
                **{name: operation["counters"].get(name, 0) for name in counters}}
            for operation in report["operations"]}}


def _row(report):
    operations = {operation["operation"]: operation for operation in report["operations"]}
    ways = report["backward"]

    def busy(name):
        value = operations[name]["utilisation"]
        return "" if value is None else f"{value:.1%}"

    return (report["preset"], report["workload"], report["memory"],
            "yes" if report["equal"] else "NO",
            sum(operation["passes"] for operation in report["operations"]),
            f"{operations['forward']['counters'].get('cycles', 0):,}", busy("forward"),
            f"{ways['baseline']:,}", f"{ways['casted']:,}", f"{ways['fused']:,}",
            busy("fused backward"),
            f"{ways['baseline'] / ways['fused']:.2f}" if ways["fused"] else "")


if __name__ == "__main__":
    sys.exit(main())
