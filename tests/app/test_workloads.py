"""Shapes as published, inputs drawn as asked, and refusals that name the argument."""

import numpy as np
import pytest

from tcast.workloads import WORKLOADS, draw, inputs


def test_shapes_are_those_published():
    facts = {name: (len(w.tables), {t.pooling for t in w.tables}, {t.dim for t in w.tables})
             for name, w in WORKLOADS.items()}
    assert facts["rm1"] == (8, {80}, {32})
    assert facts["rm2"] == (32, {120}, {64})
    assert facts["rm3"] == (10, {20}, {32})
    assert facts["dlrmv2"][0] == 26 and facts["dlrmv2"][2] == {128}
    dlrm = WORKLOADS["dlrmv2"].tables
    assert [t.pooling for t in dlrm] == [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1,
                                         12, 100, 27, 10, 3, 1, 1]
    # The sum of MLPerf's rows, from its reference implementation's list.
    assert sum(t.rows for t in dlrm) == 204_184_588


def test_scaling_shrinks_rows_and_batch_and_nothing_else():
    full = WORKLOADS["dlrmv2"]
    small = full.scaled(0.001)
    assert small.batch == 66
    assert [t.rows for t in small.tables][:6] == [40_000, 40, 18, 8, 21, 1]
    assert [(t.dim, t.pooling) for t in small.tables] == [(t.dim, t.pooling) for t in full.tables]
    assert full.scaled(0.5, batch=3).batch == 3
    assert full.scaled().tables == full.tables
    for scale in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="scale must be above 0 and at most 1"):
            full.scaled(scale)
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        full.scaled(batch=0)


@pytest.mark.parametrize("distribution", ["uniform", "powerlaw", "meta2022"])
def test_inputs_are_valid_and_determined_by_seed_and_table(distribution):
    workload = WORKLOADS["rm3"].scaled(0.0005, batch=8)
    first, again, other = (list(draw(workload, distribution, seed=seed)) for seed in (5, 5, 6))
    assert len(first) == 10
    for item, same, different in zip(first, again, other, strict=True):
        assert item.weight.shape == (1000, 32) and item.grad_out.shape == (8, 32)
        assert item.indices.shape == (160,) and item.offsets.tolist() == list(range(0, 161, 20))
        assert item.indices.dtype == item.offsets.dtype
        assert 0 <= item.indices.min() and item.indices.max() < 1000
        for array in ("weight", "indices", "grad_out"):
            assert np.array_equal(getattr(item, array), getattr(same, array))
            assert not np.array_equal(getattr(item, array), getattr(different, array))
    assert {str(item.indices.dtype) for item in first} == {"int32", "int64"}
    assert not np.array_equal(first[0].indices, first[2].indices)


def test_a_power_law_reuses_rows_more_than_a_uniform_draw():
    workload = WORKLOADS["rm1"].scaled(0.001, batch=16)
    unique = {name: next(iter(draw(workload, name))).describe()["distinct_rows"]
              for name in ("uniform", "powerlaw", "meta2022")}
    assert unique["powerlaw"] < unique["uniform"] / 1.5
    assert unique["meta2022"] < unique["uniform"] / 2


def test_the_real_workload_takes_the_users_log(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, indices=np.arange(40) % 9, offsets=np.array([0, 20, 40]), num_rows=12)
    step = inputs("real", data_file=path, batch=5)
    item, = step.tables
    assert step.facts["name"] == "mine" and step.count == 1
    assert item.weight.shape == (12, 64) and item.grad_out.shape == (5, 64)
    assert np.abs(item.grad_out).max() > 0


@pytest.mark.parametrize(("arguments", "words"), [
    ({"name": "rm9"}, "workload must be one of rm1, rm2, rm3, dlrmv2, real, not 'rm9'"),
    ({"name": "rm1", "distribution": "zipf"}, "distribution must be one of uniform, powerlaw"),
    ({"name": "rm1", "exponent": 0.0}, "exponent must be above 0, not 0.0"),
    ({"name": "rm1", "data_file": "x.npz"}, "data must be left out with workload 'rm1'"),
    ({"name": "real", "batch": 0}, "batch must be at least 1, not 0"),
])
def test_refusals_name_argument_value_and_limit(arguments, words):
    with pytest.raises(ValueError, match=words):
        inputs(**arguments)
