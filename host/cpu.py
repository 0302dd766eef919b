"""Backend ``cpu``: all cores of this machine, by compiled code, or by NumPy without a compiler."""

import os
import warnings

import numpy as np

from ..golden import casting as golden_casting
from . import native, packed_cast, validation
from .backend import Device
from .build_cache import BuildError
from .numpy_core import NumpyCore

__all__ = ["CORES", "CpuDevice"]

#: What the option ``core`` may be.
CORES = ("auto", *native.INSTRUCTION_SETS, "numpy")


class CpuDevice(Device):
    """The same bits as the golden model, on all cores.

    Parameters
    ----------
    threads : int or None
        Threads to use; None: as many as this process may use cores.
    core : str
        "auto": the compiled core for the best instruction set of this processor (compiled when it
        is first used, and kept), or NumPy with a RuntimeWarning where there is no compiler; one of
        "avx512", "avx2" and "portable": that one, or BuildError; "numpy": no compiled code.

    Attributes
    ----------
    core : str
        What is used: "avx512", "avx2", "portable" or "numpy".
    """

    name = "cpu"

    def __init__(self, *, threads=None, core="auto"):
        if threads is None:
            affinity = getattr(os, "sched_getaffinity", None)
            threads = len(affinity(0)) if affinity else os.cpu_count() or 1
        elif validation.scalar_count("threads", threads) < 1:
            raise ValueError("threads must be at least 1, not 0")
        if core not in CORES:
            raise ValueError(f"core must be one of {', '.join(CORES)}, not {core!r}")
        self.threads = threads
        self._core = self._open_core(core)
        self.core = self._core.name

    @staticmethod
    def _open_core(core):
        if core == "numpy":
            return NumpyCore()
        if core != "auto":
            return native.load(core)
        try:
            return native.load()
        except BuildError as error:
            warnings.warn(f"the cpu backend goes on with NumPy, several times slower: {error}",
                          RuntimeWarning, stacklevel=4)
            return NumpyCore()

    def close(self):
        """Give back the memory that is kept for the next call."""
        super().close()
        self._core.buffers.clear()

    def _run(self, source, target, **arrays):
        self._core.run(source, target, self.threads, **arrays)

    def _gathered(self, source, n_segments, **arrays):
        """Return the result of a pass that overwrites a new array."""
        out = self._core.buffers.empty((n_segments, source.shape[1]), np.float32)
        self._run(source, out, **arrays)
        return out

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        scales = golden_casting.reciprocals(offsets) if mode == "mean" else None
        return self._gathered(weight, offsets.size - 1, indices=indices, offsets=offsets,
                              weights=weights, scales=scales)

    def _gather(self, weight, indices):
        return self._gathered(weight, indices.size, indices=indices)

    def _cast(self, indices, offsets, num_rows, weights):
        return self._core.cast(indices, offsets, num_rows, weights, self.threads)

    def _casted_gather_reduce(self, grad_out, casting):
        return self._gathered(grad_out, casting.rows.size, indices=casting.bags,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        self._run(grads, weight, rows=rows, optimizer=optimizer, state=state)

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        self._run(grad_out, weight, indices=casting.bags, offsets=casting.segment_offsets,
                  weights=casting.weights, rows=casting.rows, optimizer=optimizer, state=state)

    def _expand(self, grad_out, offsets):
        bags = golden_casting.bag_ids(offsets)
        return self._gathered(grad_out, bags.size, indices=bags)

    def _coalesce(self, expanded, casting):
        return self._gathered(expanded, casting.rows.size, indices=casting.positions,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter(self, dst, rows, values):
        # Of equal rows the last one stays, so each is written once.
        distinct, last = packed_cast.last_of_each(rows, dst.shape[0])
        self._run(values, dst, indices=last, rows=distinct)
