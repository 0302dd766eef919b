"""Trains a next-item model in PyTorch, its table by tcast.torch.EmbeddingBag, on a real log.

Usage: python examples/train_next_item.py [--steps N] [--data FILE] …

The items that a user has seen are a bag; the mean of their rows is scored against the item that
came next and against one drawn at random. The same batches then train torch.nn.EmbeddingBag with
sparse gradients and torch.optim.SGD, and the first model again, which must end in the same bits.
"""

import argparse
import hashlib
import sys
import time

import numpy as np
import torch

import tcast.torch
from tcast.data import NextItem, load_log


class NextItemModel(torch.nn.Module):
    """Scores items for bags of items.

    Parameters
    ----------
    embedding : torch.nn.Module
        Pools bags of items: EmbeddingBag, tcast's or PyTorch's, with mode "mean".
    """

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding
        self.output = torch.nn.Embedding(embedding.num_embeddings, embedding.embedding_dim)

    def forward(self, indices, offsets, items):
        """Return the scores of ``items`` [B, K] for the bags, [B, K]."""
        user = self.embedding(indices, offsets)
        return torch.einsum("bd,bkd->bk", user, self.output(items))


def initialised(embedding, seed):
    """Return the model with the values that ``seed`` draws."""
    torch.manual_seed(seed)
    model = NextItemModel(embedding)
    with torch.no_grad():
        torch.nn.init.normal_(model.embedding.weight, std=0.1)
        torch.nn.init.normal_(model.output.weight, std=0.25)
    return model


def losses(model, bags, negatives):
    """Return the logistic losses of next items and random ones, [B, 2]."""
    items = torch.from_numpy(np.stack([bags.targets, negatives], axis=1))
    scores = model(torch.from_numpy(bags.indices), torch.from_numpy(bags.offsets), items)
    return torch.nn.functional.softplus(scores * torch.tensor([-1.0, 1.0]))


def held_out_loss(model, examples, seed):
    """Return the mean loss of the examples held out, each against eight random items."""
    rng = np.random.default_rng([seed, 1])
    bags, n_items = examples.held_out(), examples.log.num_items
    model.eval()
    with torch.no_grad():
        parts = [losses(model, bags, rng.integers(n_items, size=len(bags.targets))).mean()
                 for _ in range(8)]
    model.train()
    return float(torch.stack(parts).mean())


def train(model, optimizer, examples, arguments):
    """Train on the batches of the seed; return the median of a step's seconds."""
    rng = np.random.default_rng([arguments.seed, 0])
    seconds = []
    for _ in range(arguments.steps):
        begin = time.perf_counter()
        bags = examples.batch(rng, arguments.batch)
        negatives = rng.integers(examples.log.num_items, size=arguments.batch)
        optimizer.zero_grad()
        # With tcast's fused optimizer this updates the embedding table; step() does the rest.
        losses(model, bags, negatives).mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def main():
    """Train three times and compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="training steps (400)")
    parser.add_argument("--batch", type=int, default=128, help="bags in a step (128)")
    parser.add_argument("--dim", type=int, default=64, help="columns of the table (64)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--data", help="your own log: .inter, or .npz with indices and offsets")
    arguments = parser.parse_args()

    log = load_log(arguments.data)
    examples = NextItem(log, history=20)
    print(f"{log.name}: {log.source}. {len(log.offsets) - 1:,} histories, {log.num_items:,} items, "
          f"{len(log.items):,} events.")
    table_lr, output_lr = 0.2 * log.num_items, 0.06 * log.num_items
    shape = log.num_items, arguments.dim

    def tcast_embedding():
        return tcast.torch.EmbeddingBag(*shape, mode="mean", include_last_offset=True,
                                        optimizer="sgd", lr=table_lr)

    def torch_embedding():
        return torch.nn.EmbeddingBag(*shape, mode="mean", include_last_offset=True, sparse=True)

    tables = []
    for name, make in (("tcast, fused SGD", tcast_embedding),
                       ("torch, sparse gradient and SGD", torch_embedding),
                       ("tcast again", tcast_embedding)):
        model = initialised(make(), arguments.seed)
        groups = [{"params": model.output.parameters(), "lr": output_lr}]
        if name.startswith("torch"):
            groups.append({"params": model.embedding.parameters(), "lr": table_lr})
        before = held_out_loss(model, examples, arguments.seed)
        seconds = train(model, torch.optim.SGD(groups), examples, arguments)
        after = held_out_loss(model, examples, arguments.seed)
        tables.append(model.embedding.weight.detach().numpy())
        digest = hashlib.sha256(tables[-1].tobytes()).hexdigest()
        print(f"{name:31} held-out loss {before:.4f} -> {after:.4f}, {1e3 * seconds:.2f} ms a step,"
              f" table {digest[:16]}")
    difference = np.abs(tables[0] - tables[1]).max() / np.abs(tables[1]).max()
    print(f"tcast's and torch's tables differ by {difference:.1e} of the largest element; "
          "they sum in other orders.")
    same = np.array_equal(tables[0].view(np.uint32), tables[2].view(np.uint32))
    print("tcast's tables have the same bits." if same else "tcast's tables DIFFER.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
