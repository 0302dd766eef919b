"""The demonstration's model: which film comes next, learned by one embedding table.

A user's recent items are a bag; the embedding layer sums their rows; the sum, divided by the bag's
size, is scored against the item that came next and against one drawn at random (CBOW with one
negative sample: Mikolov et al. 2013, arXiv 1301.3781 and 1310.4546). The loss is the mean of the
two logistic losses, so a model that knows nothing has ln 2 = 0.693, and less than that is
knowledge. The table's part of a step (forward, casting, backward and update) is the device's; the
rest is a few binary32 NumPy operations here, the same whatever the device.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from .data import NextItem
from .equality import same_bits
from .golden import SGD

__all__ = ["Gradient", "NextItemModel", "Step", "Training", "table_rate", "train"]


class NextItemModel:
    """An embedding table, an output matrix, and the binary32 maths between them.

    Parameters
    ----------
    num_items : int
        Rows of both matrices.
    dim : int
        Elements of a row.
    seed : int
        Seed of the initial values, which are normal with standard deviations 0.1 and 0.25.

    Attributes
    ----------
    weight : numpy.ndarray
        float32[num_items, dim]: the embedding table, which the device reads and updates.
    output : numpy.ndarray
        float32[num_items, dim]: the output matrix, updated here.
    """

    def __init__(self, num_items, dim, seed):
        rng = np.random.default_rng([seed, 1])
        shape = (num_items, dim)
        self.weight = np.float32(0.1) * rng.standard_normal(shape, dtype=np.float32)
        self.output = np.float32(0.25) * rng.standard_normal(shape, dtype=np.float32)

    def gradient(self, pooled, bags, negatives):
        """Return the loss of a batch and its gradients.

        Parameters
        ----------
        pooled : numpy.ndarray
            float32[B, dim]: the sum of each bag's rows.
        bags : Bags
            The batch.
        negatives : numpy.ndarray
            int64[B]: an item for each bag that did not come next.

        Returns
        -------
        Gradient
        """
        size = np.float32(1) / np.diff(bags.offsets).astype(np.float32)[:, None]
        user = pooled * size
        items = np.stack([bags.targets, negatives], axis=1)
        codes = self.output[items]
        score = np.einsum("bd,bkd->bk", user, codes)
        sign = np.array([1, -1], dtype=np.float32)
        loss = np.logaddexp(np.float32(0), -sign * score)
        # The derivative of ln(1 + exp(-s)) is -1 / (1 + exp(s)); beyond 80 it is 0 for binary32.
        power = np.exp(np.minimum(sign * score, np.float32(80)))
        error = -sign / (np.float32(1) + power) / np.float32(items.size)
        return Gradient(
            loss=float(loss.mean(dtype=np.float64)),
            ranked=float((score[:, 0] > score[:, 1]).mean()),
            grad_out=np.einsum("bk,bkd->bd", error, codes) * size,
            items=items,
            grad_items=error[:, :, None] * user[:, None, :],
        )

    def update_output(self, gradient, lr):
        """Subtract ``lr`` times the gradient from the output matrix, in place."""
        np.subtract.at(self.output, gradient.items, np.float32(lr) * gradient.grad_items)


@dataclass(frozen=True)
class Gradient:
    """A batch's loss and gradients.

    Attributes
    ----------
    loss : float
        Mean logistic loss.
    ranked : float
        Share of the bags whose next item scores above the random one.
    grad_out : numpy.ndarray
        float32[B, dim]: derivative of the loss by the pooled rows.
    items : numpy.ndarray
        int64[B, 2]: the items scored.
    grad_items : numpy.ndarray
        float32[B, 2, dim]: derivative of the loss by the output rows of ``items``.
    """

    loss: float
    ranked: float
    grad_out: np.ndarray
    items: np.ndarray
    grad_items: np.ndarray


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes
    ----------
    loss : float
        Mean logistic loss of the batch before the step.
    lookups, rows : int
        Rows gathered by the forward pass, and distinct rows updated.
    seconds : float
        Wall time of the device's part.
    counters : dict of str to dict
        ``forward``, ``cast`` and ``backward``: the device's counters; empty where it has none.
    """

    loss: float
    lookups: int
    rows: int
    seconds: float
    counters: dict


@dataclass
class Training:
    """What a training run did.

    Attributes
    ----------
    steps : list of Step
        Every step.
    held_out_before, held_out_after : dict of str to float
        ``loss`` and ``ranked`` on the examples held out.
    model : NextItemModel
        The trained model.
    """

    steps: list = field(default_factory=list)
    held_out_before: dict = field(default_factory=dict)
    held_out_after: dict = field(default_factory=dict)
    model: NextItemModel | None = None

    @property
    def losses(self):
        """The loss of every step, in order."""
        return [step.loss for step in self.steps]


def table_rate(log, lr=0.2):
    """Return the learning rate of the table of ``log``, a binary32 number.

    ``lr`` is that of a table of one item: an item of a larger table occurs that much more rarely.
    """
    return float(np.float32(lr * log.num_items))


def train(device, log, *, steps, batch=128, dim=64, history=20, seed=0, lr=0.2, output_lr=0.06,
          reference=None, on_step=None):
    """Train the model on a log, the table's part on ``device``.

    Parameters
    ----------
    device : device
        What ``tcast.open`` returned.
    log : Log
        The histories.
    steps, batch : int
        Number of steps, and bags in each.
    dim : int
        Elements of a row.
    history : int
        Most recent items kept in a bag.
    seed : int
        Seed of initial values, batches and negative samples.
    lr, output_lr : float
        Learning rates of table and output matrix, both multiplied as by :func:`table_rate`.
    reference : device or None
        A second device that makes every step too; results and tables are compared to the bit.
    on_step : callable or None
        Called with the number of the step and the Step after each.

    Returns
    -------
    Training

    Raises
    ------
    MismatchError
        ``device`` and ``reference`` differ, naming the step and the array.
    """
    examples = NextItem(log, history)
    model = NextItemModel(log.num_items, dim, seed)
    copy = None if reference is None else model.weight.copy()
    optimizer = SGD(table_rate(log, lr))
    rng = np.random.default_rng([seed, 2])
    result = Training(model=model)
    result.held_out_before = _evaluate(model, examples, seed)
    for number in range(steps):
        bags = examples.batch(rng, batch)
        negatives = rng.integers(log.num_items, size=batch)
        counters = {}
        begin = time.perf_counter()
        pooled = device.embedding_bag(model.weight, bags.indices, bags.offsets)
        counters["forward"] = dict(device.counters())
        casting = device.cast(bags.indices, bags.offsets, log.num_items)
        counters["cast"] = dict(device.counters())
        seconds = time.perf_counter() - begin
        gradient = model.gradient(pooled, bags, negatives)
        begin = time.perf_counter()
        device.backward_update(model.weight, gradient.grad_out, casting, optimizer)
        counters["backward"] = dict(device.counters())
        seconds += time.perf_counter() - begin
        if reference is not None:
            again = reference.embedding_bag(copy, bags.indices, bags.offsets)
            same_bits(f"step {number}, pooled rows", pooled, again)
            casting = reference.cast(bags.indices, bags.offsets, log.num_items)
            reference.backward_update(copy, gradient.grad_out, casting, optimizer)
            same_bits(f"step {number}, table", model.weight, copy)
        model.update_output(gradient, output_lr * log.num_items)
        step = Step(gradient.loss, len(bags.indices), len(casting.rows), seconds, counters)
        result.steps.append(step)
        if on_step is not None:
            on_step(number, step)
    result.held_out_after = _evaluate(model, examples, seed)
    return result


def _evaluate(model, examples, seed):
    """Return loss and ranking of the held-out examples, each against eight random items."""
    bags = examples.held_out()
    if not examples.n_held_out:
        return {"loss": float("nan"), "ranked": float("nan")}
    rng = np.random.default_rng([seed, 3])
    # NumPy's own sum: nothing that is learned depends on it, so its order of sums does not matter.
    pooled = np.add.reduceat(model.weight[bags.indices], bags.offsets[:-1], axis=0)
    parts = [model.gradient(pooled, bags, rng.integers(len(model.weight), size=len(bags.targets)))
             for _ in range(8)]
    return {"loss": float(np.mean([part.loss for part in parts])),
            "ranked": float(np.mean([part.ranked for part in parts]))}
