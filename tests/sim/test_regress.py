"""The cocotb suites pass, and the regression notices when they do not."""

import pytest

from tcast.hw.config import PRESETS
from tcast.sim import regress
from tcast.sim.cocotb_runner import run_bench

SUITES = regress.load_suites()


@pytest.mark.parametrize("suite", SUITES)
def test_suite_passes(suite, capsys):
    status = regress.main(["--suite", suite])
    text = capsys.readouterr().out
    assert status == 0, text
    assert "SEED=1" in text and text.endswith("REGRESS PASS\n")
    assert f"--suite {suite} --preset tiny64 --seed 1" in text


def test_a_suite_in_which_no_test_runs_fails(capsys):
    assert regress.main(["--suite", "registers", "--test", "no_such_test"]) == 1
    text = capsys.readouterr().out
    assert "FAIL no test ran" in text and text.endswith("0 passed, 1 failed\nREGRESS FAIL\n")


def test_a_failing_test_and_a_dying_simulation_fail(tmp_path, monkeypatch):
    (tmp_path / "bad_tests.py").write_text(
        "import os\nimport cocotb\n"
        "@cocotb.test()\nasync def good(dut):\n    pass\n"
        "@cocotb.test()\nasync def bad(dut):\n    assert 1 == 2\n"
        "@cocotb.test()\nasync def deadly(dut):\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    suite = SUITES["registers"]
    directory = regress.build_suite(suite, PRESETS["tiny64"])

    def run(*tests):
        return run_bench(directory, suite["top"], "bad_tests", seed=1, tests=tests)

    assert [(r.name, r.passed) for r in run("good", "bad")] == [("good", True), ("bad", False)]
    assert "1 == 2" in run("bad")[0].message
    assert not all(result.passed for result in run("good", "deadly"))


def test_list_names_every_suite(capsys):
    assert regress.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in SUITES)


def test_suites_are_complete():
    for name, suite in SUITES.items():
        assert set(suite) == {"about", "top", "module", "presets"}, name
        assert suite["top"] in regress.PUBLIC and set(suite["presets"]) <= set(PRESETS)
