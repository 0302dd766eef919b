"""`tcast emit` and `tcast info`: what they write, and what they say when they cannot."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tcast.cli import application
from tcast.commands import info as info_command
from tcast.commands.emit import field_doc
from tcast.gen import emit as emit_module
from tcast.gen.emit import emit
from tcast.gen.header import header
from tcast.gen.manifest import manifest_text
from tcast.gen.reference import reference
from tcast.gen.verilog import emit_verilog
from tcast.hw.config import PRESETS, EngineConfig

SUFFIXES = (".v", ".json", ".h", ".md")


@pytest.fixture
def invoke():
    app = application()

    def run(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), \
            result.exception
        return result

    return run


def refused(result, *words):
    """Exit status 2, one line on standard error with these words, nothing on standard output."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tcast: "), result.stderr
    for word in words:
        assert word in lines[0]
    assert not result.stdout


def test_writes_the_four_files(stand_in, tiny, tmp_path):
    paths = emit(tiny, tmp_path / "new" / "directory")
    assert [path.name for path in paths] == [f"{tiny.name}{suffix}" for suffix in SUFFIXES]
    texts = [emit_verilog(tiny), manifest_text(tiny), header(tiny), reference(tiny)]
    assert [path.read_text(encoding="utf-8") for path in paths] == texts
    assert sorted(path.name for path in paths[0].parent.iterdir()) == \
        sorted(path.name for path in paths), "nothing else is left"


def test_replaces_all_files_or_none(stand_in, tiny, tmp_path, monkeypatch):
    emit(tiny, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(config):
        raise RuntimeError("planted")

    monkeypatch.setattr(emit_module, "header", broken)
    with pytest.raises(RuntimeError, match="planted"):
        emit(EngineConfig.preset("tiny64", add_stages=4), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_command_writes_and_reports(stand_in, invoke, tmp_path):
    result = invoke("emit", "--preset", "ecp5-128", "--set", "add_stages=0x3", "--set",
                    "name=mine", "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    config = EngineConfig.preset("ecp5-128", add_stages=3)
    assert report["config"] == {**config.as_dict(), "name": "mine"}
    assert report["config_hash"] == config.hash      # the name is no part of it
    assert [Path(file["path"]).name for file in report["files"]] == \
        [f"mine{suffix}" for suffix in SUFFIXES]
    for file in report["files"]:
        data = Path(file["path"]).read_bytes()
        assert file["bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert "module mine(" in (tmp_path / "mine.v").read_text()


def test_command_prints_a_table(stand_in, invoke, tmp_path):
    result = invoke("emit", "--preset", "tiny64", "-o", tmp_path)
    assert result.exit_code == 0 and "tcast_tiny64.v" in result.stdout and not result.stderr


@pytest.mark.parametrize("words, message", [
    (["--preset", "huge"], ["preset must be one of tiny64", "not 'huge'"]),
    ([], ["--preset must name one of tiny64"]),
    (["--preset", "tiny64", "--set", "lanes=3"], ["--set must name one of name, data_width"]),
    (["--preset", "tiny64", "--set", "lanes"], ["--set must be key=value, not 'lanes'"]),
    (["--preset", "tiny64", "--set", "data_width=96"], ["data_width must be 64", "not 96"]),
    (["--preset", "tiny64", "--set", "data_width=wide"], ["data_width must be an int"]),
    (["--preset", "tiny64", "--set", "name=a-b"], ["name must be a Verilog identifier"]),
    (["--explain", "lanes"], ["--explain must name one of", "not 'lanes'"]),
], ids=lambda value: " ".join(value)[:40])
def test_wrong_wishes_are_refused_in_one_line(invoke, tmp_path, words, message):
    refused(invoke("emit", *words, *([] if "--explain" in words else ["-o", tmp_path])), *message)
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_option_is_refused(invoke):
    refused(invoke("emit", "--preset", "tiny64"), "-o must name the directory")


def test_an_unwritable_directory_is_refused(invoke, tmp_path):
    blocking = tmp_path / "file"
    blocking.write_text("mine")
    refused(invoke("emit", "--preset", "tiny64", "-o", blocking), "file")
    refused(invoke("emit", "--preset", "tiny64", "-o", blocking / "below"), "Not a directory")
    assert blocking.read_text() == "mine"


def test_lists_presets(invoke):
    assert json.loads(invoke("emit", "--list-presets", "--json").stdout) == {
        name: config.as_dict() for name, config in PRESETS.items()}
    text = invoke("emit", "--list-presets").stdout
    for name in PRESETS:
        assert name in text


@pytest.mark.parametrize("field", [field.name for field in fields(EngineConfig)])
def test_explains_every_field(invoke, field):
    assert len(field_doc(field)) > 10
    report = json.loads(invoke("emit", "--explain", field, "--json").stdout)
    assert report["presets"]["ddr512"] == getattr(PRESETS["ddr512"], field)
    assert report["doc"] == field_doc(field)
    assert invoke("emit", "--explain", field).stdout.startswith(f"{field}: ")


def test_info(invoke):
    found = json.loads(invoke("info", "--json").stdout)
    assert set(found) == {"packages", "tools", "gpus", "cpu_core", "backends"}
    assert found["packages"]["amaranth"] and found["packages"]["tcast"]
    assert found["backends"]["golden"]["available"] is True
    for version in [*found["packages"].values(), *found["tools"].values()]:
        assert version is None or (os.sep not in version and "\n" not in version)
    assert "golden" in invoke("info").stdout


def test_info_without_tools(invoke, monkeypatch):
    monkeypatch.setattr(info_command.shutil, "which", lambda name: None)
    monkeypatch.setattr(info_command, "_verilator", lambda: None)
    found = json.loads(invoke("info", "--json").stdout)
    assert set(found["tools"].values()) == {None} and found["gpus"] == []
    assert "not found" in invoke("info").stdout


def test_python_m_tcast(tmp_path):
    """As a user has it: the real engine, the real process."""
    run = subprocess.run([sys.executable, "-m", "tcast", "emit", "--preset", "tiny64", "-o", "out"],
                         cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr, run.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == \
        sorted(f"tcast_tiny64{suffix}" for suffix in SUFFIXES)
    bad = subprocess.run([sys.executable, "-m", "tcast", "emit", "--preset", "x", "-o", "out"],
                         cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1


def test_without_typer_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from tcast.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         cwd=tmp_path)
    assert run.returncode == 2 and "tcast[cli]" in run.stderr
    assert len(run.stderr.splitlines()) == 1
