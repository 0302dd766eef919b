"""Peer ``fbgemm``: FBGEMM's table-batched embedding on the CPU, with its fused exact SGD.

Its backward sorts (row, bag) pairs and reduces the gradient by runs of equal rows, which is
tensor casting; it is the state of the art to compare with, and PyTorch the baseline.
"""

from importlib import import_module
from time import perf_counter

import numpy as np

from .base import Peer

__all__ = ["FbgemmPeer"]


class FbgemmPeer(Peer):
    """``SplitTableBatchedEmbeddingBagsCodegen`` with one table; D must be a multiple of 4.

    The table is copied into FBGEMM's own memory and back; ``seconds`` leaves that out.
    """

    name = "fbgemm"

    @classmethod
    def available(cls):
        """Return (bool, reason)."""
        for module in ("torch", "fbgemm_gpu"):
            try:
                import_module(module)
            except (ImportError, OSError, AttributeError) as error:
                # OSError, AttributeError: operators built for another release of torch
                return False, f"{module} cannot be imported: {error}"
        return True, ""

    def __init__(self):
        super().__init__()
        self._torch = import_module("torch")
        self._module = import_module("fbgemm_gpu.split_table_batched_embeddings_ops_training")
        self._common = import_module("fbgemm_gpu.split_table_batched_embeddings_ops_common")
        self._configs = import_module("fbgemm_gpu.split_embedding_configs")

    def _layer(self, weight, lr, mode="sum"):
        """Return (layer, its table as a tensor) that holds a copy of ``weight``."""
        rows, dim = weight.shape
        if dim % 4:
            raise ValueError(f"weight must have a multiple of 4 columns for fbgemm, not {dim}")
        pooling = {"sum": self._common.PoolingMode.SUM, "mean": self._common.PoolingMode.MEAN}
        layer = self._module.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, self._common.EmbeddingLocation.HOST, self._module.ComputeDevice.CPU)],
            optimizer=self._configs.EmbOptimType.EXACT_SGD, learning_rate=lr,
            weights_precision=self._configs.SparseType.FP32,
            output_dtype=self._configs.SparseType.FP32, pooling_mode=pooling[mode],
            bounds_check_mode=self._common.BoundsCheckMode.NONE,
            device=self._torch.device("cpu"))
        table = layer.split_embedding_weights()[0]
        table.copy_(self._torch.from_numpy(np.array(weight)))
        return layer, table

    def _inputs(self, indices, offsets, weights):
        tensors = [self._torch.from_numpy(np.array(array, np.int64))
                   for array in (indices, offsets)]
        if weights is not None:
            tensors.append(self._torch.from_numpy(np.array(weights)))
        return tensors

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        layer, _ = self._layer(weight, 0.0, mode)
        inputs = self._inputs(indices, offsets, weights)
        start = perf_counter()
        with self._torch.no_grad():
            out = layer(*inputs)
        self.seconds = {"forward": perf_counter() - start}
        return out.numpy()

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        layer, table = self._layer(weight, float(optimizer.lr32))
        inputs = self._inputs(*self.batch(casting, grad_out.shape[0]))
        grad_out = self._torch.from_numpy(np.array(grad_out))
        start = perf_counter()
        out = layer(*inputs)
        middle = perf_counter()
        out.backward(grad_out)
        self.seconds = {"forward": middle - start, "backward+update": perf_counter() - middle}
        weight[...] = table.detach().numpy()
