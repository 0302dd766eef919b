"""Peer ``torch``: PyTorch's EmbeddingBag on the CPU, with sparse gradients and SGD.

Its backward expands the gradient to one row per lookup, and ``coalesce`` sums equal rows: the
baseline that tensor casting replaces.
"""

from importlib import import_module
from time import perf_counter

from .base import Peer

__all__ = ["TorchPeer"]


class TorchPeer(Peer):
    """``torch.nn.functional.embedding_bag`` and what autograd makes of it."""

    name = "torch"

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        try:
            import_module("torch")
        except (ImportError, OSError) as error:  # OSError: a shared library that does not load
            return False, f"torch cannot be imported: {error}"
        return True, ""

    def __init__(self):
        super().__init__()
        self._torch = import_module("torch")

    def _tensor(self, array):
        if array is None:
            return None
        # torch cannot promise not to write, and warns about arrays that forbid it.
        return self._torch.from_numpy(array if array.flags.writeable else array.copy())

    def _forward(self, weight, indices, offsets, weights, mode="sum"):
        dtype = self._torch.promote_types(indices.dtype, offsets.dtype)
        return self._torch.nn.functional.embedding_bag(
            indices.to(dtype), weight, offsets.to(dtype), mode=mode, sparse=True,
            per_sample_weights=weights, include_last_offset=True)

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        arguments = [self._tensor(array) for array in (weight, indices, offsets, weights)]
        start = perf_counter()
        with self._torch.no_grad():
            out = self._forward(*arguments, mode)
        self.seconds = {"forward": perf_counter() - start}
        return out.numpy()

    def _gather(self, weight, indices):
        start = perf_counter()
        out = self._torch.nn.functional.embedding(self._tensor(indices), self._tensor(weight))
        self.seconds = {"forward": perf_counter() - start}
        return out.numpy()

    def _sparse_gradient(self, weight, grad_out, casting):
        """Return the coalesced sparse gradient of ``weight`` (a tensor that requires it)."""
        batch = [self._tensor(array) for array in self.batch(casting, grad_out.shape[0])]
        grad_out = self._tensor(grad_out)
        marks = [perf_counter()]
        out = self._forward(weight, *batch)
        marks.append(perf_counter())
        out.backward(grad_out)
        marks.append(perf_counter())
        gradient = weight.grad.coalesce()
        marks.append(perf_counter())
        self.seconds = {name: end - begin for name, begin, end in zip(
            ("forward", "backward", "coalesce"), marks, marks[1:], strict=False)}
        return gradient

    def _casted_gather_reduce(self, grad_out, casting):
        n_rows = int(casting.rows[-1]) + 1 if casting.rows.size else 1
        # The gradient depends on the shape of the table, not on what it holds.
        weight = self._torch.zeros(n_rows, grad_out.shape[1], requires_grad=True)
        return self._sparse_gradient(weight, grad_out, casting).values().numpy()

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        table, rows, grads = (self._tensor(array) for array in (weight, rows, grads))
        start = perf_counter()
        table.index_add_(0, rows, grads, alpha=-float(optimizer.lr32))
        self.seconds = {"update": perf_counter() - start}

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        table = self._tensor(weight).requires_grad_()
        rule = self._torch.optim.SGD([table], lr=float(optimizer.lr32))
        table.grad = None
        gradient = self._sparse_gradient(table, grad_out, casting)
        table.grad = gradient
        start = perf_counter()
        rule.step()
        self.seconds["update"] = perf_counter() - start
