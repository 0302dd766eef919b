"""Backend ``cpu``: NumPy on all cores.

Segments are independent, so they are dealt out to threads; the sums of a piece are the golden
model's own, which spend their time in NumPy operations that release the interpreter lock. The
fused backward updates the rows of a piece while their gradients are in the cache. Casting is one
sort of packed keys.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..golden import casting as golden_casting
from ..golden import vectorised
from ..golden.numerics import canonicalise
from . import packed_cast, validation
from .backend import Device

__all__ = ["CpuDevice"]

#: Lookups of a piece: enough to hide the interpreter, few enough for the sums to stay in cache.
PIECE_LOOKUPS = 16_384


class CpuDevice(Device):
    """The same bits as the golden model, on all cores.

    Parameters
    ----------
    threads : int or None
        Threads to use; None: as many as this process may use cores.
    """

    name = "cpu"

    def __init__(self, *, threads=None):
        if threads is None:
            affinity = getattr(os, "sched_getaffinity", None)
            threads = len(affinity(0)) if affinity else os.cpu_count() or 1
        elif validation.scalar_count("threads", threads) < 1:
            raise ValueError("threads must be at least 1, not 0")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def close(self):
        """End the threads."""
        super().close()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _each_piece(self, offsets, work):
        """Call ``work(begin, end)`` for ranges of segments that together are all of them."""
        n_segments, n_lookups = len(offsets) - 1, int(offsets[-1])
        pieces = max(1, n_lookups // PIECE_LOOKUPS)
        # Equal shares of segments and lookups: an empty segment costs something as well.
        cost = np.arange(n_segments + 1) + offsets.astype(np.int64)
        goals = np.arange(1, pieces) * int(cost[-1]) // pieces
        bounds = np.unique(np.concatenate([[0], np.searchsorted(cost, goals), [n_segments]]))
        ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        if self._pool is None or len(ranges) < 2:
            for begin, end in ranges:
                work(begin, end)
        else:
            for _ in self._pool.map(lambda piece: work(*piece), ranges):
                pass

    def _gather_reduce(self, source, indices, offsets, weights, scales=None):
        out = np.empty((len(offsets) - 1, source.shape[1]), np.float32)
        indices = indices.astype(np.intp, copy=False)

        def work(begin, end):
            sums = vectorised.segment_sums(source, indices, offsets[begin:end + 1], weights)
            if scales is not None:
                with np.errstate(all="ignore"):
                    sums *= scales[begin:end, None]
                canonicalise(sums)
            out[begin:end] = sums

        self._each_piece(offsets, work)
        return out

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        scales = golden_casting.reciprocals(offsets) if mode == "mean" else None
        return self._gather_reduce(weight, indices, offsets, weights, scales)

    def _gather(self, weight, indices):
        return weight[indices]

    def _cast(self, indices, offsets, num_rows, weights):
        return packed_cast.cast(indices, offsets, num_rows, weights)

    def _casted_gather_reduce(self, grad_out, casting):
        return self._gather_reduce(grad_out, casting.bags, casting.segment_offsets,
                                   casting.weights)

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        def work(begin, end):
            vectorised.update_rows(weight, rows[begin:end], grads[begin:end], optimizer, state)

        self._each_piece(np.arange(len(rows) + 1), work)

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        bags = casting.bags.astype(np.intp, copy=False)
        offsets, rows = casting.segment_offsets, casting.rows

        def work(begin, end):
            grads = vectorised.segment_sums(grad_out, bags, offsets[begin:end + 1],
                                            casting.weights)
            vectorised.update_rows(weight, rows[begin:end], grads, optimizer, state)

        self._each_piece(offsets, work)

    def _expand(self, grad_out, offsets):
        return grad_out[golden_casting.bag_ids(offsets)]

    def _coalesce(self, expanded, casting):
        return self._gather_reduce(expanded, casting.positions, casting.segment_offsets,
                                   casting.weights)

    def _scatter(self, dst, rows, values):
        distinct, last = packed_cast.last_of_each(rows, dst.shape[0])
        dst[distinct] = values[last]
