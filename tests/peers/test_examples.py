"""Every example runs, and does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; the extra tcast[peers] brings it")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, *arguments):
    return subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True,
                          text=True, timeout=300)


def test_train_next_item():
    result = run("train_next_item.py", "--steps", "100")
    assert result.returncode == 0, result.stderr
    losses = re.findall(r"held-out loss (\S+) -> (\S+),", result.stdout)
    tables = re.findall(r"table ([0-9a-f]{16})$", result.stdout, re.MULTILINE)
    assert len(losses) == len(tables) == 3
    for before, after in losses:
        assert abs(float(before) - 0.693) < 0.01  # ln 2: it knows nothing
        assert float(after) < float(before) - 0.05
    assert abs(float(losses[0][1]) - float(losses[1][1])) < 1e-3
    assert tables[0] == tables[2] != tables[1]
    difference = float(re.search(r"tables differ by (\S+) of", result.stdout)[1])
    assert difference < 1e-4
    assert "tcast's tables have the same bits." in result.stdout


def test_examples_are_all_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"train_next_item.py"}


def test_bad_data_is_an_error():
    result = run("train_next_item.py", "--data", "missing.inter")
    assert result.returncode != 0 and "data file must exist" in result.stderr
