"""``tcast.torch.EmbeddingBag``: PyTorch's EmbeddingBag, its gathers, casts and updates by a device.

Three parts: a :class:`_Bridge` hands tensors to a device and arrays back without copying them; an
autograd function calls the device in forward and backward; the module has PyTorch's interface. CPU
tensors go to the cpu backend, CUDA tensors to the cupy backend. What is done to lookups before the
device sees them (the end of the last bag, padding, 1/n) is done with torch operations, so that it
is the same code on both. See docs/pytorch.md.
"""

import contextlib
import dataclasses
import warnings
import weakref

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ..golden import SGD, RowwiseAdagrad
from . import validation
from .cpu import CpuDevice
from .cupy_backend import CupyDevice, load_cupy

__all__ = ["OPTIMIZERS", "EmbeddingBag", "InputError", "InputTypeError"]

#: What ``optimizer`` may be, beside None.
OPTIMIZERS = ("sgd", "rowwise_adagrad")

#: Products that the gradient of per-sample weights holds at a time: 16 MiB.
_PRODUCTS = 1 << 22


class InputError(ValueError, RuntimeError):
    """A lookup that cannot be made: ValueError as in all of tcast, RuntimeError as in PyTorch."""


class InputTypeError(TypeError, RuntimeError):
    """A tensor of a wrong kind: TypeError as in all of tcast, RuntimeError as in PyTorch."""


# tensors and arrays


class _CpuBridge:
    """NumPy's views of CPU tensors, and the cpu backend with as many threads as PyTorch has."""

    xp = np
    _no_scope = contextlib.nullcontext()

    def __init__(self, threads):
        self.device = CpuDevice(threads=threads)

    def scope(self):
        """Return the context in which arrays are made, used and handed back."""
        return self._no_scope

    def array(self, tensor):
        """Return a tensor's memory as an array; None for None."""
        if tensor is None:
            return None
        return (tensor.detach() if tensor.requires_grad else tensor).numpy()

    def tensor(self, array):
        """Return an array's memory as a tensor."""
        return torch.from_numpy(array)

    def with_end(self, offsets, end):
        """Return a copy of the tensor ``offsets`` with ``end`` behind it."""
        # NumPy's small operations cost a tenth of PyTorch's.
        given = offsets.numpy()
        ends = np.empty(given.size + 1, given.dtype)
        ends[:-1], ends[-1] = given, end
        return torch.from_numpy(ends)


class _CudaBridge:
    """CuPy's views of CUDA tensors, and the cupy backend on PyTorch's current stream."""

    def __init__(self, device):
        self.xp = load_cupy()
        self._of = device
        self._streams = {0: self.xp.cuda.Stream.null}
        with self.xp.cuda.Device(device.index):
            self.device = CupyDevice()

    def _stream(self):
        """Return PyTorch's current stream as CuPy's."""
        handle = torch.cuda.current_stream(self._of).cuda_stream
        if handle not in self._streams:
            # CuPy 14 prefers Stream.from_external, whose streams destroy what they wrap.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._streams[handle] = self.xp.cuda.ExternalStream(handle, self._of.index)
        return self._streams[handle]

    @contextlib.contextmanager
    def scope(self):
        """As in :class:`_CpuBridge`."""
        with self.xp.cuda.Device(self._of.index), self._stream():
            yield

    def array(self, tensor):
        """As in :class:`_CpuBridge`."""
        if tensor is None:
            return None
        if not tensor.numel():  # has no memory to share
            return self.xp.empty(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        return self.xp.from_dlpack(tensor.detach())

    def tensor(self, array):
        """As in :class:`_CpuBridge`."""
        if not array.size:
            return torch.empty(array.shape, dtype=getattr(torch, array.dtype.name),
                               device=self._of)
        return torch.from_dlpack(array)

    def with_end(self, offsets, end):
        """As in :class:`_CpuBridge`."""
        return torch.nn.functional.pad(offsets, (0, 1), value=end)


_bridges = {}


def _bridge(device):
    """Return the bridge for tensors on ``device``; made once."""
    if device.type == "cpu":
        key, make = torch.get_num_threads(), _CpuBridge
    elif device.type == "cuda":
        key, make = device, _CudaBridge
    else:
        raise ValueError(f"weight must be on a cpu or cuda device, not {device}")
    bridge = _bridges.get(key)
    if bridge is None:
        bridge = _bridges[key] = make(key)
    return bridge


# what autograd calls


def _pool(weight, indices, offsets, factors, mode):
    """Return the pooled rows, float32 [B, D]; ``offsets`` has the end of the last bag."""
    bridge = _bridge(weight.device)
    with bridge.scope():
        return bridge.tensor(bridge.device.embedding_bag(
            bridge.array(weight), bridge.array(indices), bridge.array(offsets),
            bridge.array(factors), mode))


def _lengths(offsets):
    """Return the number of lookups of each bag, [B]."""
    return offsets.diff()


def _column_sum(level):
    """Sum the rows of a float32 [n, D] tensor by the pairwise tree of docs/numerics.md."""
    while level.shape[1] > 1:
        paired = level.shape[1] // 2 * 2
        sums = level[:, 0:paired:2] + level[:, 1:paired:2]
        level = sums if paired == level.shape[1] else torch.cat([sums, level[:, paired:]], 1)
    return level[:, 0]


def _factor_gradient(grad_out, weight, indices, offsets):
    """Return the gradient of the per-sample weights, float32 [N].

    Lookup i of bag b: the sum over the columns of ``RN(grad_out[b] · weight[indices[i]])``.
    """
    bags = torch.repeat_interleave(_lengths(offsets))
    result = grad_out.new_zeros(indices.numel())  # lookups behind the last bag have no effect
    step = max(1, _PRODUCTS // weight.shape[1])
    for begin in range(0, bags.numel(), step):
        part = slice(begin, min(begin + step, bags.numel()))
        products = grad_out.index_select(0, bags[part])
        products *= weight.index_select(0, indices[part])
        result[part] = _column_sum(products)
    return result


class _Pooled(torch.autograd.Function):
    """Pooling whose backward casts, and then updates the table or returns its gradient."""

    @staticmethod
    def forward(ctx, weight, factors, indices, offsets, module, state):
        ctx.set_materialize_grads(False)
        # Only the gradient of the factors reads the table: autograd then refuses a changed one.
        ctx.save_for_backward(indices, offsets, factors,
                              weight if ctx.needs_input_grad[1] else None)
        ctx.module, ctx.table, ctx.state, ctx.mode = module, weight, state, module.mode
        return _pool(weight, indices, offsets, factors, module.mode)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        indices, offsets, factors, weight = ctx.saved_tensors
        of_weight = of_factors = None
        if grad_out is not None:
            if ctx.needs_input_grad[1]:
                of_factors = _factor_gradient(grad_out, weight, indices, offsets)
            if ctx.needs_input_grad[0]:
                if ctx.mode == "mean":
                    # The same bits as a weight 1/n for each lookup, once for each bag.
                    scales = _lengths(offsets).clamp_(min=1).to(torch.float32).reciprocal_()
                    grad_out = grad_out * scales.unsqueeze(1)
                of_weight = _weight_gradient(ctx, grad_out, indices, offsets, factors)
        return of_weight, of_factors, None, None, None, None


def _weight_gradient(ctx, grad_out, indices, offsets, factors):
    """Update the table and return None, or return its gradient, as the module is set."""
    table, rule = ctx.table, ctx.module.update_rule
    bridge = _bridge(table.device)
    with bridge.scope():
        casting = bridge.device.cast(bridge.array(indices), bridge.array(offsets),
                                     table.shape[0], bridge.array(factors))
        if rule is not None:
            bridge.device.backward_update(bridge.array(table), bridge.array(grad_out), casting,
                                          rule, bridge.array(ctx.state))
            # So that autograd finds it out where a graph still needs the table as it was.
            torch.autograd.graph.increment_version(table)
            return None
        values = bridge.tensor(bridge.device.casted_gather_reduce(bridge.array(grad_out), casting))
        rows = bridge.tensor(casting.rows.astype("int64"))  # a copy: a casting must stay as it is
    if ctx.module.sparse:
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, table.shape, is_coalesced=True,
                                       check_invariants=False)
    return torch.zeros_like(table).index_copy_(0, rows, values)


def _mark_coalesced(weight):
    """Tell a gradient that is coalesced so: autograd's accumulation forgets it."""
    grad = weight.grad
    if grad is not None and grad.is_sparse and not grad.is_coalesced():
        rows = grad._indices()[0]
        if bool((rows[1:] > rows[:-1]).all()):
            grad._coalesced_(True)


class EmbeddingBag(torch.nn.EmbeddingBag):
    """Sums or means of bags of table rows: ``torch.nn.EmbeddingBag`` by tensor casting.

    The same arguments, attributes, state_dict and initial values as PyTorch's; results are
    deterministic, and the same bits on every device and number of threads. The backward pass casts
    the lookups; no gradient row is expanded. See docs/pytorch.md.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows and columns of the table; at least one column.
    max_norm, norm_type, scale_grad_by_freq
        Only None, anything, and False: they are PyTorch's, and refused.
    mode : str
        "mean" (the default, as in PyTorch) or "sum"; "max" is refused.
    sparse : bool
        Whether the gradient of the table is a coalesced sparse tensor or a dense one. Without a
        meaning where there is an ``optimizer``.
    _weight : torch.Tensor or None
        float32 [num_embeddings, embedding_dim]: the table.
    include_last_offset : bool
        Whether offsets end with the end of the last bag.
    padding_idx : int or None
        A row that bags do without, and that is never updated; negative ones count from the end.
    device, dtype
        As PyTorch's; the dtype is float32.
    optimizer : str or None
        "sgd" or "rowwise_adagrad": the backward pass updates the table at once, and there is no
        gradient of it. None: there is a gradient, for an optimizer of PyTorch's.
    lr, eps : float
        The optimizer's learning rate, which must be given with one, and row-wise Adagrad's eps.

    Attributes
    ----------
    weight : torch.nn.Parameter
        float32 [num_embeddings, embedding_dim].
    state : torch.Tensor
        float32 [num_embeddings]: with "rowwise_adagrad", the buffer with the state of every row.
    optimizer : str or None
        The optimizer's name.
    update_rule : tcast.SGD or tcast.RowwiseAdagrad or None
        What a backward pass does to the table.

    Raises
    ------
    ValueError, TypeError, AssertionError
        An argument that is refused; the last one where PyTorch raises it.
    """

    def __init__(self, num_embeddings, embedding_dim, max_norm=None, norm_type=2.0,
                 scale_grad_by_freq=False, mode="mean", sparse=False, _weight=None,
                 include_last_offset=False, padding_idx=None, device=None, dtype=None, *,
                 optimizer=None, lr=None, eps=None):
        if max_norm is not None:
            raise ValueError(f"max_norm must be None, not {max_norm!r}: rows are not renormalised")
        if scale_grad_by_freq:
            raise ValueError(f"scale_grad_by_freq must be False, not {scale_grad_by_freq!r}")
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode must be 'sum' or 'mean', not {mode!r}")
        if dtype not in (None, torch.float32):
            raise TypeError(f"dtype must be torch.float32, not {dtype!r}")
        if _weight is not None and _weight.dtype != torch.float32:
            raise TypeError(f"_weight must be of dtype torch.float32, not {_weight.dtype}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, not {embedding_dim!r}")
        rule = _update_rule(optimizer, lr, eps)
        super().__init__(num_embeddings, embedding_dim, norm_type=norm_type, mode=mode,
                         sparse=sparse, _weight=_weight, include_last_offset=include_last_offset,
                         padding_idx=padding_idx, device=device, dtype=torch.float32)
        self.optimizer, self.update_rule = optimizer, rule
        self._hooked = None  # the weight that _mark_coalesced has been registered with
        if optimizer == "rowwise_adagrad":
            self.register_buffer("state", torch.zeros(num_embeddings, dtype=torch.float32,
                                                      device=self.weight.device))

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, max_norm=None, norm_type=2.0,
                        scale_grad_by_freq=False, mode="mean", sparse=False,
                        include_last_offset=False, padding_idx=None, *, optimizer=None, lr=None,
                        eps=None):
        """Return a module whose table is ``embeddings``, float32 [R, D], not copied.

        Parameters
        ----------
        embeddings : torch.Tensor
            The table.
        freeze : bool
            Whether it stays as it is; must be False with an ``optimizer``.
        max_norm, norm_type, scale_grad_by_freq, mode, sparse, include_last_offset, padding_idx
            As for the class.
        optimizer, lr, eps
            As for the class.
        """
        if embeddings.dim() != 2:
            raise ValueError(f"embeddings must have 2 dimensions, not shape "
                             f"{tuple(embeddings.shape)}")
        if freeze and optimizer is not None:
            raise ValueError(f"freeze must be False with optimizer={optimizer!r}, which updates "
                             f"the table, not {freeze!r}")
        module = cls(*embeddings.shape, max_norm=max_norm, norm_type=norm_type,
                     scale_grad_by_freq=scale_grad_by_freq, mode=mode, sparse=sparse,
                     _weight=embeddings, include_last_offset=include_last_offset,
                     padding_idx=padding_idx, optimizer=optimizer, lr=lr, eps=eps)
        module.weight.requires_grad_(not freeze)
        return module

    def set_learning_rate(self, lr):
        """Set the optimizer's learning rate, at least 0; the next backward pass uses it."""
        if self.update_rule is None:
            raise ValueError("optimizer must be one of " + ", ".join(OPTIMIZERS)
                             + " for a learning rate, not None")
        self.update_rule = dataclasses.replace(self.update_rule, lr=lr)

    def reset_parameters(self):
        """Draw the table anew, as PyTorch does; the optimizer's state becomes 0."""
        super().reset_parameters()
        if "state" in self._buffers:
            self.state.zero_()

    def extra_repr(self):
        """Return PyTorch's text, and the optimizer."""
        rule = self.update_rule
        if rule is None:
            return super().extra_repr()
        eps = f", eps={rule.eps!r}" if isinstance(rule, RowwiseAdagrad) else ""
        return f"{super().extra_repr()}, optimizer={self.optimizer!r}, lr={rule.lr!r}{eps}"

    def forward(self, input, offsets=None, per_sample_weights=None):
        """Return the pooled rows, float32 [B, embedding_dim].

        Parameters
        ----------
        input : torch.Tensor
            int32 or int64 [B, L], B bags of L rows; or [N], bags as ``offsets`` has them.
        offsets : torch.Tensor or None
            int32 or int64 [B], where each bag starts, or [B + 1] with ``include_last_offset``;
            None with an ``input`` of two dimensions.
        per_sample_weights : torch.Tensor or None
            float32, as many as ``input``: multiplied into each row; only with mode "sum".

        Raises
        ------
        InputError, InputTypeError, NotImplementedError
            An input that cannot be looked up; nothing has been changed.
        """
        try:
            indices, ends, factors = self._lookups(input, offsets, per_sample_weights)
            weight = self.weight
            if self.update_rule is not None and not self.training:
                weight = weight.detach()  # nothing is learned in evaluation
            if not torch.is_grad_enabled() or not (
                    weight.requires_grad or (factors is not None and factors.requires_grad)):
                return _pool(weight, indices, ends, factors, self.mode)
            if self.sparse and self.update_rule is None:
                self._hook(weight)
            return _Pooled.apply(weight, factors, indices, ends, self, self._buffers.get("state"))
        except ValueError as error:
            message = str(error)
            if offsets is not None and not self.include_last_offset and input.dim() == 1 \
                    and offsets.numel() and int(offsets[-1]) > input.numel():
                message = (f"offsets[-1] must be at most {input.numel()} (elements of input), "
                           f"not {int(offsets[-1])}")
            raise InputError(message) from None
        except TypeError as error:
            raise InputTypeError(str(error)) from None

    def _lookups(self, indices, offsets, factors):
        """Return (indices [N], offsets [B + 1], factors [N] or None), without padding."""
        weight = self.weight
        if weight.dtype != torch.float32:
            raise TypeError(f"weight must be of dtype torch.float32, not {weight.dtype}")
        for name, tensor in (("input", indices), ("offsets", offsets)):
            if tensor is None:
                continue
            if tensor.dtype not in (torch.int64, torch.int32):
                raise TypeError(f"{name} must be of dtype torch.int32 or torch.int64, "
                                f"not {tensor.dtype}")
            if tensor.device != weight.device:
                raise ValueError(f"{name} must be on {weight.device} as weight, "
                                 f"not on {tensor.device}")
        if factors is not None:
            self._check_factors(factors, indices)
        n_dims = indices.dim()
        if n_dims == 2 and not indices.is_nested:
            if offsets is not None:
                raise ValueError("offsets must be None with an input of two dimensions, whose rows "
                                 f"are the bags, not of shape {tuple(offsets.shape)}")
            bags, length = indices.shape
            indices = indices.reshape(-1)
            factors = None if factors is None else factors.reshape(-1)
            offsets = (torch.arange(0, bags * length + 1, length, device=weight.device) if length
                       else torch.zeros(bags + 1, dtype=torch.int64, device=weight.device))
        elif n_dims != 1 or indices.is_nested:
            raise ValueError(f"input must have 1 or 2 dimensions, not {n_dims}"
                             f"{' of a nested tensor' * indices.is_nested}")
        elif offsets is None or offsets.dim() != 1:
            raise ValueError("offsets must have 1 dimension with an input of one, not "
                             + ("be None" if offsets is None else f"{offsets.dim()}"))
        elif not self.include_last_offset:
            offsets = self._with_end(offsets, indices.numel())
        if self.padding_idx is None:
            return indices, offsets, factors
        return self._without_padding(indices, offsets, factors)

    def _check_factors(self, factors, indices):
        if self.mode != "sum":
            raise NotImplementedError(f"per_sample_weights must be None with mode={self.mode!r}: "
                                      "they need mode 'sum'")
        if factors.dtype != torch.float32:
            raise TypeError(f"per_sample_weights must be of dtype torch.float32, "
                            f"not {factors.dtype}")
        if factors.shape != indices.shape:
            raise ValueError(f"per_sample_weights must have the shape {tuple(indices.shape)} of "
                             f"input, not {tuple(factors.shape)}")
        if factors.device != self.weight.device:
            raise ValueError(f"per_sample_weights must be on {self.weight.device} as weight, "
                             f"not on {factors.device}")

    def _without_padding(self, indices, offsets, factors):
        """Return the lookups that are not of the padding row."""
        kept = indices != self.padding_idx
        if bool(kept.all()):
            return indices, offsets, factors
        # Checked here, where the positions are still those of the input.
        bridge = _bridge(self.weight.device)
        with bridge.scope():
            ends, rows = bridge.array(offsets), bridge.array(indices)
            validation.offset_array("offsets", ends, rows.size, "elements of input", bridge.xp)
            validation.index_array("indices", rows[:int(ends[-1])], self.weight.shape[0],
                                   "rows of weight", ends, bridge.xp)
        before = torch.zeros(indices.numel() + 1, dtype=torch.int64, device=indices.device)
        torch.cumsum(kept, 0, out=before[1:])
        return (indices[kept], before.index_select(0, offsets),
                None if factors is None else factors[kept])

    def _with_end(self, offsets, n_lookups):
        """Return offsets with the end of the last bag behind them."""
        if n_lookups > torch.iinfo(offsets.dtype).max:
            offsets = offsets.to(torch.int64)
        # Without a bag, lookups belong to none.
        return _bridge(offsets.device).with_end(offsets, n_lookups if offsets.numel() else 0)

    def _hook(self, weight):
        if weight.is_leaf and (self._hooked is None or self._hooked() is not weight):
            weight.register_post_accumulate_grad_hook(_mark_coalesced)
            self._hooked = weakref.ref(weight)

    def __getstate__(self):
        return {**self.__dict__, "_hooked": None}  # copies have a weight of their own

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        # PyTorch's own module, and one with SGD, have no state: training then starts anew.
        if "state" in self._buffers and prefix + "weight" in state_dict:
            state_dict.setdefault(prefix + "state", torch.zeros_like(self.state))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _update_rule(optimizer, lr, eps):
    """Return the rule for the constructor's arguments, or None."""
    if optimizer is None:
        for name, value in (("lr", lr), ("eps", eps)):
            if value is not None:
                raise ValueError(f"{name} must be None without an optimizer, not {value!r}")
        return None
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be None or one of {', '.join(OPTIMIZERS)}, "
                         f"not {optimizer!r}")
    if lr is None:
        raise ValueError(f"lr must be given with optimizer={optimizer!r}, not None")
    if optimizer == "rowwise_adagrad":
        return RowwiseAdagrad(lr) if eps is None else RowwiseAdagrad(lr, eps)
    if eps is not None:
        raise ValueError(f"eps must be None with optimizer='sgd', not {eps!r}")
    return SGD(lr)
