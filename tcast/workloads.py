"""Embedding layers that others have published: shapes, and inputs drawn for them."""

import math
from dataclasses import dataclass, replace

import numpy as np

from . import data
from .training import NextItemModel, table_rate

__all__ = ["DISTRIBUTIONS", "NAMES", "WORKLOADS", "Inputs", "Table", "TableInput", "Workload",
           "draw", "draw_batch", "draw_weights", "inputs", "real_input"]

#: How rows are drawn.
DISTRIBUTIONS = ("uniform", "powerlaw", "meta2022")


@dataclass(frozen=True)
class Table:
    """One embedding table.

    Attributes
    ----------
    rows : int
        Number of rows.
    dim : int
        binary32 elements in a row.
    pooling : int
        Lookups in each bag.
    """

    rows: int
    dim: int
    pooling: int


@dataclass(frozen=True)
class Workload:
    """The embedding layer of a published model.

    Attributes
    ----------
    name : str
        Name on the command line.
    source : str
        Where the numbers were published.
    tables : tuple of Table
        The tables, each looked up once for every sample.
    batch : int
        Samples in a training step.
    """

    name: str
    source: str
    tables: tuple[Table, ...]
    batch: int

    def scaled(self, scale=1.0, batch=None, max_rows=None):
        """Return the workload with fewer rows and samples; dims and lookups per bag stay.

        Parameters
        ----------
        scale : float
            Above 0, at most 1: rows and batch are multiplied with it, and rounded up.
        batch : int or None
            Samples in a step, instead of the scaled batch.
        max_rows : int or None
            Most rows of a table, after scaling.

        Raises
        ------
        ValueError
            An argument out of its range.
        """
        if not 0 < scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, not {scale!r}")
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch!r}")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows!r}")
        rows = [math.ceil(table.rows * scale) for table in self.tables]
        tables = tuple(replace(table, rows=count if max_rows is None else min(count, max_rows))
                       for table, count in zip(self.tables, rows, strict=True))
        return replace(self, tables=tables,
                       batch=math.ceil(self.batch * scale) if batch is None else batch)

    @property
    def lookups(self):
        """Lookups of one step, all tables together."""
        return self.batch * sum(table.pooling for table in self.tables)


@dataclass(frozen=True)
class TableInput:
    """What one training step does to one table.

    Attributes
    ----------
    name : str
        Name of the table.
    weight : numpy.ndarray
        float32[rows, dim].
    indices : numpy.ndarray
        int32[N] or int64[N].
    offsets : numpy.ndarray
        [batch + 1], of the same type.
    grad_out : numpy.ndarray
        float32[batch, dim].
    """

    name: str
    weight: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray
    grad_out: np.ndarray

    def describe(self):
        """Return sizes and reuse as a dict of plain numbers and words."""
        unique = len(np.unique(self.indices))
        return {
            "table": self.name, "rows": len(self.weight), "dim": self.weight.shape[1],
            "bags": len(self.offsets) - 1, "lookups": len(self.indices),
            "distinct_rows": unique, "index_type": str(self.indices.dtype),
        }


def _same(count, rows, dim, pooling):
    return (Table(rows, dim, pooling),) * count


_DEEPRECSYS = "Gupta et al., DeepRecSys (ISCA 2020), models/configs/dlrm_{}.json of its repository"
_MLPERF_ROWS = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282,
    10, 2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108,
    36)
_MLPERF_POOLING = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1,
                   1)

#: The batch of the rm models is the default of the Tensor Casting paper's evaluation, 2,048.
WORKLOADS = {
    "rm1": Workload("rm1", _DEEPRECSYS.format("rm1"), _same(8, 4_000_000, 32, 80), 2048),
    "rm2": Workload("rm2", _DEEPRECSYS.format("rm2"), _same(32, 500_000, 64, 120), 2048),
    "rm3": Workload("rm3", _DEEPRECSYS.format("rm3"), _same(10, 2_000_000, 32, 20), 2048),
    "dlrmv2": Workload(
        "dlrmv2", "MLPerf Training 4.0, dlrm_dcnv2 on multi-hot Criteo 1TB, at its reference batch",
        tuple(Table(rows, 128, pooling)
              for rows, pooling in zip(_MLPERF_ROWS, _MLPERF_POOLING, strict=True)), 65536),
}


#: Every workload: the published ones, and the real log.
NAMES = (*WORKLOADS, "real")


def _rows(distribution, exponent, rng, table, count):
    from .golden import trace

    if distribution == "uniform":
        return trace.uniform(rng, table.rows, count)
    if distribution == "powerlaw":
        return trace.powerlaw(rng, table.rows, count, exponent)
    return trace.meta2022(rng, table.rows, count)


def draw(workload, distribution="powerlaw", exponent=1.05, seed=0):
    """Yield a TableInput for each table, drawn from ``seed`` and the table's number alone.

    Indices are int64 in the tables with even numbers and int32 in the others, so that a run
    meets both.

    Parameters
    ----------
    workload : Workload
        The shapes, already scaled.
    distribution : str
        One of DISTRIBUTIONS.
    exponent : float
        Of the power law; above 0.
    seed : int
        Seed.

    Raises
    ------
    ValueError
        An unknown distribution or an exponent that is not above 0.
    """
    _check_distribution(distribution, exponent)
    return (_draw_table(workload, n, distribution, exponent, seed)
            for n in range(len(workload.tables)))


def _check_distribution(distribution, exponent):
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, "
                         f"not {distribution!r}")
    if not exponent > 0:
        raise ValueError(f"exponent must be above 0, not {exponent!r}")


def _draw_table(workload, number, distribution, exponent, seed):
    table = workload.tables[number]
    rng = np.random.default_rng([seed, number])
    index_type = (np.int64, np.int32)[number % 2]
    count = workload.batch * table.pooling
    return TableInput(
        name=f"{workload.name}[{number}]",
        weight=rng.standard_normal((table.rows, table.dim), dtype=np.float32),
        indices=_rows(distribution, exponent, rng, table, count).astype(index_type),
        offsets=np.arange(0, count + 1, table.pooling, dtype=index_type),
        grad_out=rng.standard_normal((workload.batch, table.dim), dtype=np.float32),
    )


def draw_weights(tables, seed=0):
    """Fill the weights of Tables, whatever will be looked up in them."""
    for number, weight in enumerate(tables.weights):
        np.random.default_rng([seed, number, 1]).standard_normal(out=weight, dtype=np.float32)


def draw_batch(workload, distribution="powerlaw", exponent=1.05, seed=0):
    """Return a list with a TableBatch for each table, indices int64; the arguments of :func:`draw`.

    Without weights, so that several batches can be drawn for one set of tables.
    """
    from .host.buffers import aligned_empty
    from .host.peers import TableBatch

    _check_distribution(distribution, exponent)
    batch = []
    for number, table in enumerate(workload.tables):
        rng = np.random.default_rng([seed, number, 2])
        count = workload.batch * table.pooling
        indices = _rows(distribution, exponent, rng, table, count)
        grad_out = aligned_empty((workload.batch, table.dim))
        rng.standard_normal(out=grad_out, dtype=np.float32)
        batch.append(TableBatch(indices, np.arange(0, count + 1, table.pooling), grad_out))
    return batch


def real_input(log, batch=64, dim=64, history=20, seed=0):
    """Return the TableInput of the first training step on a log.

    The table and the gradient are those of the model in :mod:`tcast.training`: the bags are
    users' recent items, ``grad_out`` is the derivative of the loss.

    Parameters
    ----------
    log : Log
        The histories.
    batch, dim, history, seed : int
        As :func:`tcast.training.train` has them.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch!r}")
    examples = data.NextItem(log, history)
    model = NextItemModel(log.num_items, dim, seed)
    rng = np.random.default_rng([seed, 2])
    bags = examples.batch(rng, batch)
    pooled = np.add.reduceat(model.weight[bags.indices], bags.offsets[:-1], axis=0)
    gradient = model.gradient(pooled, bags, rng.integers(log.num_items, size=batch))
    return TableInput(log.name, model.weight, bags.indices, bags.offsets, gradient.grad_out)


@dataclass(frozen=True)
class Inputs:
    """The inputs of one training step, made when they are asked for.

    Attributes
    ----------
    facts : dict
        The workload in plain words and numbers.
    count : int
        Number of tables.
    tables : iterable of TableInput
        To be walked once.
    lr : float
        A learning rate that fits.
    """

    facts: dict
    count: int
    tables: object
    lr: float


def inputs(name, *, data_file=None, batch=None, scale=0.001, distribution="powerlaw",
           exponent=1.05, seed=0):
    """Return the Inputs of one step of the workload ``name``.

    Parameters
    ----------
    name : str
        One of NAMES.
    data_file : path or None
        For "real": the user's own log instead of an installed one.
    batch : int or None
        Samples in the step; None is 64 for "real", the scaled batch for the others.
    scale : float
        As Workload.scaled; no meaning for "real".
    distribution, exponent, seed
        As :func:`draw`; only the seed has a meaning for "real".

    Raises
    ------
    ValueError
        An argument out of its range, or a log that cannot be used.
    """
    if name not in NAMES:
        raise ValueError(f"workload must be one of {', '.join(NAMES)}, not {name!r}")
    if name == "real":
        log = data.load_log(data_file)
        item = real_input(log, seed=seed, **({} if batch is None else {"batch": batch}))
        return Inputs({"workload": name, **log.describe(), "batch": len(item.offsets) - 1}, 1,
                      (item,), table_rate(log))
    if data_file is not None:
        raise ValueError(f"data must be left out with workload {name!r}; it goes with 'real'")
    workload = WORKLOADS[name].scaled(scale, batch)
    facts = {"workload": name, "source": workload.source, "tables": len(workload.tables),
             "scale": scale, "batch": workload.batch, "lookups": workload.lookups,
             "distribution": distribution,
             **({"exponent": exponent} if distribution == "powerlaw" else {})}
    return Inputs(facts, len(workload.tables), draw(workload, distribution, exponent, seed), 0.1)
