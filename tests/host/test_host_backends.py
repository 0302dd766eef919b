"""Every backend returns the golden model's bits and has the same signatures."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from host_cases import TINY, WIDE, batch, batches, open_machine
from hypothesis import given, settings

import tcast
from tcast import golden
from tcast.golden import reference
from tcast.host import native, numpy_core
from tcast.host.backend import Device
from tcast.host.cpu import CpuDevice
from tcast.host.cupy_backend import CupyDevice
from tcast.host.driver import EngineDevice
from tcast.host.golden_backend import GoldenDevice

OPERATIONS = ("embedding_bag", "gather", "cast", "casted_gather_reduce", "scatter_update",
              "backward_update", "expand", "coalesce", "scatter", "counters")


def same_casting(a, b):
    for name in ("bags", "segment_offsets", "rows", "weights", "positions"):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None):
            return False
        if x is not None and (x.dtype != y.dtype or not np.array_equal(
                x.view(np.uint8), y.view(np.uint8))):
            return False
    return True


def check_all(device, case, adagrad=True):
    """Run every operation on ``device`` and on the golden model; compare bits and inputs.

    Without ``adagrad`` the device has SGD alone.
    """
    w, g, i, o = case.weight, case.grad_out, case.indices, case.offsets
    before = [x.copy() for x in (w, g, i, o)]
    optimizers = [tcast.SGD(0.1), *[tcast.RowwiseAdagrad(0.1, 1e-6)] * adagrad]
    for per_sample, mode in ((None, "sum"), (None, "mean"), (case.sample_weights, "sum")):
        assert golden.bits_equal(device.embedding_bag(w, i, o, per_sample, mode),
                                 golden.embedding_bag(w, i, o, per_sample, mode))
        # Mean pooling is cast with its 1/n as weights.
        if mode == "mean":
            per_sample = np.concatenate([tcast.mean_weights(o),
                                         np.zeros(len(i) - case.used, np.float32)])
        casting = device.cast(i, o, len(w), per_sample)
        assert same_casting(casting, golden.cast(i, o, len(w), per_sample))

        expected = golden.casted_gather_reduce(g, casting)
        assert golden.bits_equal(device.casted_gather_reduce(g, casting), expected)
        expanded = device.expand(g, o)
        assert golden.bits_equal(expanded, golden.expand(g, o))
        assert golden.bits_equal(device.coalesce(expanded, casting), expected)

        for optimizer in optimizers:
            states = [None if isinstance(optimizer, tcast.SGD) else np.abs(w[:, 0])
                      for _ in range(3)]
            tables = [w.copy() for _ in range(3)]
            golden.backward_update(tables[0], g, casting, optimizer, states[0])
            assert device.backward_update(tables[1], g, casting, optimizer, states[1]) is None
            assert device.scatter_update(tables[2], casting.rows, expected, optimizer,
                                         states[2]) is None
            for table, state in zip(tables[1:], states[1:], strict=True):
                assert golden.bits_equal(table, tables[0])
                assert state is None or golden.bits_equal(state, states[0])
    used = i[:case.used]
    rows = device.gather(w, used)
    assert np.array_equal(rows.view(np.uint32), w[used].view(np.uint32))  # copies keep payloads
    for values in (rows, rows[::-1]):
        table, expected = w.copy(), w.copy()
        device.scatter(table, used, values)
        golden.scatter(expected, used, values)
        assert np.array_equal(table.view(np.uint32), expected.view(np.uint32))
    for x, y in zip((w, g, i, o), before, strict=True):
        assert np.array_equal(x.view(np.uint8), y.view(np.uint8)), "an input has changed"


@settings(max_examples=40, deadline=None)
@given(batches([1, 2, 5, 16, 33]))
@pytest.mark.parametrize("threads", [1, 3])
def test_numpy_core_returns_golden_bits(threads, case):
    piece = numpy_core.PIECE_LOOKUPS
    numpy_core.PIECE_LOOKUPS = 50  # many pieces even in a small batch
    try:
        with CpuDevice(threads=threads, core="numpy") as device:
            check_all(device, case)
    finally:
        numpy_core.PIECE_LOOKUPS = piece


@settings(max_examples=60, deadline=None)
@given(batches([1, 3, 4, 15, 16, 37, 64, 100, 128, 260]))
@pytest.mark.parametrize("core", native.instruction_sets())
def test_compiled_core_returns_golden_bits(core, case):
    with CpuDevice(threads=2, core=core) as device:
        check_all(device, case)


@settings(max_examples=15, deadline=None)
@given(batches([1, 4]))
@pytest.mark.parametrize("core", ["auto", "numpy"])
def test_cpu_returns_the_bits_of_the_obvious_loops(core, case):
    """The NumPy core shares the golden model's fast sums; the loops are independent of them."""
    with CpuDevice(threads=2, core=core) as device:
        for weights, mode in ((None, "sum"), (None, "mean"), (case.sample_weights, "sum")):
            assert golden.bits_equal(
                device.embedding_bag(case.weight, case.indices, case.offsets, weights, mode),
                reference.embedding_bag(case.weight, case.indices, case.offsets, weights, mode))
        casting = device.cast(case.indices, case.offsets, len(case.weight))
        table, expected = case.weight.copy(), case.weight.copy()
        device.backward_update(table, case.grad_out, casting, tcast.SGD(0.7))
        reference.backward_update(expected, case.grad_out, casting, tcast.SGD(0.7))
        assert golden.bits_equal(table, expected)


@pytest.mark.parametrize("core", [*native.instruction_sets(), "numpy"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_cpu_large_batch_in_pieces(core, threads):
    for rows, index_type in ((20_000, np.int32), (3, np.int64), (1 << 40, np.int64)):
        case = batch(5, min(rows, 20_000), 3_000, 60, 24, index_type, np.int64)
        assert case.used > 2 * numpy_core.PIECE_LOOKUPS
        with CpuDevice(threads=threads, core=core) as device:
            check_all(device, case)
            used = case.indices[:case.used] << (20 if rows > 20_000 else 0)
            assert same_casting(device.cast(used, case.offsets, rows),
                                golden.cast(used, case.offsets, rows))


@settings(max_examples=20, deadline=None)
@given(batches([1, 3, 16]))
def test_golden_backend_is_the_golden_model(case):
    with GoldenDevice() as device:
        check_all(device, case)


@settings(max_examples=40, deadline=None)
@given(batches([2, 4, 34, 1024]))
@pytest.mark.parametrize("placement", ["aligned", "scattered"])
def test_driver_on_the_machine_returns_golden_bits(placement, case):
    with open_machine(TINY, placement=placement, seed=len(case.indices)) as device:
        check_all(device, case, adagrad=False)


@settings(max_examples=20, deadline=None)
@given(batches([16, 64]))
def test_driver_on_a_wide_machine_returns_golden_bits(case):
    with open_machine(WIDE, placement="scattered", seed=1) as device:
        check_all(device, case, adagrad=False)


def test_a_wrong_bit_is_found(monkeypatch):
    """The comparison above must be able to fail: one bit of one sum is turned."""
    case = batch(1, 100, 20, 10, 4, np.int32, np.int32)
    right = golden.vectorised.segment_sums

    def wrong(*arguments):
        sums = right(*arguments)
        sums.view(np.uint32)[-1, -1] ^= 1
        return sums

    monkeypatch.setattr(numpy_core, "vectorised", SimpleNamespace(
        segment_sums=wrong, update_rows=golden.vectorised.update_rows))
    with CpuDevice(threads=1, core="numpy") as device, pytest.raises(AssertionError):
        check_all(device, case)


@pytest.mark.parametrize("backend", [
    GoldenDevice, CpuDevice, CupyDevice, EngineDevice])
def test_signatures_are_the_base_class(backend):
    for name in OPERATIONS:
        assert (inspect.signature(getattr(backend, name))
                == inspect.signature(getattr(Device, name))), name
    for name in ("embedding_bag", "cast", "backward_update"):  # the checks cannot be bypassed
        assert getattr(backend, name) is getattr(Device, name)


def test_signatures_are_those_of_the_design():
    parameters = {name: list(inspect.signature(getattr(Device, name)).parameters)[1:]
                  for name in OPERATIONS}
    assert parameters == {
        "embedding_bag": ["weight", "indices", "offsets", "per_sample_weights", "mode"],
        "gather": ["weight", "indices"],
        "cast": ["indices", "offsets", "num_rows", "per_sample_weights"],
        "casted_gather_reduce": ["grad_out", "casting"],
        "scatter_update": ["weight", "rows", "grads", "optimizer", "state"],
        "backward_update": ["weight", "grad_out", "casting", "optimizer", "state"],
        "expand": ["grad_out", "offsets"],
        "coalesce": ["expanded", "casting"],
        "scatter": ["dst", "rows", "values"],
        "counters": [],
    }


@pytest.mark.parametrize("open_device", [GoldenDevice, CpuDevice, open_machine])
def test_weight_may_be_a_slice_of_a_wider_table(open_device):
    """Rows further apart than a row: the columns between them stay as they are."""
    case = batch(3, 50, 10, 6, 8, np.int64, np.int32, weird=0)
    wide = np.full((50, 24), np.float32(7))
    wide[:, 8:16] = case.weight
    view = wide[:, 8:16]
    expected = case.weight.copy()
    with open_device() as device:
        assert golden.bits_equal(device.embedding_bag(view, case.indices, case.offsets),
                                 golden.embedding_bag(expected, case.indices, case.offsets))
        casting = device.cast(case.indices, case.offsets, 50)
        device.backward_update(view, case.grad_out, casting, tcast.SGD(0.5))
        golden.backward_update(expected, case.grad_out, casting, tcast.SGD(0.5))
    assert golden.bits_equal(np.ascontiguousarray(view), expected)
    assert (wide[:, :8] == 7).all() and (wide[:, 16:] == 7).all()


@pytest.mark.parametrize("open_device", [GoldenDevice, CpuDevice, open_machine])
def test_read_only_arguments_may_be_laid_out_anyhow(open_device):
    case = batch(4, 30, 9, 5, 6, np.int64, np.int32, weird=0)
    twice = np.repeat(case.indices, 2)[::2]  # every second element: not contiguous
    weight = np.asfortranarray(case.weight)
    weight.flags.writeable = False
    grad_out = np.broadcast_to(case.grad_out[:1], case.grad_out.shape)
    with open_device() as device:
        assert golden.bits_equal(device.embedding_bag(weight, twice, case.offsets),
                                 golden.embedding_bag(case.weight, case.indices, case.offsets))
        casting = device.cast(twice, case.offsets, 30)
        assert golden.bits_equal(device.casted_gather_reduce(grad_out, casting),
                                 golden.casted_gather_reduce(grad_out, casting))
