"""What the tests of the simulator share: a cycle-by-cycle driver of the memory model."""

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from tcast.hw.config import EngineConfig
from tcast.sim.runner import build_library
from tcast.sim.simulation import Simulation, bench_interface, configure_memory, testbench_sources

COPIER = Path(__file__).with_name("copier.sv")
BEAT = 64


@pytest.fixture(scope="session")
def copier():
    """A function that opens a Simulation of the stand-in engine."""
    config = EngineConfig(name="copier", data_width=8 * BEAT)
    opened = []

    def simulate(**options):
        simulation = Simulation(config, verilog=COPIER, **options)
        opened.append(simulation)
        return simulation

    yield simulate
    for simulation in opened:
        simulation.close()


@pytest.fixture
def seed():
    value = int(os.environ.get("SEED", "1"))
    print(f"SEED={value}")
    return value


@pytest.fixture(scope="session")
def library():
    """The compiled memory model, loaded."""
    sources, cpp, headers = testbench_sources(COPIER)
    path = build_library(
        sources, "tb", [*cpp, headers[0].with_name("harness.cpp")], includes=headers,
        defines={"ENGINE": "copier", "DATA_WIDTH": 8 * BEAT, "VL_USER_STOP": 1,
                 "VL_USER_FINISH": 1, "VL_USER_FATAL": 1})
    library = bench_interface(ctypes.CDLL(str(path)))
    library.bench_open.restype = ctypes.c_void_p
    library.bench_close.argtypes = [ctypes.c_void_p]
    return library


@pytest.fixture
def memory(library):
    """A function that makes a driver of a memory of its own."""
    drivers = []

    def make(seed=0, **options):
        drivers.append(MemoryDriver(library, seed, **options))
        return drivers[-1]

    yield make
    for driver in drivers:
        library.bench_close(driver.bench)


class MemoryDriver:
    """Drives the memory model's pins, one cycle at a time, and logs every handshake.

    Requests wait in the lists `ar` (id, address, beats), `aw` (the same) and `w` (data, strobe,
    last), and are valid from the cycle in which they are put there. `log` holds for each channel
    tuples that begin with the cycle of the handshake.
    """

    def __init__(self, library, seed, **options):
        self.library = library
        self.bench = ctypes.c_void_p(library.bench_open(BEAT))
        library.bench_seed(self.bench, seed)
        self.set(**options)
        self.cycle = 0
        self.ar, self.aw, self.w = [], [], []
        self.accept = {"r": True, "b": True}
        self.log = {channel: [] for channel in ("ar", "r", "aw", "w", "b")}
        self.offered = {channel: 0 for channel in self.log}  # cycles the memory was ready / valid
        self.regions = []
        u8, u64 = ctypes.c_uint8, ctypes.c_uint64
        self.rdata = (u8 * BEAT)()
        self.pins = {name: u8() for name in (
            "arready", "rvalid", "rid", "rresp", "rlast", "awready", "wready", "bvalid", "bid",
            "bresp")}
        self._tick = library.tb_tick
        self._tick.argtypes = [ctypes.c_void_p, u8, u8, u8, u64, u8, u8, u8, u8, u64, u8, u8,
                               ctypes.c_char_p, ctypes.c_char_p, u8, u8] + [ctypes.c_void_p] * 11
        self._tick.restype = None
        self.edge(resetn=0)

    def set(self, **options):
        configure_memory(self.library, self.bench, **options)

    def map(self, address, array, writable=True):
        self.regions.append(array)
        assert self.library.bench_map(self.bench, address, array.nbytes, array.ctypes.data,
                                      writable)

    def error(self, first, last, response, read=1, write=1):
        self.library.bench_error_range(self.bench, first, last, response, read, write)

    def read(self, address, beats=1, id=0):
        self.ar.append((id, address, beats))

    def write(self, address, data, id=0, strobe=b"\xff" * (BEAT // 8)):
        """Put the address and the data of a burst into the queues."""
        self.aw.append((id, address, len(data) // BEAT))
        self.write_data(data, strobe)

    def write_data(self, data, strobe=b"\xff" * (BEAT // 8)):
        beats = [data[i:i + BEAT] for i in range(0, len(data), BEAT)]
        self.w += [(beat, strobe, i == len(beats) - 1) for i, beat in enumerate(beats)]

    def edge(self, resetn=1):
        """One clock edge: log the handshakes of this cycle, take the pins of the next."""
        pin = {name: value.value for name, value in self.pins.items()}
        ar, aw, w = (queue[0] if queue else None for queue in (self.ar, self.aw, self.w))
        r_accept, b_accept = self.accept["r"], self.accept["b"]
        if resetn:
            for channel, name in (("ar", "arready"), ("r", "rvalid"), ("aw", "awready"),
                                  ("w", "wready"), ("b", "bvalid")):
                self.offered[channel] += pin[name]
            if ar and pin["arready"]:
                self.log["ar"].append((self.cycle, *self.ar.pop(0)))
            if aw and pin["awready"]:
                self.log["aw"].append((self.cycle, *self.aw.pop(0)))
            if w and pin["wready"]:
                self.log["w"].append((self.cycle, *self.w.pop(0)))
            if pin["rvalid"] and r_accept:
                self.log["r"].append((self.cycle, pin["rid"], bytes(self.rdata), pin["rresp"],
                                      pin["rlast"]))
            if pin["bvalid"] and b_accept:
                self.log["b"].append((self.cycle, pin["bid"], pin["bresp"]))
        ar_id, ar_address, ar_beats = ar or (0, 0, 1)
        aw_id, aw_address, aw_beats = aw or (0, 0, 1)
        data, strobe, last = w or (bytes(BEAT), bytes(BEAT // 8), 0)
        by_name = {name: ctypes.addressof(value) for name, value in self.pins.items()}
        self._tick(self.bench, resetn, ar is not None, ar_id, ar_address, ar_beats - 1, r_accept,
                   aw is not None, aw_id, aw_address, aw_beats - 1, w is not None, data,
                   strobe.ljust(16, b"\0"), last, b_accept,
                   by_name["arready"], by_name["rvalid"], by_name["rid"],
                   ctypes.addressof(self.rdata), by_name["rresp"], by_name["rlast"],
                   by_name["awready"], by_name["wready"], by_name["bvalid"], by_name["bid"],
                   by_name["bresp"])
        self.cycle += 1

    def run(self, cycles):
        for _ in range(cycles):
            self.edge()

    def finish(self, limit=100_000):
        """Run until every request is answered."""
        start = self.cycle
        while self.ar or self.aw or self.w or self.library.bench_bursts_open(self.bench):
            assert self.cycle - start < limit, "the memory does not answer"
            self.edge()

    def counters(self):
        values = (ctypes.c_uint64 * 9)()
        self.library.bench_counters(self.bench, values)
        return list(values)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)
