"""Optimizers: what an update does with a row and its gradient.

The rules are elementwise on the rows they are given, so that the loops of
:mod:`.reference` and the fast form share one definition.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from .checks import check_index_range, check_integers, check_rows_increase, check_table
from .numerics import add, canonicalise, column_sum, mul, sub

__all__ = ["SGD", "RowwiseAdagrad", "require_sgd", "rowwise_adagrad_rows",
           "rowwise_adagrad_update", "sgd_rows"]


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


def require_sgd(optimizer):
    """Raise TypeError unless ``optimizer`` is the SGD that update calls take."""
    if not isinstance(optimizer, SGD):
        raise TypeError(f"optimizer must be SGD, not {optimizer!r}")


def sgd_rows(rows, grads, lr32):
    """Return RN(rows − RN(lr·grads)), float32 of the operands' shape."""
    return sub(rows, mul(lr32, grads))


def rowwise_adagrad_rows(rows, state, grads, optimizer):
    """Return the updated rows and state.

    Parameters
    ----------
    rows : float32 [U, D]
        Rows to update.
    grads : float32 [U, D]
        Coalesced gradient of each updated row.
    state : float32 [U]
        State of each row.
    optimizer : RowwiseAdagrad
        The rule and its constants.

    Returns
    -------
    (float32 [U, D], float32 [U])
    """
    reciprocal = np.float32(1) / np.float32(grads.shape[1])
    state = add(state, mul(column_sum(mul(grads, grads)), reciprocal))
    with np.errstate(all="ignore"):
        root = canonicalise(np.array(np.sqrt(state), dtype=np.float32))
        step = canonicalise(np.array(optimizer.lr32 / add(root, optimizer.eps32),
                                     dtype=np.float32))
    return sub(rows, mul(step[:, None], grads)), state


def rowwise_adagrad_update(weight, state, rows, grads, optimizer):
    """Update ``weight[rows]`` and ``state[rows]`` in place with row-wise Adagrad.

    Parameters
    ----------
    weight : float32 [R, D]
        The table.
    state : float32 [R]
        Sum of the mean squared gradients so far; start with zeros.
    rows : int32 or int64 [U]
        Strictly increasing, each in [0, R).
    grads : float32 [U, D]
        Coalesced gradient of each updated row.
    optimizer : RowwiseAdagrad
        The rule and its constants.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed.
    """
    if not isinstance(optimizer, RowwiseAdagrad):
        raise TypeError(f"optimizer must be RowwiseAdagrad, not {optimizer!r}")
    check_table("weight", weight, writable=True)
    check_integers("rows", rows)
    check_table("grads", grads, rows=len(rows), columns=weight.shape[1])
    check_index_range("rows", rows, len(weight), "len(weight)")
    check_rows_increase("rows", rows)
    if not isinstance(state, np.ndarray) or state.dtype != np.float32:
        raise TypeError(f"state must be a float32 numpy.ndarray, not {state!r}")
    if state.shape != (len(weight),) or not state.flags.writeable:
        raise ValueError(f"state must be writable and of shape ({len(weight)},), "
                         f"not {state.shape}")
    weight[rows], state[rows] = rowwise_adagrad_rows(weight[rows], state[rows], grads, optimizer)
