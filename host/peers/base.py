"""What the peers have in common: the list of them, and how close their results must be."""

from abc import abstractmethod
from importlib import import_module

import numpy as np

from ... import golden
from ...golden.numerics import UNDERFLOW_ERROR, gamma, segment_depth, sum_bound
from .. import packed_cast
from ..backend import BackendUnavailable, Device

__all__ = ["Peer", "available", "difference_bound", "open_peer", "update_bound", "worst_ratio"]

_CLASSES = {"torch": ("torch_peer", "TorchPeer"), "fbgemm": ("fbgemm_peer", "FbgemmPeer")}


class Peer(Device):
    """Another library behind the device API, as far as it has the operations.

    It sums in an order of its own, so its results agree with ours within a bound, not to the bit;
    see :func:`difference_bound` and :func:`update_bound`. What it lacks raises NotImplementedError.
    ``cast`` makes our Casting; a peer takes the batch from it and does its own sorting.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time of the phases of the last call inside the library, without conversions.
    """

    def __init__(self):
        ok, reason = self.available()
        if not ok:
            raise BackendUnavailable(reason)
        self.seconds = {}

    @classmethod
    @abstractmethod
    def available(cls):
        """Return (bool, reason): whether the library can be used here, and if not, why."""

    def _cast(self, indices, offsets, num_rows, weights):
        return packed_cast.cast(indices, offsets, num_rows, weights)

    def _lacks(self, operation):
        return NotImplementedError(f"the peer {self.name} has no {operation}")

    def _gather(self, weight, indices):
        raise self._lacks("gather")

    def _casted_gather_reduce(self, grad_out, casting):
        raise self._lacks("casted_gather_reduce")

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        raise self._lacks("scatter_update")

    def _expand(self, grad_out, offsets):
        raise self._lacks("expand")

    def _coalesce(self, expanded, casting):
        raise self._lacks("coalesce")

    def _scatter(self, dst, rows, values):
        raise self._lacks("scatter")

    @staticmethod
    def batch(casting, n_bags):
        """Return the (indices, offsets, weights) that were cast, as int64, int64, float32."""
        n_lookups = casting.bags.size
        indices = np.empty(n_lookups, np.int64)
        indices[casting.positions] = np.repeat(casting.rows, np.diff(casting.segment_offsets))
        counts = np.bincount(casting.bags, minlength=n_bags)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        weights = None
        if casting.weights is not None:
            weights = np.empty(n_lookups, np.float32)
            weights[casting.positions] = casting.weights
        return indices, offsets, weights


def _peer_class(name):
    if name not in _CLASSES:
        raise ValueError(f"peer must be one of {', '.join(_CLASSES)}, not {name!r}")
    module, class_name = _CLASSES[name]
    return getattr(import_module(f".{module}", __package__), class_name)


def open_peer(name):
    """Return the peer "torch" or "fbgemm"; BackendUnavailable says why it cannot be used."""
    return _peer_class(name)()


def available():
    """Return a dict of peer name to (bool, reason)."""
    return {name: _peer_class(name).available() for name in _CLASSES}


def _magnitude(source, indices, offsets, weights):
    """Return an upper bound of Σ|w·x| of each segment, float64 [S, D]."""
    sums = golden.gather_reduce(
        np.abs(source), indices, offsets, None if weights is None else np.abs(weights))
    lengths = np.diff(offsets)
    # The sum of magnitudes was itself rounded.
    slack = 1 + 2 * gamma(segment_depth(lengths) + 1)
    return lengths, sums.astype(np.float64) * slack[:, None]


def difference_bound(source, indices, offsets, weights=None, mode="sum"):
    """Bound the difference of two libraries' gather-reduce, the contract's and any other's.

    Both err by at most the bound of summation for their order (golden.numerics.sum_bound): ours
    with the depth of the eight-partial rule, the other with the depth n − 1 of the worst order.

    Parameters
    ----------
    source : float32 [R, D]
        Gathered rows.
    indices, offsets : int32 or int64 [N], [S + 1]
        The segments.
    weights : float32 [N] or None
        Factor of each lookup.
    mode : str
        "mean" divides each sum by its number of lookups.

    Returns
    -------
    float64 [S, D]
        Absolute; valid where nothing overflows.
    """
    lengths, magnitude = _magnitude(source, indices, offsets, weights)
    products = (weights is not None) + 2 * (mode == "mean")
    if mode == "mean":
        magnitude = magnitude / np.maximum(lengths, 1)[:, None]
    lengths = lengths[:, None]
    return (sum_bound(lengths, magnitude, products, depth=segment_depth(lengths))
            + sum_bound(lengths, magnitude, products))


def update_bound(weight, grad_out, casting, lr):
    """Bound the difference of two libraries' SGD update of the rows of ``casting``.

    The new weight is a sum of n + 1 terms, the old weight and −lr·w·g of each lookup. The other
    library may add them in any order, and round each product by itself; see difference_bound.

    Parameters
    ----------
    weight : float32 [R, D]
        Before the update.
    grad_out : float32 [B, D]
        Gradient of the pooled rows.
    casting : Casting
        Of the batch.
    lr : float
        Learning rate.

    Returns
    -------
    float64 [U, D]
        Absolute, for rows ``casting.rows``; all other rows must not change at all.
    """
    lengths, magnitude = _magnitude(grad_out, casting.bags, casting.segment_offsets,
                                    casting.weights)
    lengths = lengths[:, None]
    lr = float(np.float32(lr))
    total = np.abs(weight[casting.rows]).astype(np.float64) + lr * magnitude
    products = 1 + (casting.weights is not None)
    rounding = gamma(segment_depth(lengths) + products + 1) + gamma(lengths + products)
    return rounding * total + 4 * UNDERFLOW_ERROR * products * (lengths + 1) * max(lr, 1.0)


def worst_ratio(found, expected, bound):
    """Return max |found − expected| / bound: at most 1 where they agree.

    Elements that are equal (or both NaN) count as 0, whatever the bound; one that is not finite
    and differs counts as infinite.
    """
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        ratio = np.abs(found - expected)[~same] / np.broadcast_to(bound, found.shape)[~same]
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())
