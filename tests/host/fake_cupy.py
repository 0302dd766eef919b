"""A stand-in for CuPy: NumPy underneath, and kernels compiled with a C++ compiler.

It lets the whole cupy backend run where there is no GPU: its host side, and the text of its kernels
behind an emulation of CUDA's threads. It says nothing about CUDA's compiler or memory.
"""

import ctypes
import hashlib
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np

EMULATION = Path(__file__).with_name("cuda_emulation.h")
# Ubuntu's compiler fortifies by default, and takes a jump between coroutines for a broken stack.
_FLAGS = ["-U_FORTIFY_SOURCE", "-O1", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas",
          "-Wno-unused", "-Wno-maybe-uninitialized", "-ffp-contract=off", "-shared", "-fPIC"]


class ndarray(np.ndarray):
    """An array "on the GPU": NumPy's, but of another type."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self):
        return np.array(self, subok=False)


def _as(result):
    return result.view(ndarray) if isinstance(result, np.ndarray) else result


def _wrap(name):
    function = getattr(np, name)
    return lambda *args, **options: _as(function(*args, **options))


def _poisoned(shape, dtype=np.float32):
    """Return new memory with a pattern in it that no result has: the GPU's is not clean."""
    array = np.empty(shape, dtype)
    array.view(np.uint8).fill(0xAA)
    return array.view(ndarray)


class Compiler:
    """Compiles kernels to shared libraries in a directory, each once.

    ``changes`` are (old, new): faults to plant in the text.
    """

    def __init__(self, directory, changes=()):
        self.directory = directory
        self.changes = changes

    def library(self, code, options):
        for old, new in self.changes:
            code = code.replace(old, new)
        macros = [option for option in options if option.startswith("-D")]
        digest = hashlib.sha256(repr((code, macros)).encode()).hexdigest()[:20]
        path = self.directory / f"{digest}.so"
        if not path.exists():
            kernels = re.findall(r"^extern \"C\" __global__.*?(tc_\w+)\(", code, re.M)
            source = path.with_suffix(".cpp")
            source.write_text("\n".join([
                f'#include "{EMULATION}"', code, *(f"TC_EMULATE({name})" for name in kernels)]))
            built = path.with_suffix(".new")
            subprocess.run(["g++", *_FLAGS, *macros, "-o", str(built), str(source)], check=True)
            built.rename(path)
        return ctypes.CDLL(str(path))


def _argument(value):
    """Return an argument of a kernel as a ctypes object, with the width that CUDA would read."""
    if isinstance(value, np.ndarray):
        assert isinstance(value, ndarray), "an array that is not on the GPU"
        return ctypes.c_void_p(value.ctypes.data if value.size else 0)
    kinds = {np.dtype(np.uint64): ctypes.c_uint64, np.dtype(np.int64): ctypes.c_int64,
             np.dtype(np.int32): ctypes.c_int32, np.dtype(np.float32): ctypes.c_float}
    return kinds[value.dtype](value.item())


def fake_cupy(compiler, n_devices=1):
    """Return the stand-in module; kernels are compiled by ``compiler``."""
    launches = []

    class RawModule:
        def __init__(self, code, options):
            assert "-fmad=false" in options
            self.library = compiler.library(code, options)

        def get_function(self, name):
            function = getattr(self.library, f"emulate_{name}")

            def launch(grid, block, arguments):
                assert all(type(n) is int and 0 < n < 2**31 for n in (*grid, *block))
                launches.append((name, grid, block))
                values = [_argument(value) for value in arguments]
                pointers = (ctypes.c_void_p * len(values))(
                    *(ctypes.addressof(value) for value in values))
                sizes = (ctypes.c_int * len(values))(*(ctypes.sizeof(value) for value in values))
                fault = function(grid[0], block[0], pointers, sizes, len(values))
                assert fault == 0, f"{name}: argument {fault} has the wrong width"
            return launch

    def get_device_count():
        if n_devices < 0:
            raise CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return n_devices

    class CudaError(RuntimeError):
        pass

    class Stream:
        """In order with all others, as everything here."""

        def __init__(self, non_blocking=False):
            self.waited = []

        def record(self):
            return "event"

        def synchronize(self):
            pass

        def wait_event(self, event):
            self.waited.append(event)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    def pinned(n_bytes):
        """Host memory with rubbish in it, which the kernels can write."""
        return (ctypes.c_char * n_bytes)(*b"\x5a" * n_bytes)

    current = Stream()
    names = ("zeros", "flatnonzero", "searchsorted", "ascontiguousarray", "asarray")
    return SimpleNamespace(
        __name__="cupy", ndarray=ndarray, launches=launches, empty=_poisoned,
        asnumpy=lambda array: np.array(array, subok=False), RawModule=RawModule,
        may_share_memory=np.may_share_memory,
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=CudaError),
            Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": 1}),
            Stream=Stream, get_current_stream=lambda: current, alloc_pinned_memory=pinned),
        **{name: _wrap(name) for name in names})


def nvcc(directory, code, options):
    """Compile CUDA text for a Hopper GPU with nvcc; return ptxas's report."""
    source = directory / "kernel.cu"
    source.write_text(code)
    done = subprocess.run(
        ["nvcc", "-arch=sm_90", "-cubin", "-Xptxas", "-v", "-diag-suppress", "177", *options,
         "-o", str(source.with_suffix(".cubin")), str(source)],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr
