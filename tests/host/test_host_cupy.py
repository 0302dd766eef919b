"""The cupy backend: on a GPU where there is one, and everywhere on its kernels' emulation.

See fake_cupy for what the emulation does not say.
"""

import shutil
import sys

import fake_cupy
import numpy as np
import pytest
from host_cases import batch, batches
from hypothesis import given, settings
from test_host_backends import check_all, same_casting

import tcast
from tcast import golden
from tcast.golden import Casting
from tcast.host import cupy_backend, kernels
from tcast.host.backend import BackendUnavailable
from tcast.host.cupy_backend import CupyDevice
from tcast.host.kernels import CUDA_OPTIONS, Shape, Tuning, cuda_source

no_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
no_gpu = pytest.mark.skipif(bool(tcast.backends()["cupy"]), reason=tcast.backends()["cupy"])

DIMS = [1, 2, 5, 8, 33, 64, 100, 128, 260]


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    return fake_cupy.Compiler(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=[pytest.param("emulation", marks=no_compiler),
                        pytest.param("gpu", marks=no_gpu)], scope="module")
def use_cupy(request):
    """Return a function that makes the module ``cupy`` what it should be, in a patch context."""
    def use(patch, **options):
        if request.param == "gpu":
            return None
        module = fake_cupy.fake_cupy(request.getfixturevalue("compiler"), **options)
        patch.setitem(sys.modules, "cupy", module)
        return module
    return use


@pytest.fixture
def device(use_cupy, monkeypatch):
    use_cupy(monkeypatch)
    return CupyDevice()


class OnGpu:
    """Calls a device with CuPy arrays only, and hands NumPy arrays back.

    A casting goes back as the device made it (``trusted``) or as a plain one.
    """

    def __init__(self, device, trusted):
        self.device, self.cupy, self.trusted = device, device._cupy, trusted
        self.made = None, None

    def __getattr__(self, name):
        def call(*arguments):
            moved = [self.move(argument) for argument in arguments]
            result = getattr(self.device, name)(*moved)
            for argument, new in zip(arguments, moved, strict=True):
                if isinstance(argument, np.ndarray) and argument.flags.writeable:
                    argument[...] = self.cupy.asnumpy(new)  # what was updated in place
            if isinstance(result, Casting):
                back = Casting(**{key: self.back(value) for key, value in result.arrays.items()})
                self.made = back, result
                return back
            return self.back(result)
        return call

    def back(self, value):
        assert value is None or isinstance(value, self.cupy.ndarray)
        return None if value is None else self.cupy.asnumpy(value)

    def move(self, value):
        if isinstance(value, Casting):
            if self.trusted and value is self.made[0]:
                return self.made[1]
            return Casting(**{key: self.move(item) for key, item in vars(value).items()})
        return self.cupy.asarray(value.copy()) if isinstance(value, np.ndarray) else value


def opened(patch, use_cupy, kind, **options):
    use_cupy(patch)
    device = CupyDevice(**options)
    return device if kind == "numpy" else OnGpu(device, kind == "trusted")


@settings(max_examples=15, deadline=None)
@given(case=batches(DIMS))
@pytest.mark.parametrize("kind", ["numpy", "cupy", "trusted"])
def test_cupy_returns_golden_bits(use_cupy, kind, case):
    with pytest.MonkeyPatch.context() as patch:
        check_all(opened(patch, use_cupy, kind), case)


@pytest.mark.parametrize("dim", [3, 64, 132])
@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_long_segments_return_golden_bits(use_cupy, monkeypatch, dim, index_type):
    """Bags and rows of thousands of lookups, which many blocks share, among short ones."""
    device = opened(monkeypatch, use_cupy, "trusted")
    case = batch(dim, 6, 40, 40, dim, index_type, np.int64, weird=0.01)
    lengths = np.diff(case.offsets)
    lengths[[3, 7, 8]] = 257, 256, 2500
    case.offsets = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(dim)
    case.indices = (6 * rng.random(case.used) ** 3).astype(index_type)
    case.sample_weights = rng.standard_normal(case.used).astype(np.float32)
    check_all(device, case)
    assert golden.cast(case.indices, case.offsets, 6).segment_offsets[1] > 1000


@pytest.mark.parametrize("changes", [
    {"batch": 4, "update_batch": 1, "slice": 16, "stages": 2, "stage_rows": 64},
    {"batch": 1, "update_batch": 4, "slice": 32, "stages": 3, "stage_rows": 96},
    {"block": 512, "min_blocks": 1}], ids=str)
def test_tuning_changes_no_bit(use_cupy, monkeypatch, changes):
    device = opened(monkeypatch, use_cupy, "trusted", tuning=Tuning().but(**changes))
    for dim in (20, 33):
        check_all(device, batch(1, 10, 70, 300, dim, np.int32, np.int32))


@pytest.mark.parametrize("dim", [1024, 1028, 1031])
def test_wide_rows_return_golden_bits(use_cupy, monkeypatch, dim):
    check_all(opened(monkeypatch, use_cupy, "trusted"),
              batch(2, 5, 12, 200, dim, np.int32, np.int32))


def test_many_rows_need_wide_keys(use_cupy, monkeypatch):
    device = opened(monkeypatch, use_cupy, "cupy")
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 1 << 40, 5000) >> rng.integers(0, 41, 5000)
    offsets = np.arange(0, 5001, 10)
    for rows in (1 << 40, 1 << 50):
        assert same_casting(device.cast(indices, offsets, rows),
                            golden.cast(indices, offsets, rows))
    with pytest.raises(ValueError, match="num_rows times the number of lookups"):
        device.cast(indices, offsets, 1 << 60)


def test_numpy_arguments_give_numpy_results(device):
    case = batch(0, 10, 3, 4, 4, np.int32, np.int64, weird=0)
    out = device.embedding_bag(case.weight, case.indices, case.offsets)
    assert type(out) is np.ndarray
    casting = device.cast(case.indices, case.offsets, 10)
    assert all(type(value) is np.ndarray
               for value in casting.arrays.values() if value is not None)
    assert same_casting(casting, golden.cast(case.indices, case.offsets, 10))


def test_kinds_of_arrays_must_not_be_mixed(device):
    case = batch(0, 10, 3, 4, 4, np.int32, np.int64, weird=0)
    on_gpu = device._cupy.asarray(case.weight)
    with pytest.raises(TypeError, match="indices must be a cupy array, not ndarray"):
        device.embedding_bag(on_gpu, case.indices, case.offsets)


def bad_batches():
    """Yield (indices, offsets, words of the message) of batches with one fault in 10 rows."""
    good = np.array([4, 9, 0, 4, 4])
    yield good, np.array([1, 2, 5]), r"offsets\[0\] must be 0, not 1"
    yield good, np.array([0, 3, 2, 5]), r"offsets\[2\] must be at least offsets\[1\] = 3, not 2"
    yield good, np.array([0, 3, 6]), r"offsets\[2\] must be at most 5 .*not 6"
    yield good, np.array([0, 3, -1]), r"offsets\[2\] must be at least offsets\[1\] = 3, not -1"
    for position, value in ((1, 10), (4, -1), (2, 1 << 40)):
        wrong = good.copy()
        wrong[position] = value
        yield wrong, np.array([0, 2, 5]), rf"indices\[{position}\] must be .*below 10 .*not {value}"


@pytest.mark.parametrize("indices, offsets, words", list(bad_batches()))
def test_a_bad_batch_on_the_gpu_is_named(device, indices, offsets, words):
    weight, indices, offsets = (device._cupy.asarray(array) for array in (
        np.ones((10, 2), np.float32), indices, offsets))
    for call in (lambda: device.embedding_bag(weight, indices, offsets),
                 lambda: device.embedding_bag(weight, indices, offsets, None, "mean"),
                 lambda: device.cast(indices, offsets, 10)):
        with pytest.raises(ValueError, match=words):
            call()


def test_an_index_behind_the_last_bag_may_be_anything(device):
    weight, indices, offsets = (device._cupy.asarray(array) for array in (
        np.ones((3, 2), np.float32), np.array([2, 2, 99, -5]), np.array([0, 0, 2])))
    assert device._cupy.asnumpy(device.embedding_bag(weight, indices, offsets)).tolist() == [
        [0, 0], [2, 2]]
    assert device._cupy.asnumpy(device.cast(indices, offsets, 3).bags).tolist() == [1, 1]


def test_mean_refuses_overlong_bags_on_the_gpu(device):
    cupy = device._cupy
    with pytest.raises(ValueError, match="offsets must make bags of at most 16777216"):
        device.embedding_bag(cupy.asarray(np.ones((1, 1), np.float32)),
                             cupy.asarray(np.zeros(2**24 + 1, np.int32)),
                             cupy.asarray(np.array([0, 2**24 + 1])), None, "mean")


@pytest.mark.parametrize("rows, words", [
    ([0, 3, 3], r"rows\[2\] must be above rows\[1\] = 3, not 3"),
    ([0, 3, 4], r"rows\[2\] must be .*below 4 .*not 4"),
    ([-1, 2, 3], r"rows\[0\] must be .*not -1")])
def test_bad_rows_on_the_gpu_are_named_before_anything_changes(device, rows, words):
    cupy = device._cupy
    weight, rows, grads = (cupy.asarray(array) for array in (
        np.ones((4, 2), np.float32), np.array(rows), np.ones((3, 2), np.float32)))
    with pytest.raises(ValueError, match=words):
        device.scatter_update(weight, rows, grads, tcast.SGD(0.5))
    assert (cupy.asnumpy(weight) == 1).all()
    for call in (lambda: device.gather(weight, rows), lambda: device.scatter(weight, rows, grads)):
        if "above" not in words:
            with pytest.raises(ValueError):
                call()
    with pytest.raises(ValueError, match=r"offsets\[0\] must be 0"):
        device.expand(grads, cupy.asarray(np.array([1, 1, 1, 1])))


def test_a_casting_of_the_device_is_not_checked_again(device, monkeypatch):
    cupy = device._cupy
    weight, grads, indices, offsets = (cupy.asarray(array) for array in (
        np.ones((4, 2), np.float32), np.ones((2, 2), np.float32), np.array([3, 3, 0]),
        np.array([0, 1, 3])))
    casting = device.cast(indices, offsets, 4)
    plain = Casting(**casting.arrays)
    checks = []
    monkeypatch.setattr(cupy_backend.validation, "offset_array",
                        lambda *arguments: checks.append(arguments))
    device.backward_update(weight, grads, casting, tcast.SGD(0.5))
    assert not checks
    device.backward_update(weight, grads, plain, tcast.SGD(0.5))
    assert checks
    # One that is too large for its table is checked like any other.
    with pytest.raises(ValueError, match=r"casting.rows\[1\] must be .*below 3"):
        device.backward_update(weight[:3], grads, casting, tcast.SGD(0.5))


def test_an_altered_casting_touches_nothing_outside(device):
    """Whatever a trusted casting holds by now, neighbours of the arrays stay as they are."""
    cupy = device._cupy
    rng = np.random.default_rng(1)
    memory = cupy.asarray(np.ones((30, 4), np.float32))
    weight = memory[10:20]
    grads = cupy.asarray(rng.standard_normal((8, 4)).astype(np.float32))
    indices = cupy.asarray(rng.integers(0, 10, 40))
    casting = device.cast(indices, cupy.asarray(np.arange(0, 41, 5)), 10)
    for array in (casting.rows, casting.bags, casting.segment_offsets):
        if isinstance(array, np.ndarray):  # which only the emulation's are
            array.flags.writeable = True
    casting.rows[1], casting.rows[2] = -3, 15
    casting.bags[5], casting.bags[6] = 1 << 50, -1
    casting.segment_offsets[3] = 1 << 50
    device.backward_update(weight, grads, casting, tcast.SGD(0.5))
    after = cupy.asnumpy(memory)
    assert (after[:10] == 1).all() and (after[20:] == 1).all()
    assert (after[10:20] != 1).any()


def test_update_of_a_slice_of_a_wider_table(device):
    case = batch(3, 50, 10, 6, 8, np.int64, np.int32, weird=0)
    casting = golden.cast(case.indices, case.offsets, 50)
    expected = case.weight.copy()
    golden.backward_update(expected, case.grad_out, casting, tcast.SGD(0.5))
    on_gpu = OnGpu(device, False)
    for start in (8, 7):  # aligned to 16 bytes, and not
        for move in (lambda array: array, on_gpu.move):
            wide = np.full((50, 24), np.float32(7))
            wide[:, start:start + 8] = case.weight
            wide = move(wide)
            device.backward_update(wide[:, start:start + 8], move(case.grad_out), move(casting),
                                   tcast.SGD(0.5))
            wide = device._cupy.asnumpy(wide)
            assert golden.bits_equal(np.ascontiguousarray(wide[:, start:start + 8]), expected)
            assert (wide[:, :start] == 7).all() and (wide[:, start + 8:] == 7).all()


def test_state_may_have_gaps(device):
    case = batch(3, 20, 10, 6, 8, np.int64, np.int32, weird=0)
    rule = tcast.RowwiseAdagrad(0.5)
    casting = golden.cast(case.indices, case.offsets, 20)
    states = [np.zeros(20, np.float32) for _ in range(2)]
    golden.backward_update(case.weight.copy(), case.grad_out, casting, rule, states[0])
    cupy = device._cupy
    pairs = cupy.asarray(np.zeros(40, np.float32))
    device.backward_update(cupy.asarray(case.weight), cupy.asarray(case.grad_out),
                           Casting(**{name: OnGpu(device, False).move(value)
                                      for name, value in vars(casting).items()}),
                           rule, pairs[::2])
    assert golden.bits_equal(cupy.asnumpy(pairs)[::2].copy(), states[0])
    assert not cupy.asnumpy(pairs)[1::2].any()


@no_compiler
def test_nothing_is_launched_for_nothing(compiler, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(compiler))
    device = CupyDevice()
    weight, none, zero = np.ones((3, 2), np.float32), np.zeros(0, np.int64), np.zeros(1, np.int64)
    assert device.embedding_bag(weight, none, zero).shape == (0, 2)
    device.scatter(weight, none, np.ones((0, 2), np.float32))
    assert device._cupy.launches == []
    assert device.embedding_bag(weight, none, np.zeros(2, np.int64)).tolist() == [[0.0, 0.0]]
    assert device._cupy.launches == [("tc_gather", (1,), (256,))]


def test_casting_can_run_beside(device):
    case = batch(0, 10, 3, 4, 4, np.int32, np.int64, weird=0)
    beside = device.stream_beside()
    indices, offsets = (device._cupy.asarray(array) for array in (case.indices, case.offsets))
    with beside:
        casting = device.cast(indices, offsets, 10)
    assert device.stream_beside() is beside
    expected = golden.cast(case.indices, case.offsets, 10)
    assert device._cupy.asnumpy(casting.bags).tolist() == expected.bags.tolist()


FAULTS = [
    ("sums[k] = x[k];  // as", "tc_add_to(sums[k], x[k]);  // as", "= x[k]"),  # −0 is lost
    ("k + distance < n", "true", None),                              # adds absent partials
    ("i < n ? i : n - 1", "n - 1", None),
    ("x != x ? TC_NAN : x", "x", None),                              # payloads are compared apart
    ("if (n == 1 && !p.weights) return first;", "", None),           # a copy loses its payload
    ("tc_weigh(x[k], __ldg(weights + (base) + k))", ";", None),
    ("tc_mul(step, gradient)", "gradient", None),
    ("(float)p.dim", "(float)(p.dim + 1)", None),
    ("distance < Lanes; distance *= 2", "distance < Lanes / 2; distance *= 2", None),
    ("tc_wait<TC_STAGES - 2>();", "tc_wait<TC_STAGES>();", None),    # adds rows not there yet
    ("pairs[k] = tc_add", "if (k < 4) pairs[k] = tc_add", None),
    ("== slices - 1", "== 0", None),                                 # the first finishes the row
    ("(TC_KEY)row << position_bits | (TC_KEY)i", "(TC_KEY)row << position_bits", None),
    ("segment += in_warp[w]", "segment += 0", None),
    ("offsets[middle] <= i", "offsets[middle] < i", None),
]


@no_compiler
@pytest.mark.parametrize("old, new", [fault[:2] for fault in FAULTS])
def test_a_fault_in_a_kernel_is_found(tmp_path, monkeypatch, old, new):
    """The comparison must be able to fail: faults planted in the kernels."""
    assert old in cuda_source("gather") + cuda_source("casting")
    changes = [(old, new)]
    if "sums[k] = x[k]" in old:
        changes.append(("tc_vector sums[8], x[8];", "tc_vector sums[8] = {}, x[8];"))
    monkeypatch.setitem(sys.modules, "cupy",
                        fake_cupy.fake_cupy(fake_cupy.Compiler(tmp_path, changes)))
    device = CupyDevice()
    found = False
    for bags, longest, rows in ((30, 9, 20), (30, 90, 2)):
        case = batch(3, rows, bags, longest, 20, np.int64, np.int64, weird=0.1 * (rows == 20))
        case.weight[:, 3] = -0.0
        try:
            check_all(OnGpu(device, True), case)
        except (AssertionError, IndexError, ValueError):
            found = True
            break
    nans = np.full((2, 3), np.inf, np.float32)
    nans[1] = -np.inf
    total = device.embedding_bag(nans, np.array([0, 1]), np.array([0, 2]))
    found |= bool((total.view(np.uint32) != 0x7FC00000).any())
    assert found


def test_shapes_cover_every_row():
    for dim in (1, 2, 3, 4, 5, 31, 32, 64, 100, 128, 129, 256, 1000, 1024, 4096, 5000):
        for aligned in (False, True):
            for sink in (kernels.WRITE, kernels.SGD, kernels.ADAGRAD):
                shape = Shape.of(dim, aligned, sink)
                assert shape.vector == (4 if aligned and dim % 4 == 0 else 1)
                tile = shape.vector * shape.lanes
                assert shape.tiles == 0 or shape.tiles * tile >= dim
                assert shape.tiles in (0, 1) or sink == kernels.ADAGRAD
                assert shape.lanes == 32 or tile < 2 * dim + 4


def test_compiler_options_keep_the_contract():
    """What this machine cannot run it can at least read."""
    assert "-fmad=false" in CUDA_OPTIONS and "-ftz=false" in CUDA_OPTIONS
    assert not any("fast" in option for option in CUDA_OPTIONS)
    assert "fma" not in cuda_source("gather")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("sink", [kernels.WRITE, kernels.ADAGRAD])
def test_the_kernels_compile_for_hopper(tmp_path, sink):
    shape = Shape.of(64, True, sink)
    macros = Tuning().macros(sink) | {
        "vector": shape.vector, "lanes": shape.lanes, "tiles": shape.tiles, "sink": sink,
        "index": "tc_long", "offset": "int", "staged": 1}
    fake_cupy.nvcc(tmp_path, cuda_source("gather"), CUDA_OPTIONS + kernels.defines(**macros))
    fake_cupy.nvcc(tmp_path, cuda_source("casting"), CUDA_OPTIONS)


@no_compiler
@pytest.mark.parametrize("n_devices, words", [
    (0, "no GPU that CUDA can use"), (-1, "no GPU that CUDA can use: cudaErrorNoDevice")])
def test_without_a_gpu_the_reason_is_given(compiler, monkeypatch, n_devices, words):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(compiler, n_devices))
    with pytest.raises(BackendUnavailable, match=words):
        tcast.open("cupy")
    assert tcast.backends()["cupy"].startswith(words)


def test_tuning_that_no_block_can_hold_is_refused():
    with pytest.raises(ValueError, match=r"stages \* stage_rows \* \(slice \+ 1\) must be at most"):
        Tuning(slice=32, stage_rows=256)
