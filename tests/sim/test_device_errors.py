"""The RTL stops with the record that the functional model leaves, and goes on after its reset."""

import numpy as np
import pytest
from engine_errors import engine_errors

from tcast import golden
from tcast.host.driver import EngineDevice, EngineError, Pass
from tcast.hw.config import EngineConfig
from tcast.sim.simulation import Simulation

TINY = EngineConfig.preset("tiny64")
CASES = list(engine_errors())
MEMORIES = [{"latency": 1}, {"latency": 64, "backpressure": 0.4}]


@pytest.fixture(scope="module")
def simulation():
    with Simulation(TINY) as simulation:
        yield simulation


@pytest.fixture(params=MEMORIES, ids=str)
def device(request, simulation):
    simulation.set_memory(**{"backpressure": 0.0} | request.param)
    device = EngineDevice(simulation, TINY)
    yield device
    device.reset()
    for address in device._ring_region.addresses:
        simulation.unmap(address)


def forward(seed=0):
    """Return a pass without fault and what it must write."""
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((20, 4)).astype(np.float32)
    offsets = np.append(0, np.cumsum(rng.integers(0, 12, 6)))
    indices = rng.integers(0, 20, offsets[-1])
    want = golden.embedding_bag(source, indices, offsets)
    return Pass(source=source, target=np.zeros_like(want), indices=indices, offsets=offsets), want


@pytest.mark.parametrize("item, code, position, value, limit, words",
                         [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_record_is_that_of_the_model(device, item, code, position, value, limit, words):
    before, done = forward(1)
    behind, _ = forward(2)
    item.target[...] = 0
    with pytest.raises(EngineError) as caught:
        device.submit([before, item, behind])
    error = caught.value
    assert (error.code, error.descriptor, error.position, error.value, error.limit) == (
        code, 1, position, value, limit)
    assert error.counters["descriptors"] == 1
    assert golden.bits_equal(before.target, done), "the pass before it is complete"
    assert not behind.target.any(), "nothing behind it is started"
    after, done = forward(3)
    device.submit([after])
    assert golden.bits_equal(after.target, done), "the device is usable again"
