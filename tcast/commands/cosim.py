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
            "hbm2-pc (for hbm256); the cast unit shares its one port.")] = None,
        backpressure: Annotated[float, typer.Option(
            help="Probability per cycle that a memory channel withholds its handshake.")] = 0.0,
        placement: Annotated[str, typer.Option(
            help="Addresses: aligned, or scattered over the 64-bit space and across pages.")]
        = "aligned",
        host_cast: Annotated[bool, typer.Option(
            "--host-cast", help="Cast on the host, and no step in one submission.")] = False,
        seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
        waves: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Write waveforms (VCD); about fifty times slower.")] = None,
        as_json: Json = False,
    ):
        """Run a training step on the RTL and compare it with the golden model to the bit."""
        report = cosimulate(
            preset=preset, workload=workload, data=data, batch=batch, scale=scale,
            distribution=distribution, exponent=exponent, latency=latency, dram=dram,
            backpressure=backpressure, placement=placement, host_cast=host_cast, seed=seed,
            waves=waves)
        if as_json:
            print_json(report)
        else:
            show(report)
        if not report["equal"]:
            raise typer.Exit(EXIT_MISMATCH)


def cosimulate(*, preset, workload, data=None, batch=None, scale=0.001, distribution="powerlaw",
               exponent=1.05, latency=64, dram=None, backpressure=0.0, placement="aligned",
               host_cast=False, seed=0, waves=None, verilog=None):
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
        if dram is not None:
            config = config.on_one_port()
        step_inputs = inputs(workload, data_file=data, batch=batch, scale=scale,
                             distribution=distribution, exponent=exponent, seed=seed)
    from ..cosimulation import WHOLE_STEP, open_comparison, operations_of, step, whole_step
    from ..golden import SGD
    from ..host.backend import BackendUnavailable

    operations = operations_of(config, host_cast)
    items = []
    with progress() as bar:
        building = bar.add_task(f"opening {config.name}", total=None)
        with refused(ValueError, TypeError, OSError, BackendUnavailable):
            comparison = open_comparison(config, latency=latency, backpressure=backpressure,
                                         dram=dram, seed=seed, placement=placement,
                                         host_cast=host_cast, waves=waves,
                                         verilog=verilog, on_build=lambda what: bar.update(
                                             building, description=f"{config.name}: {what}"))
        bar.remove_task(building)
        with comparison:
            one_by_one = [name for name in operations if name != WHOLE_STEP]
            task = bar.add_task(workload, total=step_inputs.count * len(one_by_one))
            for item in step_inputs.tables:
                items.append(item)

                def show_progress(name, table=item.name):
                    bar.update(task, advance=1, description=f"{table}, {name}")

                with refused(ValueError):
                    step(comparison, item, SGD(step_inputs.lr), operations, show_progress)
            if WHOLE_STEP in operations:
                bar.update(task, description=f"{WHOLE_STEP}, one submission")
                with refused(ValueError):
                    whole_step(comparison, items, SGD(step_inputs.lr), operations[WHOLE_STEP])
            cycles = comparison.engine.io.io.cycles
    equal = all(operation.equal for operation in operations.values())
    return {
        "preset": preset, "config_hash": f"{config.hash:#010x}", **step_inputs.facts,
        "latency": latency, "dram": dram, "backpressure": backpressure,
        "placement": placement, "host_cast": host_cast, "seed": seed,
        "equal": equal, "token": PASS if equal else FAIL,
        "operations": [operation.as_dict() for operation in operations.values()],
        "backward": backward_cycles(operations), "step": step_cycles(operations),
        "tables": [item.describe() for item in items],
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


def step_cycles(operations):
    """Return the cycles of the step in one submission beside those of its parts, or None."""
    from ..cosimulation import WHOLE_STEP, cycles_of

    def cycles(name):
        return cycles_of(operations[name].counters)

    if WHOLE_STEP not in operations:
        return None
    return {"step": cycles(WHOLE_STEP), "cast": cycles("cast"),
            "forward and fused backward": cycles("forward") + cycles("fused backward")}


def rerun(options):
    """Return the command that repeats a run, naming the options that are not the default."""
    defaults = inspect.signature(cosimulate).parameters
    words = ["tcast", "cosim"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value != defaults[name].default or name == "seed":
            words += [option, str(value)]
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
    step = report["step"]
    if step and step["forward and fused backward"]:
        apart = step["forward and fused backward"]
        out.print(f"Whole step in one submission: {step['step']:,} cycles, "
                  f"{step['step'] / apart:.3f} times the {apart:,} of forward and fused backward; "
                  f"the casts alone take {step['cast']:,}.")
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
    from ..cosimulation import CAUSES, beats_of, cycles_of

    counters = operation["counters"]
    r_beats, w_beats = beats_of(counters)
    lost = {name: counters.get(name, 0) for name in CAUSES}
    text = ", ".join(f"{name.removeprefix('read_')} {count:,}"
                     for name, count in sorted(lost.items(), key=lambda pair: -pair[1]) if count)
    return (operation["operation"], "yes" if operation["equal"] else "NO", operation["passes"],
            f"{cycles_of(counters):,}", f"{r_beats:,}", f"{w_beats:,}",
            percent(operation["utilisation"]), text, operation["limited_by"])
