"""Peer ``scipy``: the embedding layer as what it is, products with a sparse matrix.

``out = A · weight``, with A the B × R matrix whose CSR form is (offsets, indices). The gradient is
``Aᵀ · grad_out``; of Aᵀ only the rows that are not empty are kept, so that the product is as tall
as the number of distinct rows and not as the table.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from ...golden import SGD
from .base import Peer, importable

__all__ = ["ScipyPeer"]


@dataclass
class _Table:
    """A batch of one table: CSR arrays of A, and the gradient."""

    values: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray
    grad_out: np.ndarray
    out: np.ndarray | None = None


class ScipyPeer(Peer):
    """CSR products; the transposition is SciPy's, in the time of the backward."""

    name = "scipy"
    timing = "csr @ weight; csr transposed, @ grad, update of the rows"

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        return importable("scipy.sparse")

    @classmethod
    def lacks(cls, optimizer):
        """Return an empty text: with the coalesced gradient in hand any rule is NumPy."""
        return ""

    def __init__(self, tables, optimizer, **options):
        super().__init__(tables, optimizer, **options)
        self._csr = import_module("scipy.sparse").csr_matrix

    def prepare(self, batch):
        """Return the CSR arrays; SciPy chooses one type for indices and offsets."""
        def table(item):
            lengths = np.diff(item.offsets)
            values = np.ones(len(item.indices), np.float32) if item.per_sample_weights is None \
                else item.per_sample_weights
            if self.mode == "mean":
                values = np.repeat(np.float32(1) / np.maximum(lengths, 1).astype(np.float32),
                                   lengths)
            return _Table(values, item.indices, item.offsets, item.grad_out)
        return [table(item) for item in batch]

    def _matrix(self, item, n_rows):
        return self._csr((item.values, item.indices, item.offsets),
                         shape=(len(item.offsets) - 1, n_rows))

    def forward(self, work):
        """Multiply."""
        for weight, item in zip(self.tables.weights, work, strict=True):
            item.out = self._matrix(item, len(weight)) @ weight

    def backward_update(self, work):
        """Transpose, multiply, and update the rows."""
        rule = self.optimizer
        for number, item in enumerate(work):
            weight, state = self.tables.weights[number], self.tables.states[number]
            transposed = self._matrix(item, len(weight)).tocsc()
            lengths = np.diff(transposed.indptr)
            rows = np.flatnonzero(lengths)
            starts = np.append(transposed.indptr[rows], transposed.indptr[-1])
            grads = self._csr((transposed.data, transposed.indices, starts),
                              shape=(len(rows), len(item.offsets) - 1)) @ item.grad_out
            if isinstance(rule, SGD):
                weight[rows] -= rule.lr32 * grads
            else:
                state[rows] += np.square(grads).mean(axis=1)
                step = rule.lr32 / (np.sqrt(state[rows]) + rule.eps32)
                weight[rows] -= step[:, None] * grads

    def pooled(self, work):
        """Return the pooled rows."""
        return [item.out for item in work]
