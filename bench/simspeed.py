"""Engine cycles per second of wall time while the engine is busy. Writes docs/results/.

Without waves. The clock of the measurement runs only while the driver waits for the engine, so
neither NumPy nor the golden model counts; the memory model and the protocol checkers do.
"""

import sys
import time
from statistics import median

import numpy as np
from results import table, write

from tcast.commands.console import progress
from tcast.equality import same_bits
from tcast.golden import SGD
from tcast.host.driver import EngineDevice
from tcast.host.golden_backend import GoldenDevice
from tcast.hw.config import PRESETS, EngineConfig
from tcast.sim.simulation import Simulation

ROWS, DIM, BAGS, POOLING, LATENCY, REPEATS, SEED = 20_000, 64, 512, 40, 64, 5, 0
TARGET = 100_000  #: Cycles per second that `ddr512` must reach.


class TimedIo:
    """An EngineIo that takes the time and the cycles of its waits."""

    def __init__(self, simulation):
        self.simulation = simulation
        self.clear()

    def clear(self):
        """Start over."""
        self.seconds, self.cpu_seconds, self.cycles = 0.0, 0.0, 0

    def __getattr__(self, name):
        return getattr(self.simulation, name)

    def wait(self, max_cycles):
        """Wait and measure."""
        cycles, begin, cpu = self.simulation.cycles, time.perf_counter(), time.process_time()
        done = self.simulation.wait(max_cycles)
        self.seconds += time.perf_counter() - begin
        self.cpu_seconds += time.process_time() - cpu
        self.cycles += self.simulation.cycles - cycles
        return done


def measure(config, on_build):
    """Return (cycles, seconds, CPU seconds) of each run: a forward pass and a fused backward."""
    rng = np.random.default_rng(SEED)
    weight = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    indices = rng.integers(0, ROWS, BAGS * POOLING).astype(np.int32)
    offsets = np.arange(0, BAGS * POOLING + 1, POOLING, dtype=np.int32)
    grad_out = rng.standard_normal((BAGS, DIM), dtype=np.float32)
    golden = GoldenDevice()
    casting = golden.cast(indices, offsets, ROWS)
    expected = weight.copy()
    out = golden.embedding_bag(weight, indices, offsets)
    golden.backward_update(expected, grad_out, casting, SGD(0.1))
    io = TimedIo(Simulation(config, latency=LATENCY, seed=SEED, on_build=on_build))
    runs = []
    with EngineDevice(io, config) as device:
        for _ in range(REPEATS):
            io.clear()
            own = weight.copy()
            found = device.embedding_bag(own, indices, offsets)
            device.backward_update(own, grad_out, casting, SGD(0.1))
            same_bits("out", found, out)
            same_bits("weight", own, expected)
            runs.append((io.cycles, io.seconds, io.cpu_seconds))
    return runs


def main():
    """Measure the presets named on the command line, or ddr512, and write."""
    names = sys.argv[1:] or ["ddr512"]
    for name in names:
        if name not in PRESETS:
            print(f"preset must be one of {', '.join(PRESETS)}, not {name!r}", file=sys.stderr)
            return 2
    results = {}
    with progress() as bar:
        task = bar.add_task("", total=len(names))
        for name in names:
            config = EngineConfig.preset(name)
            runs = measure(config, lambda what, name=name: bar.update(
                task, description=f"{name}: {what}"))
            rates = sorted(cycles / seconds for cycles, seconds, _ in runs)
            cpu = median(cycles / seconds for cycles, _, seconds in runs)
            results[name] = {"cycles": runs[0][0], "runs": runs, "cycles_per_second": rates,
                             "cycles_per_cpu_second": cpu}
            bar.update(task, advance=1)
    lines = [
        f"Forward pass and fused backward of {BAGS * POOLING:,} lookups in bags of {POOLING}, rows "
        f"of {4 * DIM} bytes, memory latency {LATENCY}, without waves; {REPEATS} runs. Results "
        "equal to the golden model to the bit.", "",
        *table(("preset", ">cycles a run", ">cycles per second, median", ">lowest", ">highest",
                ">per CPU second, median"),
               [(name, f"{result['cycles']:,}", f"{median(result['cycles_per_second']):,.0f}",
                 f"{result['cycles_per_second'][0]:,.0f}",
                 f"{result['cycles_per_second'][-1]:,.0f}",
                 f"{result['cycles_per_cpu_second']:,.0f}") for name, result in results.items()])]
    write("simspeed", "Speed of the simulation", lines, {"presets": results, "seed": SEED})
    slow = "ddr512" in results and median(results["ddr512"]["cycles_per_second"]) < TARGET
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
