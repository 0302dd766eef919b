"""What the peers have in common: the tables they share, a batch, and the list of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from ...golden import RowwiseAdagrad
from ..backend import BackendUnavailable
from ..buffers import aligned_empty

__all__ = ["Peer", "TableBatch", "Tables", "available", "importable", "lacks", "open_peer",
           "peer_names"]

_CLASSES = {
    "torch": ("torch_peer", "TorchPeer"),
    "torch-coalesce": ("torch_peer", "TorchCoalescePeer"),
    "torch-dense": ("torch_peer", "TorchDensePeer"),
    "torch-cuda": ("torch_peer", "TorchCudaPeer"),
    "fbgemm": ("fbgemm_peer", "FbgemmPeer"),
    "fbgemm-cuda": ("fbgemm_peer", "FbgemmCudaPeer"),
    "numpy": ("numpy_peer", "NumpyPeer"),
    "scipy": ("scipy_peer", "ScipyPeer"),
}


class Tables:
    """The tables of an embedding layer in one block of memory, which every library can work on.

    They lie one behind the other, as FBGEMM lays its own out; so do the states of their rows.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Rows and columns of each table.
    with_state : bool
        Whether rows have an optimizer's state.

    Attributes
    ----------
    flat, flat_state : float32 [sum of R·D], float32 [sum of R] or None
        The blocks; the states are zeros.
    weights, states : list of float32 [R, D], list of float32 [R] (or of None)
        Views of them, one for each table.
    """

    def __init__(self, shapes, with_state=False):
        self.shapes = [(int(rows), int(dim)) for rows, dim in shapes]
        # On cache lines, as PyTorch and FBGEMM allocate their own.
        self.flat = aligned_empty(sum(rows * dim for rows, dim in self.shapes))
        self.flat_state = None
        if with_state:
            self.flat_state = aligned_empty(sum(rows for rows, _ in self.shapes))
            self.flat_state[:] = 0
        self.weights, self.states = [], []
        at = row = 0
        for rows, dim in self.shapes:
            self.weights.append(self.flat[at:at + rows * dim].reshape(rows, dim))
            self.states.append(self.flat_state[row:row + rows] if with_state else None)
            at += rows * dim
            row += rows

    @classmethod
    def of(cls, weights, with_state=False):
        """Return Tables that hold copies of the matrices ``weights``."""
        tables = cls([weight.shape for weight in weights], with_state)
        for own, weight in zip(tables.weights, weights, strict=True):
            own[...] = weight
        return tables


@dataclass(frozen=True)
class TableBatch:
    """What a training step does to one table.

    Attributes
    ----------
    indices : int32 or int64 [N]
        Rows looked up.
    offsets : int32 or int64 [B + 1]
        The bags; the last one ends with N.
    grad_out : float32 [B, D]
        Gradient of the pooled rows.
    per_sample_weights : float32 [N] or None
        Factor of each lookup; only with mode "sum".
    """

    indices: np.ndarray
    offsets: np.ndarray
    grad_out: np.ndarray
    per_sample_weights: np.ndarray | None = None


class Peer(ABC):
    """Another library that trains the same tables, used as its own users would for speed.

    It is prepared once for all tables of a layer; a batch is prepared (in the library's own kind
    and layout of arrays) once as well. What is timed is :meth:`forward` and
    :meth:`backward_update`, each for all tables, each finished when it returns.

    It sums in an order of its own, so its results agree with ours within a bound, not to the bit;
    see :mod:`.bounds`.

    Parameters
    ----------
    tables : Tables
        Trained in place, unless ``shares_memory`` is false: then a copy of it is.
    optimizer : SGD or RowwiseAdagrad
        The rule; :meth:`lacks` says whether the library has it.
    mode : str
        "sum" or "mean".
    threads : int
        Threads the library may use, where it can be told.

    Raises
    ------
    BackendUnavailable
        The library is not here, or lacks the rule.
    """

    #: Name on the command line.
    name = "abstract"
    #: What is timed, in words.
    timing = ""
    #: Whether the library works on the memory of ``tables`` itself.
    shares_memory = True

    def __init__(self, tables, optimizer, *, mode="sum", threads=1):
        ok, reason = self.available()
        reason = reason if not ok else self.lacks(optimizer)
        if reason:
            raise BackendUnavailable(reason)
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode must be sum or mean, not {mode!r}")
        self.tables, self.optimizer, self.mode, self.threads = tables, optimizer, mode, threads

    @classmethod
    @abstractmethod
    def available(cls):
        """Return (bool, reason): whether the library can be used here, and if not, why."""

    @classmethod
    def lacks(cls, optimizer):
        """Return why the library cannot do the update rule; empty where it can."""
        if isinstance(optimizer, RowwiseAdagrad):
            return f"{cls.name} has no row-wise Adagrad"
        return ""

    @abstractmethod
    def prepare(self, batch):
        """Return a batch in the library's own form; not timed.

        Parameters
        ----------
        batch : sequence of TableBatch
            One for each table, all with the same number of bags.
        """

    @abstractmethod
    def forward(self, work):
        """Look up and pool, for all tables; ``work`` is what :meth:`prepare` returned."""

    @abstractmethod
    def backward_update(self, work):
        """Make the gradients of the tables and update them; after :meth:`forward`."""

    @abstractmethod
    def pooled(self, work):
        """Return the result of the last :meth:`forward`, a list of float32 [B, D] NumPy arrays."""

    def table(self, number):
        """Return (weight, state) of a table, in the library's kind of array; state may be None."""
        return self.tables.weights[number], self.tables.states[number]

    def close(self):
        """Let go of the tables and of all that was prepared."""
        self.tables = None


def importable(*modules):
    """Return (bool, reason): whether all of ``modules`` can be imported, and if not, why."""
    for module in modules:
        try:
            import_module(module)
        except (ImportError, OSError, AttributeError) as error:
            # OSError, AttributeError: a library that does not load, or is built for another torch
            return False, f"{module} cannot be imported: {error}"
    return True, ""


def peer_names():
    """Return the names of all peers."""
    return list(_CLASSES)


def _peer_class(name):
    if name not in _CLASSES:
        raise ValueError(f"peer must be one of {', '.join(_CLASSES)}, not {name!r}")
    module, class_name = _CLASSES[name]
    return getattr(import_module(f".{module}", __package__), class_name)


def open_peer(name, tables, optimizer, **options):
    """Return the peer ``name`` for ``tables``; BackendUnavailable says why it cannot be used."""
    return _peer_class(name)(tables, optimizer, **options)


def available():
    """Return a dict of peer name to (bool, reason)."""
    return {name: _peer_class(name).available() for name in _CLASSES}


def lacks(name, optimizer):
    """Return why the peer ``name`` cannot do the update rule; empty where it can."""
    return _peer_class(name).lacks(optimizer)
