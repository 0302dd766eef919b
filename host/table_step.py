"""TableStep: what a training step does to one table."""

from dataclasses import dataclass

import numpy as np

__all__ = ["TableStep"]


@dataclass(frozen=True, eq=False)
class TableStep:
    """One table's part of :meth:`Device.training_step`.

    Attributes
    ----------
    weight : float32 [R, D]
        The table, updated in place; each row contiguous, rows may be further apart than a row.
    indices : int32 or int64 [N]
        Rows looked up, each in [0, R).
    offsets : int32 or int64 [B + 1]
        Bag b holds lookups ``offsets[b]`` to ``offsets[b + 1] - 1``; starts with 0.
    grad_out : float32 [B, D]
        Gradient of the pooled rows.
    state : float32 [R] or None
        RowwiseAdagrad's state of every row, updated in place; None for SGD.
    """

    weight: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray
    grad_out: np.ndarray
    state: np.ndarray | None = None
