"""The NumPy core of the cpu backend, for machines without a compiler.

Segments are independent, so they are dealt out to threads; the sums of a piece are the golden
model's own, which spend their time in NumPy operations that release the interpreter lock. An update
changes the rows of a piece while their gradients are in the cache.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..golden import vectorised
from ..golden.numerics import canonicalise
from . import packed_cast
from .buffers import Buffers

__all__ = ["NumpyCore"]

#: Lookups of a piece: enough to hide the interpreter, few enough for the sums to stay in cache.
PIECE_LOOKUPS = 16_384


class NumpyCore:
    """The same calls as :class:`tcast.host.native.NativeCore` has for passes and castings."""

    name = "numpy"

    def __init__(self):
        self.buffers = Buffers()

    def run(self, source, target, threads, *, indices=None, offsets=None, weights=None,
            scales=None, rows=None, optimizer=None, state=None):
        """Run one pass of the engine's dataflow; rows must be distinct."""
        n_lookups = source.shape[0] if indices is None else indices.size
        indices = (np.arange(n_lookups) if indices is None
                   else indices.astype(np.intp, copy=False))
        if offsets is None:
            offsets = np.arange(n_lookups + 1)

        def work(begin, end):
            sums = vectorised.segment_sums(source, indices, offsets[begin:end + 1], weights)
            if scales is not None:
                with np.errstate(all="ignore"):
                    sums *= scales[begin:end, None]
                canonicalise(sums)
            where = slice(begin, end) if rows is None else rows[begin:end]
            if optimizer is None:
                target[where] = sums
            else:
                vectorised.update_rows(target, where, sums, optimizer, state)

        _each_piece(offsets, threads, work)

    def cast(self, indices, offsets, num_rows, weights, threads):
        """Return the Casting of a batch."""
        return packed_cast.cast(indices, offsets, num_rows, weights)


def _each_piece(offsets, threads, work):
    """Call ``work(begin, end)`` for ranges of segments that together are all of them."""
    n_segments, n_lookups = len(offsets) - 1, int(offsets[-1])
    pieces = max(1, n_lookups // PIECE_LOOKUPS)
    # Equal shares of segments and lookups: an empty segment costs something as well.
    cost = np.arange(n_segments + 1) + offsets.astype(np.int64)
    goals = np.arange(1, pieces) * int(cost[-1]) // pieces
    bounds = np.unique(np.concatenate([[0], np.searchsorted(cost, goals), [n_segments]]))
    ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    if threads < 2 or len(ranges) < 2:
        for begin, end in ranges:
            work(begin, end)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda piece: work(*piece), ranges):
            pass
