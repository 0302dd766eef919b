"""Builds and runs cocotb benches: cocotb's own Verilator runner, made fast and safe.

cocotb's runner makes every signal visible to Python, which costs a factor of eight in speed; here a
generated control file names those that the benches touch.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cocotb_tools.runner import Verilator, VerilatorControlFile

from ..host.build_cache import BuildError, build_directory, build_once, file_facts
from .runner import FLAGS, FLAGS_FAST, find_tools

__all__ = ["FastVerilator", "TestResult", "build_bench", "run_bench"]


@dataclass(frozen=True)
class TestResult:
    """One cocotb test: its name, whether it passed, its simulated and real seconds, and why not."""

    __test__ = False  # not a pytest class

    name: str
    passed: bool
    seconds: float
    message: str


class FastVerilator(Verilator):
    """cocotb's Verilator runner without --public-flat-rw, and with our Verilator."""

    def _simulator_in_path_build_only(self):
        self.executable = str(find_tools().verilator)

    def _set_env_build(self):
        super()._set_env_build()
        tools = find_tools().environment
        self.env.update((key, tools[key]) for key in ("MAKEFLAGS", "VERILATOR_ROOT")
                        if key in tools)

    def _build_command(self):
        commands = super()._build_command()
        commands[0] = [part for part in commands[0] if part != "--public-flat-rw"]
        return commands


def build_bench(verilog_files, top, public, *, cpp_files=(), includes=(), defines=None):
    """Build a simulation executable for cocotb, once, and return its directory.

    Parameters
    ----------
    verilog_files : Iterable[path]
        Verilog and SystemVerilog files.
    top : str
        The top module.
    public : Iterable[str]
        Signals of the top module that Python may read and write.
    cpp_files, includes : Iterable[path]
        C++ sources of DPI functions, and their headers. Their symbols are there for ctypes, from
        ``ctypes.CDLL(None)`` in the simulation.
    defines : dict[str, object], optional
        Verilog macros.

    Raises
    ------
    BuildError
        A tool is missing, or a source was refused.
    """
    tools = find_tools()
    verilog_files = [Path(file).absolute() for file in verilog_files]
    cpp_files = [Path(file).absolute() for file in cpp_files]
    folders = sorted({str(Path(file).absolute().parent) for file in includes})
    control = "`verilator_config\n" + "".join(
        f'public_flat_rw -module "{top}" -var "{name}"\n' for name in sorted(public))
    arguments = [*FLAGS, *FLAGS_FAST, "-CFLAGS", " ".join(f"-I{folder}" for folder in folders),
                 "-LDFLAGS", "-rdynamic"]
    facts = {"top": top, "control": control, "arguments": arguments, "defines": defines or {},
             "verilator": tools.version, "compiler": tools.compiler,
             "make": {k: v for k, v in tools.make_variables.items() if k != "PYTHON3"},
             "files": file_facts([*verilog_files, *cpp_files, *includes])}

    def build(directory):
        (directory / "public.vlt").write_text(control)
        runner = FastVerilator()
        runner.log.setLevel("WARNING")
        try:
            runner.build(
                sources=[VerilatorControlFile(directory / "public.vlt"), *verilog_files],
                hdl_toplevel=top, build_dir=directory, defines=defines or {},
                build_args=[*arguments, *map(str, cpp_files)], timescale=("1ns", "1ps"),
                log_file=directory / "log.txt")
        except RuntimeError as error:
            log = (directory / "log.txt").read_text(errors="replace").splitlines()
            raise BuildError(f"{error}; the end of {directory / 'log.txt'}:\n"
                             + "\n".join(log[-30:])) from error
        for pattern in ("*.gch", "*.o", "*.a"):
            for file in directory.glob(pattern):
                file.unlink()

    return build_once(facts, "cocotb", build)


def run_bench(directory, top, module, *, seed, tests=None, environment=None, verbose=False):
    """Run a cocotb test module on a built bench and return what each of its tests did.

    Parameters
    ----------
    directory : pathlib.Path
        From :func:`build_bench`.
    top, module : str
        The top module; the Python module with the tests.
    seed : int
        cocotb's random seed.
    tests : Iterable[str], optional
        Names of the tests to run; all of them if not given.
    environment : dict[str, str], optional
        More environment variables for the tests.
    verbose : bool
        Show the simulator's output as it comes, rather than only when something failed.

    Returns
    -------
    list[TestResult]
        One for each test that ran. A simulation that died counts as a failed test.
    """
    runs = build_directory() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{directory} {module}".encode()).hexdigest()[:8]
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))
    results = place / "results.xml"
    runner = FastVerilator()
    runner.log.setLevel("WARNING")
    problem = ""
    try:
        runner.test(test_module=module, hdl_toplevel=top, hdl_toplevel_lang="verilog",
                    build_dir=directory, test_dir=place, results_xml=str(results), seed=seed,
                    testcase=None if tests is None else list(tests),
                    extra_env={"PYTHONHASHSEED": "0", **(environment or {})},
                    log_file=None if verbose else place / "log.txt")
    except (RuntimeError, SystemExit) as error:
        problem = str(error)
    found = _read_results(results) if results.is_file() else []
    if problem and all(result.passed for result in found):
        found.append(TestResult(f"{module} (simulation)", False, 0.0, problem))
    if all(result.passed for result in found):
        shutil.rmtree(place)
    elif not verbose:
        log = place / "log.txt"
        print("\n".join(log.read_text(errors="replace").splitlines()[-60:]))
        print(f"the whole log is {os.path.relpath(log)}")
    return found


def _read_results(file):
    found = []
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        faults = [*case.findall("failure"), *case.findall("error")]
        if case.find("skipped") is not None:
            continue
        message = "; ".join((f.get("error_msg") or f.get("message") or f.text or "failed")
                            for f in faults)
        found.append(TestResult(case.get("name"), not faults, float(case.get("time") or 0),
                                message))
    return found
