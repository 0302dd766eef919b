"""Backend ``cupy``: the engine's dataflow and tensor casting in CUDA kernels of our own.

The kernels are in ``cuda/``; CuPy brings memory, streams, the compiler and the sort.
"""

import importlib
import threading
from typing import NamedTuple

import numpy as np

from ..golden import SGD
from . import validation
from .backend import BackendUnavailable, Device
from .checked_casting import CheckedCasting
from .kernels import (
    ADAGRAD,
    CUDA_OPTIONS,
    KEY_TILE,
    WRITE,
    Shape,
    Tuning,
    cuda_source,
    defines,
    index_type,
)
from .kernels import SGD as SGD_SINK
from .packed_cast import check_key_bits

__all__ = ["CupyDevice", "load_cupy"]

#: Lookups of a segment above which blocks share it (the kernels' TC_LONG).
LONG = 256

_NULL = np.uint64(0)
_INT64_MAX = np.iinfo(np.int64).max
_CHECK_BLOCK = 256
# Words of the kernels' status.
_BAD, _USED, _SEGMENTS, _N_LONG = range(4)


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


class _Long(NamedTuple):
    """The segments of more than LONG lookups: their numbers, in no order, in ``list[:count]``."""

    list: object
    count: int


class _GpuCasting(CheckedCasting):
    """A CheckedCasting on the GPU that knows its long segments."""

    def __init__(self, *arrays, long, **facts):
        super().__init__(*arrays, **facts)
        vars(self)["_long"] = long


class CupyDevice(Device):
    """The same bits as the golden model, on a GPU.

    Arrays are CuPy arrays, or NumPy arrays, which are copied to the GPU and whose results come back
    as NumPy arrays; all arrays of a call are of one kind.

    Work goes to CuPy's current stream. A call waits for the GPU as long as it takes to learn that
    its arguments are good (one kernel over indices and offsets), and ``cast`` until it is done,
    because the number of distinct rows is the size of its results. Updates with a Casting that this
    device made do not wait: it is not checked again, and its arrays must not be changed. (If they
    are, results are undefined, but nothing outside of the arrays is read or written.)

    Parameters
    ----------
    tuning : Tuning or None
        Sizes of the kernels; None: those that are best on an H200.
    """

    name = "cupy"

    def __init__(self, *, tuning=None):
        self._cupy = load_cupy()
        self.tuning = Tuning() if tuning is None else tuning
        self._kernels = {}
        self._beside = None
        self._blocks = 4 * self._cupy.cuda.Device().attributes["MultiProcessorCount"]
        # What the check of a call has found out for its hook.
        self._found = threading.local()

    def stream_beside(self):
        """Return a CuPy stream that runs beside the current one, behind what that holds now.

        So casting hides behind the forward pass::

            beside = device.stream_beside()
            out = device.embedding_bag(weight, indices, offsets)
            with beside:
                casting = device.cast(indices, offsets, len(weight))

        ``cast`` returns when it is done, so the casting can be used on any stream. The stream is
        one of the device's: asking for it again waits anew.
        """
        cuda = self._cupy.cuda
        if self._beside is None:
            self._beside = cuda.Stream(non_blocking=True)
        self._beside.wait_event(cuda.get_current_stream().record())
        return self._beside

    def _xp(self, array):
        return self._cupy if isinstance(array, self._cupy.ndarray) else np

    # checks: one kernel and one word to wait for, instead of several for each array

    def _lookups(self, indices, offsets, per_sample_weights, mode, n_rows, rows_of, xp):
        arguments = (indices, offsets, per_sample_weights, mode, n_rows, rows_of, xp)
        if xp is np:
            return super()._lookups(*arguments)
        weights = self._lookup_kinds(*arguments)
        bad, used, long = self._check(offsets=offsets, n_lookups=indices.size, find_long=True,
                                      longest=1 << 24 if mode == "mean" else _INT64_MAX,
                                      indices=indices, n_rows=n_rows)
        if bad:
            super()._lookups(*arguments)  # which says what is wrong
        self._found.long = offsets, long
        return indices[:used], offsets, None if weights is None else weights[:used]

    @staticmethod
    def _lookup_kinds(indices, offsets, per_sample_weights, mode, n_rows, rows_of, xp):
        validation.mode_name(mode)
        validation.index_kind("indices", indices, xp)
        validation.offset_kind("offsets", offsets, xp)
        return validation.sample_weights(per_sample_weights, indices.size, mode, xp)

    def _cast_lookups(self, indices, offsets, per_sample_weights, num_rows, xp):
        if xp is np:
            return super()._cast_lookups(indices, offsets, per_sample_weights, num_rows, xp)
        # What the arrays hold is checked by the kernel that casts them.
        weights = self._lookup_kinds(indices, offsets, per_sample_weights, "sum", num_rows,
                                     "num_rows", xp)
        return indices, offsets, weights

    def _check_indices(self, name, indices, n_rows, rows_of, xp):
        if xp is not np:
            validation.index_kind(name, indices, xp)
            if not self._check(indices=indices, n_rows=n_rows)[0]:
                return
        super()._check_indices(name, indices, n_rows, rows_of, xp)

    def _check_row_numbers(self, name, rows, n_rows, rows_of, increasing, xp):
        if xp is not np:
            validation.index_kind(name, rows, xp)
            which = {"rows": rows} if increasing else {"indices": rows}
            if not self._check(**which, n_rows=n_rows)[0]:
                return
        super()._check_row_numbers(name, rows, n_rows, rows_of, increasing, xp)

    def _check_offsets(self, name, offsets, xp):
        if xp is not np:
            validation.offset_kind(name, offsets, xp)
            bad, used, _ = self._check(offsets=offsets, n_lookups=_INT64_MAX)
            if not bad:
                self._found.used = offsets, used
                return
        super()._check_offsets(name, offsets, xp)

    def _check(self, *, offsets=None, n_lookups=0, longest=_INT64_MAX, indices=None, rows=None,
               n_rows=0, find_long=False):
        """Return (whether something is wrong, the last offset, the long segments or None)."""
        arrays = [array for array in (offsets, indices, rows) if array is not None]
        size = max(array.size for array in arrays)
        if not size:
            return False, 0, None
        status, words = self._status()
        capacity = n_lookups // (LONG + 1) if find_long else 0
        found = self._cupy.empty(capacity, np.int64) if capacity else None
        numbers = indices if indices is not None else rows
        self._launch(
            "casting", "tc_check",
            self._casting_macros(numbers if numbers is not None else offsets,
                                 offsets if offsets is not None else numbers),
            min(-(-size // _CHECK_BLOCK), self._blocks), _CHECK_BLOCK, (
                *self._array_and_size(offsets), np.int64(n_lookups), np.int64(longest),
                *self._array_and_size(indices), np.int64(n_rows),
                *self._array_and_size(rows), np.int64(n_rows),
                status, _NULL if found is None else found, np.int64(capacity)))
        self._cupy.cuda.get_current_stream().synchronize()
        return (bool(words[_BAD]), int(words[_USED]),
                _Long(found, int(words[_N_LONG])) if find_long else None)

    def _status(self):
        """Return (address, words): the kernels' status in host memory that the GPU can write.

        So nothing need be cleared on the GPU, nor copied back. Each thread has its own.
        """
        words = getattr(self._found, "status", None)
        if words is None:
            # An array of it keeps the memory.
            memory = self._cupy.cuda.alloc_pinned_memory(4 * 8)
            words = self._found.status = np.frombuffer(memory, np.int64, 4)
            self._found.address = np.uint64(words.ctypes.data)
        words[:] = 0
        return self._found.address, words

    def _long_segments(self, offsets, n_lookups):
        """Return the long segments, as the check of this call found them or by looking."""
        checked, long = getattr(self._found, "long", (None, None))
        self._found.long = None, None
        if n_lookups <= LONG:
            return _Long(None, 0)
        if checked is offsets:
            return long
        return self._check(offsets=self._to_gpu(offsets), n_lookups=n_lookups, find_long=True)[2]

    def _long_of_casting(self, casting):
        if isinstance(casting, _GpuCasting):
            return casting._long
        return self._long_segments(casting.segment_offsets, casting.n_lookups)

    # moving data

    def _to_gpu(self, array):
        """Return a C-contiguous CuPy array, or None for None."""
        if array is None or (type(array) is self._cupy.ndarray and array.flags.c_contiguous):
            return array
        return self._cupy.ascontiguousarray(self._cupy.asarray(array))

    def _rows_to_gpu(self, array):
        """Return a CuPy array of contiguous rows, which may be further apart than a row."""
        if type(array) is not self._cupy.ndarray:
            array = self._cupy.asarray(array)
        dim = array.shape[1]
        stride = array.strides[0]
        if (array.strides[1] == 4 or dim == 1) and stride >= 4 * dim and stride % 4 == 0:
            return array
        return self._cupy.ascontiguousarray(array)

    def _like(self, result, argument):
        """Return ``result`` in the kind of array that ``argument`` is."""
        if isinstance(argument, self._cupy.ndarray):
            return result
        return self._cupy.asnumpy(result)

    @staticmethod
    def _array_and_size(array):
        return (_NULL, np.int64(0)) if array is None else (array, np.int64(array.size))

    # kernels

    def _launch(self, source, name, macros, blocks, block, arguments):
        """Run a kernel on the current stream, compiled for ``macros`` (a dict)."""
        key = source, name, tuple(macros.values())
        kernel = self._kernels.get(key)
        if kernel is None:
            module = self._cupy.RawModule(code=cuda_source(source),
                                          options=CUDA_OPTIONS + defines(**macros))
            kernel = self._kernels[key] = module.get_function(name)
        kernel((blocks,), (block,), arguments)

    @staticmethod
    def _casting_macros(indices, offsets, key="unsigned"):
        return {"index": index_type(indices.dtype), "offset": index_type(offsets.dtype),
                "key": key, "long": LONG}

    def _pass(self, source, target, n_segments, *, indices=None, offsets=None, weights=None,
              rows=None, mean=False, optimizer=None, state=None, long=None):
        """Run the gather kernel; ``target`` is a CuPy array with contiguous rows.

        ``long`` are the long segments (a _Long), where there are offsets.
        """
        dim = target.shape[1]
        if not n_segments:
            return
        source = self._rows_to_gpu(source)
        indices, offsets, weights, rows = (
            self._to_gpu(array) for array in (indices, offsets, weights, rows))
        # A single row's stride may be anything, and CuPy counts it in bytes.
        strides = [array.strides[0] // 4 if array.shape[0] > 1 else dim
                   for array in (source, target)]
        aligned = not any(stride % 4 for stride in strides) \
            and not any(array.data.ptr % 16 for array in (source, target))
        sink = WRITE if optimizer is None else SGD_SINK if isinstance(optimizer, SGD) else ADAGRAD
        shape, macros = Shape.of(dim, aligned, sink), self.tuning.macros(sink)
        number = indices if indices is not None else rows
        staged = long is not None and long.count > 0
        blocks = -(-n_segments // (macros["block"] // shape.lanes * macros["batch"]))
        long_blocks, scratch, finished = 0, _NULL, _NULL
        if staged:
            slices = -(-dim // macros["slice"])
            long_blocks = min(long.count * slices, self._blocks)
            if sink == ADAGRAD:
                scratch = self._cupy.empty((long.count, dim), np.float32)
                finished = self._cupy.zeros(long.count, np.int32)
        macros = macros | {
            "vector": shape.vector, "lanes": shape.lanes, "tiles": shape.tiles, "sink": sink,
            "index": "int" if number is None else index_type(number.dtype),
            "offset": "int" if offsets is None else index_type(offsets.dtype),
            "staged": int(staged), "long": LONG}
        lookups = indices if indices is not None else source
        self._launch("gather", "tc_gather", macros, long_blocks + blocks, macros["block"], (
            source, *(_NULL if array is None else array
                      for array in (indices, offsets, weights, rows)),
            target, _NULL if state is None else state,
            np.int64(source.shape[0]), np.int64(strides[0]),
            np.int64(target.shape[0]), np.int64(strides[1]),
            np.int64(lookups.shape[0]), np.int64(n_segments), np.int32(dim), np.int32(mean),
            np.float32(0 if optimizer is None else optimizer.lr32),
            np.float32(optimizer.eps32 if sink == ADAGRAD else 0),
            long.list if staged else _NULL, np.int64(long.count if staged else 0),
            np.int32(long_blocks), scratch, finished))

    def _gathered(self, source, n_segments, **arrays):
        """Return the result of a pass that overwrites a new array."""
        out = self._cupy.empty((n_segments, source.shape[1]), dtype=np.float32)
        self._pass(source, out, n_segments, **arrays)
        return self._like(out, source)

    def _update(self, source, target, n_segments, *, state=None, **arrays):
        """Run a pass that changes ``target`` and ``state``; bring NumPy arrays' content back."""
        on_gpu = [None if array is None else self._cupy.asarray(array)
                  for array in (target, state)]
        packed_state = self._to_gpu(on_gpu[1])
        self._pass(source, on_gpu[0], n_segments, state=packed_state, **arrays)
        if packed_state is not on_gpu[1]:
            on_gpu[1][...] = packed_state
        for array, changed in zip((target, state), on_gpu, strict=True):
            if changed is not array:
                array[...] = self._cupy.asnumpy(changed)

    # sorting

    def _sorted(self, indices, offsets, num_rows, weights=None, bags=True):
        """Sort lookups by row: (whether they are bad, a tuple of arrays, long segments).

        The arrays are bags, segment_offsets, rows, weights and positions, those of a Casting.
        """
        cupy, n, dtype = self._cupy, indices.size, indices.dtype
        if not n:
            bad, _, _ = self._check(offsets=offsets, n_lookups=0)
            empty = [cupy.empty(0, dtype) for _ in range(3)]
            return bad, (empty[0], cupy.zeros(1, dtype), empty[1],
                         None if weights is None else cupy.empty(0, np.float32), empty[2]
                         ), _Long(None, 0)
        position_bits = (n - 1).bit_length()
        check_key_bits(max(num_rows - 1, 0).bit_length() + position_bits, num_rows, n)
        narrow = num_rows.bit_length() + position_bits <= 32
        macros = self._casting_macros(indices, offsets,
                                      "unsigned" if narrow else "tc_wide")
        tiles, capacity = -(-n // KEY_TILE), n // (LONG + 1)
        shift = np.int32(position_bits)
        status = cupy.zeros(4, np.int64)
        keys = cupy.empty(n, np.uint32 if narrow else np.uint64)
        bag_of = cupy.empty(n, np.int32) if bags else _NULL
        self._launch("casting", "tc_keys", macros, tiles, _CHECK_BLOCK, (
            indices, np.int64(n), offsets, np.int64(offsets.size - 1), np.int64(num_rows), shift,
            keys, bag_of, status))
        keys.sort()
        counts = cupy.empty(tiles, np.int32)
        self._launch("casting", "tc_count_runs", macros, tiles, _CHECK_BLOCK, (
            keys, shift, status, counts))
        bag_ids, positions, segment_offsets, rows = (
            cupy.empty(size, dtype) for size in (n if bags else 0, n, n + 1, n))
        sorted_weights = None if weights is None else cupy.empty(n, np.float32)
        long_list = cupy.empty(capacity, np.int64) if capacity else _NULL
        self._launch("casting", "tc_write_runs", macros, tiles, _CHECK_BLOCK, (
            keys, shift, counts, bag_of, _NULL if weights is None else weights,
            bag_ids if bags else _NULL, positions,
            _NULL if weights is None else sorted_weights, segment_offsets, rows, status,
            long_list, np.int64(capacity)))
        bad, used, n_segments, n_long = (int(word) for word in status.get())
        return bool(bad), (
            bag_ids[:used], segment_offsets[:n_segments + 1], rows[:n_segments],
            None if weights is None else sorted_weights[:used], positions[:used],
        ), _Long(long_list, n_long)

    # hooks

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        return self._gathered(weight, offsets.size - 1, indices=indices, offsets=offsets,
                              weights=weights, mean=mode == "mean",
                              long=self._long_segments(offsets, indices.size))

    def _gather(self, weight, indices):
        return self._gathered(weight, indices.size, indices=indices)

    def _cast(self, indices, offsets, num_rows, weights):
        bad, arrays, long = self._sorted(self._to_gpu(indices), self._to_gpu(offsets), num_rows,
                                         self._to_gpu(weights))
        if bad:  # say what is wrong
            super()._lookups(indices, offsets, weights, "sum", num_rows, "num_rows", self._cupy)
        facts = {"n_bags": offsets.size - 1, "num_rows": num_rows}
        if isinstance(indices, self._cupy.ndarray):
            return _GpuCasting(*arrays[:4], positions=arrays[4], long=long, **facts)
        arrays = [None if array is None else self._cupy.asnumpy(array) for array in arrays]
        return CheckedCasting(*arrays[:4], positions=arrays[4], **facts)

    def _casted_gather_reduce(self, grad_out, casting):
        return self._gathered(grad_out, casting.rows.size, indices=casting.bags,
                              offsets=casting.segment_offsets, weights=casting.weights,
                              long=self._long_of_casting(casting))

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        self._update(grads, weight, rows.size, rows=rows, optimizer=optimizer, state=state)

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        self._update(grad_out, weight, casting.rows.size, indices=casting.bags,
                     offsets=casting.segment_offsets, weights=casting.weights, rows=casting.rows,
                     optimizer=optimizer, state=state, long=self._long_of_casting(casting))

    def _expand(self, grad_out, offsets):
        checked, used = getattr(self._found, "used", (None, None))
        self._found.used = None, None
        if checked is not offsets:
            used = int(offsets[-1])
        offsets = self._to_gpu(offsets)
        bags = self._cupy.empty(used, np.int32)
        if used:
            self._launch("casting", "tc_keys", self._casting_macros(bags, offsets),
                         -(-used // KEY_TILE), _CHECK_BLOCK, (
                             _NULL, np.int64(used), offsets, np.int64(offsets.size - 1),
                             np.int64(0), np.int32(0), _NULL, bags, _NULL))
        return self._gathered(grad_out, used, indices=bags)

    def _coalesce(self, expanded, casting):
        return self._gathered(expanded, casting.rows.size, indices=casting.positions,
                              offsets=casting.segment_offsets, weights=casting.weights,
                              long=self._long_of_casting(casting))

    def _scatter(self, dst, rows, values):
        if not rows.size:
            return
        # Of equal rows the last one stays, so each is written by one group of threads alone.
        rows = self._to_gpu(rows)
        _, (_, ends, distinct, _, positions), _ = self._sorted(
            rows, self._cupy.asarray(np.array([0, rows.size])), dst.shape[0], bags=False)
        self._update(values, dst, distinct.size, indices=positions[ends[1:] - 1], rows=distinct)
