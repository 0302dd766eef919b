"""A stand-in for CuPy: NumPy underneath, and kernels compiled with a C++ compiler.

It lets the cupy backend's host side, and the core that its kernel shares with C++, run where there
is no GPU. It says nothing about CUDA's compiler, launch or memory.
"""

import ctypes
import subprocess
from types import SimpleNamespace

import numpy as np

from tcast.host.kernels import CORE, HOST_PROLOGUE, cuda_source

# The launch of the CUDA kernel, in C++: the same arguments, one element after the other.
HOST_KERNEL = """
extern "C" void tc_gather_scatter(
        const float *src, const tc_int *indices, const tc_int *offsets, const float *weights,
        const float *scales, const tc_int *rows, float *dst, tc_int src_stride, tc_int dst_stride,
        tc_int n_segments, tc_int dim, int sgd, float lr) {
    const tc_pass pass = {src, indices, offsets, weights, scales, rows, dst, src_stride,
                          dst_stride, n_segments, dim, sgd, lr};
    // Backwards, because a GPU promises no order either.
    for (tc_int n = n_segments * dim - 1; n >= 0; --n) tc_element(pass, n);
}
"""


class ndarray(np.ndarray):
    """An array "on the GPU": NumPy's, but of another type."""


def _as(result):
    return result.view(ndarray) if isinstance(result, np.ndarray) else result


def _wrap(name):
    function = getattr(np, name)
    return lambda *args, **options: _as(function(*args, **options))


def compile_core(directory, changes=()):
    """Compile the kernel's core as C++ and return the function; ``changes`` are (old, new)."""
    core = CORE
    for old, new in changes:
        assert old in core, f"{old!r} is not in the kernel"
        core = core.replace(old, new)
    source, library = directory / "kernel.cpp", directory / "kernel.so"
    source.write_text(HOST_PROLOGUE + core + HOST_KERNEL)
    subprocess.run(["g++", "-O2", "-std=c++14", "-Wall", "-Werror", "-ffp-contract=off", "-shared",
                    "-fPIC", "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library)).tc_gather_scatter


def fake_cupy(function, n_devices=1):
    """Return the stand-in module; kernels run ``function``, from compile_core."""
    launches = []

    def launch(grid, block, arguments):
        values = []
        for value in arguments:
            if isinstance(value, np.ndarray):
                assert isinstance(value, ndarray), "an array that is not on the GPU"
                assert value.dtype in (np.int64, np.float32)
                values.append(ctypes.c_void_p(value.ctypes.data))
            else:  # scalars are passed by value, with the width that they have
                kind = {np.dtype(np.uint64): ctypes.c_void_p, np.dtype(np.int64): ctypes.c_int64,
                        np.dtype(np.int32): ctypes.c_int32, np.dtype(np.float32): ctypes.c_float}
                values.append(kind[value.dtype](value.item()))
        assert all(type(number) is int and 0 < number < 2**31 for number in (*grid, *block))
        launches.append((grid, block))
        function(*values)

    class RawModule:
        """Ignores the CUDA text, which is checked to be the one with the shared core."""

        def __init__(self, code, options):
            assert code == cuda_source() and CORE in code
            self.options = options

        def get_function(self, name):
            assert name == "tc_gather_scatter"
            return launch

    def get_device_count():
        if n_devices < 0:
            raise CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return n_devices

    class CudaError(RuntimeError):
        pass

    names = ("arange", "ones", "empty", "concatenate", "searchsorted", "flatnonzero", "diff",
             "maximum", "ascontiguousarray", "asarray")
    module = SimpleNamespace(
        __name__="cupy", ndarray=ndarray, uint32=np.uint32, int64=np.int64, launches=launches,
        asnumpy=lambda array: np.array(array, subok=False), RawModule=RawModule,
        may_share_memory=np.may_share_memory,
        cuda=SimpleNamespace(runtime=SimpleNamespace(
            getDeviceCount=get_device_count, CUDARuntimeError=CudaError)),
        **{name: _wrap(name) for name in names})
    return module
