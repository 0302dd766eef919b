"""``tcast cosim``: a training step on the RTL, compared with the golden model to the bit."""

import inspect
import platform
import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..hw.config import PRESETS, EngineConfig
from .console import EXIT_MISMATCH, Json, out, print_json, print_table, progress, refused

__all__ = ["FAIL", "PASS", "cosimulate", "percent", "register", "show"]

#: The last word of a run: PASS only if everything ran and was equal.
PASS = "TCAST-COSIM-PASS"
FAIL = "TCAST-COSIM-FAIL"


def register(app):
    """Add the command."""

    @app.command()
    def cosim(
        preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "tiny64",
        workload: Annotated[str, typer.Option(
            help="One of rm1, rm2, rm3, dlrmv2, real.")] = "real",
        data: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Log for `real`: .inter, or .npz with indices and offsets.")]
        = None,
        batch: Annotated[int | None, typer.Option(
            help="Samples in the step (default 4; `real`: 64).")] = None,
        scale: Annotated[float, typer.Option(
            help="Factor on the rows of the published tables.")] = 0.001,
        distribution: Annotated[str, typer.Option(
            help="How rows are drawn: uniform, powerlaw or meta2022.")] = "powerlaw",
        exponent: Annotated[float, typer.Option(help="Of the power law.")] = 1.05,
        latency: Annotated[int, typer.Option(
            help="Read latency of the memory in cycles.")] = 64,
        dram: Annotated[str | None, typer.Option(
            metavar="NAME", help="A DRAM channel behind the latency: ddr4-2400 (for ddr512) or "
            "hbm2-pc (for hbm256).")] = None,
        backpressure: Annotated[float, typer.Option(
            help="Probability per cycle that a memory channel withholds its handshake.")] = 0.0,
        placement: Annotated[str, typer.Option(
            help="Addresses: aligned, or scattered over the 64-bit space and across pages.")]
        = "aligned",
        seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
        waves: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Write waveforms (VCD); about fifty times slower.")] = None,
        as_json: Json = False,
    ):
        """Run a training step on the RTL and compare it with the golden model to the bit."""
        report = cosimulate(
            preset=preset, workload=workload, data=data, batch=batch, scale=scale,
            distribution=distribution, exponent=exponent, latency=latency, dram=dram,
            backpressure=backpressure, placement=placement, seed=seed, waves=waves)
        if as_json:
            print_json(report)
        else:
            show(report)
        if not report["equal"]:
            raise typer.Exit(EXIT_MISMATCH)


def cosimulate(*, preset, workload, data=None, batch=None, scale=0.001, distribution="powerlaw",
               exponent=1.05, latency=64, dram=None, backpressure=0.0, placement="aligned",
               seed=0, waves=None, verilog=None):
    """Return the report that ``tcast cosim --json`` prints, as a dict of JSON types.

    ``verilog`` is the path of the engine's Verilog where it has been emitted already.
    """
    options = dict(locals())
    del options["verilog"]
    if batch is None and workload != "real":
        batch = 4
    with refused(ValueError, TypeError):
        from ..workloads import inputs
        config = EngineConfig.preset(preset)
        step_inputs = inputs(workload, data_file=data, batch=batch, scale=scale,
                             distribution=distribution, exponent=exponent, seed=seed)
    from ..cosimulation import OPERATIONS, Operation, open_comparison, step
    from ..golden import SGD
    from ..host.backend import BackendUnavailable

    operations = {name: Operation(name) for name in OPERATIONS}
    tables = []
    with progress() as bar:
        building = bar.add_task(f"opening {config.name}", total=None)
        with refused(ValueError, TypeError, OSError, BackendUnavailable):
            comparison = open_comparison(config, latency=latency, backpressure=backpressure,
                                         dram=dram, seed=seed, placement=placement, waves=waves,
                                         verilog=verilog, on_build=lambda what: bar.update(
                                             building, description=f"{config.name}: {what}"))
        bar.remove_task(building)
        with comparison:
            task = bar.add_task(workload, total=step_inputs.count * len(OPERATIONS))
            for item in step_inputs.tables:
                tables.append(item.describe())

                def show_progress(name, table=item.name):
                    bar.update(task, advance=1, description=f"{table}, {name}")

                with refused(ValueError):
                    step(comparison, item, SGD(step_inputs.lr), operations, show_progress)
            cycles = comparison.engine.io.io.cycles
    equal = all(operation.equal for operation in operations.values())
    return {
        "preset": preset, "config_hash": f"{config.hash:#010x}", **step_inputs.facts,
        "latency": latency, "dram": dram, "backpressure": backpressure,
        "placement": placement, "seed": seed, "equal": equal, "token": PASS if equal else FAIL,
        "operations": [operation.as_dict() for operation in operations.values()],
        "backward": backward_cycles(operations), "tables": tables,
        "simulated_cycles": cycles,
        "engine_seconds": round(sum(operation.seconds for operation in operations.values()), 3),
        "python": platform.python_version(), "rerun": rerun(options),
    }


def backward_cycles(operations):
    """Return the cycles of the three ways to do the backward pass and the update."""
    cycles = {name: operation.counters.get("cycles", 0) for name, operation in operations.items()}
    return {
        "baseline": cycles["expand"] + cycles["coalesce"] + cycles["baseline scatter update"],
        "casted": cycles["casted gather-reduce"] + cycles["scatter update"],
        "fused": cycles["fused backward"],
    }


def rerun(options):
    """Return the command that repeats a run, naming the options that are not the default."""
    defaults = inspect.signature(cosimulate).parameters
    words = ["tcast", "cosim"]
    for name, value in options.items():
        if value != defaults[name].default or name == "seed":
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def percent(share):
    """Return a share as text, or nothing for None."""
    return "" if share is None else f"{share:.1%}"


def show(report):
    """Print a report as tables."""
    print_table(
        ("operation", "equal", ">passes", ">cycles", ">R beats", ">W beats", ">R busy",
         "cycles lost", "limited by"),
        [_row(operation) for operation in report["operations"]],
        title=f"{report['workload']} on {report['preset']}: memory latency {report['latency']}, "
              f"{report['dram'] + ', ' if report['dram'] else ''}"
              f"backpressure {report['backpressure']}, seed {report['seed']}")
    ways = report["backward"]
    if ways["fused"]:
        out.print(f"Backward and update: baseline {ways['baseline']:,} cycles, casted "
                  f"{ways['casted']:,} ({ways['baseline'] / ways['casted']:.2f} times as fast), "
                  f"fused {ways['fused']:,} ({ways['baseline'] / ways['fused']:.2f} times).")
    compared = sum(operation["image_bytes"] for operation in report["operations"])
    guards = sum(operation["guard_bytes"] for operation in report["operations"])
    out.print(f"Memory images: {compared:,} bytes compared, {guards:,} of them guards.")
    for operation in report["operations"]:
        for mismatch in operation["mismatches"][:3]:
            out.print(f"MISMATCH {mismatch}", markup=False)
        if len(operation["mismatches"]) > 3:
            out.print(f"and {len(operation['mismatches']) - 3} more in {operation['operation']}")
    out.print(f"SEED={report['seed']}  rerun: {report['rerun']}", soft_wrap=True, markup=False)
    out.print(report["token"])


def _row(operation):
    from ..cosimulation import CAUSES

    counters = operation["counters"]
    lost = {name: counters.get(name, 0) for name in CAUSES}
    text = ", ".join(f"{name.removeprefix('read_')} {count:,}"
                     for name, count in sorted(lost.items(), key=lambda pair: -pair[1]) if count)
    return (operation["operation"], "yes" if operation["equal"] else "NO", operation["passes"],
            f"{counters.get('cycles', 0):,}", f"{counters.get('r_beats', 0):,}",
            f"{counters.get('w_beats', 0):,}", percent(operation["utilisation"]), text,
            operation["limited_by"])
