"""Batches and steps for the tests of tcast.torch."""

import numpy as np

from tcast import golden
from tcast.host.backend import BackendUnavailable
from tcast.host.cupy_backend import load_cupy

try:
    import torch

    from tcast.torch import EmbeddingBag
except ImportError:
    torch = None

R, D = 40, 5


def reason_without_cuda():
    if not torch.cuda.is_available():
        return "PyTorch has no CUDA device here"
    try:
        load_cupy()
    except BackendUnavailable as error:
        return str(error)
    return ""


def tensors(device, *arrays):
    return [None if array is None else torch.from_numpy(np.array(array)).to(device)
            for array in arrays]


def array(tensor):
    return tensor.detach().cpu().numpy()


class Batch:
    """A table, lookups in bags, and a gradient; ``exact`` makes every sum exact in any order."""

    def __init__(self, seed, *, bags=9, longest=30, dim=D, rows=R, exact=False, behind=0):
        print(f"seed {seed}")
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, longest + 1, bags)
        lengths[rng.random(bags) < 0.25] = 0
        self.ends = np.concatenate([[0], np.cumsum(lengths)])
        n = int(self.ends[-1]) + behind
        self.indices = (rows * rng.random(n) ** 2).astype(np.int64)

        def floats(*shape):
            if exact:
                return rng.integers(-8, 9, shape).astype(np.float32)
            return (rng.standard_normal(shape)
                    * 2.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
        self.weight, self.grad_out, self.factors = floats(rows, dim), floats(bags, dim), floats(n)


def module_with(cls, weight, device, **options):
    module = cls(*weight.shape, device=device, **options)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
    return module


def both(weight, device, **options):
    """Return tcast's module and PyTorch's with one table."""
    return [module_with(cls, weight, device, **options)
            for cls in (EmbeddingBag, torch.nn.EmbeddingBag)]


def run(module, grad_out, indices, offsets=None, factors=None):
    """Return (out, gradient of the table, of the factors) as arrays; dense, or None."""
    factors = None if factors is None else factors.clone().requires_grad_()
    out = module(indices, offsets, factors)
    out.backward(grad_out)
    of_weight = module.weight.grad
    if of_weight is not None and of_weight.is_sparse:
        of_weight = of_weight.to_dense()
    return (array(out), None if of_weight is None else array(of_weight),
            None if factors is None else array(factors.grad))


def golden_gradient(weight, casting, grad_out):
    dense = np.zeros_like(weight)
    dense[casting.rows] = golden.casted_gather_reduce(grad_out, casting)
    return dense
