"""What memory alone allows: the rows of a batch, and nothing but them.

Forward must read every row that is looked up, in the order of the lookups; an update must read and
write every distinct row, and a fused one also read the gradient's row of each lookup, in the order
of the casting. Beside these, sums and casting are work that a processor can hide. The limits are
measured on the same tables and rows, in the same process, next to what they limit.
"""

from dataclasses import dataclass

import numpy as np

from ..golden import casting as golden_casting
from . import native
from .build_cache import BuildError

__all__ = ["Limits"]

#: Rows ahead that are tried, for reading and for updating; the best is what memory allows.
READ_DISTANCES, UPDATE_DISTANCES = (16, 32, 64, 128), (8, 16, 32, 64)


class _Numpy:
    """A stand-in without a compiler: it writes what it reads, so its limits are too low."""

    name = "NumPy stand-in, which understates them"

    def read_rows(self, table, rows, distance, threads):
        """Read rows."""
        table.take(rows, axis=0)

    def rmw_rows(self, table, rows, distance, threads):
        """Read, change and write rows."""
        table[rows] += np.float32(2.0 ** -20)


@dataclass(frozen=True, eq=False)
class TableWork:
    """What a batch needs of one table.

    Attributes
    ----------
    lookups : int64 [N]
        Rows in the order of the lookups.
    distinct : int64 [U]
        The distinct rows, ascending.
    bags : int64 [N]
        Bag of each lookup, in the order of the casting.
    gradient : float32 [B, D]
        Of the bags.
    """

    lookups: np.ndarray
    distinct: np.ndarray
    bags: np.ndarray
    gradient: np.ndarray


class Limits:
    """The limits for a layer's tables.

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

    def prepare(self, batch):
        """Return a list with the TableWork of each table; not timed.

        Parameters
        ----------
        batch : sequence
            One object with ``indices``, ``offsets`` and ``grad_out`` for each table.
        """
        def numbers(values):
            return np.ascontiguousarray(values, np.int64)
        return [TableWork(
            numbers(item.indices), numbers(np.unique(item.indices)),
            numbers(golden_casting.bag_ids(item.offsets)[np.argsort(item.indices, kind="stable")]),
            np.ascontiguousarray(item.grad_out)) for item in batch]

    def read(self, work, distance):
        """Read the rows looked up, in their order."""
        for weight, table in zip(self._weights, work, strict=True):
            self._core.read_rows(weight, table.lookups, distance, self._threads)

    def update(self, work, distance):
        """Read, change and write the distinct rows, ascending."""
        for weight, table in zip(self._weights, work, strict=True):
            self._core.rmw_rows(weight, table.distinct, distance, self._threads)

    def read_gradient(self, work, distance):
        """Read the gradient's row of each lookup, in the order of the casting."""
        for table in work:
            self._core.read_rows(table.gradient, table.bags, distance, self._threads)
