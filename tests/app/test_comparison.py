"""`tcast compare`: equality is found broken, a wrong one is not timed, ratios are of pairs."""

import numpy as np
import pytest

import tcast
from tcast import comparison, workloads
from tcast.comparison import (
    Backend,
    DeviceLayer,
    Result,
    bytes_needed,
    compare,
    first_bags,
    open_backends,
    speed,
)
from tcast.golden import SGD, RowwiseAdagrad
from tcast.golden import cast as golden_cast
from tcast.host import limits, peers
from tcast.host.build_cache import BuildError

GOLDEN = type(tcast.open("golden"))
RULES = {"sgd": SGD(0.5), "rowwise_adagrad": RowwiseAdagrad(0.5)}


@pytest.fixture(autouse=True)
def few_evicted_bytes(monkeypatch):
    monkeypatch.setattr(comparison, "EVICTED_BYTES", 1 << 12)


def layer(n=2, with_state=False):
    """Return (tables, batch) of tables of 30 rows."""
    rng = np.random.default_rng(0)
    tables = peers.Tables([(30, 8), (40, 4)][:n], with_state)
    tables.flat[:] = rng.standard_normal(tables.flat.size, dtype=np.float32)
    batch = [peers.TableBatch(rng.integers(0, rows, 24), np.arange(0, 25, 4),
                              rng.standard_normal((6, dim), dtype=np.float32))
             for rows, dim in tables.shapes]
    return tables, batch


def own(name, device):
    return Backend(name, device)


class Peer:
    """Golden as a peer: no cast of its own, no promise of golden's bits."""

    name, timing, shares_memory = "torch", "a peer", True

    def __init__(self, tables, optimizer, change):
        self._layer, self._tables, self._change = DeviceLayer("golden", GOLDEN(), tables,
                                                              optimizer), tables, change
        for method in ("prepare", "pooled", "table", "close"):
            setattr(self, method, getattr(self._layer, method))

    def forward(self, work):
        self._layer.forward(work)
        self._change("forward", self._tables, work)

    def backward_update(self, work):
        self._layer.cast(work)
        self._layer.update(work)
        self._change("backward", self._tables, work)


class PeerBackend(Backend):
    """A Peer that is changed by ``change(phase, tables, work)`` after each phase."""

    def __init__(self, change):
        super().__init__("torch")
        self.change = change

    def open(self, tables, optimizer):
        return Peer(tables, optimizer, self.change)


@pytest.mark.parametrize("rule", RULES)
def test_backends_of_the_contract_agree_to_the_bit(rule):
    tables, batch = layer(with_state=rule != "sgd")
    before = tables.flat.copy()
    runs = []
    results, limit, _ = compare([own("cpu", tcast.open("cpu", threads=1)), own("golden", GOLDEN())],
                                tables, batch, RULES[rule], repeats=3, on_run=runs.append)
    assert [result.name for result in results] == ["cpu", "golden"]
    assert all(result.equal and not result.mismatches for result in results)
    for result in results:
        assert set(result.seconds) == set(comparison.PHASES)
        assert all(len(times) == 3 and min(times) > 0 for times in result.seconds.values())
        for forward, cast, update, backward, step in zip(
                *(result.seconds[phase] for phase in comparison.PHASES), strict=True):
            assert backward == pytest.approx(cast + update) and step == forward + backward
    assert set(limit.seconds) == set(comparison.LIMIT_PHASES) and len(limit.seconds["update"]) == 3
    # Alternating, each repetition starting with the next one; the first repetition warms up.
    assert runs == ["checking cpu", "checking golden", "limit", "cpu", "golden",
                    "cpu", "golden", "limit", "golden", "limit", "cpu", "limit", "cpu", "golden"]
    # All of them trained the same memory.
    assert not np.array_equal(tables.flat, before)


@pytest.mark.parametrize("rule", RULES)
def test_checking_leaves_the_tables_as_they_were(rule):
    tables, batch = layer(with_state=rule != "sgd")
    before = tables.flat.copy()
    result = Result("golden")
    reference = comparison.Reference(tables, batch, 1000, RULES[rule], ["a", "b"])
    comparison.check(DeviceLayer("golden", GOLDEN(), tables, RULES[rule]), result, reference,
                     tables)
    assert result.equal, result.mismatches
    assert np.array_equal(tables.flat, before)
    assert rule == "sgd" or not tables.flat_state.any()


@pytest.mark.parametrize("method", ["embedding_bag", "backward_update"])
def test_one_wrong_bit_is_a_mismatch_and_is_not_timed(method):
    class Wrong(GOLDEN):
        pass

    def wrong(self, weight, *arguments):
        result = getattr(super(Wrong, self), method)(weight, *arguments)
        target = result if result is not None else weight
        target.view(np.uint32)[(-1, -1) if result is not None else (arguments[1].rows[-1], -1)] ^= 1
        return result

    setattr(Wrong, method, wrong)
    tables, batch = layer(1)
    (bad, good), _, _ = compare([own("cpu", Wrong()), own("golden", GOLDEN())], tables, batch,
                                SGD(0.5), repeats=1)
    assert bad.equal is False and len(bad.mismatches) == 1 and not bad.seconds
    assert "phases" not in bad.as_dict()
    # What it did to the table is not held against the next.
    assert good.equal and good.seconds


def test_a_wrong_state_is_a_mismatch():
    class Wrong(GOLDEN):
        def backward_update(self, weight, grad_out, casting, optimizer, state):
            super().backward_update(weight, grad_out, casting, optimizer, state)
            state[casting.rows[0]] *= np.float32(1.5)

    tables, batch = layer(1, with_state=True)
    (result,), _, _ = compare([own("cpu", Wrong())], tables, batch, RULES["rowwise_adagrad"],
                              repeats=1)
    assert result.equal is False and "state" in result.mismatches[0]


def test_what_cannot_run_is_listed_with_the_reason():
    tables, batch = layer(1, with_state=True)
    opened = [own("golden", GOLDEN()), Backend("cupy", skipped="no GPU"), Backend("numpy")]
    results, _, _ = compare(opened, tables, batch, RULES["rowwise_adagrad"], repeats=1)
    assert results[1].as_dict() == {"backend": "cupy", "skipped": "no GPU"}
    assert results[2].as_dict() == {"backend": "numpy",
                                    "skipped": "numpy has no row-wise Adagrad"}


def test_an_engine_without_the_rule_is_skipped_and_one_with_it_counted():
    class Engine(GOLDEN):
        def counters(self):
            return {"cycles": 7}

        def backward_update(self, weight, grad_out, casting, optimizer, state):
            if not isinstance(optimizer, SGD):
                raise TypeError("optimizer must be an SGD on an engine")
            super().backward_update(weight, grad_out, casting, optimizer, state)

    tables, batch = layer(with_state=True)
    (result,), _, _ = compare([own("sim", Engine())], tables, batch, RULES["rowwise_adagrad"],
                              repeats=1)
    assert result.skipped == "not offered: optimizer must be an SGD on an engine"
    tables, batch = layer()
    (result,), _, _ = compare([own("sim", Engine())], tables, batch, SGD(0.1), repeats=3,
                              sim_lookups=16)
    # Two bags of four lookups in each of two tables; simulated once, never timed.
    assert (result.cycles, result.simulated_lookups) == ({"forward": 14, "update": 14}, 16)
    assert result.equal and not result.seconds


def test_first_bags():
    _, batch = layer()
    whole, count = first_bags(batch, 48)
    assert whole == batch and count == 48
    part, count = first_bags(batch, 20)
    assert count == 16 and all(len(item.offsets) == 3 and len(item.grad_out) == 2 for item in part)
    assert np.array_equal(part[1].indices, batch[1].indices[:8])
    assert first_bags(batch, 1)[1] == 8


def test_bytes_needed():
    tables, batch = layer(1)
    unique = len(np.unique(batch[0].indices))
    found = bytes_needed(tables, batch)
    assert found["forward"] == 24 * 32 + 24 * 8 + 7 * 8 + 6 * 32
    assert found["update"] == 24 * 8 + 2 * unique * 8 + 6 * 32 + 2 * unique * 32
    tables, _ = layer(1, with_state=True)
    assert bytes_needed(tables, batch)["update"] == found["update"] + 8 * unique


def test_speed_is_the_median_of_ratios_of_runs_side_by_side():
    base = Result("cpu", seconds={"step": [1, 10, 1]})
    other = Result("torch", seconds={"step": [2, 20, 3]})
    assert speed(base, other, "step") == 2.0 and speed(other, base, "step") == 0.5
    assert speed(base, other, "cast") is None


def test_spread_is_median_and_quartiles():
    assert comparison.spread([0.001, 0.002, 0.003, 0.004, 0.1]) == {
        "ms": 3.0, "low_ms": 2.0, "high_ms": 4.0}


@pytest.mark.parametrize(("names", "words"), [
    (["gpu"], r"backend must be one of golden, cpu, cupy, torch, .*, sim, not 'gpu'"),
    (["cpu", "cpu"], "backends must be named once each"),
])
def test_refusals(names, words):
    with pytest.raises(ValueError, match=words):
        open_backends(names)
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        open_backends(["cpu"], threads=0)
    with pytest.raises(ValueError, match="repeats must be at least 1, not 0"):
        compare([], *layer(), SGD(0.5), repeats=0)


def test_a_gpu_works_on_its_own_arrays_and_is_waited_for(monkeypatch):
    class Array(np.ndarray):
        """What lies on the GPU."""

        def get(self):
            return np.array(self)

    class Cupy:
        waits = 0

        class cuda:
            pass

        @staticmethod
        def asarray(array):
            return np.array(array).view(Array)

    class Stream:
        def synchronize(self):
            Cupy.waits += 1

    class OnGpu(GOLDEN):
        def embedding_bag(self, weight, indices, offsets):
            assert all(isinstance(array, Array) for array in (weight, indices, offsets))
            return Cupy.asarray(super().embedding_bag(
                *(np.array(array) for array in (weight, indices, offsets))))

        def cast(self, indices, offsets, num_rows):
            return super().cast(np.array(indices), np.array(offsets), num_rows)

        def backward_update(self, weight, grad_out, casting, optimizer, state):
            assert isinstance(weight, Array) and isinstance(grad_out, Array)
            own = np.array(weight)
            super().backward_update(own, np.array(grad_out), casting, optimizer, state)
            weight[...] = own

    Cupy.cuda.get_current_stream = Stream
    monkeypatch.setattr("tcast.host.cupy_backend.load_cupy", lambda: Cupy)
    tables, batch = layer(1)
    (result,), _, _ = compare([own("cupy", OnGpu())], tables, batch, SGD(0.5), repeats=2)
    assert result.equal, result.mismatches
    assert Cupy.waits == 3 * (1 + 1 + 2)  # forward, cast, update; checked, warmed up, timed twice


@pytest.mark.parametrize(("error", "equal"), [(1e-8, True), (1e-4, False)])
@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("rule", RULES)
def test_a_peer_must_agree_within_its_bound(rule, phase, error, equal):
    def near(now, tables, work):
        if now == phase:
            for array in work["out"] if phase == "forward" else tables.weights:
                rows = slice(None) if phase == "forward" else np.unique(work["batch"][0][0])
                array[rows] = array[rows] * np.float32(1 + error)

    tables, batch = layer(1, with_state=rule != "sgd")
    (result,), _, _ = compare([PeerBackend(near)], tables, batch, RULES[rule], repeats=1)
    assert result.equal is equal, result.mismatches
    assert (result.error_to_bound <= 1) is equal
    assert set(result.seconds) == ({"forward", "backward", "step"} if equal else set())


def test_a_peer_must_leave_other_rows_alone():
    def touch(phase, tables, work):
        if phase == "backward":
            other = np.setdiff1d(np.arange(30), work["batch"][0][0])[0]
            weight = tables.weights[0]
            weight[other, 0] = np.nextafter(weight[other, 0], np.float32(9))

    tables, batch = layer(1)
    (bad, good), _, _ = compare([PeerBackend(touch), own("golden", GOLDEN())], tables, batch,
                                SGD(0.5), repeats=1)
    assert bad.equal is False and "rows that were not looked up" in bad.mismatches[0]
    assert good.equal, good.mismatches


def test_limits_without_a_compiler_are_a_stand_in_and_say_so(monkeypatch):
    def missing():
        raise BuildError("no compiler")

    monkeypatch.setattr(limits.native, "load", missing)
    tables, batch = layer()
    _, limit, source = compare([], tables, batch, SGD(0.5), repeats=1)
    assert "NumPy stand-in" in source and limit.seconds["forward"]
    assert limit.seconds["fused"] == [
        sum(pair) for pair in zip(limit.seconds["update"], limit.seconds["gradient"], strict=True)]


@pytest.mark.parametrize("threads", [1, 2])
def test_limits_touch_the_rows_of_the_batch_and_no_others(threads):
    tables, batch = layer()
    before = [weight.copy() for weight in tables.weights]
    measured = limits.Limits(tables.weights, threads)
    work = measured.prepare(batch)
    measured.read(work, 16)
    assert all(np.array_equal(*pair) for pair in zip(tables.weights, before, strict=True))
    measured.update(work, 8)
    measured.read_gradient(work, 8)
    rows = np.unique(batch[0].indices)
    changed = (tables.weights[0] != before[0]).any(axis=1)
    assert set(np.flatnonzero(changed)) <= set(rows)
    for weight, table, item in zip(tables.weights, work, batch, strict=True):
        assert np.array_equal(table.lookups, item.indices)
        assert np.array_equal(table.distinct, np.unique(item.indices))
        casting = golden_cast(item.indices, item.offsets, weight.shape[0])
        assert np.array_equal(table.bags, casting.bags)
        assert np.array_equal(table.gradient, item.grad_out)


def test_batches_of_one_workload_share_weights_and_differ_in_rows():
    shape = workloads.WORKLOADS["rm3"].scaled(0.001, 4, max_rows=500)
    assert {table.rows for table in shape.tables} == {500}
    tables = [peers.Tables([(table.rows, table.dim) for table in shape.tables]) for _ in range(2)]
    for each in tables:
        workloads.draw_weights(each, 3)
    assert np.array_equal(tables[0].flat, tables[1].flat) and np.ptp(tables[0].flat) > 1
    uniform, skewed = (workloads.draw_batch(shape, name, 1.2, 3) for name in ("uniform",
                                                                              "powerlaw"))
    assert len(uniform) == 10 and uniform[0].indices.dtype == np.int64
    assert uniform[0].offsets.tolist() == [0, 20, 40, 60, 80]
    assert not np.array_equal(uniform[0].indices, skewed[0].indices)
    assert not np.array_equal(uniform[0].indices, uniform[1].indices)
    with pytest.raises(ValueError, match="max_rows must be at least 1, not 0"):
        workloads.WORKLOADS["rm3"].scaled(1.0, 4, max_rows=0)
