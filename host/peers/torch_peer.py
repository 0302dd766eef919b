"""Peers ``torch…``: PyTorch's EmbeddingBag, trained by ``backward()`` and SGD's ``step()``.

With sparse gradients, backward expands the gradient to one row per lookup: the baseline that
tensor casting replaces. ``step()`` adds all of these rows to the table; ``coalesce()`` before it
sums those of equal rows first, which is what any optimizer but plain SGD needs.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from .base import Peer, importable

__all__ = ["TorchCoalescePeer", "TorchCudaPeer", "TorchDensePeer", "TorchPeer"]


@dataclass
class _Work:
    """A batch: a list of tensors for each table; ``out`` is set by forward."""

    batch: list
    grads: list
    out: list | None = None


class TorchPeer(Peer):
    """One ``torch.nn.EmbeddingBag`` for each table, sparse gradients, ``torch.optim.SGD``."""

    name = "torch"
    timing = "EmbeddingBag(sparse=True): forward; backward() + SGD.step()"
    place = "cpu"
    sparse = True
    coalesce = False

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        return importable("torch")

    def __init__(self, tables, optimizer, **options):
        super().__init__(tables, optimizer, **options)
        self._torch = torch = import_module("torch")
        torch.set_num_threads(self.threads)
        self._layers = [self._layer(weight) for weight in tables.weights]
        # Without `foreach`, which sparse gradients do not have.
        self._rule = torch.optim.SGD([layer.weight for layer in self._layers],
                                     lr=float(optimizer.lr32), foreach=False)

    def _layer(self, weight):
        return self._torch.nn.EmbeddingBag(
            *weight.shape, mode=self.mode, sparse=self.sparse, include_last_offset=True,
            _weight=self._torch.from_numpy(weight).to(self.place))

    def _tensor(self, array):
        return None if array is None else self._torch.from_numpy(np.array(array)).to(self.place)

    def prepare(self, batch):
        """Return the batch as tensors; indices and offsets of one table get one type."""
        def tensors(item):
            kind = np.promote_types(item.indices.dtype, item.offsets.dtype)
            return (self._tensor(item.indices.astype(kind)),
                    self._tensor(item.offsets.astype(kind)),
                    self._tensor(item.per_sample_weights))
        return _Work([tensors(item) for item in batch],
                     [self._tensor(item.grad_out) for item in batch])

    def _finish(self):
        """Wait until the device has done what was asked of it."""

    def forward(self, work):
        """Look up and pool; autograd keeps what backward needs."""
        work.out = [layer(*tensors)
                    for layer, tensors in zip(self._layers, work.batch, strict=True)]
        self._finish()

    def gradients(self, work):
        """Run autograd's backward; the gradients are then the parameters' ``grad``."""
        # Drops what the last step left, as every training loop does.
        self._rule.zero_grad(set_to_none=True)
        self._torch.autograd.backward(work.out, work.grads)
        if self.coalesce:
            for layer in self._layers:
                layer.weight.grad = layer.weight.grad.coalesce()

    def backward_update(self, work):
        """Make the gradients, and step."""
        self.gradients(work)
        self._rule.step()
        self._finish()

    def pooled(self, work):
        """Return the pooled rows as NumPy arrays."""
        return [out.detach().cpu().numpy() for out in work.out]

    def table(self, number):
        """Return (weight, None)."""
        return self._layers[number].weight.detach(), None

    def close(self):
        """Let go of the parameters and their gradients."""
        super().close()
        self._layers = self._rule = None


class TorchCoalescePeer(TorchPeer):
    """The same with ``coalesce()`` of the gradient before the step: the paper's baseline."""

    name = "torch-coalesce"
    timing = "EmbeddingBag(sparse=True): forward; backward() + coalesce() + SGD.step()"
    coalesce = True


class TorchDensePeer(TorchPeer):
    """EmbeddingBag's default: a dense gradient as large as the table."""

    name = "torch-dense"
    timing = "EmbeddingBag(sparse=False): forward; backward() + SGD.step()"
    sparse = False


class TorchCudaPeer(TorchPeer):
    """Sparse gradients on a GPU, with a copy of the tables there."""

    name = "torch-cuda"
    timing = "on the GPU, synchronised: forward; backward() + SGD.step(), sparse gradients"
    place = "cuda"
    shares_memory = False

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        ok, reason = importable("torch")
        if ok and not import_module("torch").cuda.is_available():
            return False, "torch finds no GPU that CUDA can use"
        return ok, reason

    def _finish(self):
        self._torch.cuda.synchronize()
