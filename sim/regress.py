"""Runs the cocotb suites of suites.json: ``python -m tcast.sim.regress [--suite NAME] [--list]``.

Prints the seed, what every test did, the command that runs it again, and at the end ``REGRESS
PASS`` or ``REGRESS FAIL``; the exit status is 0 only for the first. A suite in which no test ran
has failed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from ..host.build_cache import BuildError
from ..hw.config import PRESETS, EngineConfig
from .simulation import CAST_MACROS, engine_verilog, testbench_sources

__all__ = ["load_suites", "main", "run_suite"]

DEFAULT_SEED = 1

#: Pins of the tops that Python touches.
_COMMON = ("aclk", "aresetn", "irq")
_LITE = ("awaddr awprot awvalid awready wdata wstrb wvalid wready bresp bvalid bready "
         "araddr arprot arvalid arready rdata rresp rvalid rready").split()
_AXI = ("arid araddr arlen arsize arburst arlock arcache arprot arqos arvalid arready "
        "rid rdata rresp rlast rvalid rready "
        "awid awaddr awlen awsize awburst awlock awcache awprot awqos awvalid awready "
        "wdata wstrb wlast wvalid wready bid bresp bvalid bready").split()
PUBLIC = {
    "tb": [*_COMMON, *(f"s_axil_{pin}" for pin in _LITE)],
    "checked_engine": [*_COMMON, *(f"s_axil_{pin}" for pin in _LITE),
                       *(f"m_axi_{pin}" for pin in _AXI)],
}


def load_suites():
    """Return the suites of suites.json by name."""
    return json.loads(Path(__file__).with_name("suites.json").read_text())


def build_suite(suite, config):
    """Build the bench of ``suite`` for ``config``, once, and return its directory."""
    from .cocotb_runner import build_bench  # needs cocotb

    sources, cpp_files, headers = testbench_sources(engine_verilog(config))
    if suite["top"] != "tb":
        sources = [file for file in sources if file.name != "tb.sv"]
    return build_bench(sources, suite["top"], PUBLIC[suite["top"]], cpp_files=cpp_files,
                       includes=headers,
                       defines={"ENGINE": config.name, "DATA_WIDTH": config.data_width,
                                **CAST_MACROS[config.cast_port]})


def run_suite(name, preset, *, seed=DEFAULT_SEED, tests=None, verbose=False):
    """Build and run one suite on one preset; return the list of its TestResults."""
    from .cocotb_runner import run_bench  # needs cocotb

    suite = load_suites()[name]
    directory = build_suite(suite, EngineConfig.preset(preset))
    return run_bench(directory, suite["top"], f"{__package__}.cocotb.{suite['module']}",
                     seed=seed, tests=tests, environment={"TCAST_PRESET": preset},
                     verbose=verbose)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tcast.sim.regress", description=__doc__)
    parser.add_argument("--suite", action="append", choices=list(load_suites()), default=[],
                        help="run this one only; may be given again")
    parser.add_argument("--preset", action="append", choices=list(PRESETS), default=[],
                        help="run on this preset rather than on those of suites.json")
    parser.add_argument("--test", action="append", default=[], help="run tests of this name only")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="random seed")
    parser.add_argument("--list", action="store_true", help="list the suites and stop")
    parser.add_argument("--verbose", action="store_true", help="show the simulator's output")
    return parser


def main(arguments=None):
    """Run the suites that the command line asks for; return the exit status."""
    chosen = _parser().parse_args(arguments)
    suites = load_suites()
    if chosen.list:
        for name, suite in suites.items():
            print(f"{name:15} {', '.join(suite['presets']):20} {suite['about']}")
        return 0
    print(f"SEED={chosen.seed}")
    passed = failed = 0
    for name in chosen.suite or suites:
        for preset in chosen.preset or suites[name]["presets"]:
            again = f"python -m tcast.sim.regress --suite {name} --preset {preset}"
            again += f" --seed {chosen.seed}"
            print(f"{name} on {preset}: {again}", flush=True)
            began = time.perf_counter()
            try:
                results = run_suite(name, preset, seed=chosen.seed, tests=chosen.test or None,
                                    verbose=chosen.verbose)
            except (BuildError, ImportError) as error:
                print(f"  could not be built: {error}")
                results = []
            for result in results:
                word = "pass" if result.passed else "FAIL"
                print(f"  {word} {result.name} ({result.seconds:.1f} s) {result.message}")
            if not results:
                print("  FAIL no test ran")
                failed += 1
            passed += sum(result.passed for result in results)
            failed += sum(not result.passed for result in results)
            print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    print("REGRESS FAIL" if failed else "REGRESS PASS")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
