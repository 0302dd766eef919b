"""Backend ``golden``: the golden model behind the device API."""

from .. import golden
from .backend import Device

__all__ = ["GoldenDevice"]


class GoldenDevice(Device):
    """The definition that every other backend is compared with, on the CPU, for any D >= 1."""

    name = "golden"

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        return golden.embedding_bag(weight, indices, offsets, weights, mode)

    def _gather(self, weight, indices):
        return golden.gather(weight, indices)

    def _cast(self, indices, offsets, num_rows, weights):
        return golden.cast(indices, offsets, num_rows, weights)

    def _casted_gather_reduce(self, grad_out, casting):
        return golden.casted_gather_reduce(grad_out, casting)

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        golden.scatter_update(weight, rows, grads, optimizer, state)

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        golden.backward_update(weight, grad_out, casting, optimizer, state)

    def _expand(self, grad_out, offsets):
        return golden.expand(grad_out, offsets)

    def _coalesce(self, expanded, casting):
        return golden.coalesce(expanded, casting)

    def _scatter(self, dst, rows, values):
        golden.scatter(dst, rows, values)
