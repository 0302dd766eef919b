"""``tcast compare``: the same training step on every backend, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from ..hw.config import PRESETS, EngineConfig
from .console import EXIT_MISMATCH, Json, out, print_json, print_table, progress, refused

__all__ = ["DEFAULT_BACKENDS", "agreement", "compare_backends", "register", "show"]

DEFAULT_BACKENDS = "golden,cpu,cupy,torch,fbgemm,sim"


def register(app):
    """Add the command."""

    @app.command()
    def compare(
        workload: Annotated[str, typer.Option(
            help="One of rm1, rm2, rm3, dlrmv2, real.")] = "real",
        backends: Annotated[str, typer.Option(
            help="Names separated by commas; the first is what times are compared with.")]
        = DEFAULT_BACKENDS,
        data: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Log for `real`: .inter, or .npz with indices and offsets.")]
        = None,
        batch: Annotated[int, typer.Option(help="Samples in the step.")] = 64,
        scale: Annotated[float, typer.Option(
            help="Factor on the rows of the published tables.")] = 0.002,
        distribution: Annotated[str, typer.Option(
            help="How rows are drawn: uniform, powerlaw or meta2022.")] = "powerlaw",
        exponent: Annotated[float, typer.Option(help="Of the power law.")] = 1.05,
        preset: Annotated[str, typer.Option(
            help=f"Engine that is simulated: {', '.join(PRESETS)}.")] = "tiny64",
        latency: Annotated[int, typer.Option(
            help="Read latency of its memory in cycles.")] = 64,
        threads: Annotated[int, typer.Option(
            help="Threads of cpu, torch and fbgemm.")] = 1,
        repeats: Annotated[int, typer.Option(help="Alternating runs; medians are shown.")] = 7,
        seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
        as_json: Json = False,
    ):
        """Run the same training step on every backend: equality, times, cycles."""
        report = compare_backends(
            workload=workload, backends=backends, data=data, batch=batch, scale=scale,
            distribution=distribution, exponent=exponent, preset=preset, latency=latency,
            threads=threads, repeats=repeats, seed=seed)
        if as_json:
            print_json(report)
        else:
            show(report)
        if not report["equal"]:
            raise typer.Exit(EXIT_MISMATCH)


def compare_backends(*, workload="real", backends=DEFAULT_BACKENDS, data=None, batch=64,
                     scale=0.002, distribution="powerlaw", exponent=1.05, preset="tiny64",
                     latency=64, threads=1, repeats=7, seed=0, verilog=None):
    """Return the report that ``tcast compare --json`` prints, as a dict of JSON types.

    ``verilog`` is the path of the simulated engine's Verilog where it has been emitted already.
    """
    from ..comparison import compare, open_backends
    from ..workloads import inputs

    names = [name.strip() for name in backends.split(",") if name.strip()]
    with progress() as bar:
        opening = bar.add_task("opening the backends", total=None)
        with refused(ValueError, TypeError):
            config = EngineConfig.preset(preset)
            step_inputs = inputs(workload, data_file=data, batch=batch, scale=scale,
                                 distribution=distribution, exponent=exponent, seed=seed)
            if repeats < 1:
                raise ValueError(f"repeats must be at least 1, not {repeats!r}")
            if not names:
                raise ValueError(f"backends must name at least one, not {backends!r}")
            opened = open_backends(
                names, config, threads=threads, latency=latency, seed=seed, verilog=verilog,
                on_build=lambda what: bar.update(opening, description=f"{config.name}: {what}"))
        bar.remove_task(opening)
        runs = sum(1 if name == "sim" else repeats for name, device, _ in opened if device)
        task = bar.add_task(workload, total=step_inputs.count * runs)
        results = compare(opened, step_inputs.tables, step_inputs.lr, repeats=repeats,
                          on_run=lambda what: bar.update(task, advance=1, description=what))
        for _, device, _ in opened:
            if device is not None:
                device.close()
    ran = [result for result in results if not result.skipped]
    base = next((result for result in ran if result.forward), None)
    return {
        **step_inputs.facts, "seed": seed, "threads": threads, "repeats": repeats,
        "preset": preset, "latency": latency,
        "equal": bool(ran) and all(result.equal for result in ran),
        "base": None if base is None else base.name,
        "backends": [result.as_dict(base) for result in results],
    }


def show(report):
    """Print a report as a table."""
    base = report["base"]
    rows = []
    for facts in report["backends"]:
        if "skipped" in facts:
            rows.append((facts["backend"], "skipped", None, None, None, None, facts["skipped"]))
            continue
        rows.append((
            facts["backend"], agreement(facts),
            *(f"{facts[key]:,.3f}" if key in facts else None
              for key in ("forward_ms", "backward_ms")),
            f"{facts[f'ratio_to_{base}']:.2f}" if f"ratio_to_{base}" in facts else None,
            f"{facts['cycles']['forward']:,} + {facts['cycles']['backward']:,}"
            if "cycles" in facts else None,
            facts["timing"]))
    print_table(("backend", "agrees with golden", ">forward ms", ">backward ms",
                 f">time ÷ {base}", ">cycles", "what was timed"), rows,
                title=f"{report['workload']}, batch {report['batch']}: medians of "
                      f"{report['repeats']} alternating runs, threads {report['threads']}; sim: "
                      f"{report['preset']}, memory latency {report['latency']}")
    for facts in report["backends"]:
        for mismatch in facts.get("mismatches", ())[:3]:
            out.print(f"MISMATCH {mismatch}", markup=False)


def agreement(facts):
    """Return in words how a backend's results agree with golden's."""
    if "error_to_bound" in facts:
        return f"{'within' if facts['equal'] else 'BEYOND'} bound ({facts['error_to_bound']:.2g})"
    return "to the bit" if facts["equal"] else "NO"
