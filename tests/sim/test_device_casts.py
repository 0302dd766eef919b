"""The cast unit and the whole step on the RTL, against golden, on lists that hypothesis looks for.

Every example compares results with golden's and all memory, scratch aside, with the functional
model's; see test_device_properties.py for the memories. Sizes lie around the multiples that the
unit is made of: a beat, a line, the bins of a digit, the pairs that stay on the chip.
"""

import os
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from test_device_properties import memories

from tcast import golden
from tcast.cosimulation import Comparison, operations_of, step, whole_step
from tcast.host.driver import Cast, EngineDevice, Pass
from tcast.hw.config import PRESETS, EngineConfig
from tcast.hw.registers import COUNTERS
from tcast.sim.simulation import Simulation
from tcast.workloads import TableInput

EXAMPLES = int(os.environ.get("TCAST_EXAMPLES", "25"))
#: The small ones in every run, the others in long runs.
CONFIGS = {name: EngineConfig.preset(name) for name in PRESETS} | {
    "tiny64 with two ports": replace(EngineConfig.preset("tiny64"), cast_port=2),
    "tiny64 with pairs by two, all in memory": replace(
        EngineConfig.preset("tiny64"), cast_pairs=2, cast_buffer_pairs=0)}
ENGINES = [name if name in ("tiny64", "tiny64 with two ports")
           else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, print_blob=True,
                    suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    """A simulation, and the config that it was made from."""
    config = CONFIGS[request.param]
    with Simulation(config) as simulation:
        yield simulation, config


@contextmanager
def compared(engine, memory, **options):
    """A Comparison on the shared simulation, which it leaves as it was."""
    simulation, config = engine
    simulation.set_memory(**memory)
    comparison = Comparison(simulation, config, **options)
    try:
        yield comparison
    finally:
        comparison.engine.reset()
        for address in list(simulation._regions):
            simulation.unmap(address)


@st.composite
def sizes(draw, config):
    """A number of lookups around a multiple of what the unit counts in."""
    lanes, bins = config.derived.lanes, 1 << config.cast_digit_bits
    most = 2 * config.cast_buffer_pairs + 200
    unit = draw(st.sampled_from([1, lanes, 8, bins, config.cast_buffer_pairs or 1]))
    size = unit * draw(st.sampled_from([0, 1, 1, 2, 3])) + draw(st.integers(-2, 2))
    return min(max(size, 0), most)


@st.composite
def lists(draw, config, row_limit=2**31):
    """(indices, offsets, num_rows) of a batch."""
    n = draw(sizes(config))
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    limit = draw(st.sampled_from([1, 2, 3, 255, 256, 257, 10**6, 2**31, 2**32 - 1]))
    if dtype == np.int32:
        limit = min(limit, 2**31)
    limit = min(limit, row_limit)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    match draw(st.sampled_from(["uniform", "equal", "distinct", "falling", "skewed", "one digit"])):
        case "equal":
            rows = np.full(n, rng.integers(limit))
        case "distinct":
            limit = max(limit, n, 1)
            rows = rng.permutation(n) + rng.integers(limit - n + 1)
        case "falling":
            limit = max(limit, n, 1)
            rows = np.arange(n)[::-1]
        case "skewed":
            rows = limit * rng.random(n) ** 4
        case "one digit":
            rows = rng.integers(0, 1 + (limit - 1 >> config.cast_digit_bits), n) \
                << config.cast_digit_bits
        case _:
            rows = rng.integers(0, limit, n)
    bags = draw(st.sampled_from([1, 2, 7, n // 3 + 1, 2 * n + 1]))
    offsets = np.concatenate([[0], np.sort(rng.integers(0, n + 1, bags - 1)), [n]])
    return (rows.astype(dtype), offsets.astype(draw(st.sampled_from([np.int32, np.int64]))),
            limit)


@SETTINGS
@given(data=st.data())
def test_casts_equal_golden(engine, data):
    config = engine[1]
    memory = data.draw(memories())
    options = {"seed": data.draw(st.integers(0, 1000)),
               "placement": data.draw(st.sampled_from(["aligned", "scattered"]))}
    cases = [data.draw(lists(config)) for _ in range(data.draw(st.integers(1, 4)))]
    note(f"{[(rows.size, offsets.size, limit) for rows, offsets, limit in cases]}, {memory}")
    operation = operations_of(config)["cast"]
    with compared(engine, memory, **options) as comparison:
        for rows, offsets, limit in cases:
            def cast(device, batch=(rows, offsets, limit)):
                casting = device.cast(*batch)
                return {name: getattr(casting, name)
                        for name in ("bags", "segment_offsets", "rows")}

            comparison.run(operation, "cast", cast)
            assert operation.equal, operation.mismatches
            counters = comparison.engine.counters()
            assert counters["casts"] == 1 and not counters["descriptors"]


@SETTINGS
@given(data=st.data())
def test_steps_of_many_tables_equal_golden(engine, data):
    """Forward, cast and fused backward of up to six tables, in one submission."""
    config = engine[1]
    memory = data.draw(memories())
    options = {"seed": data.draw(st.integers(0, 1000)),
               "placement": data.draw(st.sampled_from(["aligned", "scattered"]))}
    lanes = config.derived.lanes
    items = []
    for number in range(data.draw(st.integers(1, 6))):
        indices, offsets, limit = data.draw(lists(config, 300))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        dim = lanes * data.draw(st.integers(1, 3))
        items.append(TableInput(
            f"table {number}", rng.standard_normal((limit, dim), dtype=np.float32), indices,
            offsets, rng.standard_normal((offsets.size - 1, dim), dtype=np.float32)))
    note(f"{[(item.indices.size, item.weight.shape) for item in items]}, {memory}")
    operations = operations_of(config)
    with compared(engine, memory, **options) as comparison:
        whole_step(comparison, items, golden.SGD(0.5), operations["training step"])
        assert operations["training step"].equal, operations["training step"].mismatches
        counters = comparison.engine.counters()
        assert counters["casts"] == len(items) and counters["descriptors"] == 2 * len(items)
        assert sum(counters[name] for name, _ in COUNTERS[1:9]) == counters["cycles"]


def test_both_units_at_once_and_waits_both_ways(engine):
    """Passes that wait for casts, and casts that wait for passes, with rings of two slots."""
    simulation, config = engine
    lanes = config.derived.lanes
    rng = np.random.default_rng(5)
    n = 3 * config.derived.lanes + 5
    for memory in ({"latency": 1}, {"latency": 90, "backpressure": 0.5, "reorder": True}):
        simulation.set_memory(**{"backpressure": 0.0, "reorder": False} | memory)
        device = EngineDevice(simulation, config, ring_size_log2=1)
        weight = rng.standard_normal((40, lanes)).astype(np.float32)
        passes, casts, expected = [], [], weight.copy()
        for number in range(5):
            indices = rng.integers(0, 40, n).astype(np.int32)
            offsets = np.array([0, 3, n], np.int32)
            grads = rng.standard_normal((2, lanes)).astype(np.float32)
            casts.append(cast := Cast(indices=indices, offsets=offsets, num_rows=40,
                                      after=number))
            passes.append(Pass(source=grads, target=weight, indices=cast.bags,
                               offsets=cast.segment_offsets, rows=cast.rows, count=cast.count,
                               optimizer=golden.SGD(0.25), after=number + 1))
            golden.backward_update(expected, grads, golden.cast(indices, offsets, 40),
                                   golden.SGD(0.25))
        device.submit(passes, casts)
        assert golden.bits_equal(weight, expected)
        device.reset()
        for address in list(simulation._regions):
            simulation.unmap(address)


def test_a_table_step_by_step(engine):
    """What `tcast cosim` does, with bags of every length up to 12."""
    config = engine[1]
    rng = np.random.default_rng(11)
    offsets = np.concatenate([[0], np.cumsum(np.arange(12))])
    lanes = config.derived.lanes
    item = TableInput("t", rng.standard_normal((30, lanes), dtype=np.float32),
                      rng.integers(0, 30, offsets[-1]), offsets,
                      rng.standard_normal((12, lanes), dtype=np.float32))
    operations = operations_of(config)
    with compared(engine, {"latency": 64, "backpressure": 0.3}) as comparison:
        step(comparison, item, golden.SGD(0.5), operations)
        whole_step(comparison, [item], golden.SGD(0.5), operations["training step"])
    for operation in operations.values():
        assert operation.equal, operation.mismatches
