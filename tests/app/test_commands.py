"""The commands cosim, compare and demo, with the functional model in the place of the RTL."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tcast import cosimulation
from tcast.cli import application
from tcast.golden.machine import Machine
from tcast.host.build_cache import BuildError
from tcast.hw import descriptor, registers


def run(*arguments):
    return CliRunner().invoke(application(), [str(word) for word in arguments])


class Model(Machine):
    """The functional model with the constructor and the extras of the simulation."""

    cycles = 1234

    def __init__(self, config, **options):
        super().__init__(config, registers, descriptor)


class Wrong(Model):
    """One that changes the first byte of the highest writable array after each pass."""

    def wait(self, max_cycles):
        done = super().wait(max_cycles)
        address = max(self.mapped)
        self.mapped[address].reshape(-1).view(np.uint8)[0] ^= 1
        return done

    def map(self, address, array, writable=True):
        self.mapped = getattr(self, "mapped", {})
        if writable:
            self.mapped[address] = array
        super().map(address, array, writable)

    def unmap(self, address):
        self.mapped.pop(address, None)
        super().unmap(address)


@pytest.fixture
def engine(monkeypatch):
    def install(model):
        monkeypatch.setattr(cosimulation, "Simulation", model)

    install(Model)
    return install


@pytest.mark.parametrize("workload", ["real", "rm3", "dlrmv2"])
def test_cosim_passes_and_says_so(engine, workload):
    result = run("cosim", "--workload", workload, "--batch", 2, "--scale", 0.0005, "--seed", 4)
    assert result.exit_code == 0, result.output
    assert "TCAST-COSIM-PASS" in result.output and "FAIL" not in result.output
    assert "SEED=4  rerun: tcast cosim --preset tiny64" in result.output


def test_cosim_json_holds_every_operation_and_table(engine):
    report = json.loads(run("cosim", "--workload", "rm3", "--scale", 0.0005, "--json").stdout)
    assert report["equal"] and report["token"] == "TCAST-COSIM-PASS"
    assert [o["operation"] for o in report["operations"]] == list(cosimulation.OPERATIONS)
    *each, whole = report["operations"]
    assert all(o["passes"] == 10 and o["image_bytes"] > 0 for o in each)
    assert whole["passes"] == 1 and whole["image_bytes"] > 0
    assert len(report["tables"]) == 10 and report["batch"] == 4


def test_cosim_with_the_hosts_cast_has_neither_cast_nor_step(engine):
    result = run("cosim", "--batch", 2, "--host-cast", "--json")
    report = json.loads(result.stdout)
    assert report["equal"] and report["host_cast"] and report["step"] is None
    assert [o["operation"] for o in report["operations"]] == [
        name for name in cosimulation.TABLE_OPERATIONS if name != "cast"]
    assert "--host-cast" in report["rerun"]


def test_cosim_of_a_wrong_engine_fails_with_status_1(engine):
    engine(Wrong)
    result = run("cosim", "--batch", 2)
    assert result.exit_code == 1
    assert "TCAST-COSIM-FAIL" in result.output and "PASS" not in result.output
    assert "MISMATCH" in result.output and " NO " in result.output


@pytest.mark.parametrize("command", ["cosim", "compare"])
@pytest.mark.parametrize(("options", "words"), [
    (("--preset", "huge"), "preset must be one of tiny64"),
    (("--workload", "rm9"), "workload must be one of rm1"),
    (("--workload", "rm1", "--scale", "2"), "scale must be above 0 and at most 1, not 2.0"),
    (("--workload", "rm1", "--distribution", "zipf"), "distribution must be one of uniform"),
    (("--data", "no/such.inter"), "data file must exist, not 'no/such.inter'"),
    (("--batch", "0"), "batch must be at least 1, not 0"),
])
def test_what_cannot_be_done_is_one_line_and_status_2(engine, command, options, words):
    result = run(command, *options)
    assert result.exit_code == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("error", [
    ModuleNotFoundError("No module named 'amaranth'", name="amaranth"),
    BuildError("g++ is not installed")])
@pytest.mark.parametrize("command", ["cosim", "demo", "compare"])
def test_a_missing_tool_is_named_and_not_a_traceback(quick_demo, monkeypatch, command, error):
    def missing(*arguments, **options):
        raise error

    monkeypatch.setattr(cosimulation, "Simulation", missing)
    monkeypatch.setattr("tcast.sim.device.Simulation", missing)
    if command == "compare":
        result = run("compare", "--backends", "golden,sim", "--batch", 4, "--repeats", 1)
        assert result.exit_code == 0 and "skipped" in result.output
        assert str(error) in " ".join(result.output.split())
    else:
        result = quick_demo[0]() if command == "demo" else run("cosim")
        assert result.exit_code == 2 and str(error) in result.stderr
        assert result.stderr.count("\n") == 1


def compare_json(*arguments):
    result = run("compare", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_compare_lists_what_is_skipped_and_refuses_unknown_backends(monkeypatch):
    from tcast.host.backend import BackendUnavailable

    def refuse(name, **options):
        raise BackendUnavailable("no GPU here")

    from tcast import api
    opened = api.open
    monkeypatch.setattr(api, "open", lambda name, **options: refuse(name) if name == "cupy"
                        else opened(name, **options))
    report = compare_json("--backends", "golden,cpu,cupy", "--batch", 8, "--repeats", 2)
    cell, = report["runs"]
    assert report["equal"] and cell["equal"] and cell["title"] == "real, log"
    assert cell["backends"][2] == {"backend": "cupy", "skipped": "no GPU here"}
    cpu = cell["backends"][1]
    assert set(cpu["phases"]) == {"forward", "cast", "update", "backward", "step"}
    assert set(cpu["speed_over"]) == {"golden"} and cpu["speed_over"]["golden"]["step"] > 0
    assert set(cpu["share_of_limit"]) == {"forward", "update"} == set(cpu["gb_per_s"])
    result = run("compare", "--backends", "golden,gpu")
    assert result.exit_code == 2 and "not 'gpu'" in result.stderr
    result = run("compare", "--backends", "golden,cupy", "--batch", 8, "--repeats", 1)
    assert "skipped" in result.output and "no GPU here" in result.output


def test_compare_several_workloads_and_distributions():
    report = compare_json(
        "--workload", "rm3,real,dlrmv2", "--distribution", "uniform,powerlaw,powerlaw:1.2",
        "--backends", "golden,cpu,numpy,scipy", "--batch", 2, "--repeats", 1, "--max-rows", 100)
    assert [run["title"] for run in report["runs"]] == [
        "rm3, uniform", "rm3, powerlaw 1.05", "rm3, powerlaw 1.2", "real, log",
        "dlrmv2, uniform", "dlrmv2, powerlaw 1.05", "dlrmv2, powerlaw 1.2"]
    rm3, dlrmv2 = report["runs"][0], report["runs"][4]
    assert (rm3["lookups"], rm3["table_bytes"]) == (400, 10 * 100 * 32 * 4)
    assert dlrmv2["lookups"] == 2 * 214 and dlrmv2["max_rows"] == 100
    assert all(0 < run["distinct_rows"] <= run["lookups"] for run in report["runs"])
    assert all(facts["equal"] for run in report["runs"] for facts in run["backends"])
    shown = run("compare", "--workload", "rm3", "--distribution", "uniform,powerlaw", "--backends",
                "cpu,numpy", "--batch", 2, "--repeats", 1)
    assert "geometric mean of 2" in shown.stdout


@pytest.mark.parametrize("with_state", [False, True])
def test_cells_of_a_workload_share_its_tables_and_begin_with_fresh_states(with_state):
    from tcast.commands import compare

    cells = compare._cells("rm3,rm1,real", None, 2, 0.0001, None, "uniform,powerlaw:1.2", 1.05, 0)
    seen = []
    for cell, tables, step in compare._layers(cells, with_state):
        assert len(step) == len(tables.weights)
        assert (tables.flat_state is not None) == with_state
        if with_state:
            assert not tables.flat_state.any()
            tables.flat_state[:] = 1
        seen.append((cell.facts["workload"], tables))
    assert [name for name, _ in seen] == ["rm3", "rm3", "rm1", "rm1", "real"]
    assert seen[0][1] is seen[1][1] and seen[2][1] is seen[3][1] and seen[1][1] is not seen[2][1]


def test_compare_rowwise_adagrad():
    report = compare_json("--workload", "rm3", "--optimizer", "rowwise_adagrad", "--backends",
                          "golden,cpu,numpy,scipy", "--batch", 4, "--repeats", 1)
    golden, cpu, plain, scipy = report["runs"][0]["backends"]
    assert golden["equal"] and cpu["equal"] and scipy["error_to_bound"] <= 1
    assert plain["skipped"] == "numpy has no row-wise Adagrad"


def test_compare_scales_the_engines_cycles(engine, monkeypatch):
    monkeypatch.setattr("tcast.sim.device.Simulation", Model)
    monkeypatch.setattr(Model, "set_memory", lambda self, **options: None, raising=False)
    from tcast.sim import device
    monkeypatch.setattr(device.EngineDevice, "counters", lambda self: {"cycles": 1000})
    options = ("--workload", "rm3", "--backends", "sim", "--batch", 8, "--clock-mhz", 500)
    cell, = compare_json(*options)["runs"]
    sim, = cell["backends"]
    # Ten tables, a pass each for forward and for update.
    assert sim["cycles"] == sim["scaled_cycles"] == {"forward": 10_000, "update": 10_000}
    assert sim["ms_at_clock"] == {"forward": 0.02, "update": 0.02}
    sim, = compare_json(*options, "--sim-lookups", 400)["runs"][0]["backends"]
    assert sim["simulated_lookups"] == 400
    assert sim["scaled_cycles"] == {"forward": 40_000, "update": 40_000}
    assert "scaled from 400 lookups" in run("compare", *options, "--sim-lookups", 400).output


@pytest.mark.parametrize(("options", "words"), [
    (("--optimizer", "adam"), "optimizer must be one of sgd, rowwise_adagrad, not 'adam'"),
    (("--system", "tpu"), "system must be one of layer, cpu-gpu, not 'tpu'"),
    (("--workload", "rm1", "--distribution", "uniform:2"),
     "distribution must have an exponent only with powerlaw, not 'uniform:2'"),
    (("--workload", "rm1", "--distribution", "powerlaw:x"),
     "distribution must be powerlaw:NUMBER, not 'powerlaw:x'"),
    (("--workload", "dlrmv2", "--scale", "1"), "must leave tables of at most"),
    (("--workload", "rm1", "--max-rows", "0"), "max_rows must be at least 1, not 0"),
    (("--clock-mhz", "0"), "clock-mhz must be above 0, not 0.0"),
    (("--sim-lookups", "0"), "sim-lookups must be at least 1, not 0"),
    (("--repeats", "0"), "repeats must be at least 1, not 0"),
    (("--backends", ","), "backends must name at least one, not ','"),
    (("--system", "cpu-gpu", "--threads", "0"), "threads must be at least 1, not 0"),
])
def test_compare_refuses(options, words):
    result = run("compare", "--backends", "golden", *options)
    assert result.exit_code == 2
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_compare_without_any_backend_is_not_equal(monkeypatch):
    from tcast import comparison

    monkeypatch.setattr(
        comparison, "open_backends", lambda names, config, **options: [
            comparison.Backend("cupy", skipped="no GPU")])
    assert run("compare", "--backends", "cupy", "--batch", 8).exit_code == 1


def test_compare_system_says_what_was_not_run(monkeypatch):
    monkeypatch.setattr("tcast.system.open_gpu", lambda: (None, "torch: none here"))
    options = ("--system", "cpu-gpu", "--workload", "rm3", "--batch", 4, "--repeats", 2)
    report = compare_json(*options)
    cell, = report["runs"]
    assert report["equal"] and report["gpu"] is None and "torch: none here" in report["not_run"]
    assert set(cell["ways"]) == {"baseline", "casted", "fused"}
    result = run("compare", *options)
    assert "the GPU's phases and PCIe were not run: torch: none here" in result.stdout
    assert "CPU: casted gather-reduce" in result.stdout and "whole step" not in result.stdout


@pytest.fixture
def quick_demo(engine, monkeypatch, tmp_path):
    """The demonstration without emitting, building, and simulating in `compare`."""
    from tcast.gen import emit as emitting

    def emit(config, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{config.name}.v").write_text("module;\nendmodule\n")
        return [directory / f"{config.name}.v"]

    monkeypatch.setattr(emitting, "emit", emit)
    directory = tmp_path / "demo"
    return lambda *options: run("demo", "-o", directory, "--backends", "golden,cpu", *options), \
        directory


def test_demo_trains_and_writes_its_report(quick_demo):
    demo, directory = quick_demo
    result = demo("--steps", 30, "--rtl-steps", 2)
    assert result.exit_code == 0, result.output
    assert "same losses, same table" in result.output and "Passed: yes" in result.output
    report = json.loads((directory / "report.json").read_text())
    assert report["passed"] and len(report["training"]["losses"]) == 30
    assert report["rtl"]["losses"] == report["training"]["losses"][:2]
    text = (directory / "report.md").read_text()
    assert "Passed: **yes**" in text and "| 1 | 0." in text
    svg = (directory / "loss.svg").read_text()
    assert svg.startswith("<svg") and svg.count("<circle") == 2


def test_demo_on_a_wrong_engine_fails(quick_demo, engine):
    demo, directory = quick_demo
    engine(Wrong)
    result = demo("--steps", 2, "--rtl-steps", 1)
    assert result.exit_code == 1
    assert "MISMATCH" in result.output and "Passed: NO" in result.output
    assert "The RTL differs" in (directory / "report.md").read_text()


def test_demo_refuses_more_rtl_steps_than_steps(quick_demo):
    demo, _ = quick_demo
    result = demo("--steps", 2, "--rtl-steps", 3)
    assert result.exit_code == 2
    assert "rtl-steps must be from 1 to the steps, 2, not 3" in result.stderr
