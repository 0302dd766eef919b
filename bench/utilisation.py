"""How busy the read channel is, and where every other cycle went. Writes docs/results/.

The acceptance measurement: `ddr512`, memory latency 64 cycles, rows of 256 bytes, 4,096 lookups in
bags of 40. Beside it, other row sizes and latencies, and the passes of the backward. Every result
is compared with the golden model to the bit.
"""

import sys

import numpy as np
from results import table, write

from tcast.commands.console import progress
from tcast.cosimulation import CAUSES
from tcast.equality import same_bits
from tcast.golden import SGD
from tcast.host.driver import EngineDevice
from tcast.host.golden_backend import GoldenDevice
from tcast.hw.config import EngineConfig
from tcast.sim.simulation import Simulation

PRESET, LATENCY, DIM, LOOKUPS, POOLING, ROWS = "ddr512", 64, 64, 4096, 40, 65_536
DIMS, LATENCIES = (16, 32, 64, 128), (20, 64, 128, 256)
SEED = 0


def batch(dim, pooling=POOLING):
    """Return (weight, indices, offsets, grad_out): uniform rows, int32, the last bag shorter."""
    rng = np.random.default_rng([SEED, dim])
    offsets = np.append(np.arange(0, LOOKUPS, pooling), LOOKUPS).astype(np.int32)
    return (rng.standard_normal((ROWS, dim), dtype=np.float32),
            rng.integers(0, ROWS, LOOKUPS).astype(np.int32), offsets,
            rng.standard_normal((len(offsets) - 1, dim), dtype=np.float32))


def measure(device, golden, call, weight=None):
    """Run ``call(device, weight)`` on both; return the engine's counters."""
    results = []
    for each in (device, golden):
        own = None if weight is None else weight.copy()
        result = call(each, own)
        results.append(result if weight is None else own)
    same_bits("result", *results)
    return device.counters()


def forward(device, golden, dim, pooling=POOLING):
    """Return the counters of a forward pass."""
    weight, indices, offsets, _ = batch(dim, pooling)
    return measure(device, golden, lambda each, _: each.embedding_bag(weight, indices, offsets))


def passes(device, golden):
    """Yield (name, counters) of the acceptance batch's passes."""
    weight, indices, offsets, grad_out = batch(DIM)
    casting = golden.cast(indices, offsets, ROWS)
    rule = SGD(0.1)
    grads = golden.casted_gather_reduce(grad_out, casting)
    yield "forward", forward(device, golden, DIM)
    yield "forward, bags of 1", forward(device, golden, DIM, 1)
    yield "expand", measure(device, golden, lambda each, _: each.expand(grad_out, offsets))
    yield "casted gather-reduce", measure(
        device, golden, lambda each, _: each.casted_gather_reduce(grad_out, casting))
    yield "scatter update", measure(
        device, golden, lambda each, own: each.scatter_update(own, casting.rows, grads, rule),
        weight)
    yield "fused backward", measure(
        device, golden, lambda each, own: each.backward_update(own, grad_out, casting, rule),
        weight)


def row_of(name, counters):
    """Return the table row of a pass."""
    cycles = counters["cycles"]
    return (name, f"{cycles:,}", f"{counters['r_beats']:,}", f"{counters['w_beats']:,}",
            f"{counters['read_useful'] / cycles:.4f}", f"{counters['row_beats'] / cycles:.4f}",
            *(f"{counters[cause]:,}" for cause in CAUSES))


def main():
    """Measure and write."""
    config = EngineConfig.preset(PRESET)
    lanes = config.derived.lanes
    golden, measured, sweep = GoldenDevice(), {}, {}
    with progress() as bar:
        task = bar.add_task(f"building {config.name}", total=None)
        simulation = Simulation(
            config, latency=LATENCY, seed=SEED,
            on_build=lambda what: bar.update(task, description=f"{config.name}: {what}"))
        bar.update(task, total=6 + len(DIMS) * len(LATENCIES), completed=0)
        with EngineDevice(simulation, config) as device:
            for name, counters in passes(device, golden):
                measured[name] = counters
                bar.update(task, advance=1, description=name)
            for latency in LATENCIES:
                simulation.set_memory(latency=latency)
                for dim in DIMS:
                    sweep[f"{4 * dim} B, latency {latency}"] = forward(device, golden, dim)
                    bar.update(task, advance=1, description=f"{4 * dim} B, latency {latency}")
    accepted = measured["forward"]
    busy = accepted["read_useful"] / accepted["cycles"]
    headings = ("pass", ">cycles", ">R beats", ">W beats", ">R utilisation", ">of it row data",
                *(f">{name.removeprefix('read_')}" for name in CAUSES))
    lines = [
        f"**Read channel utilisation {busy:.4f}**: `{PRESET}`, memory latency {LATENCY}, rows of "
        f"{4 * DIM} bytes, {LOOKUPS:,} lookups in bags of {POOLING}; {accepted['cycles']:,} cycles "
        f"from the first in which the descriptor is in work (its fetch included) to the last "
        f"(the last write's response included), {accepted['r_beats']:,} with an R beat. The other "
        f"{accepted['cycles'] - accepted['read_useful']:,} cycles:", "",
        *table((">cycles", "cause"),
               [(f"{accepted[name]:,}", words) for name, words in CAUSES.items()]), "",
        "All passes of that batch; the columns behind the utilisation count lost cycles by cause:",
        "", *table(headings, [row_of(name, counters) for name, counters in measured.items()]), "",
        "Forward pass with other rows and latencies, R utilisation:", "",
        *table(("row", *(f">latency {latency}" for latency in LATENCIES)),
               [(f"{4 * dim} B ({dim // lanes} beat{'s' if dim > lanes else ''})",
                 *(f"{c['read_useful'] / c['cycles']:.4f}" for c in
                   (sweep[f"{4 * dim} B, latency {latency}"] for latency in LATENCIES)))
                for dim in DIMS]), "",
        "Every result was equal to the golden model to the bit. What each cause means exactly "
        "stands with the counters in the register reference."]
    write("utilisation", "Utilisation of the read channel", lines,
          {"preset": PRESET, "latency": LATENCY, "dim": DIM, "lookups": LOOKUPS,
           "pooling": POOLING, "seed": SEED, "utilisation": round(busy, 6), "passes": measured,
           "sweep": sweep})
    return 0 if busy >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
