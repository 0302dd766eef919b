"""The engine on a DRAM-like memory, against the best that the same memory model allows.

Each pass runs on the RTL with the DRAM model and records the bursts that it asked for. The same
bursts are then replayed through the same model with any number outstanding: reads in their order
and writes in theirs, each as early as possible, W data always there. That knows nothing of an
engine: no index has to arrive before its row, no row before its sum. It is not always the shortest,
so three replays with limits stand beside it, and the best is the best of all. Writes docs/results/.
"""

import sys
from dataclasses import asdict, replace

import numpy as np
from results import table, write

from tcast.commands.console import progress
from tcast.cosimulation import CAUSES
from tcast.equality import same_bits
from tcast.golden import SGD, trace
from tcast.host.driver import EngineDevice
from tcast.host.golden_backend import GoldenDevice
from tcast.hw.config import EngineConfig
from tcast.sim.dram import DRAMS, TABLES
from tcast.sim.simulation import Simulation

#: (preset, DRAM, cycles between the port and the DRAM, each way together)
MEMORIES = (("ddr512", "ddr4-2400", 32), ("hbm256", "hbm2-pc", 64))
ROW_BYTES, LOOKUPS, POOLING, ROWS, SEED = (64, 128, 256, 512), 16_384, 20, 65_536, 0
EXPONENT, TARGET = 1.05, 0.97
#: The replays of which the shortest is the best: any number outstanding; and, as a controller that
#: looks at the oldest requests first is not optimal, three in which reads and writes keep their
#: common order and so find the same rows open.
REPLAYS = ({}, *({"in_order": True, "read_outstanding": n} for n in (32, 128, 512)))
#: Cycles of the DRAM without a column command, and why.
LOST = {"idle_cycles": "no access waits", "turn_cycles": "turnaround of the data bus",
        "bank_cycles": "rows being opened", "refresh_cycles": "refresh"}


def passes(dim):
    """Yield (name, weight, indices, offsets, grad_out) of the passes with rows of ``dim``."""
    rng = np.random.default_rng([SEED, dim])
    offsets = np.append(np.arange(0, LOOKUPS, POOLING), LOOKUPS).astype(np.int32)
    weight = rng.standard_normal((ROWS, dim), dtype=np.float32)
    grad_out = rng.standard_normal((len(offsets) - 1, dim), dtype=np.float32)
    uniform = rng.integers(0, ROWS, LOOKUPS).astype(np.int32)
    power_law = trace.powerlaw(rng, ROWS, LOOKUPS, EXPONENT).astype(np.int32)
    yield "forward", weight, uniform, offsets, None
    yield "fused backward, uniform", weight, uniform, offsets, grad_out
    yield f"fused backward, power law {EXPONENT}", weight, power_law, offsets, grad_out


def measure(device, golden, dram, latency, weight, indices, offsets, grad_out):
    """Run a pass and replay it; return the cell as a dict, golden's result checked."""
    simulation = device.io
    casting = None if grad_out is None else golden.cast(indices, offsets, len(weight))
    results = []
    for each in (device, golden):
        own = weight.copy()
        if each is device:
            simulation.memory_trace()
            simulation.set_memory(dram=dram)
        if grad_out is None:
            own = each.embedding_bag(own, indices, offsets)
        else:
            each.backward_update(own, grad_out, casting, SGD(0.1))
        results.append(own)
    same_bits("result", *results)
    counters, used = device.counters(), simulation.dram_counters()
    bursts = simulation.memory_trace()
    unlimited, _ = simulation.replay(bursts, dram=dram, latency=latency)
    best, best_used = min(
        (simulation.replay(bursts, dram=dram, latency=latency, **options) for options in REPLAYS),
        key=lambda result: result[0])
    no_faw, _ = simulation.replay(bursts, dram=replace(DRAMS[dram], tFAW=0), latency=latency)
    return {"cycles": counters["cycles"], "best": best, "unlimited": unlimited,
            "unlimited_without_tfaw": no_faw, "bursts": len(bursts),
            "beats": int(bursts["beats"].sum()), "dram": used, "best_dram": best_used, "engine": {
                name: counters[name] for name in ("r_beats", "w_beats", "w_stall", *CAUSES)}}


def reason(cell):
    """Return where a cell lost cycles against the best, the largest first."""
    more = {words: cell["dram"][name] - cell["best_dram"][name] for name, words in LOST.items()}
    return ", ".join(f"{words} {cycles:+,}" for words, cycles in
                     sorted(more.items(), key=lambda pair: -pair[1]) if cycles)


def parameter_lines(name):
    """Return the Markdown table of a channel's parameters and their sources."""
    channel = TABLES[name]
    rows = [(key, value, "", source) for key, (value, source) in channel.organisation.items()]
    rows += [(key, f"{value} {unit}".replace(">=", "but at least"), channel.engine_cycles(key),
              source) for key, (value, unit, source) in channel.timing.items()]
    return ["", f"`{name}`: {channel.title}; DRAM clock {channel.clock_mhz} MHz, engine clock "
            f"{channel.engine_mhz} MHz.", "",
            *table(("parameter", ">value", ">engine cycles", "source"), rows)]


def main():
    """Measure and write."""
    cells, golden = [], GoldenDevice()
    with progress() as bar:
        task = bar.add_task("building", total=len(MEMORIES) * len(ROW_BYTES) * 3)
        for preset, dram, latency in MEMORIES:
            config = EngineConfig.preset(preset).on_one_port()
            simulation = Simulation(config, latency=latency, dram=dram, seed=SEED, trace=True)
            with EngineDevice(simulation, config) as device:
                for row_bytes in ROW_BYTES:
                    for name, *arrays in passes(row_bytes // 4):
                        cell = measure(device, golden, dram, latency, *arrays)
                        cells.append({"preset": preset, "dram": dram, "latency": latency,
                                      "pass": name, "row_bytes": row_bytes, **cell})
                        share = cell["best"] / cell["cycles"]
                        bar.update(task, advance=1,
                                   description=f"{preset}, {row_bytes} B, {name}: {share:.4f}")
    shares = [cell["best"] / cell["cycles"] for cell in cells]
    reached = sum(share >= TARGET for share in shares)
    without = [(cell["preset"], cell["unlimited_without_tfaw"]) for cell in cells
               if cell["pass"] == "forward" and cell["row_bytes"] == 64]
    lines = [
        f"**{reached} of {len(cells)} cells reach {TARGET} of the best cycle count; the lowest is "
        f"{min(shares):.4f}.** {LOOKUPS:,} lookups in bags of {POOLING}, table of {ROWS:,} rows, "
        f"seed {SEED}; cycles from the first in which the descriptor is in work (its fetch "
        f"included) to the last response. Between port and DRAM lie 32 cycles (ddr512) and 64 "
        f"(hbm256). Every result was equal to the golden model to the bit.", "",
        "*Bus busy* is the share of the engine's cycles in which the DRAM's data bus was given a "
        "beat; *unlimited* is the replay with any number outstanding, *best* the "
        "shortest of that and three replays in the order of the trace with at most 32, 128 and 512 "
        "read bursts outstanding; *lost against the best* says, below 0.99, what the cycles beyond "
        "the best were for the DRAM.", "",
        "A replay is no strict bound: the model's controller takes the oldest access that can go, "
        "which is not optimal, and an engine that updates a row soon after it has read it finds "
        "it open. Where the share is above 1 the engine's own order was the better one. Forward "
        "with rows of 64 bytes is bound by tFAW: a row is two beats or one, and no more than four "
        "can be opened in that time. With tFAW 0 the unlimited replay takes "
        f"{' and '.join(f'{narrow:,} ({preset})' for preset, narrow in without)} cycles.", "",
        *table(("preset", "pass", ">row", ">cycles", ">unlimited", ">best",
                ">best / cycles", ">bus busy",
                "lost against the best"),
               [(cell["preset"], cell["pass"], f"{cell['row_bytes']} B", f"{cell['cycles']:,}",
                 f"{cell['unlimited']:,}", f"{cell['best']:,}",
                 f"{share:.4f}", f"{cell['beats'] / cell['cycles']:.4f}",
                 "" if share >= 0.99 else reason(cell))
                for cell, share in zip(cells, shares, strict=True)]), "",
        "## What one cycle of the DRAM was, in the engine's run", "",
        "Includes the cycles in which the driver writes and reads the engine's registers (no "
        "access waits, or refresh).", "",
        *table(("preset", "pass", ">row", ">read beat", ">write beat",
                *(f">{words}" for words in LOST.values()), ">activates", ">turns"),
               [(cell["preset"], cell["pass"], f"{cell['row_bytes']} B",
                 *(f"{cell['dram'][name]:,}" for name in
                   ("read_cycles", "write_cycles", *LOST, "activates", "turns")))
                for cell in cells]), "",
        "## Parameters", "",
        "Rounded up to engine cycles. The controller is a model of ours, "
        "`sim/cpp/dram.h`: FR-FCFS in a window of 64 accesses in each direction, open rows, "
        "turns of 64 accesses."]
    for name in TABLES:
        lines += parameter_lines(name)
    write("dram", "The engine on DRAM", lines,
          {"lookups": LOOKUPS, "pooling": POOLING, "rows": ROWS, "seed": SEED,
           "exponent": EXPONENT, "target": TARGET, "cells": cells,
           "drams": {name: asdict(dram) for name, dram in DRAMS.items()}})
    return 0 if reached == len(cells) else 1


if __name__ == "__main__":
    sys.exit(main())
