"""The CPU-GPU system of the paper: the baseline against tensor casting. Writes results.

Runs from a plain checkout with NumPy, and torch or CuPy for the GPU; without a GPU it times the
CPU's phases and says so. Writes DIR/system.json and DIR/system.md.

    python bench/system.py -o docs/results
"""

import argparse
import json
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

WORKLOADS = ("rm1", "rm2", "rm3")
DISTRIBUTIONS = (("uniform", 1.0), ("powerlaw", 1.05), ("powerlaw", 1.2))


def find_package():
    """Make the checkout importable as ``tcast`` where it is not installed."""
    try:
        import_module("tcast.golden")
    except ModuleNotFoundError:
        # The top-level folders of the checkout are the package's parts.
        sys.path.insert(0, str(ROOT))
        import tcast
        tcast.__path__.append(str(ROOT))


def main():
    """Measure and write."""
    find_package()
    import numpy as np

    from tcast import workloads
    from tcast.golden import SGD
    from tcast.host.cpu import CpuDevice
    from tcast.host.peers import Tables
    from tcast.report import system_columns, system_rows
    from tcast.system import open_gpu, run

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--workload", default=",".join(WORKLOADS))
    parser.add_argument("--threads", type=int, default=None, help="of the CPU; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--max-rows", type=int, default=1_000_000)
    parser.add_argument("--library", choices=("torch", "cupy"), help="for the GPU")
    arguments = parser.parse_args()
    threads = arguments.threads or CpuDevice().threads
    gpu, reason = open_gpu(arguments.library)
    report = {"command": " ".join(["python", "bench/system.py", *sys.argv[1:]]),
              "gpu": None if gpu is None else gpu.name,
              "library": None if gpu is None else type(gpu).__name__, "not_run": reason,
              "machine": platform.machine(), "python": platform.python_version(),
              "numpy": np.__version__, "threads": threads, "batch": arguments.batch,
              "max_rows": arguments.max_rows, "repeats": arguments.repeats, "runs": []}
    begin = time.perf_counter()
    lines = ["# The CPU-GPU system: baseline against tensor casting", "",
             f"Made by `{report['command']}`; GPU: {report['gpu'] or 'none (' + reason + ')'}; CPU "
             f"threads {threads}; batch {arguments.batch:,}, rows of a table capped at "
             f"{arguments.max_rows:,}; SGD; medians (quartiles) in ms of {arguments.repeats} "
             "alternating runs, 96 MiB read before each step. docs/compare.md says what the "
             "phases are."]
    for name in arguments.workload.split(","):
        shape = workloads.WORKLOADS[name].scaled(1.0, arguments.batch, arguments.max_rows)
        tables = None  # before the next are made
        tables = Tables([(one.rows, one.dim) for one in shape.tables])
        workloads.draw_weights(tables)
        for kind, exponent in DISTRIBUTIONS:
            title = f"{name}, {kind}" + (f" {exponent:g}" if kind == "powerlaw" else "")
            print(f"[{time.perf_counter() - begin:4.0f} s] {title}", file=sys.stderr, flush=True)
            batch = workloads.draw_batch(shape, kind, exponent)
            found = run(tables, batch, SGD(0.01), threads=threads, repeats=arguments.repeats,
                        gpu=gpu)
            report["runs"].append({"title": title, "lookups": shape.lookups, **found})
            columns = [column.removeprefix(">") for column in system_columns(found)]
            lines += ["", f"## {title}", "", "| " + " | ".join(columns) + " |",
                      "|---|" + "--:|" * (len(columns) - 1)]
            lines += ["| " + " | ".join("" if cell is None else cell for cell in row) + " |"
                      for row in system_rows(found)]
            lines += [f"MISMATCH {mismatch}" for mismatch in found["mismatches"]]
    report["seconds"] = round(time.perf_counter() - begin, 1)
    report["equal"] = all(one["equal"] for one in report["runs"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "system.json").write_text(json.dumps(report, separators=(",", ":")) + "\n")
    (arguments.output / "system.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0 if report["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
