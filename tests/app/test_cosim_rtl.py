"""`tcast cosim` and the demonstration on the RTL itself, under Verilator."""

import json

import pytest
from typer.testing import CliRunner

from tcast.cli import application
from tcast.cosimulation import OPERATIONS, limit_of
from tcast.hw.config import PRESETS
from tcast.hw.registers import COUNTERS
from tcast.workloads import NAMES

AWKWARD = ("--latency", 130, "--backpressure", 0.25, "--placement", "scattered")
DRAM = {"ddr512": "ddr4-2400", "hbm256": "hbm2-pc"}


def run(*arguments):
    return CliRunner().invoke(application(), [str(word) for word in arguments])


def check(report):
    """Check what must hold of every run, whatever it found."""
    assert report["equal"], [o["mismatches"] for o in report["operations"]]
    assert [operation["operation"] for operation in report["operations"]] == list(OPERATIONS)
    for operation in report["operations"]:
        counters = operation["counters"]
        assert set(dict(COUNTERS)) <= set(counters)
        causes = [name for name, _ in COUNTERS[1:9]]
        assert sum(counters[name] for name in causes) == counters["cycles"]
        assert counters["cast_cycles" if operation["operation"] == "cast" else "cycles"] > 0
        assert operation["guard_bytes"] > 0 and operation["limited_by"] == limit_of(counters)
    assert report["step"]["step"] < sum(report["step"].values()) - report["step"]["step"]
    assert report["backward"]["fused"] < report["backward"]["casted"] \
        < report["backward"]["baseline"]


@pytest.mark.parametrize("memory", [(), AWKWARD], ids=["steady", "awkward"])
@pytest.mark.parametrize("workload", ["rm3", "dlrmv2", "real"])
def test_a_step_on_tiny64_is_equal_to_the_bit(workload, memory):
    result = run("cosim", "--workload", workload, "--batch", 3, "--seed", 7, *memory, "--json")
    assert result.exit_code == 0, result.output
    check(json.loads(result.stdout))


def test_a_dram_of_another_width_is_refused():
    result = run("cosim", "--batch", 1, "--workload", "rm3", "--dram", "ddr4-2400")
    assert result.exit_code == 2
    assert "accesses of the port's beat (its own are of 64 bytes)" in " ".join(
        result.output.split())


@pytest.mark.long  # a build of its own
def test_waves_are_written(tmp_path):
    path = tmp_path / "waves.vcd"
    result = run("cosim", "--batch", 1, "--waves", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_size > 10_000 and "$enddefinitions" in path.read_text()


@pytest.mark.long
@pytest.mark.parametrize("workload", NAMES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_workload_is_equal_to_the_bit(preset, workload):
    dram = [("--dram", DRAM[preset])] if preset in DRAM else []
    for memory in ((), AWKWARD, *dram):
        result = run("cosim", "--preset", preset, "--workload", workload, *memory, "--json")
        assert result.exit_code == 0, result.output
        check(json.loads(result.stdout))


@pytest.mark.long
def test_the_demonstration_passes(tmp_path):
    result = run("demo", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "report.json").read_text())["passed"]
