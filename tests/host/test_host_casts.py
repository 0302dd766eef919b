"""The driver's casts and training steps, on the functional model of an engine."""

import numpy as np
import pytest
from engine_errors import cast_errors
from host_cases import TINY, batch, floats, open_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from test_host_driver import OFFSET, Spy, pass_of, still_works

import tcast
from tcast import golden
from tcast.host.driver import Cast, EngineDevice, EngineError, EngineTimeout, Pass
from tcast.host.golden_backend import GoldenDevice
from tcast.host.table_step import TableStep
from tcast.hw.config import EngineConfig
from tcast.hw.registers import ErrorCode

I32, I64, U32, F32 = np.int32, np.int64, np.uint32, np.float32
SGD = tcast.SGD(0.3)
NO_UNIT = EngineConfig.preset("tiny64", cast_port=0)


class Watch(Spy):
    """A Spy that keeps every access: ("read" or "write", name) and ("wait",)."""

    def __init__(self, config=TINY):
        super().__init__(config)
        self.names = {offset: name for name, offset in OFFSET.items()}
        self.accesses = []

    def read_register(self, offset):
        self.accesses.append(("read", self.names[offset]))
        return super().read_register(offset)

    def write_register(self, offset, value):
        self.accesses.append(("write", self.names[offset]))
        super().write_register(offset, value)

    def wait(self, max_cycles):
        self.accesses.append(("wait",))
        return super().wait(max_cycles)


def same_casting(got, expected):
    for name in ("bags", "segment_offsets", "rows", "positions"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    assert (got.weights is None) == (expected.weights is None)
    assert got.weights is None or golden.bits_equal(got.weights, expected.weights)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 31, 33, 5000, 2**31]),
       st.sampled_from([I32, I64]), st.sampled_from([I32, I64]), st.booleans(),
       st.sampled_from(["aligned", "scattered"]))
def test_cast_is_goldens_to_the_bit(seed, num_rows, index, offset, weighted, placement):
    case = batch(seed, num_rows, 40, 9, 1, index, offset, behind=3) if num_rows < 10_000 else None
    if case is None:
        rng = np.random.default_rng(seed)
        indices = rng.integers(0, num_rows, 90).astype(index)
        offsets = np.array([0, 80, 90], offset)
        weights = floats(rng, 90)
    else:
        indices, offsets, weights = case.indices, case.offsets, case.sample_weights
    weights = weights if weighted else None
    with open_machine(placement=placement, seed=seed % 100) as device:
        got = device.cast(indices, offsets, num_rows, weights)
        assert device.counters()["casts"] == 1, "the unit did it"
    same_casting(got, golden.cast(indices, offsets, num_rows, weights))


@pytest.mark.parametrize("open_it", [lambda: open_machine(host_cast=True),
                                     lambda: open_machine(NO_UNIT)])
def test_cast_on_the_host(open_it):
    case = batch(1, 50, 20, 9, 4, I64, I32)
    device = open_it()
    same_casting(device.cast(case.indices, case.offsets, 50),
                 golden.cast(case.indices, case.offsets, 50))
    assert device.counters() == {}, "nothing was submitted"


def test_cast_of_more_rows_than_the_unit_can():
    device = open_machine()
    indices, offsets = np.array([2**32 + 5, 3, 2**32 + 5]), np.array([0, 1, 3])
    same_casting(device.cast(indices, offsets, 2**40), golden.cast(indices, offsets, 2**40))
    assert device.counters() == {}


def test_rows_of_int32_below_a_larger_table():
    device = open_machine()
    indices, offsets = np.array([2**31 - 1, 3], I32), np.array([0, 2])
    same_casting(device.cast(indices, offsets, 2**32 - 1),
                 golden.cast(indices, offsets, 2**32 - 1))
    assert device.counters()["casts"] == 1


# training steps


def layers_of(seed, count, rows=60, dim=8, index=I64, offset=I64):
    cases = [batch(seed + n, rows + n, 5 + 3 * n, 9, dim, index, offset) for n in range(count)]
    return [TableStep(case.weight, case.indices, case.offsets, case.grad_out) for case in cases]


def copies(layers):
    """The layers with copies of their tables; one that is in several layers stays so."""
    own = {id(layer.weight): layer.weight.copy() for layer in layers}
    return [TableStep(own[id(layer.weight)], layer.indices, layer.offsets, layer.grad_out)
            for layer in layers]


def expected_of(layers, optimizer=SGD):
    """Return (pooled rows, tables) by golden's functions."""
    mine = copies(layers)
    outs = [golden.embedding_bag(layer.weight, layer.indices, layer.offsets) for layer in mine]
    for layer in mine:
        casting = golden.cast(layer.indices, layer.offsets, len(layer.weight))
        golden.backward_update(layer.weight, layer.grad_out, casting, optimizer)
    return outs, [layer.weight for layer in mine]


def check_step(device, layers):
    outs, weights = expected_of(layers)
    mine = copies(layers)
    got = device.training_step(mine, SGD)
    assert len(got) == len(outs)
    for number, (one, other) in enumerate(zip(got, outs, strict=True)):
        assert golden.bits_equal(one, other), f"out of layer {number}"
    for number, (layer, weight) in enumerate(zip(mine, weights, strict=True)):
        assert golden.bits_equal(layer.weight, weight), f"weight of layer {number}"


BACKENDS = {"engine": open_machine, "no unit": lambda: open_machine(NO_UNIT),
            "host cast": lambda: open_machine(host_cast=True), "golden": GoldenDevice,
            "cpu": lambda: tcast.open("cpu")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_training_step_is_the_same_everywhere(backend, count):
    with BACKENDS[backend]() as device:
        check_step(device, layers_of(3, count))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_table_in_two_layers_is_updated_twice(backend):
    first, second, third = layers_of(3, 3, rows=60)
    shared = TableStep(first.weight, third.indices % 60, third.offsets, third.grad_out)
    with BACKENDS[backend]() as device:
        check_step(device, [first, second, shared])


@pytest.mark.parametrize("index, offset, placement", [
    (I32, I32, "aligned"), (I32, I64, "scattered"), (I64, I32, "scattered")])
def test_training_step_of_any_integers_anywhere(index, offset, placement):
    with open_machine(placement=placement, seed=4) as device:
        check_step(device, layers_of(8, 3, index=index, offset=offset))


def test_training_step_of_nothing():
    weight, none = np.ones((5, 4), F32), np.zeros(0, I64)
    layers = [TableStep(weight, none, np.zeros(1, I64), np.ones((0, 4), F32)),
              TableStep(np.zeros((0, 4), F32), none, np.zeros(4, I32), np.ones((3, 4), F32))]
    with open_machine() as device:
        check_step(device, layers)


def test_one_submission_two_doorbells_one_interrupt():
    watch = Watch()
    device = EngineDevice(watch, TINY)
    layers = copies(layers_of(3, 4))
    watch.accesses.clear()
    device.training_step(layers, SGD)
    bells = [n for n, access in enumerate(watch.accesses)
             if access[0] == "write" and access[1].endswith("ring_tail")]
    assert [watch.accesses[n][1] for n in bells] == ["cast_ring_tail", "ring_tail"]
    first, last = bells
    # From the first doorbell to the interrupt, nothing else of the host.
    assert last == first + 1
    assert watch.accesses[last + 1] == ("wait",)
    assert watch.accesses.count(("wait",)) == 1
    counters = device.counters()
    assert (counters["casts"], counters["descriptors"]) == (4, 8)


def test_ring_asks_for_no_interrupt_of_a_cast_that_is_waited_for():
    device = open_machine()
    device.training_step(copies(layers_of(3, 1)), SGD)
    assert not device._casts.memory[:, 2].any(), "the interrupt bit of every cast is clear"
    device.cast(np.zeros(3, I64), np.array([0, 3]), 5)
    assert device._casts.memory[1, 2] & 2


@pytest.mark.parametrize("ring_size_log2, count", [(1, 3), (2, 7), (3, 8)])
def test_training_step_longer_than_the_rings(ring_size_log2, count):
    with open_machine(ring_size_log2=ring_size_log2) as device:
        check_step(device, layers_of(1, count))
        check_step(device, layers_of(2, count))


def test_counts_go_on_from_step_to_step_and_start_anew_after_an_error():
    device = open_machine()
    for seed in range(3):
        check_step(device, layers_of(seed, 2))
    with pytest.raises(EngineError):
        device.submit([pass_of(fields={"dim": 3})])
    check_step(device, layers_of(9, 2))


@pytest.mark.parametrize("change, error, words", [
    (lambda layer: {"weight": np.zeros(layer.weight.shape)}, TypeError,
     ["layers[1]", "weight", "float64"]),
    (lambda layer: {"indices": layer.indices + 1000}, ValueError,
     ["layers[1]", "indices[0]", "rows of weight"]),
    (lambda layer: {"offsets": layer.offsets + 1}, ValueError, ["layers[1]", "offsets[0]"]),
    (lambda layer: {"grad_out": layer.grad_out[1:]}, ValueError, ["layers[1]", "grad_out"]),
    (lambda layer: {"grad_out": np.ascontiguousarray(layer.grad_out[:, :6])}, ValueError,
     ["layers[1]", "grad_out", "columns"]),
    (lambda layer: {"grad_out": layer.weight[:len(layer.grad_out)]}, ValueError,
     ["layers[1]", "grad_out", "share memory"]),
    (lambda layer: {"state": np.zeros(61, F32)}, TypeError, ["layers[1]", "state", "SGD"]),
])
@pytest.mark.parametrize("backend", ["engine", "golden", "cpu"])
def test_training_step_checks_before_it_changes_anything(backend, change, error, words):
    first, second = copies(layers_of(3, 2))
    before = first.weight.copy()
    bad = TableStep(**vars(second) | change(second))
    with BACKENDS[backend]() as device:
        with pytest.raises(error) as caught:
            device.training_step([first, bad], SGD)
        for word in words:
            assert word in str(caught.value)
        assert golden.bits_equal(first.weight, before)
        with pytest.raises(TypeError, match=r"layers\[0\] must be a TableStep, not dict"):
            device.training_step([{}], SGD)


def test_a_gradient_in_the_table_of_another_layer_is_refused():
    first, second = layers_of(3, 2)
    bad = TableStep(second.weight, second.indices, second.offsets,
                    first.weight[:len(second.grad_out)])
    with pytest.raises(ValueError, match=r"layers\[0\].weight must not share memory with "
                                         r"layers\[1\].grad_out"):
        open_machine().training_step([first, bad], SGD)


def test_optimizers_and_tables_that_an_engine_cannot():
    first, second = layers_of(3, 2)
    narrow = TableStep(second.weight[:, :7], second.indices, second.offsets,
                       second.grad_out[:, :7])
    device = open_machine()
    with pytest.raises(ValueError, match=r"layers\[1\].weight must have a multiple of 2 columns"):
        device.training_step([first, narrow], SGD)
    with pytest.raises(TypeError, match="optimizer must be an SGD on an engine"):
        device.training_step([TableStep(first.weight, first.indices, first.offsets, first.grad_out,
                                        np.zeros(len(first.weight), F32))],
                             tcast.RowwiseAdagrad(0.1, 1e-8))


# submissions of casts and passes


def cast_of(seed=0, **changes):
    case = batch(seed, 30, 9, 5, 4, I64, I64)
    return Cast(indices=case.indices, offsets=case.offsets, num_rows=30, **changes)


def check_cast(item):
    expected = golden.cast(item.indices, item.offsets, item.num_rows)
    bags, segment_offsets, rows = item.results()
    assert np.array_equal(bags, expected.bags) and np.array_equal(rows, expected.rows)
    assert np.array_equal(segment_offsets, expected.segment_offsets)
    assert (item.rows[expected.n_segments:].view(np.uint8) == 0xAA).all()
    assert (item.segment_offsets[expected.n_segments + 1:].view(np.uint8) == 0xAA).all()


def test_casts_and_passes_without_waits_both_complete():
    device = open_machine()
    casts, passes = [cast_of(n) for n in range(3)], [pass_of(n) for n in range(2)]
    device.submit(passes, casts)
    for item in casts:
        check_cast(item)
    counters = device.counters()
    assert (counters["casts"], counters["descriptors"]) == (3, 2)
    device.submit([], [again := cast_of(5)])
    check_cast(again)


def test_a_cast_of_what_a_pass_wrote():
    """The gather-scatter unit copies indices as rows of floats; the cast waits for it."""
    indices = np.arange(32, dtype=I32)[::-1] % 7
    moved = np.zeros((4, 8), F32)
    copy = Pass(source=indices.astype(I32).reshape(4, 8).view(F32), target=moved)
    item = Cast(indices=moved.reshape(-1).view(I32), offsets=np.array([0, 30, 32]), num_rows=7,
                after=1)
    with open_machine() as device:
        device.submit([copy], [item])
        assert device.counters()["casts"] == 1
    check_cast(item)


@pytest.mark.parametrize("item, error, words", [
    (lambda: Cast(indices=np.zeros(3, I64), offsets=np.zeros(0, I64), num_rows=3), ValueError,
     ["casts[1].offsets", "at least 1"]),
    (lambda: Cast(indices=np.zeros(3, np.uint8), offsets=None, num_rows=3), TypeError,
     ["casts[1].indices", "uint8"]),
    (lambda: cast_of(after=2), ValueError, ["casts[1].after", "at most 1", "not 2"]),
    (lambda: Cast(indices=np.zeros(3, I64), offsets=None, num_rows=2**32), ValueError,
     ["casts[1]", "2**32 - 1", "4294967296"]),
    (lambda: {}, TypeError, ["casts[1] must be a Cast", "dict"]),
    (lambda: cast_of(fields={"colour": 1}), ValueError, ["descriptor field", "colour"]),
])
def test_submit_checks_casts_and_maps_nothing(item, error, words):
    spy = Spy()
    device = EngineDevice(spy, TINY)
    before = len(spy.maps)
    with pytest.raises(error) as caught:
        device.submit([pass_of()], [cast_of(), item()])
    for word in words:
        assert word in str(caught.value)
    assert len(spy.maps) == before
    still_works(device)


def test_an_engine_without_the_unit_takes_no_casts():
    with pytest.raises(ValueError, match=r"casts must be empty.*bit `cast`.*is 0"):
        open_machine(NO_UNIT).submit([pass_of()], [cast_of()])
    with pytest.raises(ValueError, match=r"passes\[0\].after must be at most 0, the casts"):
        open_machine(NO_UNIT).submit([pass_of(after=1)])


@pytest.mark.parametrize("item, code, position, value, limit, words",
                         [case[1:] for case in cast_errors()],
                         ids=[case[0] for case in cast_errors()])
def test_error_of_a_cast_names_the_unit_and_the_cast(item, code, position, value, limit, words):
    spy = Spy()
    device = EngineDevice(spy, TINY)
    done = cast_of()
    with pytest.raises(EngineError) as caught:
        device.submit([], [done, item, cast_of(2)])
    error = caught.value
    assert (error.unit, error.code, error.descriptor, error.value, error.limit) == (
        1, code, 1, value, limit)
    assert position in (None, error.position)
    assert str(error).startswith("cast 1: ")
    for word in words:
        assert word in str(error)
    check_cast(done)
    assert item.count.view(np.uint8).tolist() == [0xAA] * 4
    still_works(device)
    check_step(device, layers_of(1, 2))


def test_error_in_a_later_piece_names_its_cast():
    device = open_machine(ring_size_log2=2)
    casts = [cast_of(n) for n in range(8)]
    casts[5] = cast_of(5, fields={"num_rows": 0})
    with pytest.raises(EngineError, match="cast 5: field num_rows"):
        device.submit([], casts)
    check_cast(casts[4])
    check_step(device, layers_of(1, 2))


def test_a_wait_for_what_never_comes_is_a_timeout():
    device = open_machine()
    item = pass_of(fields={"waits": 1, "wait_count": 9})
    with pytest.raises(EngineTimeout, match="busy 1") as caught:
        device.submit([item])
    assert caught.value.status["cast_ring_tail"] == 0
    assert not item.target.any()
    still_works(device)


def test_fault_of_an_early_pass_leaves_the_table_alone():
    """What waits for a cast that fails is never started."""
    device = open_machine()
    layer, = copies(layers_of(3, 1))
    before = layer.weight.copy()
    bad = Cast(indices=layer.indices, offsets=layer.offsets, num_rows=1)
    update = Pass(source=layer.grad_out, target=layer.weight, indices=bad.bags,
                  offsets=bad.segment_offsets, rows=bad.rows, optimizer=SGD, count=bad.count,
                  after=1)
    with pytest.raises(EngineError) as caught:
        device.submit([update], [bad])
    assert caught.value.code == ErrorCode.INDEX_RANGE and caught.value.unit == 1
    assert golden.bits_equal(layer.weight, before)
