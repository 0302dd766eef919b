"""`tcast compare`: equality is found broken, a missing backend is listed, ratios are of pairs."""

import numpy as np
import pytest

import tcast
from tcast.comparison import Result, compare, open_backends
from tcast.hw.config import EngineConfig
from tcast.workloads import TableInput

CONFIG = EngineConfig.preset("tiny64")


def tables(n=2):
    rng = np.random.default_rng(0)
    for number in range(n):
        offsets = np.arange(0, 25, 4)
        yield TableInput(f"t{number}", rng.standard_normal((30, 8), dtype=np.float32),
                         rng.integers(0, 30, 24), offsets,
                         rng.standard_normal((6, 8), dtype=np.float32))


def test_backends_of_the_contract_agree_to_the_bit():
    opened = open_backends(["cpu", "golden"], CONFIG)
    runs = []
    results = compare(opened, tables(), 0.5, repeats=3, on_run=runs.append)
    assert [result.name for result in results] == ["cpu", "golden"]
    assert all(result.equal and not result.mismatches for result in results)
    assert all(len(result.forward) == 3 and min(result.backward) > 0 for result in results)
    # Alternating, each repetition starting with the next backend.
    assert runs[:6] == ["t0, cpu", "t0, golden", "t0, golden", "t0, cpu", "t0, cpu", "t0, golden"]
    assert results[0].as_dict(results[1])["ratio_to_golden"] > 0


@pytest.mark.parametrize("method", ["embedding_bag", "backward_update"])
def test_one_wrong_bit_is_a_mismatch(method):
    class Wrong(type(tcast.open("golden"))):
        pass

    def wrong(self, weight, *arguments):
        result = getattr(super(Wrong, self), method)(weight, *arguments)
        (weight if result is None else result).view(np.uint32)[-1, -1] ^= 1
        return result

    setattr(Wrong, method, wrong)
    result, = compare([("golden", Wrong(), "")], tables(1), 0.5, repeats=1)
    assert result.equal is False
    assert len(result.mismatches) == 1


def test_what_cannot_run_is_listed_with_the_reason():
    results = compare([("golden", tcast.open("golden"), ""), ("cupy", None, "no GPU")], tables(1),
                      0.5, repeats=1)
    assert results[1].as_dict() == {"backend": "cupy", "skipped": "no GPU"}


def test_ratio_is_the_median_of_ratios_of_runs_side_by_side():
    base = Result("golden", equal=True, forward=[1, 10, 1], backward=[1, 10, 1])
    other = Result("cpu", equal=True, forward=[2, 20, 2], backward=[2, 20, 3])
    assert other.as_dict(base)["ratio_to_golden"] == 2.0


@pytest.mark.parametrize(("names", "words"), [
    (["gpu"], "backend must be one of golden, cpu, cupy, torch, fbgemm, sim, not 'gpu'"),
    (["cpu", "cpu"], "backends must be named once each"),
])
def test_refusals(names, words):
    with pytest.raises(ValueError, match=words):
        open_backends(names, CONFIG)
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        open_backends(["cpu"], CONFIG, threads=0)
    with pytest.raises(ValueError, match="repeats must be at least 1, not 0"):
        compare([], (), 0.5, repeats=0)


def test_a_gpu_works_on_its_own_arrays_and_is_waited_for(monkeypatch):
    class Array(np.ndarray):
        """What lies on the GPU."""

    class Cupy:
        waits = 0

        class cuda:
            pass

        @staticmethod
        def asarray(array):
            return np.array(array).view(Array)

        @staticmethod
        def asnumpy(array):
            assert isinstance(array, Array)
            return np.array(array)

    class Stream:
        def synchronize(self):
            Cupy.waits += 1

    class OnGpu(type(tcast.open("golden"))):
        def embedding_bag(self, weight, indices, offsets):
            assert all(isinstance(array, Array) for array in (weight, indices, offsets))
            return Cupy.asarray(super().embedding_bag(
                *(np.array(array) for array in (weight, indices, offsets))))

        def cast(self, indices, offsets, num_rows):
            return super().cast(np.array(indices), np.array(offsets), num_rows)

        def backward_update(self, weight, grad_out, casting, optimizer):
            assert isinstance(weight, Array) and isinstance(grad_out, Array)
            own = np.array(weight)
            super().backward_update(own, np.array(grad_out), casting, optimizer)
            weight[...] = own

    Cupy.cuda.get_current_stream = Stream
    monkeypatch.setattr("tcast.host.cupy_backend.load_cupy", lambda: Cupy)
    result, = compare([("cupy", OnGpu(), "")], tables(1), 0.5, repeats=2)
    assert result.equal, result.mismatches
    assert Cupy.waits == 4


@pytest.mark.parametrize(("error", "equal"), [(1e-8, True), (1e-4, False)])
@pytest.mark.parametrize("method", ["embedding_bag", "backward_update"])
def test_a_peer_must_agree_within_its_bound(method, error, equal):
    class Peer(type(tcast.open("golden"))):
        def __init__(self):
            super().__init__()
            self.seconds = {"forward": 1.0, "backward": 2.0, "coalesce": 3.0, "update": 4.0}

    def near(self, weight, *arguments):
        result = getattr(super(Peer, self), method)(weight, *arguments)
        changed = weight[arguments[1].rows] if result is None else result
        changed = changed * np.float32(1 + error)
        if result is not None:
            return changed
        weight[arguments[1].rows] = changed

    setattr(Peer, method, near)
    result, = compare([("torch", Peer(), "")], tables(1), 0.5, repeats=1)
    assert result.equal is equal, result.mismatches
    assert (result.error_to_bound <= 1) is equal
    # The time is what the library says of itself, not that of its adapter.
    assert (result.forward, result.backward) == ([1.0], [9.0])


def test_a_peer_must_leave_other_rows_alone():
    class Peer(type(tcast.open("golden"))):
        def __init__(self):
            super().__init__()
            self.seconds = {"forward": 1.0}

        def backward_update(self, weight, grad_out, casting, optimizer):
            super().backward_update(weight, grad_out, casting, optimizer)
            other = np.setdiff1d(np.arange(len(weight)), casting.rows)[0]
            weight[other, 0] = np.nextafter(weight[other, 0], np.float32(9))

    result, = compare([("fbgemm", Peer(), "")], tables(1), 0.5, repeats=1)
    assert result.equal is False and "rows that were not looked up" in result.mismatches[0]
