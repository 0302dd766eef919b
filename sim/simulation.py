"""The engine's RTL under Verilator, as an object of an ordinary Python process.

A :class:`Simulation` holds a compiled testbench (sim/hdl/tb.sv): the engine, protocol checkers on
both its ports, and a cycle-accurate memory whose content is the caller's own NumPy arrays. It
offers what the driver needs (EngineIo of host/io.py) and, beyond it, every knob of the memory.
"""

import ctypes
import functools
import sys
import time
from pathlib import Path

import numpy as np

from ..host.build_cache import build_once, build_place, file_facts
from .dram import COUNTERS as DRAM_COUNTERS
from .dram import find_dram
from .runner import build_library, library_is_built

__all__ = ["CAST_MACROS", "COUNTERS", "MEMORY_OPTIONS", "TRACE", "ProtocolError", "RegisterError",
           "Simulation", "SimulationTimeout", "bench_interface", "configure_memory",
           "engine_verilog", "is_built", "memory_counters", "testbench_sources"]

HERE = Path(__file__).resolve().parent

#: Options of the memory (sim/cpp/axi_memory.h says exactly what each does) and their unit.
MEMORY_OPTIONS = {
    "read_latency": "cycles from the AR handshake to the first R beat, at least 1",
    "write_latency": "cycles from the later of AW and the last W to B, at least 1",
    "read_jitter": "cycles: random extra read latency per burst, 0 to this",
    "write_jitter": "cycles: random extra write latency per burst, 0 to this",
    "read_outstanding": "read bursts accepted before one has ended",
    "write_outstanding": "write bursts accepted before one has been answered",
    "write_ahead": "W beats accepted before their AW",
    "reorder": "bool: read bursts of different IDs overtake each other",
    "interleave": "bool: with reorder, beat by beat",
    "late": "bool: writes take effect at their B, reads at their AR; else as early, as late",
    "stall": "bool: offer no handshake on any channel, as a hung memory",
    "trace": "bool: record every accepted burst, for memory_trace()",
}
CHANNELS = ("ar", "r", "aw", "w", "b")
COUNTERS = ("cycles", "read_bursts", "read_beats", "write_bursts", "write_beats",
            "write_responses", "read_outstanding_max", "write_outstanding_max", "error_beats")
#: A burst that the memory accepted: cycle of the address handshake, 1 for a write, byte address,
#: beats.
TRACE = np.dtype([("cycle", "<u8"), ("write", "<u8"), ("address", "<u8"), ("beats", "<u8")])
RESPONSES = {"OKAY": 0, "EXOKAY": 1, "SLVERR": 2, "DECERR": 3}

#: Macros of the testbench by ``cast_port``.
CAST_MACROS = ({}, {"CAST_SHARED": 1}, {"CAST_PORT": 1})

#: Cycles between looks at Ctrl-C.
SLICE = 1_000_000
#: Cycles after which a register access counts as unanswered.
REGISTER_LIMIT = 1_000


class ProtocolError(RuntimeError):
    """A checker saw a broken AXI rule, or an assertion in the design failed.

    Attributes
    ----------
    violations : list[str]
        What was seen, with its cycle, in order.
    """

    def __init__(self, violations):
        self.violations = list(violations)
        lines = self.violations[:10]
        if len(self.violations) > len(lines):
            lines.append(f"and {len(self.violations) - len(lines)} more")
        super().__init__("\n".join(lines))


class RegisterError(RuntimeError):
    """A register access was answered SLVERR or DECERR."""


class SimulationTimeout(TimeoutError):
    """A register access was not answered."""


def _signature(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


def bench_interface(library):
    """Declare the C interface of sim/cpp/bench.cpp on a loaded library, and return the library."""
    u64, text, handle, number = ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
    _signature(library, "bench_current", handle)
    _signature(library, "bench_map", number, handle, u64, u64, handle, number)
    _signature(library, "bench_unmap", number, handle, u64)
    _signature(library, "bench_restore", None, handle)
    _signature(library, "bench_error_range", None, handle, u64, u64, number, number, number)
    _signature(library, "bench_clear_error_ranges", None, handle)
    _signature(library, "bench_seed", None, handle, u64)
    _signature(library, "bench_set", number, handle, text, u64)
    _signature(library, "bench_counters", None, handle, ctypes.POINTER(u64))
    _signature(library, "bench_bursts_open", u64, handle)
    _signature(library, "bench_open", handle, number)
    _signature(library, "bench_close", None, handle)
    _signature(library, "bench_set_dram", number, handle, ctypes.POINTER(u64))
    _signature(library, "bench_dram_counters", None, handle, ctypes.POINTER(u64))
    _signature(library, "bench_trace", u64, handle, handle)
    _signature(library, "bench_replay", u64, handle, handle, u64, number, u64)
    _signature(library, "bench_violations", number, handle)
    _signature(library, "bench_violation", text, handle, number)
    _signature(library, "bench_clear_violations", None, handle)
    return library


def configure_memory(library, bench, *, backpressure=None, latency=None, dram=None, **options):
    """Set options of a bench's memory; see :meth:`Simulation.set_memory`."""
    timing = None if dram is None else find_dram(dram)
    if latency is not None:
        options = {"read_latency": latency, "write_latency": latency} | options
    values = {}
    for name, value in options.items():
        if name not in MEMORY_OPTIONS:
            raise TypeError(f"memory option must be backpressure, latency or one of "
                            f"{', '.join(MEMORY_OPTIONS)}, not {name!r}")
        kind = bool if MEMORY_OPTIONS[name].startswith("bool") else int
        if not isinstance(value, (kind, np.integer if kind is int else np.bool_)) or (
                kind is int and isinstance(value, bool)):
            raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}")
        least = 1 if name.endswith(("latency", "outstanding")) else 0
        if not least <= int(value) < 2**32:
            raise ValueError(f"{name} must be from {least} to 2**32 - 1, not {value!r}")
        values[name] = int(value)
    if backpressure is not None:
        chosen = (dict(backpressure) if isinstance(backpressure, dict)
                  else dict.fromkeys(CHANNELS, backpressure))
        for channel, probability in chosen.items():
            if channel not in CHANNELS:
                raise ValueError(f"backpressure must name channels of {', '.join(CHANNELS)}, "
                                 f"not {channel!r}")
            if not 0 <= probability <= 0.99:
                raise ValueError(f"backpressure must be from 0 to 0.99, not {probability!r}")
            values[f"withhold_{channel}"] = round(probability * 2**32)
    if timing is not None:
        numbers = timing.cycles()
        if not library.bench_set_dram(bench, (ctypes.c_uint64 * len(numbers))(*numbers)):
            raise ValueError(f"dram must have accesses of the port's beat (its own are of "
                             f"{timing.beat_bytes} bytes) and change while no burst is open, "
                             f"not {dram!r}")
    for name, value in values.items():
        if not library.bench_set(bench, name.encode(), value):
            raise AssertionError(f"the memory model has no option {name}")


def memory_counters(library, bench):
    """Return the counters of a bench's memory, by name (COUNTERS)."""
    values = (ctypes.c_uint64 * len(COUNTERS))()
    library.bench_counters(bench, values)
    return dict(zip(COUNTERS, values, strict=True))


def dram_counters(library, bench):
    """Return the counters of a bench's DRAM, by name (COUNTERS of dram.py)."""
    values = (ctypes.c_uint64 * len(DRAM_COUNTERS))()
    library.bench_dram_counters(bench, values)
    return dict(zip(DRAM_COUNTERS, values, strict=True))


def testbench_sources(verilog):
    """Return (Verilog files, C++ files, headers) of a testbench around ``verilog``.

    ``verilog`` is the path of the engine.
    """
    hdl = [HERE / "hdl" / name for name in
           ("axi_checker.sv", "axil_checker.sv", "checked_engine.sv", "tb.sv")]
    cpp = [HERE / "cpp" / name for name in ("axi_memory.cpp", "bench.cpp", "dram.cpp")]
    headers = [HERE / "cpp" / name for name in ("axi_memory.h", "dram.h", "ring.h")]
    return [Path(verilog), *hdl], cpp, headers


def engine_verilog(config, on_build=None):
    """Return the path of the engine's Verilog, emitting it unless its sources have not changed.

    Emitting takes many seconds; like a compiled simulation, the text is kept by the hash of all
    that it is made from. ``on_build`` is called with a word on the work before it begins.
    """
    facts, build = _emission(config, on_build)
    return build_once(facts, "emitted", build) / "engine.v"


def _emission(config, on_build=None):
    from .. import hw
    from ..gen import verilog  # needs Amaranth

    sources = sorted([*Path(hw.__file__).parent.rglob("*.py"), Path(verilog.__file__)])
    facts = {"config": config.as_dict(), "tools": verilog.tool_versions(),
             "files": file_facts(sources)}

    def build(directory):
        if on_build is not None:
            on_build("emitting Verilog")
        (directory / "engine.v").write_text(verilog.emit_verilog(config))

    return facts, build


def _library_plan(config, verilog, trace, random_reset):
    sources, cpp, headers = testbench_sources(verilog)
    return {"verilog_files": sources, "top": "tb", "cpp_files": [*cpp, HERE / "cpp/harness.cpp"],
            "includes": headers, "trace": trace, "random_reset": random_reset,
            "defines": {"ENGINE": config.name, "DATA_WIDTH": config.data_width,
                        **CAST_MACROS[config.cast_port],
                        "VL_USER_STOP": 1, "VL_USER_FINISH": 1, "VL_USER_FATAL": 1}}


def is_built(config, *, waves=False, random_reset=False):
    """Return whether a Simulation of ``config`` would open without building anything."""
    place = build_place(_emission(config)[0], "emitted")
    return (place / "complete").exists() and library_is_built(
        **_library_plan(config, place / "engine.v", waves, random_reset))


@functools.lru_cache(maxsize=32)
def _library(path):
    library = bench_interface(ctypes.CDLL(str(path)))
    u64, text, handle, number = ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
    u32 = ctypes.c_uint32
    _signature(library, "sim_open", handle, u64, text)
    _signature(library, "sim_close", None, handle)
    _signature(library, "sim_bench", handle, handle)
    _signature(library, "sim_cycles", u64, handle)
    _signature(library, "sim_irq", number, handle)
    _signature(library, "sim_reset", None, handle, number)
    _signature(library, "sim_run", u64, handle, u64, number)
    _signature(library, "sim_write_register", number, handle, u32, u32, number, u64)
    _signature(library, "sim_read_register", number, handle, u32, ctypes.POINTER(u32), u64)
    return library


class Simulation:
    """An engine in Verilator with a memory and protocol checkers. A context manager.

    Parameters
    ----------
    config : EngineConfig
        The engine.
    latency : int
        Cycles that the memory takes to answer a read or a write, at least 1.
    backpressure : float or dict[str, float]
        Probability per cycle, 0 to 0.99, that a channel withholds its handshake: one for all, or by
        channel ("ar", "r", "aw", "w", "b").
    dram : str or Dram, optional
        Timing of a DRAM channel behind the port, a name of DRAMS in dram.py or a Dram; ``latency``
        is then what lies between the port and the DRAM. Without it every latency is fixed.
    seed : int
        Of all that is random in the memory; equal seeds give equal runs.
    verilog : path, optional
        File of the engine's Verilog, where it is not to be generated from ``config``.
    waves : path, optional
        Writes a VCD file there; a build of its own, and about fifty times slower to run.
    random_reset : bool
        Signals that the design leaves unset start at random (by ``seed``) instead of at 0.
    on_build : Callable[[str], None], optional
        Called before each step of building, if anything is to be built.
    **memory
        Any of MEMORY_OPTIONS.

    Every call that lets the clock run raises ProtocolError if a checker saw a broken rule in it.

    Attributes
    ----------
    seconds : float
        Wall time spent simulating in wait() and step().
    """

    def __init__(self, config, *, latency=64, backpressure=0.0, dram=None, seed=0, verilog=None,
                 waves=None, random_reset=False, on_build=None, **memory):
        self.config = config
        self.seed = int(seed)
        self.seconds = 0.0
        self._handle = None
        self._regions = {}
        if verilog is None:
            verilog = engine_verilog(config, on_build)
        path = build_library(**_library_plan(config, verilog, waves is not None, random_reset),
                             on_build=on_build)
        self._library = _library(path)
        if dram is not None and config.cast_port == 2:
            raise ValueError("dram must be None with cast_port 2: a DRAM channel has one port")
        name = None if waves is None else str(Path(waves)).encode()
        handle = self._library.sim_open(self.seed % 2**64, name)
        if not handle:
            raise OSError(f"waves must be a file that can be written, not {str(waves)!r}")
        self._handle = ctypes.c_void_p(handle)
        self._bench = ctypes.c_void_p(self._library.sim_bench(self._handle))
        self._library.bench_seed(self._bench, self.seed % 2**64)
        self.set_memory(latency=latency, backpressure=backpressure, dram=dram, **memory)
        self._check()

    # EngineIo

    def read_register(self, offset):
        """Return the register at byte ``offset``; RegisterError if it answers an error."""
        data = ctypes.c_uint32()
        response = self._library.sim_read_register(self._open(), offset, data, REGISTER_LIMIT)
        self._finish_access("read", offset, response)
        return data.value

    def write_register(self, offset, value, strobe=0xF):
        """Write ``value`` to the register at byte ``offset``; ``strobe`` selects its bytes."""
        if not 0 <= value < 2**32:
            raise ValueError(f"value must be from 0 to 2**32 - 1, not {value!r}")
        response = self._library.sim_write_register(self._open(), offset, value, strobe,
                                                    REGISTER_LIMIT)
        self._finish_access("write", offset, response)

    def map(self, address, array, writable=True):
        """Make the bytes of ``array`` the memory at ``address``; no copy is made.

        Raises ValueError if the array is empty, not C-contiguous, or overlaps another one, and if
        ``writable`` while the array is read-only.
        """
        if not isinstance(array, np.ndarray):
            raise TypeError(f"array must be a NumPy array, not {type(array).__name__}")
        if not array.flags.c_contiguous or array.nbytes == 0:
            raise ValueError("array must be C-contiguous and not empty")
        if writable and not array.flags.writeable:
            raise ValueError("array must be writable, or mapped with writable=False")
        address = int(address)
        if not 0 <= address <= 2**64 - array.nbytes:
            raise ValueError(f"address must be from 0 to 2**64 - {array.nbytes}, not {address:#x}")
        if not self._mapped(address, array, writable):
            raise ValueError(f"address must not overlap a mapped array: "
                             f"{address:#x} to {address + array.nbytes - 1:#x} does")
        self._regions[address] = array  # keeps the bytes alive

    def _mapped(self, address, array, writable):
        self._open()
        return self._library.bench_map(self._bench, address, array.nbytes, array.ctypes.data,
                                       bool(writable))

    def unmap(self, address):
        """Take away the array that was mapped at ``address``; KeyError if there is none."""
        self._open()
        del self._regions[int(address)]
        self._library.bench_unmap(self._bench, int(address))

    def wait(self, max_cycles):
        """Let the engine run until irq is high (True), or for ``max_cycles`` cycles (False)."""
        return self._run(max_cycles, until_irq=True)

    def close(self):
        """End the simulation and free it; further calls raise ValueError."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._library.sim_close(handle)
            self._regions.clear()

    # Beyond EngineIo

    def step(self, n=1):
        """Let the engine run for ``n`` cycles."""
        self._run(n, until_irq=False)

    def reset(self, cycles=4):
        """Hold aresetn low for ``cycles`` cycles. Mapped arrays and options stay."""
        self._library.sim_reset(self._open(), cycles)
        self._check()

    @property
    def cycles(self):
        """Clock cycles since the simulation began, those of resets included."""
        return self._library.sim_cycles(self._open())

    @property
    def irq(self):
        """Whether irq is high."""
        return bool(self._library.sim_irq(self._open()))

    def set_memory(self, *, backpressure=None, latency=None, dram=None, **options):
        """Change options of the memory; they hold from the next cycle on, for requests to come.

        ``latency`` sets read_latency and write_latency; ``backpressure`` is as in the constructor;
        ``dram`` too, or "off", and takes effect from closed banks and with its counters at 0 (None
        leaves it as it is; ValueError while bursts are open); the others are those of
        MEMORY_OPTIONS.
        """
        self._open()
        configure_memory(self._library, self._bench, backpressure=backpressure, latency=latency,
                         dram=dram, **options)

    def add_error_range(self, address, n_bytes, response="SLVERR", *, read=True, write=True):
        """Answer every beat that touches ``n_bytes`` from ``address`` with an error response.

        ``response`` is "SLVERR" or "DECERR". Such a beat writes nothing, and reads as 0xDEADBEEF.
        """
        if response not in ("SLVERR", "DECERR"):
            raise ValueError(f"response must be 'SLVERR' or 'DECERR', not {response!r}")
        if n_bytes < 1 or not 0 <= address <= 2**64 - n_bytes:
            raise ValueError(f"n_bytes must be at least 1 and end by 2**64, not {n_bytes!r}")
        self._open()
        self._library.bench_error_range(self._bench, address, address + n_bytes - 1,
                                        RESPONSES[response], read, write)

    def clear_error_ranges(self):
        """Forget all error ranges."""
        self._open()
        self._library.bench_clear_error_ranges(self._bench)

    def memory_counters(self):
        """Return what the memory counted since the start, by name (COUNTERS)."""
        self._open()
        return memory_counters(self._library, self._bench)

    def dram_counters(self):
        """Return what the DRAM counted since it was set, by name (COUNTERS of dram.py)."""
        self._open()
        return dram_counters(self._library, self._bench)

    def memory_trace(self):
        """Return the bursts recorded (option ``trace``) since the last call, a TRACE array."""
        self._open()
        trace = np.empty(self._library.bench_trace(self._bench, None), TRACE)
        self._library.bench_trace(self._bench, trace.ctypes.data)
        return trace

    def replay(self, trace, *, in_order=False, limit=2**32, **memory):
        """Offer bursts to a memory of their own, each as early as possible.

        Reads are offered in their order and writes in theirs, at any number outstanding unless
        ``memory`` limits it; W data is there at once, R and B are always accepted.

        Parameters
        ----------
        trace : ndarray of TRACE
            The bursts; their cycles are not used.
        in_order : bool
            Offers no burst before all that are before it in the trace, whatever their direction.
        limit : int
            Cycles after which it gives up with SimulationTimeout.
        **memory
            Options of that memory, as in :meth:`set_memory`; the others have their defaults.

        Returns
        -------
        (int, dict)
            Cycles from the first address offered to the last response, both included, and the
            counters of the DRAM.
        """
        self._open()
        trace = np.ascontiguousarray(trace, TRACE)
        if not len(trace):
            raise ValueError("trace must not be empty")
        bench = ctypes.c_void_p(self._library.bench_open(self.config.derived.beat_bytes))
        try:
            options = {"read_outstanding": 2**32 - 1, "write_outstanding": 2**32 - 1} | memory
            configure_memory(self._library, bench, late=False, **options)
            cycles = self._library.bench_replay(bench, trace.ctypes.data, len(trace),
                                                in_order, limit)
            counters = dram_counters(self._library, bench)
        finally:
            self._library.bench_close(bench)
        if not cycles:
            raise SimulationTimeout(f"the trace was not answered within {limit} cycles")
        return cycles, counters

    @property
    def bursts_open(self):
        """Read and write bursts which the memory has accepted and not finished."""
        self._open()
        return self._library.bench_bursts_open(self._bench)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __del__(self):
        if not sys.is_finalizing() and getattr(self, "_handle", None) is not None:
            self.close()

    def _open(self):
        if self._handle is None:
            raise ValueError("the simulation must be open, not closed")
        return self._handle

    def _run(self, cycles, *, until_irq):
        left = int(cycles)
        while left > 0:
            began = time.perf_counter()
            run = self._library.sim_run(self._open(), min(left, SLICE), until_irq)
            self.seconds += time.perf_counter() - began
            self._check()
            left -= run
            if until_irq and self.irq:
                return True
        return until_irq and self.irq

    def _finish_access(self, what, offset, response):
        self._check()
        if response < 0:
            raise SimulationTimeout(f"{what} of register {offset:#05x} was not answered within "
                                    f"{REGISTER_LIMIT} cycles")
        if response:
            name = next(name for name, code in RESPONSES.items() if code == response)
            raise RegisterError(f"{what} of register {offset:#05x} was answered {name}")

    def _check(self):
        n = self._library.bench_violations(self._bench)
        if n:
            seen = [self._library.bench_violation(self._bench, i).decode() for i in range(n)]
            self._library.bench_clear_violations(self._bench)
            raise ProtocolError(seen)

