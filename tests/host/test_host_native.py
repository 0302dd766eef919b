"""The compiled core: how it is built and found, and what it does besides the golden model's bits.

That it returns those bits is in test_host_backends.
"""

import ctypes
import subprocess
import warnings

import numpy as np
import pytest
from host_cases import batch
from test_host_backends import check_all

import tcast
from tcast import golden
from tcast.golden import Casting
from tcast.host import native
from tcast.host.buffers import ALIGNMENT, SMALLEST, Buffers
from tcast.host.build_cache import BuildError
from tcast.host.checked_casting import CheckedCasting
from tcast.host.cpu import CpuDevice

F32 = np.float32


@pytest.fixture
def device():
    with CpuDevice(threads=2, core=native.instruction_sets()[0]) as opened:
        yield opened


# building and choosing

def test_the_best_instruction_set_is_chosen(monkeypatch):
    monkeypatch.setattr(native, "_processor", lambda: frozenset(["avx2", "bmi2", "avx512f"]))
    assert native.instruction_sets() == ["avx2", "portable"]
    with pytest.raises(BuildError, match="this processor has no avx512; it has avx2, portable"):
        native.load("avx512")
    monkeypatch.setattr(native, "_processor", frozenset)
    assert native.instruction_sets() == ["portable"]


def test_core_is_one_of_a_list():
    with pytest.raises(ValueError, match=r"core must be one of auto, avx512, .* not 'fast'"):
        CpuDevice(core="fast")
    assert CpuDevice(core="portable").core == "portable"
    assert CpuDevice(core="numpy").core == "numpy"


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    monkeypatch.setenv("TCAST_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(native, "_loaded", {})


def test_without_a_compiler_numpy_goes_on_and_says_so(nothing_built, monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match=r"goes on with NumPy.*apt-get install g\+\+"):
        device = tcast.open("cpu")
    assert device.core == "numpy"
    with pytest.raises(BuildError, match=r"g\+\+ is not installed"):
        CpuDevice(core="portable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CpuDevice(core="numpy")  # asked for: nothing to say


def test_a_compiler_that_fails_is_quoted(nothing_built, monkeypatch, tmp_path):
    broken = tmp_path / "core.cpp"
    broken.write_text("this is no C++")
    monkeypatch.setattr(native, "_SOURCE", broken)
    with pytest.raises(BuildError, match=r"(?s)g\+\+ failed with status 1.*this is no C"):
        native.load("portable")


def test_structures_have_the_layout_of_the_core():
    """A field that is missing on one side would shift all behind it."""
    text = native._SOURCE.read_text()
    for structure, name in ((native._Pass, "tc_pass"), (native._Cast, "tc_cast_arguments")):
        body = text[text.index(f"struct {name} {{"):]
        body = body[body.index("{") + 1:body.index("};")]
        fields = []
        for line in body.splitlines():
            declaration = line.split("//")[0].strip().rstrip(";")
            if declaration:
                first, *others = declaration.split(",")
                fields += [part.replace("*", " ").split()[-1] for part in (first, *others)]
        assert [field[0] for field in structure._fields_] == fields


# faults must be found

@pytest.mark.long
@pytest.mark.parametrize("old, new", [
    ("x == x ? x : splat<T>(quiet_nan())", "x"),                    # payloads of NaN
    ("if constexpr (FIRST + SPAN / 2 < N) {", "if constexpr (FIRST + SPAN / 2 < N - 1) {"),
    ("if (i + k >= n) break;", "if (i + k >= n - 1) break;"),       # the last row of a long segment
    ("for (; i + 8 <= n; i += 8) {", "for (; i + 8 < n; i += 8) {"),
    ("return value - T{};", "return value + T{};"),                 # -0 becomes +0
    ("scratch(\n        SINK == ROWWISE_ADAGRAD ? 2 * padded(p.dim) + BLOCK * p.dim : 0, -0.0f);",
     "scratch(\n        SINK == ROWWISE_ADAGRAD ? 2 * padded(p.dim) + BLOCK * p.dim : 0, 1.0f);"),
    ("(std::sqrt(states[k]) + t.p.eps)", "std::sqrt(states[k] + t.p.eps)"),
    ("if (++t.waiting == BLOCK) update(t);", "if (++t.waiting == BLOCK) t.waiting = 0;"),
    ("count = next;", "count = next + (digit == 1);"),              # of the sort
    ("_mm512_cmpneq_epu32_mask(row, before)", "_mm512_cmpgt_epu32_mask(before, row)"),
])
def test_a_fault_in_the_core_is_found(tmp_path, old, new):
    text = native._SOURCE.read_text()
    assert old in text
    name = native.instruction_sets()[0]
    if "_mm512" in old and name != "avx512":
        pytest.skip("this processor has no AVX-512")
    source, library = tmp_path / "core.cpp", tmp_path / "core.so"
    source.write_text(text.replace(old, new))
    subprocess.run(["g++", *native._FLAGS, "-O0", *native.INSTRUCTION_SETS[name][1], "-w",
                    "-o", library, source], check=True)
    device = CpuDevice(threads=1, core="numpy")
    device._core = native.NativeCore(ctypes.CDLL(str(library)), name)
    found = False
    for seed in range(8):
        case = batch(seed, 40, 60, 30, (16, 5, 64, 100)[seed % 4], np.int64, np.int64,
                     weird=0.3 if seed < 4 else 0)  # one NaN is a NaN in all of Adagrad's row
        try:
            check_all(device, case)
        except AssertionError:
            found = True
    nans = np.full((2, 16), np.inf, F32)
    nans[1] = -np.inf
    total = device.embedding_bag(nans, np.array([0, 1]), np.array([0, 2]))
    found |= bool((total.view(np.uint32) != 0x7FC00000).any())
    minus = device.embedding_bag(np.ones((1, 16), F32), np.array([0]), np.array([0, 1]),
                                 np.array([-0.0], F32))
    found |= not np.signbit(minus).all()
    assert found


# what the threads do to each other

def test_flush_to_zero_of_the_caller_changes_nothing(device):
    """A library that sets the processor's mode for the thread: here the core does it itself."""
    core = device._core
    small = np.full((2, 16), 2.0**-140, F32)
    half = np.full(1, 0.5, F32)
    libc = ctypes.CDLL(None)
    environment = ctypes.create_string_buffer(256)
    libc.fegetenv(environment)
    changed = bytearray(environment.raw)
    changed[28:32] = (int.from_bytes(changed[28:32], "little") | 0x8040).to_bytes(4, "little")
    out = np.empty((1, 16), F32)
    try:
        libc.fesetenv(ctypes.create_string_buffer(bytes(changed)))
        core.run(small, out, 1, indices=np.array([1]), offsets=np.array([0, 1]), weights=half)
    finally:
        libc.fesetenv(environment)
    assert (out == F32(2.0**-141)).all() and (out.view(np.uint32) != 0).all()


def test_results_do_not_depend_on_the_number_of_threads():
    case = batch(7, 5_000, 4_000, 50, 64, np.int64, np.int64, weird=0)
    assert case.used > 4 << 14  # enough to be dealt out
    results = []
    for threads in (1, 2, 3, 8):
        with CpuDevice(threads=threads) as device:
            table, state = case.weight.copy(), np.zeros(5_000, F32)
            out = device.embedding_bag(table, case.indices, case.offsets)
            casting = device.cast(case.indices, case.offsets, 5_000)
            device.backward_update(table, case.grad_out, casting, tcast.RowwiseAdagrad(0.1), state)
            results.append([out, table, state, casting.bags, casting.rows])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert np.array_equal(one.view(np.uint32), two.view(np.uint32))


# a Casting that need not be checked again

def test_positions_are_found_when_asked_for(device):
    case = batch(2, 50, 30, 9, 4, np.int32, np.int64, weird=0)
    casting = device.cast(case.indices, case.offsets, 50)
    assert "positions" not in vars(casting)
    expected = golden.cast(case.indices, case.offsets, 50)
    assert np.array_equal(casting.positions, expected.positions)
    assert casting.positions.dtype == np.int32
    assert casting.arrays.keys() == vars(expected).keys()


def test_positions_of_changed_indices_are_refused(device):
    case = batch(2, 50, 30, 9, 4, np.int32, np.int64, weird=0)
    casting = device.cast(case.indices, case.offsets, 50)
    case.indices[3] = 49 - case.indices[3]
    with pytest.raises(ValueError, match="must stay as they were cast"):
        device.coalesce(np.ones((case.used, 4), F32), casting)


def test_a_checked_casting_is_read_only_and_still_checked_against_sizes(device):
    indices, offsets = np.array([4, 9, 0, 4]), np.array([0, 2, 4])
    casting = device.cast(indices, offsets, 10)
    for array in casting.arrays.values():
        if array is not None:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    assert isinstance(casting, CheckedCasting) and isinstance(casting, Casting)
    table = np.ones((9, 4), F32)
    with pytest.raises(ValueError, match=r"casting.rows\[2\] must be .* below 9"):
        device.backward_update(table, np.ones((2, 4), F32), casting, tcast.SGD(1))
    with pytest.raises(ValueError, match=r"casting.bags\[0\] must be .* below 1"):
        device.casted_gather_reduce(np.ones((1, 4), F32), casting)
    assert (table == 1).all()
    # Limits that are larger than what was cast for, or smaller and still kept, are no error.
    device.backward_update(np.ones((11, 4), F32), np.ones((3, 4), F32), casting, tcast.SGD(1))
    few = device.cast(np.array([1, 2]), np.array([0, 2, 2]), 10)
    device.backward_update(np.ones((3, 4), F32), np.ones((1, 4), F32), few, tcast.SGD(1))


# memory that is used again

def test_buffers_take_back_what_nobody_holds():
    buffers = Buffers()
    one = buffers.empty((100, 300), F32)
    address = one.ctypes.data
    assert address % ALIGNMENT == 0 and one.flags.c_contiguous and one.flags.writeable
    view = one[3:5]
    view[...] = 7
    del one
    other = buffers.empty((100, 300), F32)
    other[...] = 0
    assert other.ctypes.data != address and (view == 7).all()  # the view holds it
    del view
    assert buffers.empty((90, 300), F32).ctypes.data == address  # of the same size class
    assert buffers.empty(3, np.int64).nbytes < SMALLEST
    assert buffers.empty((0, 5), F32).shape == (0, 5)


def test_buffers_keep_no_more_than_they_may():
    buffers = Buffers(most_free_bytes=1 << 20)
    arrays = [buffers.empty(1 << 19, np.uint8) for _ in range(8)]
    del arrays
    assert buffers._free_bytes == 1 << 20
    buffers.clear()
    assert buffers._free_bytes == 0 and not buffers._free


def test_a_result_outlives_its_device():
    case = batch(1, 100, 400, 8, 64, np.int64, np.int64, weird=0)
    with CpuDevice() as device:
        out = device.embedding_bag(case.weight, case.indices, case.offsets)
    expected = golden.embedding_bag(case.weight, case.indices, case.offsets)
    with CpuDevice() as other:
        other.embedding_bag(case.weight, case.indices, case.offsets)
    assert golden.bits_equal(out, expected)
