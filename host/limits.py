"""What memory alone allows: the rows of a batch, and nothing but them.

Forward must read every row that is looked up, in the order of the lookups; an update must read and
write every distinct row. Beside these, sums and casting are work that a processor can hide. The
limits are measured on the same tables and rows, in the same process, next to what they limit.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import native
from .build_cache import BuildError

__all__ = ["Limits"]

#: Rows ahead that are tried, for reading and for updating; the best is what memory allows.
READ_DISTANCES, UPDATE_DISTANCES = (16, 32, 64, 128), (8, 16, 32, 64)


class _Numpy:
    """A stand-in without a compiler: it writes what it reads, so its limits are too low."""

    name = "NumPy stand-in, which understates them"

    def read_rows(self, table, indices, distance):
        """Read rows."""
        table.take(indices, axis=0)

    def rmw_rows(self, table, rows, distance):
        """Read, change and write rows."""
        table[rows] += np.float32(2.0 ** -20)


class Limits:
    """The two limits for a layer's tables.

    Parameters
    ----------
    weights : list of float32 [R, D]
        The tables, C-contiguous; :meth:`update` changes them slightly.
    threads : int
        Each reads or updates a part of every table's rows.

    Attributes
    ----------
    source : str
        What measures: the compiled core, or the NumPy stand-in.
    """

    def __init__(self, weights, threads=1):
        try:
            self._core = native.load()
            self.source = f"compiled core, {self._core.name}"
        except BuildError:
            self._core = _Numpy()
            self.source = self._core.name
        self._weights, self._threads = weights, threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def prepare(self, batch):
        """Return, for each table, (lookups, distinct rows, ascending), each in parts; not timed.

        Parameters
        ----------
        batch : sequence
            One object with ``indices`` for each table.
        """
        def parts(rows):
            return [np.ascontiguousarray(part) for part in np.array_split(rows, self._threads)]
        return [(parts(item.indices.astype(np.int64)),
                 parts(np.unique(item.indices).astype(np.int64))) for item in batch]

    def _each(self, function, work, which, distance):
        for weight, item in zip(self._weights, work, strict=True):
            if self._pool is None:
                function(weight, item[which][0], distance)
            else:
                list(self._pool.map(lambda part, weight=weight: function(weight, part, distance),
                                    item[which]))

    def read(self, work, distance):
        """Read the rows looked up, in their order."""
        self._each(self._core.read_rows, work, 0, distance)

    def update(self, work, distance):
        """Read, change and write the distinct rows, ascending."""
        self._each(self._core.rmw_rows, work, 1, distance)

    def close(self):
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
