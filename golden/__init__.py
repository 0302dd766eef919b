"""Golden model: NumPy definitions of every operation, to the bit."""

from .casting import Casting, bag_ids, cast, mean_weights, reciprocals
from .numerics import bits_equal, first_difference
from .optimizers import SGD, RowwiseAdagrad
from .vectorised import (
    backward_update,
    baseline_backward,
    casted_gather_reduce,
    coalesce,
    embedding_bag,
    expand,
    gather,
    gather_reduce,
    scatter,
    scatter_update,
)

__all__ = [
    "SGD",
    "Casting",
    "RowwiseAdagrad",
    "backward_update",
    "bag_ids",
    "baseline_backward",
    "bits_equal",
    "cast",
    "casted_gather_reduce",
    "coalesce",
    "embedding_bag",
    "expand",
    "first_difference",
    "gather",
    "gather_reduce",
    "mean_weights",
    "reciprocals",
    "scatter",
    "scatter_update",
]
