"""Optimizers: what an update does with a row and its gradient.

The rules are elementwise on the rows they are given, so that the loops of
:mod:`.reference` and the fast form share one definition.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from .numerics import add, canonicalise, column_sum, mul, sub

__all__ = ["SGD", "RowwiseAdagrad", "check_optimizer", "updated_rows"]


def _binary32(name, value, *, minimum=0.0):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, not {value!r}")
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.float32(value)
    if not (math.isfinite(value) and math.isfinite(rounded) and value >= minimum):
        raise ValueError(f"{name} must be a finite binary32 number of at least {minimum:g}, "
                         f"not {value!r}")
    return rounded


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: w ← RN(w − RN(lr·g)).

    Attributes
    ----------
    lr : float
        Learning rate, at least 0; used rounded to binary32.
    """

    lr: float

    def __post_init__(self):
        _binary32("lr", self.lr)

    @property
    def lr32(self):
        """The learning rate as the binary32 number that is used."""
        return _binary32("lr", self.lr)

    @property
    def lr_bits(self):
        """Its bit pattern, as the descriptor's ``lr`` field carries it."""
        return int(self.lr32.view(np.uint32))


@dataclass(frozen=True)
class RowwiseAdagrad:
    """Row-wise Adagrad, FBGEMM's EXACT_ROWWISE_ADAGRAD; its state is held by the caller.

    With the state s of a row and its gradient g of D columns: s ← RN(s + RN(Σg²·RN(1/D))),
    m ← RN(lr / RN(RN(√s) + eps)), w ← RN(w − RN(m·g)); Σ is the pairwise column tree.

    Attributes
    ----------
    lr : float
        Learning rate, at least 0; used rounded to binary32.
    eps : float
        Added to the root of the state, at least 0; used rounded to binary32.
    """

    lr: float
    eps: float = 1e-8

    def __post_init__(self):
        _binary32("lr", self.lr)
        _binary32("eps", self.eps)

    @property
    def lr32(self):
        """The learning rate as the binary32 number that is used."""
        return _binary32("lr", self.lr)

    @property
    def eps32(self):
        """Eps as the binary32 number that is used."""
        return _binary32("eps", self.eps)


def check_optimizer(optimizer, state, n_rows):
    """Check an update rule and its state.

    Parameters
    ----------
    optimizer : SGD or RowwiseAdagrad
        The rule.
    state : float32 [n_rows] or None
        None for SGD; for RowwiseAdagrad the writable state of every row of the table.
    n_rows : int
        Rows of the table.

    Raises
    ------
    TypeError, ValueError
        The rule or its state is of the wrong kind or shape.
    """
    if isinstance(optimizer, SGD):
        if state is not None:
            raise TypeError(f"state must be None with SGD, not {type(state).__name__}")
        return
    if not isinstance(optimizer, RowwiseAdagrad):
        raise TypeError(f"optimizer must be an SGD or a RowwiseAdagrad, "
                        f"not {type(optimizer).__name__}")
    if not isinstance(state, np.ndarray):
        raise TypeError(f"state must be a numpy.ndarray with RowwiseAdagrad, "
                        f"not {type(state).__name__}")
    if state.dtype != np.float32:
        raise TypeError(f"state must be of dtype float32, not {state.dtype}")
    if state.shape != (n_rows,):
        raise ValueError(f"state must have shape ({n_rows},), one element for each row of weight, "
                         f"not {state.shape}")
    if not state.flags.writeable:
        raise ValueError("state must be writable, because it is updated in place")


def updated_rows(rows, state, grads, optimizer):
    """Return what an update makes of rows and their state.

    Parameters
    ----------
    rows : float32 [U, D]
        Rows to update.
    state : float32 [U] or None
        State of each row, where the rule has one.
    grads : float32 [U, D]
        Coalesced gradient of each row.
    optimizer : SGD or RowwiseAdagrad
        The rule and its constants.

    Returns
    -------
    (float32 [U, D], float32 [U] or None)
    """
    if isinstance(optimizer, SGD):
        return sub(rows, mul(optimizer.lr32, grads)), None
    reciprocal = np.float32(1) / np.float32(grads.shape[1])
    state = add(state, mul(column_sum(mul(grads, grads)), reciprocal))
    with np.errstate(all="ignore"):
        root = canonicalise(np.array(np.sqrt(state), dtype=np.float32))
        step = canonicalise(np.array(optimizer.lr32 / add(root, optimizer.eps32),
                                     dtype=np.float32))
    return sub(rows, mul(step[:, None], grads)), state
