"""A bad argument raises before anything is changed, naming the argument, the value, the limit."""

import numpy as np
import pytest
from host_cases import batch, open_machine

import tcast
from tcast.golden import Casting
from tcast.host.cpu import CpuDevice
from tcast.host.golden_backend import GoldenDevice

I32, I64, F32 = np.int32, np.int64, np.float32


@pytest.fixture(params=[GoldenDevice, CpuDevice, open_machine], ids=["golden", "cpu", "engine"])
def device(request):
    with request.param() as opened:
        yield opened


def good():
    """Return arguments that pass: 10 rows of 4 columns, 3 bags of 2, 0 and 3 lookups."""
    case = batch(0, 10, 3, 4, 4, I64, I64, weird=0)
    case.indices = np.array([4, 9, 0, 4, 4], I64)
    case.offsets = np.array([0, 2, 2, 5], I64)
    case.sample_weights = np.ones(5, F32)
    return case


def ints(*values, dtype=I64):
    return np.array(values, dtype)


# (call, change of the good arguments, exception, words of the message)
EMBEDDING_BAG = [
    ("weight", [[1.0]], TypeError, ["weight", "list"]),
    ("weight", np.ones((10, 4)), TypeError, ["weight", "float32", "float64"]),
    ("weight", np.ones((10, 4), ">f4"), TypeError, ["weight", "float32", ">f4"]),
    ("weight", np.ones(10, F32), ValueError, ["weight", "(10,)", "2 dimensions"]),
    ("weight", np.ones((10, 0), F32), ValueError, ["weight", "(10, 0)", "at least 1 column"]),
    ("indices", [0] * 5, TypeError, ["indices", "list"]),
    ("indices", ints(0, 1, 2, 3, 4, dtype=np.uint32), TypeError, ["indices", "uint32"]),
    ("indices", np.zeros((5, 1), I64), ValueError, ["indices", "(5, 1)", "1 dimension"]),
    ("indices", ints(4, 9, 0, 10, 4), ValueError, ["indices[3]", "below 10", "not 10", "bag 2"]),
    ("indices", ints(4, -1, 0, 99, 4, dtype=I32), ValueError, ["indices[1]", "not -1", "bag 0"]),
    ("indices", ints(4, 9), ValueError, ["offsets[3]", "at most 2", "not 5"]),
    ("offsets", None, TypeError, ["offsets", "NoneType"]),
    ("offsets", ints(0, 2, 2, 5, dtype=np.int16), TypeError, ["offsets", "int16"]),
    ("offsets", ints(), ValueError, ["offsets", "at least 1"]),
    ("offsets", ints(1, 2, 2, 5), ValueError, ["offsets[0]", "not 1"]),
    ("offsets", ints(0, 2, 1, 5), ValueError, ["offsets[2]", "at least", "= 2", "not 1"]),
    ("offsets", ints(0, 2, 2, 6), ValueError, ["offsets[3]", "at most 5", "not 6"]),
    ("per_sample_weights", np.ones(5), TypeError, ["per_sample_weights", "float64"]),
    ("per_sample_weights", np.ones(4, F32), ValueError, ["per_sample_weights", "5", "not 4"]),
    ("per_sample_weights", np.ones((5, 1), F32), ValueError, ["per_sample_weights", "(5, 1)"]),
    ("mode", "max", ValueError, ["mode", "'max'"]),
]


@pytest.mark.parametrize("name, value, error, words", EMBEDDING_BAG,
                         ids=lambda x: x if isinstance(x, str) else "")
def test_embedding_bag_names_the_argument(device, name, value, error, words):
    case = good()
    arguments = {"weight": case.weight, "indices": case.indices, "offsets": case.offsets}
    with pytest.raises(error) as caught:
        device.embedding_bag(**arguments | {name: value})
    for word in words:
        assert word in str(caught.value)


def test_mean_refuses_weights_and_overlong_bags(device):
    case = good()
    with pytest.raises(ValueError, match="per_sample_weights must be None with mode='mean'"):
        device.embedding_bag(case.weight, case.indices, case.offsets, case.sample_weights, "mean")
    offsets = np.array([0, 2**24 + 1], I64)
    with pytest.raises(ValueError, match=r"offsets must make bags of at most 16777216"):
        device.embedding_bag(case.weight, np.zeros(2**24 + 1, I32), offsets, mode="mean")


def test_lookups_behind_the_last_offset_are_not_looked_at(device):
    case = good()
    indices = np.append(case.indices, [-5, 10**12])
    assert device.cast(indices, case.offsets, 10).bags.size == 5
    assert device.embedding_bag(case.weight, indices, case.offsets).shape == (3, 4)


def test_gather_names_the_argument(device):
    case = good()
    with pytest.raises(ValueError, match=r"indices\[1\] must be at least 0 and below 10 "
                                         r"\(rows of weight\), not 10"):
        device.gather(case.weight, ints(0, 10))


@pytest.mark.parametrize("name, value, error, words", [
    ("num_rows", 4.0, TypeError, ["num_rows", "4.0"]),
    ("num_rows", True, TypeError, ["num_rows", "True"]),
    ("num_rows", -1, ValueError, ["num_rows", "-1"]),
    ("num_rows", 9, ValueError, ["indices[1]", "below 9 (num_rows)", "not 9", "bag 0"]),
    ("offsets", ints(0, 9), ValueError, ["offsets[1]", "at most 5", "not 9"]),
    ("per_sample_weights", np.ones(3, F32), ValueError, ["per_sample_weights", "not 3"]),
])
def test_cast_names_the_argument(device, name, value, error, words):
    case = good()
    arguments = {"indices": case.indices, "offsets": case.offsets, "num_rows": 10}
    with pytest.raises(error) as caught:
        device.cast(**arguments | {name: value})
    for word in words:
        assert word in str(caught.value)


def broken_castings():
    """Yield (name, Casting, words) of castings that do not fit the good batch."""
    right = dict(bags=ints(1, 0, 2, 2, 0), segment_offsets=ints(0, 1, 4, 5), rows=ints(0, 4, 9),
                 weights=None, positions=ints(2, 0, 3, 4, 1))
    for name, value, error, words in [
            ("bags", ints(1, 0, 3, 2, 0), ValueError, ["casting.bags[2]", "below 3", "not 3"]),
            ("bags", ints(1, 0), ValueError, ["casting.positions", "2 elements", "not 5"]),
            ("bags", np.ones(5, F32), TypeError, ["casting.bags", "float32"]),
            ("segment_offsets", ints(0, 1, 5), ValueError, ["casting.segment_offsets", "4", "3"]),
            ("segment_offsets", ints(0, 4, 1, 5), ValueError, ["segment_offsets[2]", "not 1"]),
            ("segment_offsets", ints(0, 1, 4, 6), ValueError, ["segment_offsets[3]", "not 6"]),
            ("rows", ints(0, 4, 10), ValueError, ["casting.rows[2]", "below 10", "not 10"]),
            ("rows", ints(0, 4, 4), ValueError, ["casting.rows[2]", "above", "= 4", "not 4"]),
            ("rows", ints(-1, 4, 9), ValueError, ["casting.rows[0]", "not -1"]),
            ("weights", np.ones(4, F32), ValueError, ["casting.weights", "5", "not 4"]),
            ("weights", np.ones(5), TypeError, ["casting.weights", "float64"])]:
        yield Casting(**right | {name: value}), error, words
    yield right, TypeError, ["casting", "dict"]


@pytest.mark.parametrize("casting, error, words", list(broken_castings()))
def test_backward_update_checks_the_casting_and_changes_nothing(device, casting, error, words):
    case = good()
    before = case.weight.copy()
    with pytest.raises(error) as caught:
        device.backward_update(case.weight, case.grad_out, casting, tcast.SGD(0.1))
    for word in words:
        assert word in str(caught.value)
    assert np.array_equal(case.weight, before)


def test_coalesce_checks_positions(device):
    case = good()
    casting = device.cast(case.indices, case.offsets, 10)
    with pytest.raises(ValueError, match=r"casting.positions\[\d\] must be at least 0 and below 4"):
        device.coalesce(np.ones((4, 4), F32), casting)


def test_expand_checks_the_number_of_bags(device):
    with pytest.raises(ValueError, match="grad_out must have 2 rows"):
        device.expand(np.ones((3, 4), F32), ints(0, 1, 2))


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("name, value, error, words", [
    ("weight", read_only(np.ones((10, 4), F32)), ValueError, ["weight", "writable"]),
    ("weight", np.ones((4, 10), F32).T, ValueError, ["weight", "contiguous rows", "strides"]),
    ("weight", np.lib.stride_tricks.as_strided(np.ones(100, F32), (10, 4), (8, 4)), ValueError,
     ["weight", "row stride", "16"]),
    ("weight", np.ones((10, 4), F32)[::-1], ValueError, ["weight", "row stride"]),
    ("weight", np.frombuffer(bytearray(161), F32, 40, 1).reshape(10, 4), ValueError,
     ["weight", "aligned to 4 bytes"]),
    ("weight", np.ones((10, 4)), TypeError, ["weight", "float64"]),
    ("grads", np.ones((3, 2), F32), ValueError, ["grads", "4 columns", "(3, 2)"]),
    ("grads", np.ones((2, 4), F32), ValueError, ["grads", "3 rows", "(2, 4)"]),
    ("rows", ints(0, 3, 3), ValueError, ["rows[2]", "above", "not 3"]),
    ("rows", ints(0, 3, 10), ValueError, ["rows[2]", "below 10", "not 10"]),
    ("rows", ints(0, 3, 9, dtype=np.uint64), TypeError, ["rows", "uint64"]),
    ("optimizer", 0.1, TypeError, ["optimizer", "SGD", "float"]),
    ("optimizer", tcast.RowwiseAdagrad(0.1), TypeError, ["state", "NoneType"]),
    ("state", np.zeros(10, F32), TypeError, ["state", "None with SGD"]),
])
def test_scatter_update_names_the_argument_and_changes_nothing(device, name, value, error, words):
    arguments = {"weight": np.ones((10, 4), F32), "rows": ints(0, 3, 9),
                 "grads": np.ones((3, 4), F32), "optimizer": tcast.SGD(0.1)} | {name: value}
    before = np.array(arguments["weight"])
    with pytest.raises(error) as caught:
        device.scatter_update(**arguments)
    for word in words:
        assert word in str(caught.value)
    assert np.array_equal(arguments["weight"], before)


@pytest.mark.parametrize("state, error, words", [
    (np.zeros(9, F32), ValueError, ["state", "10 elements", "not 9"]),
    (np.zeros((10, 1), F32), ValueError, ["state", "(10, 1)"]),
    (np.zeros(10), TypeError, ["state", "float32", "float64"]),
    (read_only(np.zeros(10, F32)), ValueError, ["state", "writable"]),
])
def test_state_of_row_wise_adagrad_is_checked(device, state, error, words):
    weight, grads = np.ones((10, 4), F32), np.ones((2, 4), F32)
    casting = device.cast(ints(0, 1), ints(0, 1, 2), 10)
    optimizer = tcast.RowwiseAdagrad(0.1)
    for update in (lambda: device.scatter_update(weight, ints(0, 1), grads, optimizer, state),
                   lambda: device.backward_update(weight, grads, casting, optimizer, state)):
        with pytest.raises(error) as caught:
            update()
        for word in words:
            assert word in str(caught.value)
    assert (weight == 1).all() and not state.any()


def test_state_must_not_overlap_what_is_read(device):
    weight, grads = np.ones((3, 4), F32), np.zeros((3, 4), F32)
    with pytest.raises(ValueError, match="state must not share memory with grads"):
        device.scatter_update(weight, ints(0, 1, 2), grads, tcast.RowwiseAdagrad(0.1),
                              grads.reshape(-1)[:3])
    with pytest.raises(ValueError, match="state must not share memory with weight"):
        device.scatter_update(weight, ints(0, 1, 2), grads, tcast.RowwiseAdagrad(0.1),
                              weight.reshape(-1)[:3])


def test_an_engine_has_sgd_alone():
    weight, grads, state = np.ones((4, 4), F32), np.ones((2, 4), F32), np.zeros(4, F32)
    with open_machine() as engine:
        casting = engine.cast(ints(0, 1), ints(0, 1, 2), 4)
        for update in (lambda rule: engine.scatter_update(weight, ints(0, 1), grads, rule, state),
                       lambda rule: engine.backward_update(weight, grads, casting, rule, state)):
            with pytest.raises(TypeError, match="optimizer must be an SGD on an engine"):
                update(tcast.RowwiseAdagrad(0.1))
    assert (weight == 1).all() and not state.any()


def test_updated_array_must_not_overlap_what_is_read(device):
    table = np.ones((10, 4), F32)
    with pytest.raises(ValueError, match="weight must not share memory with grads"):
        device.scatter_update(table, ints(0, 1), table[2:4], tcast.SGD(0.1))
    with pytest.raises(ValueError, match="dst must not share memory with values"):
        device.scatter(table, ints(0, 1), table[2:4])
    casting = device.cast(ints(0, 1), ints(0, 1, 2), 10)
    with pytest.raises(ValueError, match="weight must not share memory with grad_out"):
        device.backward_update(table, table[:2], casting, tcast.SGD(0.1))
    assert (table == 1).all()
    wide = np.ones((10, 8), F32)  # columns of one table are apart, although between each other
    device.scatter_update(wide[:, :4], ints(0, 1), wide[:2, 4:], tcast.SGD(1.0))
    assert (wide[:2, :4] == 0).all() and wide.sum() == 72


@pytest.mark.parametrize("name, value, words", [
    ("rows", ints(0, -3), ["rows[1]", "not -3"]),
    ("values", np.ones((2, 6), F32), ["values", "4 columns"]),
    ("dst", read_only(np.ones((10, 4), F32)), ["dst", "writable"]),
])
def test_scatter_names_the_argument(device, name, value, words):
    arguments = {"dst": np.ones((10, 4), F32), "rows": ints(3, 0), "values": np.ones((2, 4), F32)}
    with pytest.raises(ValueError) as caught:
        device.scatter(**arguments | {name: value})
    for word in words:
        assert word in str(caught.value)
