"""Cells of bench/bandwidth.py on the smallest preset, to the cycle.

A change that costs a cycle, or wins one, changes these figures: then repeat the whole benchmark.
"""

import numpy as np
import pytest

from tcast import golden
from tcast.host.driver import EngineDevice, Pass
from tcast.hw.config import EngineConfig
from tcast.hw.registers import COUNTERS
from tcast.sim.simulation import Simulation

LATENCY, ROW_BYTES, LOOKUPS, BAG, ROWS = 128, 64, 4096, 20, 1000
CONFIG = EngineConfig.preset("tiny64")

#: Counters to the cycle; those of the read channel by cause sum to `cycles`.
FORWARD = {
    "cycles": 35483, "read_useful": 34935, "read_memory": 347, "read_address": 2,
    "read_credit": 0, "read_index": 0, "read_offset": 8, "read_drain": 181, "read_overhead": 10,
    "r_beats": 34935, "row_beats": 32768, "w_beats": 1640, "w_stall": 0, "read_bursts": 4366,
    "write_bursts": 205, "rows": 4096, "segments": 205, "descriptors": 1,
    "steady_cycles": 34904, "steady_r_beats": 34855, "steady_w_beats": 1640,
    "work_cycles": 35197,
}
FUSED = {
    "cycles": 44160, "read_useful": 43644, "read_memory": 315, "read_address": 2,
    "read_credit": 0, "read_index": 0, "read_offset": 8, "read_drain": 181, "read_overhead": 10,
    "r_beats": 43644, "row_beats": 32768, "w_beats": 7832, "w_stall": 0, "read_bursts": 5456,
    "write_bursts": 979, "rows": 4096, "segments": 979, "descriptors": 1,
    "steady_cycles": 43581, "steady_r_beats": 43532, "steady_w_beats": 7832,
    "work_cycles": 43874,
}


@pytest.fixture(scope="module")
def device():
    with EngineDevice(Simulation(CONFIG, latency=LATENCY), CONFIG) as device:
        yield device


def batch():
    rng = np.random.default_rng(0)
    offsets = np.append(np.arange(0, LOOKUPS, BAG), LOOKUPS).astype(np.int32)
    return (rng.standard_normal((ROWS, ROW_BYTES // 4), np.float32),
            rng.integers(0, ROWS, LOOKUPS).astype(np.int32), offsets,
            rng.standard_normal((len(offsets) - 1, ROW_BYTES // 4), np.float32))


def test_forward_to_the_cycle(device):
    weight, indices, offsets, _ = batch()
    out = np.zeros((len(offsets) - 1, weight.shape[1]), np.float32)
    device.submit([Pass(source=weight, target=out, indices=indices, offsets=offsets)])
    assert golden.bits_equal(out, golden.embedding_bag(weight, indices, offsets))
    counters = device.counters()
    rows, arrays, descriptor = 8 * LOOKUPS, (LOOKUPS + len(offsets)) // 2, 16
    assert counters["row_beats"] == rows
    assert counters["r_beats"] == rows + arrays + descriptor
    assert counters["w_beats"] == 8 * (len(offsets) - 1)
    assert counters["steady_r_beats"] / counters["steady_cycles"] >= 0.99
    assert counters["work_cycles"] <= rows + arrays + 2 * LATENCY + 200
    assert {name: counters[name] for name in FORWARD} == FORWARD
    assert set(FORWARD) == {name for name, _ in COUNTERS}


def test_fused_backward_to_the_cycle(device):
    weight, indices, offsets, grad_out = batch()
    casting = golden.cast(indices, offsets, ROWS)
    expected = weight.copy()
    golden.backward_update(expected, grad_out, casting, golden.SGD(0.1))
    device.backward_update(weight, grad_out, casting, golden.SGD(0.1))
    assert golden.bits_equal(weight, expected)
    counters = device.counters()
    assert counters["steady_r_beats"] / counters["steady_cycles"] >= 0.98
    assert {name: counters[name] for name in FUSED} == FUSED
