"""The golden model against PyTorch's EmbeddingBag, within the error bound of summation.

PyTorch sums in another order, and its optimizer may fuse; so the comparison is a tolerance, derived
from the bound of summation: the distance of two libraries is at most the sum of their bounds.
"""

import numpy as np
import pytest

from tcast import golden
from tcast.golden import numerics, trace

try:
    import torch
except ImportError:
    torch = None

pytestmark = pytest.mark.skipif(
    torch is None, reason="PyTorch is not installed; the extra tcast[peers] brings it")

N_ROWS, DIM = 500, 9


def problem(seed, dtype):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    offsets = trace.bag_offsets(rng, 150, 20, dtype)
    indices = trace.powerlaw(rng, N_ROWS, int(offsets[-1]), 1.0).astype(dtype)
    weight = rng.standard_normal((N_ROWS, DIM)).astype(np.float32)
    grad_out = rng.standard_normal((150, DIM)).astype(np.float32)
    weights = rng.standard_normal(len(indices)).astype(np.float32)
    return weight, indices, offsets, grad_out, weights


def torch_step(weight, indices, offsets, grad_out, weights, mode, lr):
    """Return (out, gradient of each row, updated weight) of one step in PyTorch."""
    bag = torch.nn.EmbeddingBag(N_ROWS, DIM, mode=mode, include_last_offset=True)
    with torch.no_grad():
        bag.weight.copy_(torch.from_numpy(weight))
    optimizer = torch.optim.SGD(bag.parameters(), lr=lr)
    out = bag(torch.from_numpy(indices), torch.from_numpy(offsets),
              None if weights is None else torch.from_numpy(weights))
    out.backward(torch.from_numpy(grad_out))
    optimizer.step()
    return out.detach().numpy(), bag.weight.grad.numpy(), bag.weight.detach().numpy()


def both_bounds(n, magnitude, products):
    """Our bound plus that of any other order."""
    return (numerics.sum_bound(n, magnitude, products, numerics.segment_depth(n))
            + numerics.sum_bound(n, magnitude, products))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("mode, weighted", [("sum", False), ("sum", True), ("mean", False)])
def test_training_step(mode, weighted, dtype):
    weight, indices, offsets, grad_out, weights = problem(1, dtype)
    weights = weights if weighted else None
    lr = 0.125
    out, grad, updated = torch_step(weight, indices, offsets, grad_out, weights, mode, lr)
    products = {"sum": int(weighted), "mean": 2}[mode]
    per_lookup = golden.mean_weights(offsets) if mode == "mean" else (
        weights if weighted else np.ones(len(indices), np.float32))
    factors = abs(per_lookup.astype(np.float64))[:, None]
    bags = golden.bag_ids(offsets)

    ours = golden.embedding_bag(weight, indices, offsets, weights, mode)
    magnitude = np.zeros((len(offsets) - 1, DIM))
    np.add.at(magnitude, bags, factors * abs(weight[indices].astype(np.float64)))
    bound = both_bounds(np.diff(offsets)[:, None], magnitude, products)
    assert (abs(ours.astype(np.float64) - out) <= bound).all()
    broken = golden.embedding_bag(weight, np.roll(indices, 1), offsets, weights, mode)
    assert (abs(broken.astype(np.float64) - out) > bound).any()  # a wrong row does not pass

    casting = golden.cast(indices, offsets, N_ROWS,
                          per_lookup if mode == "mean" or weighted else None)
    dense = np.zeros_like(weight)
    dense[casting.rows] = golden.casted_gather_reduce(grad_out, casting)
    magnitude = np.zeros((N_ROWS, DIM))
    np.add.at(magnitude, indices, factors * abs(grad_out[bags].astype(np.float64)))
    n = np.bincount(indices, minlength=N_ROWS)[:, None]
    bound = both_bounds(n, magnitude, products)
    assert (abs(dense.astype(np.float64) - grad) <= bound).all()
    assert (abs(dense.astype(np.float64) - grad) > 0).any()  # they do sum in other orders

    stepped = weight.copy()
    golden.backward_update(stepped, grad_out, casting, golden.SGD(lr))
    # lr is a power of two: the product with it is exact, and the subtraction rounds once here.
    rounding = numerics.gamma(1) * (abs(weight.astype(np.float64)) + lr * magnitude) * 2
    assert (abs(stepped.astype(np.float64) - updated) <= lr * bound + rounding).all()
    untouched = np.setdiff1d(np.arange(N_ROWS), casting.rows)
    assert golden.bits_equal(stepped[untouched], weight[untouched])


def test_empty_bags_and_repeated_rows():
    weight = np.arange(N_ROWS * DIM, dtype=np.float32).reshape(N_ROWS, DIM)
    indices, offsets = np.array([3, 3, 3, 7]), np.array([0, 0, 3, 3, 4])
    grad_out = np.ones((4, DIM), np.float32)
    for mode in ("sum", "mean"):
        out, _, updated = torch_step(weight, indices, offsets, grad_out, None, mode, 0.5)
        assert golden.bits_equal(golden.embedding_bag(weight, indices, offsets, mode=mode), out)
        if mode == "sum":  # exact in any order
            stepped = weight.copy()
            golden.backward_update(stepped, grad_out, golden.cast(indices, offsets, N_ROWS),
                                   golden.SGD(0.5))
            assert golden.bits_equal(stepped, updated)


def test_flush_to_zero_is_refused():
    """A library that makes the thread flush subnormals is found out."""
    weight = np.full((2, 1), 2.0**-140, np.float32)
    arguments = weight, np.array([0, 1]), np.array([0, 2])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals to zero")
    try:
        with pytest.raises(RuntimeError, match="flush-to-zero"):
            golden.embedding_bag(*arguments)
        with pytest.raises(RuntimeError, match="flush-to-zero"):
            golden.scatter_update(weight, np.array([0]), weight[:1].copy(), golden.SGD(1))
    finally:
        torch.set_flush_denormal(False)
    assert golden.embedding_bag(*arguments)[0, 0] == 2.0**-139
