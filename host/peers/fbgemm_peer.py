"""Peers ``fbgemm…``: FBGEMM's table-batched embedding (TBE), with its fused exact optimizers.

Its backward on the CPU sorts (row, bag) pairs and reduces the gradient by runs of equal rows,
which is tensor casting: it is the state of the art to compare with, and PyTorch the baseline.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from ...golden import SGD
from ..buffers import aligned_empty
from .base import Peer, importable

__all__ = ["FbgemmCudaPeer", "FbgemmPeer"]


@dataclass
class _Work:
    """A batch of all tables: (indices, offsets[, weights]) and the gradient [B, sum of D]."""

    batch: tuple
    grad_out: object
    out: object = None


class FbgemmPeer(Peer):
    """``SplitTableBatchedEmbeddingBagsCodegen``: all tables in one call, bounds checks off.

    The number of columns must be a multiple of 4. It works on the memory of the tables and states.
    The wheel is single-threaded.
    """

    name = "fbgemm"
    timing = "TBE, all tables in one call (one thread): forward; backward with fused update"
    place = "cpu"

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        return importable("torch", "fbgemm_gpu")

    @classmethod
    def lacks(cls, optimizer):
        """Return why the rule cannot be done: it has EXACT_SGD and EXACT_ROWWISE_ADAGRAD."""
        return ""

    def __init__(self, tables, optimizer, **options):
        super().__init__(tables, optimizer, **options)
        self._torch = torch = import_module("torch")
        torch.set_num_threads(self.threads)
        for _, dim in tables.shapes:
            if dim % 4:
                raise ValueError("tables must have a multiple of 4 columns for fbgemm, "
                                 f"not {dim}")
        package = "fbgemm_gpu.split_table_batched_embeddings_ops_"
        training, common = import_module(f"{package}training"), import_module(f"{package}common")
        configs = import_module("fbgemm_gpu.split_embedding_configs")
        location, compute = self._location(training, common)
        rule = {"learning_rate": float(optimizer.lr32)}
        memory = {"weights": torch.from_numpy(tables.flat)}
        if isinstance(optimizer, SGD):
            rule["optimizer"] = configs.EmbOptimType.EXACT_SGD
        else:
            rule |= {"optimizer": configs.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
                     "eps": float(optimizer.eps32)}
            memory["momentum1"] = torch.from_numpy(tables.flat_state)
        self._layer = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, location, compute) for rows, dim in tables.shapes],
            weights_precision=configs.SparseType.FP32, output_dtype=configs.SparseType.FP32,
            pooling_mode={"sum": common.PoolingMode.SUM, "mean": common.PoolingMode.MEAN}[
                self.mode],
            bounds_check_mode=common.BoundsCheckMode.NONE, device=torch.device(self.place),
            **rule, **self._memory(memory))
        self._fill()

    def _location(self, training, common):
        return common.EmbeddingLocation.HOST, training.ComputeDevice.CPU

    def _memory(self, memory):
        return {"preallocated_host_buffers": memory}

    def _fill(self):
        """Copy the tables to where the library works; here it works on them."""

    def _tensor(self, array):
        return self._torch.from_numpy(array).to(self.place)

    def prepare(self, batch):
        """Return the tables' indices and offsets one behind the other, int64."""
        starts = np.cumsum([0] + [len(item.indices) for item in batch])
        offsets = np.concatenate(
            [item.offsets[:-1].astype(np.int64) + start
             for item, start in zip(batch, starts, strict=False)] + [starts[-1:]])
        indices = np.concatenate([item.indices.astype(np.int64) for item in batch])
        arrays = [indices, offsets]
        if batch[0].per_sample_weights is not None:
            arrays.append(np.concatenate([item.per_sample_weights for item in batch]))
        shape = len(batch[0].grad_out), sum(item.grad_out.shape[1] for item in batch)
        grad_out = np.concatenate([item.grad_out for item in batch], axis=1,
                                  out=aligned_empty(shape))
        return _Work(tuple(self._tensor(array) for array in arrays), self._tensor(grad_out))

    def _finish(self):
        """Wait until the device has done what was asked of it."""

    def forward(self, work):
        """Look up and pool; autograd keeps what backward needs."""
        work.out = self._layer(*work.batch)
        self._finish()

    def backward_update(self, work):
        """Run autograd's backward, which updates the tables."""
        work.out.backward(work.grad_out)
        self._finish()

    def pooled(self, work):
        """Return the pooled rows of each table as NumPy arrays."""
        ends = np.cumsum([dim for _, dim in self.tables.shapes])
        return np.split(work.out.detach().cpu().numpy(), ends[:-1], axis=1)

    def close(self):
        """Let go of the layer."""
        super().close()
        self._layer = None


class FbgemmCudaPeer(FbgemmPeer):
    """The same on a GPU, with a copy of the tables there."""

    name = "fbgemm-cuda"
    timing = "TBE on the GPU, synchronised: forward; backward with fused update"
    place = "cuda"
    shares_memory = False

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        ok, reason = super().available()
        if ok and not import_module("torch").cuda.is_available():
            return False, "torch finds no GPU that CUDA can use"
        return ok, reason

    def _location(self, training, common):
        return common.EmbeddingLocation.DEVICE, training.ComputeDevice.CUDA

    def _memory(self, memory):
        return {}

    def _fill(self):
        for own, weight in zip(self._layer.split_embedding_weights(), self.tables.weights,
                               strict=True):
            own.copy_(self._torch.from_numpy(weight))

    def _finish(self):
        self._torch.cuda.synchronize()

    def table(self, number):
        """Return (weight, state)."""
        state = None
        if not isinstance(self.optimizer, SGD):
            state = self._layer.split_optimizer_states()[number][0]
        return self._layer.split_embedding_weights()[number].detach(), state
