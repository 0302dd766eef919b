"""Times tcast.torch.EmbeddingBag: Python's share of a step, and steps beside PyTorch's.

Usage: python bench/torch_module.py [--threads N] [--rows N]

Prints medians of runs that alternate in this process; it needs PyTorch and writes nothing.
"""

import argparse
import statistics
import time

import numpy as np
import torch

import tcast.torch
from tcast.host import torch_module

TABLES = 16


class Idle:
    """A device that does nothing, at once."""

    out = np.zeros((2, 16), np.float32)

    def embedding_bag(self, *arguments):
        """Return something of the right shape."""
        return self.out

    def cast(self, *arguments):
        """Return nothing."""

    backward_update = cast


def alternate(calls, repeats):
    """Return the median seconds of each of ``calls``, a dict, in alternating runs."""
    seconds = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def overhead():
    """Print the microseconds that a table's forward and backward cost beside the device."""
    tables = [tcast.torch.EmbeddingBag(100, 16, mode="sum", optimizer="sgd", lr=0.1)
              for _ in range(TABLES)]
    leaves = [torch.ones(2, 16, requires_grad=True) for _ in range(TABLES)]
    indices, offsets = torch.arange(8), torch.tensor([0, 4])
    bridge = torch_module._bridge(indices.device)
    device = bridge.device

    def step():
        torch.stack([table(indices, offsets) for table in tables]).sum().backward()

    def idle():
        bridge.device = Idle()
        step()
        bridge.device = device

    def autograd():
        torch.stack([leaf * 1 for leaf in leaves]).sum().backward()

    found = alternate({"step": step, "idle": idle, "autograd": autograd}, 200)
    step, idle, autograd = (1e6 * value / TABLES for value in found.values())
    print(f"a table of 8 lookups: {step:.0f} us a step; {idle:.0f} us with a device that does "
          f"nothing, of which {autograd:.0f} us are autograd's for any operation")


def steps(rows, dim=32, bags=2048, pooling=80):
    """Print the milliseconds of a training step of one table of rm1, by tcast and PyTorch."""
    rng = np.random.default_rng(0)
    indices = torch.from_numpy(rng.integers(rows, size=bags * pooling))
    ends = torch.arange(0, bags * pooling + 1, pooling)
    grad_out = torch.randn(bags, dim)

    def fused(optimizer):
        table = tcast.torch.EmbeddingBag(rows, dim, mode="sum", include_last_offset=True,
                                         optimizer=optimizer, lr=0.1)
        return lambda: table(indices, ends).backward(grad_out)

    def sparse(cls, rule):
        table = cls(rows, dim, mode="sum", include_last_offset=True, sparse=True)
        optimizer = rule(table.parameters(), lr=0.1)

        def step():
            optimizer.zero_grad()
            table(indices, ends).backward(grad_out)
            optimizer.step()
        return step

    found = alternate({
        "tcast, optimizer='sgd'": fused("sgd"),
        "tcast, optimizer='rowwise_adagrad'": fused("rowwise_adagrad"),
        "tcast, sparse=True, torch.optim.SGD": sparse(tcast.torch.EmbeddingBag, torch.optim.SGD),
        "torch, sparse=True, torch.optim.SGD": sparse(torch.nn.EmbeddingBag, torch.optim.SGD),
    }, 9)
    print(f"a table of {rows:,} rows of {dim}, {bags} bags of {pooling} uniform lookups:")
    for name, value in found.items():
        print(f"  {name:36} {1e3 * value:7.1f} ms a step")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch and tcast (1)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large table (1000000)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overhead()
    steps(arguments.rows)


if __name__ == "__main__":
    main()
