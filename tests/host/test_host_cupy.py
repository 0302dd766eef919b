"""The cupy backend without a GPU: its host side, and the core of its kernel compiled as C++.

Nothing here runs on a GPU; see fake_cupy.
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
from tcast.host.backend import BackendUnavailable
from tcast.host.cupy_backend import CupyDevice
from tcast.host.kernels import CUDA_OPTIONS, cuda_source

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return fake_cupy.compile_core(tmp_path_factory.mktemp("kernel"))


@pytest.fixture
def device(core, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(core))
    return CupyDevice()


class OnGpu:
    """Calls a device with CuPy arrays only, and hands NumPy arrays back."""

    def __init__(self, device):
        self.device = device

    def __getattr__(self, name):
        def call(*arguments):
            moved = [self.move(argument) for argument in arguments]
            result = getattr(self.device, name)(*moved)
            for argument, new in zip(arguments, moved, strict=True):
                if isinstance(argument, np.ndarray) and argument.flags.writeable:
                    argument[...] = new  # what was updated in place
            if isinstance(result, Casting):
                for value in vars(result).values():
                    assert value is None or isinstance(value, fake_cupy.ndarray)
                return Casting(**{key: None if value is None else np.asarray(value)
                                  for key, value in vars(result).items()})
            assert result is None or isinstance(result, fake_cupy.ndarray)
            return None if result is None else np.asarray(result)
        return call

    @staticmethod
    def move(value):
        if isinstance(value, Casting):
            return Casting(**{key: OnGpu.move(item) for key, item in vars(value).items()})
        return value.copy().view(fake_cupy.ndarray) if isinstance(value, np.ndarray) else value


@settings(max_examples=40, deadline=None)
@given(case=batches([1, 2, 5, 33]))
@pytest.mark.parametrize("kind", ["numpy", "cupy"])
def test_kernel_core_returns_golden_bits(core, kind, case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(core))
        device = CupyDevice()
        check_all(device if kind == "numpy" else OnGpu(device), case, adagrad=False)


def test_numpy_arguments_give_numpy_results(device):
    case = batch(0, 10, 3, 4, 4, np.int32, np.int64, weird=0)
    out = device.embedding_bag(case.weight, case.indices, case.offsets)
    assert type(out) is np.ndarray
    casting = device.cast(case.indices, case.offsets, 10)
    assert all(type(value) is np.ndarray for value in vars(casting).values() if value is not None)
    assert same_casting(casting, golden.cast(case.indices, case.offsets, 10))


def test_kinds_of_arrays_must_not_be_mixed(device):
    case = batch(0, 10, 3, 4, 4, np.int32, np.int64, weird=0)
    on_gpu = case.weight.copy().view(fake_cupy.ndarray)
    with pytest.raises(TypeError, match="indices must be a cupy array, not ndarray"):
        device.embedding_bag(on_gpu, case.indices, case.offsets)


def test_bad_index_on_the_gpu_is_named(device):
    on_gpu = [np.array(value).view(fake_cupy.ndarray) for value in (
        np.ones((3, 2), np.float32), np.array([0, 1, 7]), np.array([0, 1, 3]))]
    with pytest.raises(ValueError, match=r"indices\[2\] must be .* below 3 .* not 7 \(bag 1\)"):
        device.embedding_bag(*on_gpu)


def test_update_of_a_slice_of_a_wider_table(device):
    case = batch(3, 50, 10, 6, 8, np.int64, np.int32, weird=0)
    casting = golden.cast(case.indices, case.offsets, 50)
    expected = case.weight.copy()
    golden.backward_update(expected, case.grad_out, casting, tcast.SGD(0.5))
    for move in (lambda array: array, lambda array: array.view(fake_cupy.ndarray)):
        wide = np.full((50, 24), np.float32(7))
        wide[:, 8:16] = case.weight
        call = device if move(wide) is wide else OnGpu(device)
        view = move(wide)[:, 8:16]
        if call is device:
            device.backward_update(view, case.grad_out, casting, tcast.SGD(0.5))
        else:
            device.backward_update(view, OnGpu.move(case.grad_out), OnGpu.move(casting),
                                   tcast.SGD(0.5))
        assert golden.bits_equal(np.ascontiguousarray(wide[:, 8:16]), expected)
        assert (wide[:, :8] == 7).all() and (wide[:, 16:] == 7).all()


def test_nothing_is_launched_for_nothing(device):
    weight, none, zero = np.ones((3, 2), np.float32), np.zeros(0, np.int64), np.zeros(1, np.int64)
    assert device.embedding_bag(weight, none, zero).shape == (0, 2)
    device.scatter(weight, none, np.ones((0, 2), np.float32))
    assert device._cupy.launches == []
    assert device.embedding_bag(weight, none, np.zeros(2, np.int64)).tolist() == [[0.0, 0.0]]
    assert device._cupy.launches == [((1,), (256,))]


@pytest.mark.parametrize("old, new", [
    ("base == 0 ? x : TC_ADD(sums[k], x)", "TC_ADD(sums[k], x)"),   # −0 is lost
    ("k + distance < n", "true"),                                   # adds absent partials
    ("base += 8", "base += 4"),
    ("x != x ? TC_NAN : x", "x"),                                   # payloads are compared apart
    ("n == 1 && !p.weights ? sums[0] : ", ""),                      # a copy loses its payload
    ("TC_MUL(p.weights[lookup], x)", "x"),
    ("TC_MUL(p.lr, value)", "value"),
])
def test_a_fault_in_the_kernel_is_found(tmp_path, monkeypatch, old, new):
    """The comparison must be able to fail: faults planted in the core."""
    wrong = fake_cupy.compile_core(tmp_path, [(old, new)])
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(wrong))
    device = CupyDevice()
    found = False
    for seed in range(6):
        case = batch(seed, 20, 30, 9, 3, np.int64, np.int64, weird=0.3)
        try:
            check_all(device, case, adagrad=False)
        except AssertionError:
            found = True
        nans = np.full((2, 3), np.inf, np.float32)
        nans[1] = -np.inf
        total = device.embedding_bag(nans, np.array([0, 1]), np.array([0, 2]))
        found |= (total.view(np.uint32) != 0x7FC00000).any()
    assert found


def test_compiler_options_keep_the_contract():
    """What this machine cannot run it can at least read."""
    assert "-fmad=false" in CUDA_OPTIONS and "-ftz=false" in CUDA_OPTIONS
    assert not any("fast" in option for option in CUDA_OPTIONS)
    text = cuda_source()
    assert '#define TC_ADD(a, b) __fadd_rn((a), (b))' in text
    core = text[text.index("struct tc_pass"):]
    for line in core.splitlines():  # no float arithmetic but through the macros
        code = line.split("//")[0]
        assert "fma" not in code
        for operand in ("sums[k] +", "* x", "+ x", "value *", "* value", "- value"):
            assert operand not in code.replace("TC_", ""), line


@pytest.mark.parametrize("n_devices, words", [
    (0, "no GPU that CUDA can use"), (-1, "no GPU that CUDA can use: cudaErrorNoDevice")])
def test_without_a_gpu_the_reason_is_given(core, monkeypatch, n_devices, words):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.fake_cupy(core, n_devices))
    with pytest.raises(BackendUnavailable, match=words):
        tcast.open("cupy")
    assert tcast.backends()["cupy"].startswith(words)
