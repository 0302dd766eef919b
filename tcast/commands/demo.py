"""``tcast demo``: the whole way, from a real log to a table trained on the RTL."""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Annotated

import typer

from ..hw.config import PRESETS, EngineConfig
from ..report import agreement, milliseconds, notes
from .compare import compare_backends
from .compare import show as show_comparison
from .console import EXIT_MISMATCH, fail, out, print_table, progress, refused
from .cosim import cosimulate, percent
from .cosim import show as show_cosimulation

__all__ = ["demonstrate", "loss_curve", "register"]

#: What the last table compares.
BACKENDS = "golden,cpu,cupy,torch,fbgemm,numpy,sim"
#: ln 2: the loss of a model that knows nothing.
NOTHING_KNOWN = 0.6931


def register(app):
    """Add the command."""

    @app.command()
    def demo(
        preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "ddr512",
        data: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Your own log: .inter, or .npz with indices and offsets.")]
        = None,
        steps: Annotated[int, typer.Option(help="Training steps on the golden model.")] = 40,
        rtl_steps: Annotated[int, typer.Option(
            help="How many of them are made on the RTL as well.")] = 3,
        backends: Annotated[str, typer.Option(
            help="What the last table compares.")] = BACKENDS,
        host_cast: Annotated[bool, typer.Option(
            "--host-cast", help="Cast on the host instead of the engine's cast unit.")] = False,
        output: Annotated[Path, typer.Option(
            "--output", "-o", metavar="DIR", help="Directory for the report.")]
        = Path("build/demo"),
        seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
    ):
        """Train on a real log, steps of it on the RTL, compare the backends, write a report."""
        report = demonstrate(preset=preset, data=data, steps=steps, rtl_steps=rtl_steps,
                             backends=backends, host_cast=host_cast, output=output, seed=seed)
        if not report["passed"]:
            raise typer.Exit(EXIT_MISMATCH)


def demonstrate(*, preset="ddr512", data=None, steps=40, rtl_steps=3,
                backends=BACKENDS, host_cast=False, output=Path("build/demo"), seed=0):
    """Run the demonstration, print it, write its files; return the report."""
    begin = time.perf_counter()
    with refused(ValueError, TypeError, OSError):
        from ..data import NextItem, load_log

        config = EngineConfig.preset(preset)
        if not 1 <= rtl_steps <= steps:
            raise ValueError(f"rtl-steps must be from 1 to the steps, {steps}, not {rtl_steps!r}")
        log = load_log(data)
        NextItem(log)  # refuses a log without examples
        output.mkdir(parents=True, exist_ok=True)
    report = {"preset": preset, "seed": seed, "log": log.describe(), "steps": steps,
              "rtl_steps": rtl_steps}
    facts = report["log"]
    out.print(f"1. The log: {facts['name']}, {facts['source']}.")
    out.print(f"   {facts['users']:,} histories, {facts['items']:,} items, "
              f"{facts['events']:,} events.")
    report["verilog"] = verilog = _emit(config, output / "verilog")
    out.print(f"2. The engine: {verilog['path']}, {verilog['lines']:,} lines of Verilog, "
              f"SHA-256 {verilog['sha256'][:16]}….")
    report["rtl"] = _train_on_rtl(config, log, rtl_steps, seed, Path(verilog["path"]),
                                  host_cast)
    report["training"] = _train_on_golden(log, steps, seed, report["rtl"])
    if report["rtl"]["equal"]:
        report["cosim"] = cosimulate(preset=preset, workload="real", data=data, batch=128,
                                     host_cast=host_cast, seed=seed,
                                     verilog=Path(verilog["path"]))
        out.print("5. One training step done in all three ways, pass by pass"
                  f"{'' if host_cast else ', and in one submission'}:")
        show_cosimulation(report["cosim"])
    out.print("6. The same step on every backend of this machine:")
    report["compare"] = compare_backends(
        workload="real", backends=backends, data=data, batch=128, preset=preset, seed=seed,
        verilog=Path(verilog["path"]))
    show_comparison(report["compare"])
    report["passed"] = bool(report["rtl"]["equal"] and report["training"]["learned"]
                            and report["cosim"]["equal"] and report["compare"]["equal"])
    report["seconds"] = round(time.perf_counter() - begin, 1)
    files = _write(report, output)
    out.print(f"Passed: {'yes' if report['passed'] else 'NO'}, in {report['seconds']:.0f} s. "
              f"Written: {', '.join(files)}")
    return report


def _emit(config, directory):
    """Emit the engine; return the Verilog's path, size and hash."""
    try:
        from ..gen.emit import emit
    except ModuleNotFoundError as error:
        fail(f"demo needs {error.name}: pip install 'tcast[sim]'")
    with progress() as bar:
        bar.add_task(f"emitting the Verilog of {config.name}", total=None)
        with refused(OSError):
            paths = emit(config, directory)
    text = paths[0].read_bytes()
    return {"path": str(paths[0]), "files": [str(path) for path in paths],
            "lines": text.count(b"\n"), "sha256": hashlib.sha256(text).hexdigest()}


def _train_on_rtl(config, log, steps, seed, verilog, host_cast):
    """Train the first steps on the engine, everything checked; return what happened."""
    from ..cosimulation import CheckedDevice, open_comparison, utilisation
    from ..equality import MismatchError
    from ..host.backend import BackendUnavailable
    from ..training import train

    out.print(f"3. {steps} training steps on the RTL. Its simulation is built first, which takes a "
              "minute or two the first time.")
    with progress() as bar:
        building = bar.add_task(f"opening {config.name}", total=None)
        with refused(ValueError, OSError, BackendUnavailable):
            comparison = open_comparison(
                config, seed=seed, verilog=verilog, host_cast=host_cast,
                on_build=lambda what: bar.update(building, description=f"{config.name}: {what}"))
        bar.remove_task(building)
        task = bar.add_task("training on the RTL", total=steps)
        with comparison:
            device = CheckedDevice(comparison)
            try:
                training = train(device, log, steps=steps, seed=seed,
                                 on_step=lambda number, step: bar.update(task, advance=1))
            except MismatchError as error:
                out.print(f"MISMATCH {error}", markup=False)
                return {"equal": False, "mismatch": str(error)}
    rows = []
    for number, step in enumerate(training.steps):
        forward, backward = step.counters["forward"], step.counters["backward"]
        rows.append({
            "step": number, "loss": step.loss, "lookups": step.lookups, "rows": step.rows,
            "forward_cycles": forward["cycles"], "backward_cycles": backward["cycles"],
            "cast_cycles": step.counters["cast"]["cast_cycles"] if "cast" in device.operations
            else None,
            "forward_busy": utilisation(forward), "backward_busy": utilisation(backward)})
    print_table(
        (">step", ">loss", ">lookups", ">rows updated", ">forward cycles", ">R busy",
         ">cast cycles", ">backward cycles", ">R busy"),
        [(row["step"], f"{row['loss']:.6f}", row["lookups"], row["rows"],
          f"{row['forward_cycles']:,}", percent(row["forward_busy"]), _cast_cycles(row),
          f"{row['backward_cycles']:,}", percent(row["backward_busy"])) for row in rows])
    operations = [operation.as_dict() for operation in device.operations.values()]
    compared = sum(operation["image_bytes"] for operation in operations)
    guards = sum(operation["guard_bytes"] for operation in operations)
    out.print(f"   Every result and table equal to the golden model to the bit; {compared:,} bytes "
              f"of memory compared, {guards:,} of them guards.")
    return {"equal": True, "steps": rows, "operations": operations,
            "table_sha256": _digest(training.model.weight), "losses": training.losses}


def _train_on_golden(log, steps, seed, rtl):
    """Train every step on the golden model, and once more with the table frozen."""
    from .. import api
    from ..training import train

    def run(label, **options):
        task = bar.add_task(label, total=options["steps"])
        with api.open("golden") as device:
            return train(device, log, seed=seed,
                         on_step=lambda number, step: bar.update(task, advance=1), **options)

    with progress() as bar:
        training = run("training on the golden model", steps=steps)
        first = run("checking the RTL's steps", steps=len(rtl.get("losses", ())))
        frozen = run("training with the table frozen", steps=steps, lr=0.0)
    before, after = training.held_out_before, training.held_out_after
    learned = after["loss"] < before["loss"] if math.isfinite(before["loss"]) \
        else _mean(training.losses[-5:]) < _mean(training.losses[:5])
    same = rtl["equal"] and first.losses == rtl["losses"] \
        and _digest(first.model.weight) == rtl["table_sha256"]
    rtl["equal"] = same
    out.print(f"4. {steps} steps on the golden model, {len(first.losses)} of them those of the RTL "
              f"({'same losses, same table' if same else 'NOT the same'}):")
    print_table(
        ("", ">loss, last 5 batches", ">held-out loss", ">next item ranked above a random one"),
        [("before", None, f"{before['loss']:.4f}", f"{before['ranked']:.1%}"),
         ("after", f"{_mean(training.losses[-5:]):.4f}", f"{after['loss']:.4f}",
          f"{after['ranked']:.1%}"),
         ("after, table frozen", f"{_mean(frozen.losses[-5:]):.4f}",
          f"{frozen.held_out_after['loss']:.4f}", f"{frozen.held_out_after['ranked']:.1%}")])
    if not learned:
        out.print("   NOT LEARNED: the held-out loss must fall; another log or more steps may do.")
    return {"learned": learned, "losses": training.losses, "held_out_before": before,
            "held_out_after": after, "held_out_after_frozen": frozen.held_out_after}


def _cast_cycles(row):
    return "on the host" if row["cast_cycles"] is None else f"{row['cast_cycles']:,}"


def _mean(values):
    return sum(values) / len(values)


def _digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def _write(report, directory):
    """Write report.json, loss.svg and report.md; return their names."""
    losses = report["training"]["losses"]
    contents = {
        "report.json": json.dumps(report, indent=2) + "\n",
        "loss.svg": loss_curve(losses, report["rtl_steps"]),
        "report.md": _markdown(report),
    }
    for name, text in contents.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [str(directory / name) for name in contents]


def loss_curve(losses, rtl_steps, width=640, height=320):
    """Return an SVG of the loss over the steps; those made on the RTL too are marked."""
    left, right, top, bottom = 56, 16, 16, 40
    low = min(*losses, NOTHING_KNOWN) - 0.01
    high = max(*losses, NOTHING_KNOWN) + 0.01

    def x(step):
        return left + (width - left - right) * step / max(1, len(losses) - 1)

    def y(loss):
        return top + (height - top - bottom) * (high - loss) / (high - low)

    points = " ".join(f"{x(n):.1f},{y(loss):.1f}" for n, loss in enumerate(losses))
    marks = "".join(f'<circle cx="{x(n):.1f}" cy="{y(losses[n]):.1f}" r="4" fill="#c33"/>'
                    for n in range(rtl_steps))
    ticks = "".join(
        f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        for value in (low + 0.01, (low + high) / 2, high - 0.01))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<line x1="{left}" x2="{width - right}" y1="{y(NOTHING_KNOWN):.1f}" '
        f'y2="{y(NOTHING_KNOWN):.1f}" stroke="#999" stroke-dasharray="4"/>'
        f'<text x="{width - right}" y="{y(NOTHING_KNOWN) - 5:.1f}" text-anchor="end" '
        f'fill="#666">ln 2: nothing known</text>'
        f'<polyline points="{points}" fill="none" stroke="#36c" stroke-width="2"/>{marks}{ticks}'
        f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">'
        f'training step 0 to {len(losses) - 1} (red: on the RTL as well), loss of the batch</text>'
        "</svg>\n")


def _markdown(report):
    """Return the report as Markdown."""
    log, rtl, training = report["log"], report["rtl"], report["training"]
    lines = [
        "# tcast demonstration", "",
        f"Passed: **{'yes' if report['passed'] else 'NO'}**, in {report['seconds']} s. "
        f"Rerun: `tcast demo --preset {report['preset']} --steps {report['steps']} "
        f"--rtl-steps {report['rtl_steps']} --seed {report['seed']}`", "",
        f"- Log: {log['name']}, {log['source']}: {log['users']:,} histories, {log['items']:,} "
        f"items, {log['events']:,} events.",
        f"- Verilog: `{report['verilog']['path']}`, {report['verilog']['lines']:,} lines, SHA-256 "
        f"`{report['verilog']['sha256']}`.", ""]
    if "steps" in rtl:
        lines += [
            "## Steps on the RTL, every bit and every byte of memory compared", "",
            "| step | loss | lookups | rows updated | forward cycles | R busy | cast cycles "
            "| backward cycles | R busy |", "|---|---|---|---|---|---|---|---|---|"]
        lines += [
            f"| {row['step']} | {row['loss']:.6f} | {row['lookups']} | {row['rows']} "
            f"| {row['forward_cycles']:,} | {percent(row['forward_busy'])} "
            f"| {_cast_cycles(row)} | {row['backward_cycles']:,} "
            f"| {percent(row['backward_busy'])} |"
            for row in rtl["steps"]]
    else:
        lines += [f"The RTL differs: {rtl['mismatch']}"]
    before, after = training["held_out_before"], training["held_out_after"]
    frozen = training["held_out_after_frozen"]
    lines += [
        "", "## Training", "", "![loss](loss.svg)", "",
        "| | held-out loss | next item ranked above a random one |", "|---|---|---|",
        f"| before | {before['loss']:.4f} | {before['ranked']:.1%} |",
        f"| after {report['steps']} steps | {after['loss']:.4f} | {after['ranked']:.1%} |",
        f"| the same with the table frozen | {frozen['loss']:.4f} | {frozen['ranked']:.1%} |"]
    if "cosim" in report:
        from ..cosimulation import beats_of, cycles_of

        ways = report["cosim"]["backward"]
        lines += [
            "", "## One step in all three ways", "",
            "| operation | equal | cycles | R beats | W beats | R busy | limited by |",
            "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {row['operation']} | {'yes' if row['equal'] else 'NO'} "
            f"| {cycles_of(row['counters'])} | {beats_of(row['counters'])[0]} "
            f"| {beats_of(row['counters'])[1]} | {percent(row['utilisation'])} "
            f"| {row['limited_by']} |" for row in report["cosim"]["operations"]]
        lines += ["", f"Backward and update: baseline {ways['baseline']} cycles, casted "
                      f"{ways['casted']}, fused {ways['fused']}."]
        if step := report["cosim"]["step"]:
            lines += ["", f"The whole step in one submission: {step['step']} cycles; forward and "
                          f"fused backward alone {step['forward and fused backward']}, the casts "
                          f"alone {step['cast']}."]
    compared = report["compare"]
    run, = compared["runs"]
    lines += [
        "", "## Backends", "",
        "| backend | agrees with golden | forward ms | cast + update ms | what was timed |",
        "|---|---|---|---|---|"]
    for facts, (name, note) in zip(run["backends"], notes(compared, run), strict=False):
        phases = facts.get("phases", {})
        words = "" if "skipped" in facts else agreement(facts)
        lines.append(f"| {name} | {words} | {milliseconds(phases.get('forward')) or ''} "
                     f"| {milliseconds(phases.get('backward')) or ''} | {note} |")
    return "\n".join(lines) + "\n"
