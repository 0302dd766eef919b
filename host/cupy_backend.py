"""Backend ``cupy``: one CUDA kernel that is the engine's dataflow, one thread per element.

Casting is one sort of packed keys on the GPU. Speed is not tuned yet.
"""

import importlib

import numpy as np

from ..golden import Casting
from . import packed_cast, validation
from .backend import BackendUnavailable, Device
from .kernels import CUDA_OPTIONS, cuda_source

__all__ = ["CupyDevice", "load_cupy"]

_BLOCK = 256
_GRID_MAX = 1 << 20  # blocks; the kernel strides over what is left


def load_cupy():
    """Return the cupy module; BackendUnavailable says why where there is none or no GPU."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendUnavailable(f"cupy cannot be imported: {error}") from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"no GPU that CUDA can use: {error}") from error
    if n_devices < 1:
        raise BackendUnavailable("no GPU that CUDA can use")
    return cupy


class CupyDevice(Device):
    """The same bits as the golden model, on a GPU.

    Arrays are CuPy arrays, or NumPy arrays, which are copied to the GPU and whose results come back
    as NumPy arrays; all arrays of a call are of one kind. Indices may be of either width; the
    kernel uses int64. Calls are asynchronous with respect to the GPU where CuPy's are.
    """

    name = "cupy"

    def __init__(self):
        self._cupy = load_cupy()
        module = self._cupy.RawModule(code=cuda_source(), options=CUDA_OPTIONS)
        self._kernel = module.get_function("tc_gather_scatter")

    def _xp(self, array):
        return self._cupy if isinstance(array, self._cupy.ndarray) else np

    # moving data

    def _to_gpu(self, array, dtype=None):
        """Return a C-contiguous CuPy array of ``dtype``, or None for None."""
        if array is None:
            return None
        return self._cupy.ascontiguousarray(self._cupy.asarray(array), dtype=dtype)

    def _like(self, result, argument):
        """Return ``result`` in the kind of array that ``argument`` is."""
        if isinstance(argument, self._cupy.ndarray):
            return result
        return self._cupy.asnumpy(result)

    def _casting_like(self, casting, argument):
        return Casting(**{name: None if value is None else self._like(value, argument)
                          for name, value in vars(casting).items()})

    # one pass

    def _pass(self, source, target, n_segments, *, indices=None, offsets=None, weights=None,
              scales=None, rows=None, lr=None):
        """Run the kernel; ``target`` is a CuPy array with contiguous rows, written in place."""
        source = self._to_gpu(source)
        integers = [self._to_gpu(array, np.int64) for array in (indices, offsets, rows)]
        floats = [self._to_gpu(array) for array in (weights, scales)]
        dim = target.shape[1]
        count = n_segments * dim
        if not count:
            return
        null = np.uint64(0)
        indices, offsets, rows = (null if array is None else array for array in integers)
        weights, scales = (null if array is None else array for array in floats)
        blocks = min(-(-count // _BLOCK), _GRID_MAX)
        # A single row's stride may be anything, and CuPy counts it in bytes.
        dst_stride = target.strides[0] // 4 if target.shape[0] > 1 else dim
        self._kernel((blocks,), (_BLOCK,), (
            source, indices, offsets, weights, scales, rows, target, np.int64(dim),
            np.int64(dst_stride), np.int64(n_segments), np.int64(dim),
            np.int32(lr is not None), np.float32(0 if lr is None else lr)))

    def _gathered(self, source, n_segments, **arrays):
        """Return the result of a pass that overwrites a new array."""
        out = self._cupy.empty((n_segments, source.shape[1]), dtype=np.float32)
        self._pass(source, out, n_segments, **arrays)
        return self._like(out, source)

    def _in_place(self, target, change):
        """Call ``change`` on ``target`` as a CuPy array; bring a NumPy array's content back."""
        if isinstance(target, self._cupy.ndarray):
            change(target)
        else:
            on_gpu = self._to_gpu(target)
            change(on_gpu)
            target[...] = self._cupy.asnumpy(on_gpu)

    # hooks

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        scales = None
        if mode == "mean":
            lengths = self._cupy.diff(self._to_gpu(offsets, np.int64))
            # A scale of an empty bag's +0 does not matter, as long as it is finite.
            filled = self._cupy.maximum(lengths, 1).astype(np.float32)
            # NumPy divides: a GPU's division depends on the flags CuPy compiles with.
            scales = self._to_gpu(np.float32(1) / self._cupy.asnumpy(filled))
        return self._gathered(weight, offsets.size - 1, indices=indices, offsets=offsets,
                              weights=weights, scales=scales)

    def _gather(self, weight, indices):
        return self._gathered(weight, indices.size, indices=indices)

    def _cast(self, indices, offsets, num_rows, weights):
        casting = packed_cast.cast(self._to_gpu(indices), self._to_gpu(offsets), num_rows,
                                   self._to_gpu(weights), self._cupy)
        return self._casting_like(casting, indices)

    def _casted_gather_reduce(self, grad_out, casting):
        return self._gathered(grad_out, casting.rows.size, indices=casting.bags,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        validation.optimizer_sgd("optimizer", optimizer)
        self._in_place(weight, lambda target: self._pass(
            grads, target, rows.size, rows=rows, lr=optimizer.lr32))

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        validation.optimizer_sgd("optimizer", optimizer)
        self._in_place(weight, lambda target: self._pass(
            grad_out, target, casting.rows.size, indices=casting.bags,
            offsets=casting.segment_offsets, weights=casting.weights, rows=casting.rows,
            lr=optimizer.lr32))

    def _expand(self, grad_out, offsets):
        positions = self._cupy.arange(int(offsets[-1]))
        bags = self._cupy.searchsorted(self._to_gpu(offsets, np.int64), positions,
                                       side="right") - 1
        return self._gathered(grad_out, positions.size, indices=bags)

    def _coalesce(self, expanded, casting):
        return self._gathered(expanded, casting.rows.size, indices=casting.positions,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter(self, dst, rows, values):
        # Of equal rows the last one stays, so each is written by one thread alone.
        distinct, last = packed_cast.last_of_each(self._to_gpu(rows), dst.shape[0], self._cupy)
        self._in_place(dst, lambda target: self._pass(
            values, target, distinct.size, indices=last, rows=distinct))
