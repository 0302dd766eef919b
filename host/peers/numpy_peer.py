"""Peer ``numpy``: the few lines of NumPy that people write, with ``add.at`` for the update."""

from dataclasses import dataclass

import numpy as np

from .base import Peer

__all__ = ["NumpyPeer"]


@dataclass
class _Table:
    """A batch of one table."""

    indices: np.ndarray
    starts: np.ndarray   #: first lookup of each bag that is not empty
    filled: np.ndarray   #: those bags
    bags: np.ndarray     #: bag of each lookup
    factors: np.ndarray | None  #: of each lookup, [N, 1]
    grad_out: np.ndarray
    out: np.ndarray | None = None


class NumpyPeer(Peer):
    """``np.add.reduceat`` of the rows forward; ``np.subtract.at`` of the expanded gradient back."""

    name = "numpy"
    timing = "add.reduceat(weight[indices]); subtract.at(weight, indices, lr * grad[bags])"

    @classmethod
    def available(cls):
        """Return (True, "")."""
        return True, ""

    def prepare(self, batch):
        """Return the batch with the bag of each lookup."""
        def table(item):
            lengths = np.diff(item.offsets)
            filled = np.flatnonzero(lengths)
            factors = item.per_sample_weights
            if self.mode == "mean":
                factors = np.repeat(np.float32(1) / np.maximum(lengths, 1).astype(np.float32),
                                    lengths)
            return _Table(item.indices, item.offsets[filled], filled,
                          np.repeat(np.arange(len(lengths)), lengths),
                          None if factors is None else factors[:, None], item.grad_out)
        return [table(item) for item in batch]

    def forward(self, work):
        """Look up and pool."""
        for weight, item in zip(self.tables.weights, work, strict=True):
            item.out = np.zeros_like(item.grad_out)
            if len(item.filled):
                rows = weight[item.indices]
                if item.factors is not None:
                    rows *= item.factors
                item.out[item.filled] = np.add.reduceat(rows, item.starts, axis=0)

    def backward_update(self, work):
        """Expand the gradient and subtract it row by row."""
        lr = self.optimizer.lr32
        for weight, item in zip(self.tables.weights, work, strict=True):
            steps = (lr * item.grad_out)[item.bags]
            if item.factors is not None:
                steps *= item.factors
            np.subtract.at(weight, item.indices, steps)

    def pooled(self, work):
        """Return the pooled rows."""
        return [item.out for item in work]
