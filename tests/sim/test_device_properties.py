"""The RTL against the golden model, through the public API, on examples that hypothesis looks for.

Each example has its own memory: latency 1 to 300, jitter, back-pressure on all five channels,
reordering between IDs, and addresses anywhere in 64 bits with rows that straddle pages. One
simulation serves all of them, so what an example leaves behind meets the next one.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tcast import golden
from tcast.host.driver import EngineDevice, Pass
from tcast.hw.config import EngineConfig
from tcast.hw.registers import COUNTERS
from tcast.sim.simulation import Simulation

#: Examples per property; `make test-long` asks for more.
EXAMPLES = int(os.environ.get("TCAST_EXAMPLES", "60"))
PRESETS = os.environ.get("TCAST_PRESETS", "tiny64").split(",")

SPECIAL = np.array([
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF,
    0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x3F800000, 0xBF800000, 0x33800000,
], np.uint32)


@pytest.fixture(scope="module", params=PRESETS)
def engine(request):
    """A simulation and its driver, as ``tcast.open("sim")`` connects them."""
    config = EngineConfig.preset(request.param)
    with Simulation(config) as simulation:
        yield simulation, config


@dataclass
class Case:
    weight: np.ndarray
    grad_out: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray
    lr: float
    weights: np.ndarray | None
    mode: str


@st.composite
def memories(draw):
    """Options of the memory model."""
    return {
        "latency": draw(st.sampled_from([1, 2, 3, 7, 20, 64, 128, 300]) | st.integers(1, 300)),
        "backpressure": draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.9])),
        "read_jitter": draw(st.sampled_from([0, 0, 5, 50])),
        "write_jitter": draw(st.sampled_from([0, 0, 5, 50])),
        "reorder": draw(st.booleans()),
    }


@st.composite
def cases(draw, lanes, dim_max):
    """Tables, bags and gradients, from empty to a thousand lookups."""
    beats = draw(st.sampled_from([1, 1, 2, 3, 5, 8]) | st.integers(1, dim_max // lanes))
    dim = beats * lanes
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    budget = max(20, 3000 // beats)  # beats of rows in an example
    lengths = draw(st.lists(
        st.sampled_from([0, 0, 1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 40]), max_size=30))
    while sum(lengths) > budget:
        lengths.pop()
    rows = draw(st.sampled_from([1, 2, 5, 40, 300]))
    n = sum(lengths)
    unused = draw(st.sampled_from([0, 0, 0, 1, 9]))
    kind = draw(st.sampled_from(["random", "same", "distinct", "skewed"]))
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    if kind == "same":
        indices = np.full(n + unused, rng.integers(rows))
    elif kind == "distinct":
        rows = max(rows, n + unused)
        indices = rng.permutation(rows)[:n + unused]
    elif kind == "skewed":
        indices = (rng.random(n + unused) ** 4 * rows).astype(np.int64)
    else:
        indices = rng.integers(0, rows, n + unused)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    special = draw(st.sampled_from([0.0, 0.0, 0.02, 0.3]))
    wild = draw(st.booleans())

    def values(shape):
        array = rng.standard_normal(shape).astype(np.float32)
        if wild:
            array = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
        if special:
            mask = rng.random(shape) < special
            array.view(np.uint32)[mask] = rng.choice(SPECIAL, mask.sum())
        return array

    mode = draw(st.sampled_from(["sum", "sum", "weighted", "mean"]))
    return Case(values((rows, dim)), values((len(lengths), dim)), indices.astype(dtype),
                offsets.astype(draw(st.sampled_from([np.int32, np.int64]))),
                draw(st.sampled_from([0.0, 0.1, 1.0, 1e-40, 3e38])),
                values(n + unused) if mode == "weighted" else None,
                "mean" if mode == "mean" else "sum")


@contextmanager
def connected(engine, memory, **options):
    """A driver on the shared simulation that leaves nothing of its own in the address space."""
    simulation, config = engine
    simulation.set_memory(**memory)
    device = EngineDevice(simulation, config, **options)
    try:
        yield device
    finally:
        device.reset()
        for address in list(simulation._regions):
            simulation.unmap(address)


def assert_bits(got, expected, what):
    __tracebackhide__ = True
    if not golden.bits_equal(got, expected):
        pytest.fail(f"{what}: {golden.first_difference(got, expected)}")


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                 HealthCheck.data_too_large])
@given(data=st.data())
def test_device_equals_golden(engine, data):
    config = engine[1]
    case = data.draw(cases(config.derived.lanes, config.dim_max))
    memory = data.draw(memories())
    placement = data.draw(st.sampled_from(["aligned", "scattered"]))
    note(f"weight {case.weight.shape}, lengths {np.diff(case.offsets).tolist()}, {memory}")
    seed = data.draw(st.integers(0, 1000))
    with connected(engine, memory, placement=placement, seed=seed, ring_size_log2=2) as device:
        indices, offsets, sgd = case.indices, case.offsets, golden.SGD(case.lr)
        forward = (case.weight, indices, offsets, case.weights, case.mode)
        assert_bits(device.embedding_bag(*forward), golden.embedding_bag(*forward), "forward")
        counters = device.counters()
        assert counters["segments"] == len(offsets) - 1
        assert counters["rows"] == offsets[-1]
        assert sum(counters[name] for name, _ in COUNTERS if name.startswith("read_")
                   and name != "read_bursts") == counters["cycles"]
        weights = golden.mean_weights(offsets) if case.mode == "mean" else case.weights
        weights = None if weights is None else np.resize(weights, indices.size)
        casting = device.cast(indices, offsets, len(case.weight), weights)
        assert_bits(device.casted_gather_reduce(case.grad_out, casting),
                    golden.casted_gather_reduce(case.grad_out, casting), "casted gather-reduce")
        expanded = device.expand(case.grad_out, offsets)
        assert_bits(expanded, golden.expand(case.grad_out, offsets), "expand")
        grads = device.coalesce(expanded, casting)
        assert_bits(grads, golden.coalesce(expanded, casting), "coalesce")
        expected = case.weight.copy()
        golden.scatter_update(expected, casting.rows, grads, sgd)
        baseline = case.weight.copy()
        device.scatter_update(baseline, casting.rows, grads, sgd)
        assert_bits(baseline, expected, "scatter update")
        fused = case.weight.copy()
        device.backward_update(fused, case.grad_out, casting, sgd)
        expected = case.weight.copy()
        golden.backward_update(expected, case.grad_out, casting, sgd)
        assert_bits(fused, expected, "fused backward")


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                 HealthCheck.data_too_large])
@given(data=st.data())
def test_rings_of_overlapping_descriptors_equal_golden(engine, data):
    """Passes of every kind behind each other; those that share nothing may overlap."""
    config = engine[1]
    memory = data.draw(memories())
    options = {"seed": data.draw(st.integers(0, 1000)), "ring_size_log2": 4,
               "placement": data.draw(st.sampled_from(["aligned", "scattered"]))}
    lanes = config.derived.lanes
    passes, expected = [], []
    for _ in range(data.draw(st.integers(1, 12))):
        case = data.draw(cases(lanes, 16 * lanes))
        casting = golden.cast(case.indices, case.offsets, len(case.weight), case.weights)
        relaxed = data.draw(st.booleans())
        match data.draw(st.sampled_from(["forward", "expand", "fused", "scatter"])):
            case "forward":
                want = golden.embedding_bag(case.weight, case.indices, case.offsets,
                                            case.weights, case.mode)
                scales = golden.reciprocals(case.offsets) if case.mode == "mean" else None
                item = Pass(source=case.weight, target=np.zeros_like(want), indices=case.indices,
                            offsets=case.offsets, weights=case.weights, scales=scales,
                            relaxed=relaxed)
            case "expand":
                want = golden.expand(case.grad_out, case.offsets)
                item = Pass(source=case.grad_out, target=np.zeros_like(want),
                            indices=golden.bag_ids(case.offsets), relaxed=relaxed)
            case "fused":
                want = case.weight.copy()
                golden.backward_update(want, case.grad_out, casting, golden.SGD(case.lr))
                item = Pass(source=case.grad_out, target=case.weight.copy(), indices=casting.bags,
                            offsets=casting.segment_offsets, rows=casting.rows,
                            weights=casting.weights,
                            optimizer=golden.SGD(case.lr), relaxed=relaxed)
            case "scatter":
                rows = case.indices[:len(case.grad_out)]
                source = case.grad_out[:len(rows)]
                want = case.weight.copy()
                for row, values in zip(rows, source, strict=True):
                    want[row] = values  # a repeated target keeps its last row
                item = Pass(source=source, target=case.weight.copy(), rows=rows, relaxed=relaxed)
        passes.append(item)
        expected.append(want)
    with connected(engine, memory, **options) as device:
        device.submit(passes)
        for number, (item, want) in enumerate(zip(passes, expected, strict=True)):
            assert_bits(item.target, want, f"pass {number}")
        assert device.counters()["descriptors"] == len(passes)
