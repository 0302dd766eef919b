"""``tcast compare``: the same training step by every backend and peer, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..hw.config import PRESETS, EngineConfig
from ..report import (
    LAYER_COLUMNS,
    RATIO_COLUMNS,
    heading,
    layer_rows,
    notes,
    page,
    ratio_rows,
    system_columns,
    system_heading,
    system_rows,
)
from .console import EXIT_MISMATCH, Json, out, print_json, print_table, progress, refused

__all__ = ["DEFAULT_BACKENDS", "compare_backends", "compare_systems", "register", "show",
           "show_systems"]

DEFAULT_BACKENDS = "golden,cpu,cupy,torch,torch-coalesce,torch-dense,fbgemm,numpy,scipy,sim"
OPTIMIZERS = ("sgd", "rowwise_adagrad")
SYSTEMS = ("layer", "cpu-gpu")


def register(app):
    """Add the command."""

    @app.command()
    def compare(
        workload: Annotated[str, typer.Option(
            help="Of rm1, rm2, rm3, dlrmv2, real; several with commas.")] = "real",
        backends: Annotated[str, typer.Option(
            help="Names separated by commas.")] = DEFAULT_BACKENDS,
        system: Annotated[str, typer.Option(
            help="`layer`: the embedding layer by every backend. `cpu-gpu`: the paper's system, "
                 "tables on the host and MLPs on a GPU.")] = "layer",
        data: Annotated[Path | None, typer.Option(
            metavar="FILE", help="Log for `real`: .inter, or .npz with indices and offsets.")]
        = None,
        batch: Annotated[int, typer.Option(help="Samples in the step.")] = 64,
        scale: Annotated[float, typer.Option(
            help="Factor on the rows of the published tables.")] = 0.002,
        max_rows: Annotated[int | None, typer.Option(
            help="Most rows of a table, after scaling.")] = None,
        distribution: Annotated[str, typer.Option(
            help="How rows are drawn: uniform, powerlaw, powerlaw:EXPONENT or meta2022; several "
                 "with commas.")] = "powerlaw",
        exponent: Annotated[float, typer.Option(
            help="Of a power law that names none.")] = 1.05,
        optimizer: Annotated[str, typer.Option(
            help=f"{' or '.join(OPTIMIZERS)}.")] = "sgd",
        preset: Annotated[str, typer.Option(
            help=f"Engine that is simulated: {', '.join(PRESETS)}.")] = "tiny64",
        latency: Annotated[int, typer.Option(
            help="Read latency of its memory in cycles.")] = 64,
        clock_mhz: Annotated[float, typer.Option(
            help="Clock at which its cycles are shown as time.")] = 250.0,
        sim_lookups: Annotated[int, typer.Option(
            help="Most lookups that are simulated; the cycles are scaled to the step's.")]
        = 20_000,
        threads: Annotated[int, typer.Option(
            help="Threads of cpu and torch.")] = 1,
        repeats: Annotated[int, typer.Option(help="Alternating runs; medians are shown.")] = 7,
        warm: Annotated[bool, typer.Option(
            "--warm", help="Do not push the tables out of the caches before each timed group.")]
        = False,
        seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
        report: Annotated[Path | None, typer.Option(
            "--report", metavar="FILE", help="Write the tables and plots to an HTML file.")] = None,
        as_json: Json = False,
    ):
        """Run the same training step by every backend and peer: equality, times, bytes, cycles."""
        with refused(ValueError):
            if system not in SYSTEMS:
                raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, not {system!r}")
        options = {"workload": workload, "data": data, "batch": batch, "scale": scale,
                   "max_rows": max_rows, "distribution": distribution, "exponent": exponent,
                   "optimizer": optimizer, "threads": threads, "repeats": repeats, "warm": warm,
                   "seed": seed}
        if system == "cpu-gpu":
            found = compare_systems(**options)
            print_it = show_systems
        else:
            found = compare_backends(backends=backends, preset=preset, latency=latency,
                                     clock_mhz=clock_mhz, sim_lookups=sim_lookups, **options)
            print_it = show
        if report is not None:
            with refused(OSError):
                report.write_text(page(found), encoding="utf-8")
        if as_json:
            print_json(found)
        else:
            print_it(found)
            if report is not None:
                out.print(f"Written: {report}", markup=False)
        if not found["equal"]:
            raise typer.Exit(EXIT_MISMATCH)


@dataclass(frozen=True)
class Cell:
    """One workload with one distribution.

    Cells with equal ``key`` have the same tables, which ``fill(with_state)`` makes; ``draw()``
    makes the batch.
    """

    facts: dict
    lr: float
    key: object
    fill: object
    draw: object


def _distributions(text, exponent):
    """Return a list of (name, exponent) of words such as ``powerlaw:1.2``."""
    found = []
    for word in text.split(","):
        name, colon, number = word.strip().partition(":")
        if colon and name != "powerlaw":
            raise ValueError(f"distribution must have an exponent only with powerlaw, not {word!r}")
        try:
            found.append((name, float(number) if colon else exponent))
        except ValueError:
            raise ValueError(f"distribution must be powerlaw:NUMBER, not {word!r}") from None
    return found


def _cells(workload, data, batch, scale, max_rows, distribution, exponent, seed):
    """Return the list of Cells: the workloads with every distribution, the real log once."""
    from .. import workloads
    from ..host.peers import TableBatch, Tables

    cells = []
    for name in (word.strip() for word in workload.split(",")):
        if name not in workloads.WORKLOADS:
            # Checks the name; the log has its own distribution.
            inputs = workloads.inputs(name, data_file=data, batch=batch, scale=scale, seed=seed)
            item, = inputs.tables
            cells.append(Cell(
                inputs.facts | {"distribution": "log"}, inputs.lr, name,
                lambda state, item=item: Tables.of([item.weight], state),
                lambda item=item: [TableBatch(item.indices, item.offsets, item.grad_out)]))
            continue
        if data is not None and "real" not in workload:
            raise ValueError(f"data must be left out with workload {name!r}; it goes with 'real'")
        for kind, power in _distributions(distribution, exponent):
            shape = workloads.WORKLOADS[name].scaled(scale, batch, max_rows)
            workloads.draw(shape, kind, power)  # checks the distribution
            facts = {"workload": name, "source": shape.source, "tables": len(shape.tables),
                     "scale": scale, "max_rows": max_rows, "batch": shape.batch,
                     "lookups": shape.lookups, "distribution": kind,
                     **({"exponent": power} if kind == "powerlaw" else {})}

            def fill(state, shape=shape):
                tables = Tables([(table.rows, table.dim) for table in shape.tables], state)
                workloads.draw_weights(tables, seed)
                return tables

            cells.append(Cell(
                facts, 0.1, name, fill, lambda shape=shape, kind=kind, power=power:
                workloads.draw_batch(shape, kind, power, seed)))
            _check_memory(shape)
    return cells


def _layers(cells, with_state):
    """Yield (cell, tables, step); the cells of one workload share its tables."""
    tables = key = None
    for cell in cells:
        if cell.key != key:
            tables = None   # before the next are made
            tables, key = cell.fill(with_state), cell.key
        elif with_state:
            tables.flat_state[:] = 0
        yield cell, tables, cell.draw()


def _check_memory(shape):
    """Raise ValueError where the tables cannot lie in this machine's memory."""
    needed = sum(4 * table.rows * table.dim for table in shape.tables)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if needed > 0.7 * free:
        raise ValueError(f"scale or max-rows must leave tables of at most {0.7 * free / 1e9:.1f} "
                         f"GB, 70 % of the free memory, not {needed / 1e9:.1f} GB")


def _rule(optimizer, lr):
    from ..golden import SGD, RowwiseAdagrad

    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    return SGD(lr) if optimizer == "sgd" else RowwiseAdagrad(lr, 1e-6)


def compare_backends(*, workload="real", backends=DEFAULT_BACKENDS, data=None, batch=64,
                     scale=0.002, max_rows=None, distribution="powerlaw", exponent=1.05,
                     optimizer="sgd", preset="tiny64", latency=64, clock_mhz=250.0,
                     sim_lookups=20_000, threads=1, repeats=7, warm=False, seed=0, verilog=None):
    """Return the report that ``tcast compare --json`` prints, as a dict of JSON types.

    ``verilog`` is the path of the simulated engine's Verilog where it has been emitted already.
    """
    from ..comparison import EVICTED_BYTES, compare, open_backends

    names = [name.strip() for name in backends.split(",") if name.strip()]
    with progress() as bar:
        opening = bar.add_task("opening the backends", total=None)
        with refused(ValueError, TypeError):
            config = EngineConfig.preset(preset)
            cells = _cells(workload, data, batch, scale, max_rows, distribution, exponent, seed)
            _rule(optimizer, 0.1)
            for name, value, least in (("repeats", repeats, 1), ("sim-lookups", sim_lookups, 1)):
                if value < least:
                    raise ValueError(f"{name} must be at least {least}, not {value!r}")
            if not clock_mhz > 0:
                raise ValueError(f"clock-mhz must be above 0, not {clock_mhz!r}")
            if not names:
                raise ValueError(f"backends must name at least one, not {backends!r}")
            opened = open_backends(
                names, config, threads=threads, latency=latency, seed=seed, verilog=verilog,
                on_build=lambda what: bar.update(opening, description=f"{config.name}: {what}"))
        bar.remove_task(opening)
        runs, source = [], ""
        for cell, tables, step in _layers(cells, optimizer != "sgd"):
            task = bar.add_task(_title(cell.facts), total=None)
            found, limit, source = compare(
                opened, tables, step, _rule(optimizer, cell.lr), repeats=repeats, warm=warm,
                threads=threads, sim_lookups=sim_lookups,
                on_run=lambda what, task=task, cell=cell: bar.update(
                    task, description=f"{_title(cell.facts)}, {what}"))
            runs.append(_run_facts(cell, tables, step, found, limit, clock_mhz))
            bar.remove_task(task)
        for backend in opened:
            backend.close()
    return {
        "system": "layer", "optimizer": optimizer, "seed": seed, "threads": threads,
        "repeats": repeats, "warm": warm, "evicted_bytes": 0 if warm else EVICTED_BYTES,
        "preset": preset, "latency": latency, "clock_mhz": clock_mhz, "limits_by": source,
        "equal": all(run["equal"] for run in runs), "runs": runs,
    }


def compare_systems(*, workload="real", data=None, batch=64, scale=0.002, max_rows=None,
                    distribution="powerlaw", exponent=1.05, optimizer="sgd", threads=1, repeats=7,
                    warm=False, seed=0):
    """Return the report of ``tcast compare --system cpu-gpu``, as a dict of JSON types."""
    from ..comparison import EVICTED_BYTES
    from ..system import open_gpu, run

    with refused(ValueError, TypeError):
        cells = _cells(workload, data, batch, scale, max_rows, distribution, exponent, seed)
        _rule(optimizer, 0.1)
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats!r}")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        gpu, reason = open_gpu()
    runs = []
    with progress() as bar:
        for cell, tables, step in _layers(cells, optimizer != "sgd"):
            task = bar.add_task(_title(cell.facts), total=None)
            found = run(tables, step, _rule(optimizer, cell.lr), threads=threads, repeats=repeats,
                        warm=warm, gpu=gpu, on_run=lambda what, task=task, cell=cell: bar.update(
                            task, description=f"{_title(cell.facts)}, {what}"))
            runs.append({**cell.facts, "title": _title(cell.facts),
                         "lookups": sum(len(item.indices) for item in step),
                         "table_bytes": tables.flat.nbytes, **found})
            bar.remove_task(task)
    return {
        "system": "cpu-gpu", "optimizer": optimizer, "seed": seed, "threads": threads,
        "repeats": repeats, "warm": warm, "evicted_bytes": 0 if warm else EVICTED_BYTES,
        "gpu": None if gpu is None else gpu.name,
        "not_run": "" if gpu is not None else
        f"the GPU's phases and PCIe were not run: {reason}. Castings were made by the CPU "
        "beforehand, untimed.",
        "equal": all(run["equal"] for run in runs), "runs": runs,
    }


def show_systems(report):
    """Print a report of :func:`compare_systems` as tables."""
    for run in report["runs"]:
        print_table(system_columns(run), system_rows(run),
                    title=system_heading(report, run))
        for mismatch in run["mismatches"][:3]:
            out.print(f"MISMATCH {mismatch}", markup=False)
    if report["not_run"]:
        out.print(report["not_run"], markup=False)


def _title(facts):
    exponent = f" {facts['exponent']:g}" if "exponent" in facts else ""
    return f"{facts['workload']}, {facts['distribution']}{exponent}"


def _run_facts(cell, tables, step, found, limit, clock_mhz):
    """Return what is reported of one cell."""
    import numpy as np

    from ..comparison import PHASES, bytes_needed, speed

    lookups = sum(len(item.indices) for item in step)
    needed = bytes_needed(tables, step)
    ran = [result for result in found if not result.skipped]
    timed = [result for result in ran if result.seconds]
    rows = []
    for result in found:
        facts = result.as_dict()
        if result.seconds:
            facts["speed_over"] = {
                other.name: {phase: round(ratio, 4) for phase in PHASES
                             if (ratio := speed(result, other, phase)) is not None}
                for other in timed if other is not result}
            facts["share_of_limit"] = {
                phase: round(share, 4) for phase in ("forward", "update")
                if (share := speed(result, limit, phase)) is not None}
            facts["gb_per_s"] = {
                phase: round(needed[phase] / facts["phases"][phase]["ms"] / 1e6, 3)
                for phase in needed if phase in facts["phases"]}
        if result.cycles:
            factor = lookups / result.simulated_lookups
            facts["scaled_cycles"] = {phase: round(cycles * factor)
                                      for phase, cycles in result.cycles.items()}
            facts["ms_at_clock"] = {phase: round(cycles / clock_mhz / 1e3, 4)
                                    for phase, cycles in facts["scaled_cycles"].items()}
        rows.append(facts)
    distinct = sum(len(np.unique(item.indices)) for item in step)
    return {
        **cell.facts, "title": _title(cell.facts), "lookups": lookups, "distinct_rows": distinct,
        "table_bytes": tables.flat.nbytes, "bytes": needed,
        "equal": bool(ran) and all(result.equal for result in ran),
        "limit": limit.as_dict()["phases"], "backends": rows,
    }


def show(report):
    """Print a report as tables: the times of each cell, and how much faster ours are."""
    for run in report["runs"]:
        print_table(LAYER_COLUMNS, layer_rows(run), title=heading(report, run))
        for name, note in notes(report, run):
            out.print(f"  {name}: {note}", markup=False)
        for facts in run["backends"]:
            for mismatch in facts.get("mismatches", ())[:3]:
                out.print(f"MISMATCH {mismatch}", markup=False)
    rows = ratio_rows(report)
    if rows:
        print_table(RATIO_COLUMNS, rows,
                    title="How many times faster, median of the ratios of neighbouring runs")
