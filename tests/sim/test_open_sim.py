"""open_sim: the simulated device as users get it, when all is well and when it is not."""

from dataclasses import replace

import numpy as np
import pytest

import tcast
from tcast import golden
from tcast.host.backend import BackendUnavailable
from tcast.host.build_cache import BuildError
from tcast.host.driver import EngineTimeout
from tcast.hw.config import EngineConfig
from tcast.sim import device as sim_device
from tcast.sim.simulation import Simulation, is_built

TINY = EngineConfig.preset("tiny64")


def case(seed=0, bags=20, dim=8):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((50, dim)).astype(np.float32)
    offsets = np.append(0, np.cumsum(rng.integers(0, 9, bags)))
    indices = rng.integers(0, 50, offsets[-1])
    return weight, indices, offsets, golden.embedding_bag(weight, indices, offsets)


def same(got, want):
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_two_devices_of_one_process_at_once():
    first, second = (tcast.open("sim", config=TINY, latency=latency, backpressure=0.2, seed=latency)
                     for latency in (5, 100))
    with first, second:
        cases = [case(seed) for seed in range(4)]
        for weight, indices, offsets, want in cases:
            same(first.embedding_bag(weight, indices, offsets), want)
            same(second.embedding_bag(weight, indices, offsets), want)
        assert first.counters()["cycles"] < second.counters()["cycles"]


def test_latency_option_is_what_the_engine_sees():
    weight, indices, offsets, want = case()
    cycles = []
    for latency in (50, 350):
        with tcast.open("sim", config=TINY, latency=latency) as device:
            same(device.embedding_bag(weight, indices, offsets), want)
            cycles.append(device.counters()["cycles"])
    # At least the descriptor, the arrays, the rows and the write follow each other.
    assert cycles[1] - cycles[0] in range(4 * 300, 10 * 300)


def test_hung_memory_is_a_timeout_and_nothing_is_answered_afterwards():
    weight, indices, offsets, want = case()
    with sim_device.open_sim(TINY, latency=64, timeout_cycles=5000) as device:
        same(device.embedding_bag(weight, indices, offsets), want)
        device.io.set_memory(stall=True)
        with pytest.raises(EngineTimeout, match="within 5000 cycles"):
            device.embedding_bag(weight, indices, offsets)
        with pytest.raises(RuntimeError, match="cannot be used"):
            device.embedding_bag(weight, indices, offsets)


def test_missing_tools_make_the_backend_unavailable(monkeypatch):
    def missing():
        raise BuildError("g++ is not installed")

    monkeypatch.setattr(sim_device, "find_tools", missing)
    with pytest.raises(BackendUnavailable, match=r"g\+\+ is not installed"):
        sim_device.open_sim(TINY)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match=r"memory option must be .* not 'speed'"):
        sim_device.open_sim(TINY, speed=3)


def test_is_built_and_what_building_says():
    words = []
    with Simulation(TINY, on_build=words.append):
        assert set(words) <= {"emitting Verilog", "translating to C++", "compiling"}
    assert is_built(TINY)
    words.clear()
    with Simulation(TINY, on_build=words.append):
        assert words == []
    assert not is_built(replace(TINY, name="never_built"))


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_unset_state_does_not_matter(seed):
    """Everything that the design does not reset starts at random."""
    with sim_device.open_sim(TINY, seed=seed, backpressure=0.3, random_reset=True) as device:
        for number in range(5):
            weight, indices, offsets, want = case(number)
            same(device.embedding_bag(weight, indices, offsets), want)
            casting = device.cast(indices, offsets, len(weight))
            grad_out = want[::-1].copy()
            expected = weight.copy()
            golden.backward_update(expected, grad_out, casting, golden.SGD(0.1))
            device.backward_update(weight, grad_out, casting, golden.SGD(0.1))
            same(weight, expected)
