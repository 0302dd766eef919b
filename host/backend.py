"""The device API: one base class with the signatures and the checks, one hook per operation.

Every backend (golden, cpu, cupy, and the driver of an engine) derives from :class:`Device`. The
public methods live here alone, so that signatures, documentation and error messages are the same
everywhere; a backend fills in the hooks, which get checked arguments.
"""

from abc import ABC, abstractmethod

import numpy as np

from . import validation
from .table_step import TableStep

__all__ = ["BackendUnavailable", "Device"]


class BackendUnavailable(RuntimeError):
    """A backend cannot run here; the message says why (a missing package, no GPU, …)."""


class Device(ABC):
    """Embedding-table training: what every backend of ``tcast.open`` can do.

    Arrays are NumPy arrays (the cupy backend takes CuPy arrays as well). B is the number of bags,
    N of lookups, U of distinct rows looked up, R of table rows, D of columns. Indices, offsets and
    rows are int32 or int64; all else is float32. Results are new arrays, the same bits on every
    backend, except that the payload of a NaN may differ.

    Every argument is checked before anything is changed: TypeError where the kind of a thing is
    wrong, ValueError where its value is, with the argument, the value and the limit in the
    message. Lookups behind the last offset belong to no bag and are ignored, unread.

    A device is a context manager; leaving it closes it.
    """

    #: Name of the backend, as ``tcast.open`` takes it.
    name = "abstract"
    _closed = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Release what the device holds. Calling it again changes nothing."""
        self._closed = True

    def counters(self):
        """Return the performance counters of the last call, a dict of name to int.

        Empty on a backend that counts nothing.
        """
        return {}

    # the layer's forward pass

    def embedding_bag(self, weight, indices, offsets, per_sample_weights=None, mode="sum"):
        """Return the sum of the rows of each bag, float32 [B, D].

        Parameters
        ----------
        weight : float32 [R, D]
            The table.
        indices : int32 or int64 [N]
            Rows looked up, each in [0, R).
        offsets : int32 or int64 [B + 1]
            Bag b holds lookups ``offsets[b]`` to ``offsets[b + 1] - 1``; starts with 0.
        per_sample_weights : float32 [N] or None
            Multiplied into each row before the sum; only with mode "sum".
        mode : str
            "sum", or "mean" (an empty bag gives 0).
        """
        xp = self._xp(weight)
        validation.matrix("weight", weight, xp=xp)
        indices, offsets, weights = self._lookups(
            indices, offsets, per_sample_weights, mode, weight.shape[0], "rows of weight", xp)
        return self._embedding_bag(weight, indices, offsets, weights, mode)

    def gather(self, weight, indices):
        """Return the rows looked up, float32 [N, D], unpooled: ``out[i] = weight[indices[i]]``."""
        xp = self._xp(weight)
        validation.matrix("weight", weight, xp=xp)
        self._check_indices("indices", indices, weight.shape[0], "rows of weight", xp)
        return self._gather(weight, indices)

    # tensor casting and what it makes of the backward pass

    def cast(self, indices, offsets, num_rows, per_sample_weights=None):
        """Return the Casting of a batch: its lookups sorted by row, for the backward pass.

        It depends on the indices alone, so it can be made while the forward pass runs.
        """
        xp = self._xp(indices)
        num_rows = validation.scalar_count("num_rows", num_rows)
        indices, offsets, weights = self._cast_lookups(
            indices, offsets, per_sample_weights, num_rows, xp)
        return self._cast(indices, offsets, num_rows, weights)

    def casted_gather_reduce(self, grad_out, casting):
        """Return the coalesced gradient, float32 [U, D]: row u belongs to ``casting.rows[u]``.

        Parameters
        ----------
        grad_out : float32 [B, D]
            Gradient of the pooled rows.
        casting : Casting
            What :meth:`cast` returned for the batch.
        """
        xp = self._xp(grad_out)
        validation.matrix("grad_out", grad_out, xp=xp)
        validation.casting_fields(casting, n_bags=grad_out.shape[0],
                                  bags_of="rows of grad_out", xp=xp)
        return self._casted_gather_reduce(grad_out, casting)

    def scatter_update(self, weight, rows, grads, optimizer, state=None):
        """Update ``weight[rows[u]]`` with gradient ``grads[u]``, in place.

        Parameters
        ----------
        weight : float32 [R, D]
            The table; each row contiguous, rows may be further apart than a row.
        rows : int32 or int64 [U]
            Rows to update, strictly increasing.
        grads : float32 [U, D]
            Their gradients.
        optimizer : SGD or RowwiseAdagrad
            The update rule; an engine has SGD alone.
        state : float32 [R] or None
            RowwiseAdagrad's state of every row, updated in place (start with zeros); None for SGD.
        """
        xp = self._xp(weight)
        self._updated(weight, optimizer, state, xp)
        self._check_row_numbers("rows", rows, weight.shape[0], "rows of weight", True, xp)
        validation.matrix("grads", grads, rows=rows.size, rows_of="as many as rows",
                          dim=weight.shape[1], dim_of="as weight", xp=xp)
        self._disjoint(weight, state, {"grads": grads, "rows": rows}, xp)
        self._scatter_update(weight, rows, grads, optimizer, state)

    def backward_update(self, weight, grad_out, casting, optimizer, state=None):
        """Update every row that was looked up with its coalesced gradient, in place and fused.

        The same bits as :meth:`casted_gather_reduce` and :meth:`scatter_update`, without the
        coalesced gradient in memory. The arguments are theirs.
        """
        xp = self._xp(weight)
        self._updated(weight, optimizer, state, xp)
        validation.matrix("grad_out", grad_out, dim=weight.shape[1], dim_of="as weight", xp=xp)
        validation.casting_fields(
            casting, n_bags=grad_out.shape[0], bags_of="rows of grad_out",
            n_rows=weight.shape[0], rows_of="rows of weight", xp=xp)
        self._disjoint(weight, state, {"grad_out": grad_out}, xp)
        self._backward_update(weight, grad_out, casting, optimizer, state)

    def training_step(self, layers, optimizer):
        """Do a training step's work on embedding tables; return their pooled rows.

        For every layer, forward, cast and fused backward: the results of :meth:`embedding_bag`,
        and ``weight`` as :meth:`cast` and :meth:`backward_update` leave it. All forward passes see
        the tables as they are; then the updates follow in the order of the layers. An engine with
        a cast unit does everything in one submission, the casts while the forward passes run.

        Parameters
        ----------
        layers : sequence of TableStep
            The tables, each with its batch and the gradient of its pooled rows.
        optimizer : SGD or RowwiseAdagrad
            The update rule; an engine has SGD alone.

        Returns
        -------
        list of float32 [B, D]
            The pooled rows of each layer.
        """
        checked = []
        for number, layer in enumerate(layers):
            if not isinstance(layer, TableStep):
                raise TypeError(
                    f"layers[{number}] must be a TableStep, not {type(layer).__name__}")
            try:
                checked.append(self._check_layer(layer, optimizer))
            except (TypeError, ValueError) as error:
                raise type(error)(f"layers[{number}]: {error}") from None
        for number, layer in enumerate(checked):
            others = {f"layers[{n}].grad_out": other.grad_out for n, other in enumerate(checked)
                      if n != number}
            validation.disjoint(f"layers[{number}].weight", layer.weight, others,
                                self._xp(layer.weight))
        return self._training_step(checked, optimizer)

    # the baseline that tensor casting replaces, for comparison

    def expand(self, grad_out, offsets):
        """Return one row of ``grad_out`` per lookup, float32 [N, D]: the baseline's first step."""
        xp = self._xp(grad_out)
        validation.matrix("grad_out", grad_out, xp=xp)
        self._check_offsets("offsets", offsets, xp)
        validation.matrix("grad_out", grad_out, rows=offsets.size - 1,
                          rows_of="one less than offsets", xp=xp)
        return self._expand(grad_out, offsets)

    def coalesce(self, expanded, casting):
        """Return the coalesced gradient, float32 [U, D], of expanded rows: the second step.

        Parameters
        ----------
        expanded : float32 [N, D]
            What :meth:`expand` returned.
        casting : Casting
            What :meth:`cast` returned for the batch.
        """
        xp = self._xp(expanded)
        validation.matrix("expanded", expanded, xp=xp)
        validation.casting_fields(casting, n_expanded=expanded.shape[0], xp=xp)
        return self._coalesce(expanded, casting)

    def scatter(self, dst, rows, values):
        """Write ``values[u]`` to ``dst[rows[u]]``, in place; of equal rows the last one stays.

        Parameters
        ----------
        dst : float32 [R, D]
            Target; each row contiguous, rows may be further apart than a row.
        rows : int32 or int64 [U]
            Target rows, in any order.
        values : float32 [U, D]
            What is written there, bit for bit.
        """
        xp = self._xp(dst)
        validation.matrix("dst", dst, xp=xp)
        validation.writable("dst", dst, xp)
        self._check_row_numbers("rows", rows, dst.shape[0], "rows of dst", False, xp)
        validation.matrix("values", values, rows=rows.size, rows_of="as many as rows",
                          dim=dst.shape[1], dim_of="as dst", xp=xp)
        validation.disjoint("dst", dst, {"values": values, "rows": rows}, xp)
        self._scatter(dst, rows, values)

    # shared checks: a backend may do one in its own way, with the same messages

    def _xp(self, array):
        """Return the array module that the arguments of a call must come from."""
        return np

    def _lookups(self, indices, offsets, per_sample_weights, mode, n_rows, rows_of, xp):
        """Check a batch; return (indices, offsets, weights) without lookups behind the last bag."""
        validation.mode_name(mode)
        validation.index_kind("indices", indices, xp)
        validation.offset_array("offsets", offsets, indices.size, "elements of indices", xp)
        weights = validation.sample_weights(per_sample_weights, indices.size, mode, xp)
        if mode == "mean":
            validation.mean_lengths(offsets, xp)
        used = int(offsets[-1])
        indices = indices[:used]
        validation.index_array("indices", indices, n_rows, rows_of, offsets, xp)
        return indices, offsets, None if weights is None else weights[:used]

    def _cast_lookups(self, indices, offsets, per_sample_weights, num_rows, xp):
        """Check a batch to be cast; a backend may leave what the arrays hold to its cast."""
        return self._lookups(indices, offsets, per_sample_weights, "sum", num_rows, "num_rows", xp)

    def _check_indices(self, name, indices, n_rows, rows_of, xp):
        validation.index_array(name, indices, n_rows, rows_of, xp=xp)

    def _check_row_numbers(self, name, rows, n_rows, rows_of, increasing, xp):
        validation.row_array(name, rows, n_rows, rows_of, increasing=increasing, xp=xp)

    def _check_offsets(self, name, offsets, xp):
        validation.offset_array(name, offsets, np.iinfo(np.int64).max, "lookups", xp)

    def _updated(self, weight, optimizer, state, xp):
        validation.matrix("weight", weight, xp=xp)
        validation.writable("weight", weight, xp)
        validation.optimizer_state(optimizer, state, weight.shape[0], xp)

    @staticmethod
    def _disjoint(weight, state, others, xp):
        validation.disjoint("weight", weight, others, xp)
        if state is not None:
            validation.disjoint("state", state, {"weight": weight, **others}, xp)

    def _check_layer(self, layer, optimizer):
        """Check one layer of a training step; return it without lookups behind the last bag."""
        weight, grad_out = layer.weight, layer.grad_out
        xp = self._xp(weight)
        self._updated(weight, optimizer, layer.state, xp)
        indices, offsets, _ = self._lookups(
            layer.indices, layer.offsets, None, "sum", weight.shape[0], "rows of weight", xp)
        validation.matrix("grad_out", grad_out, rows=offsets.size - 1,
                          rows_of="one less than offsets", dim=weight.shape[1],
                          dim_of="as weight", xp=xp)
        self._disjoint(weight, layer.state, {
            "grad_out": grad_out, "indices": layer.indices, "offsets": layer.offsets}, xp)
        return TableStep(weight, indices, offsets, grad_out, layer.state)

    # hooks: arguments are checked

    def _training_step(self, layers, optimizer):
        outs = [self._embedding_bag(layer.weight, layer.indices, layer.offsets, None, "sum")
                for layer in layers]
        castings = [self._cast(layer.indices, layer.offsets, layer.weight.shape[0], None)
                    for layer in layers]
        for layer, casting in zip(layers, castings, strict=True):
            self._backward_update(layer.weight, layer.grad_out, casting, optimizer, layer.state)
        return outs

    @abstractmethod
    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        ...

    @abstractmethod
    def _gather(self, weight, indices):
        ...

    @abstractmethod
    def _cast(self, indices, offsets, num_rows, weights):
        ...

    @abstractmethod
    def _casted_gather_reduce(self, grad_out, casting):
        ...

    @abstractmethod
    def _scatter_update(self, weight, rows, grads, optimizer, state):
        ...

    @abstractmethod
    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        ...

    @abstractmethod
    def _expand(self, grad_out, offsets):
        ...

    @abstractmethod
    def _coalesce(self, expanded, casting):
        ...

    @abstractmethod
    def _scatter(self, dst, rows, values):
        ...
