"""tcast.torch.EmbeddingBag with an optimizer in its backward, its state, copies and places."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from torch_cases import (
    Batch,
    D,
    R,
    array,
    module_with,
    reason_without_cuda,
    run,
    tensors,
)

from tcast import golden

try:
    import torch
except ImportError:
    pytest.skip("PyTorch is not installed; the extra tcast[peers] brings it",
                allow_module_level=True)

from tcast.host import torch_module
from tcast.host.backend import BackendUnavailable
from tcast.torch import EmbeddingBag, InputError, InputTypeError

# the fused optimizer


def sgd(device, weight=None, **options):
    weight = np.zeros((6, 1), np.float32) if weight is None else weight
    return module_with(EmbeddingBag, weight, device,
                       **{"mode": "sum", "optimizer": "sgd", "lr": 1.0, **options})


def column(module):
    return array(module.weight)[:, 0].tolist()


def test_update_is_in_the_memory_of_the_parameter(device):
    module = sgd(device)
    parameter, address = module.weight, module.weight.data_ptr()
    module(torch.tensor([[1, 1, 4]], device=device)).sum().backward()
    assert module.weight is parameter and module.weight.data_ptr() == address
    assert module.weight.grad is None
    assert column(module) == [0, -2, 0, 0, -1, 0]


def test_each_backward_updates(device):
    module = sgd(device)
    first = module(torch.tensor([[1, 2]], device=device))
    second = module(torch.tensor([[2, 3]], device=device))
    second.sum().backward()
    assert column(module) == [0, 0, -1, -1, 0, 0]
    first.sum().backward(retain_graph=True)
    assert column(module) == [0, -1, -2, -1, 0, 0]
    first.sum().backward()
    assert column(module) == [0, -2, -3, -1, 0, 0]
    with pytest.raises(RuntimeError, match="second time"):
        first.sum().backward()
    assert column(module) == [0, -2, -3, -1, 0, 0]


def test_twice_in_one_graph_is_two_updates(device):
    """With Adagrad that is not the update by the sum of the gradients."""
    module = module_with(EmbeddingBag, np.zeros((3, 1), np.float32), device, mode="sum",
                         optimizer="rowwise_adagrad", lr=1.0, eps=0.0)
    row = torch.tensor([[1]], device=device)
    (module(row) + module(row)).sum().backward()
    first, second = np.float32(1), np.float32(1) / np.sqrt(np.float32(2))
    assert array(module.state).tolist() == [0, 2, 0]
    assert array(module.weight)[1, 0] == -first - second


def test_chunked_batches_accumulate_in_the_table(device):
    """What PyTorch's users call gradient accumulation is a step after each backward here."""
    batch = Batch(15, exact=True)
    module = sgd(device, batch.weight, include_last_offset=True)
    expected = batch.weight.copy()
    for part in (slice(0, 4), slice(4, 9)):
        ends = batch.ends[part.start:part.stop + 1]
        indices, ends = batch.indices[ends[0]:ends[-1]], ends - ends[0]
        run(module, *tensors(device, batch.grad_out[part], indices, ends))
        golden.backward_update(expected, batch.grad_out[part], golden.cast(indices, ends, R),
                               golden.SGD(1.0))
    assert golden.bits_equal(array(module.weight), expected)


def test_learning_rate(device):
    module = sgd(device)
    out = module(torch.tensor([[1]], device=device))
    module.set_learning_rate(0.25)
    out.sum().backward()
    assert column(module) == [0, -0.25, 0, 0, 0, 0]
    assert "optimizer='sgd', lr=0.25" in module.extra_repr()
    with pytest.raises(ValueError, match="lr must be a finite binary32 number of at least 0"):
        module.set_learning_rate(-1)
    with pytest.raises(ValueError, match="optimizer must be one of sgd, rowwise_adagrad"):
        EmbeddingBag(3, 2).set_learning_rate(1)


def test_padding_is_never_updated(device):
    batch = Batch(16)
    for optimizer in ("sgd", "rowwise_adagrad"):
        module = sgd(device, batch.weight, optimizer=optimizer, padding_idx=0)
        run(module, *tensors(device, batch.grad_out, batch.indices, batch.ends[:-1]))
        changed = (array(module.weight) != batch.weight).any(axis=1)
        assert (batch.indices == 0).any()
        assert set(np.flatnonzero(changed)) == set(batch.indices) - {0}
    assert array(module.state)[0] == 0


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "eval", "frozen"])
def test_forward_alone_casts_nothing(how, device, monkeypatch):
    batch = Batch(17)
    module = sgd(device, batch.weight)
    bridge = torch_module._bridge(module.weight.device)
    monkeypatch.setattr(bridge.device, "cast", None)
    scope = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(
        how, contextlib.nullcontext)
    if how == "eval":
        module.eval()
    elif how == "frozen":
        module.weight.requires_grad_(False)
    indices, offsets = tensors(device, batch.indices, batch.ends[:-1])
    with scope():
        out = module(indices, offsets)
    assert not out.requires_grad
    assert golden.bits_equal(array(out), golden.embedding_bag(batch.weight, batch.indices,
                                                              batch.ends))


def test_factors_learn_while_the_table_does_not(device):
    """In evaluation, and with a frozen table; with a gradient for PyTorch, evaluation learns."""
    inputs = torch.tensor([[1, 2]], device=device)
    for module in (sgd(device).eval(), sgd(device).requires_grad_(False)):
        factors = torch.ones(1, 2, device=device, requires_grad=True)
        module(inputs, None, factors).sum().backward()
        assert factors.grad is not None and column(module) == [0] * 6
    module = EmbeddingBag(6, 1, device=device).eval()
    module(inputs).sum().backward()
    assert module.weight.grad is not None


def test_gradient_of_factors_wants_the_table_of_its_forward(device):
    """An update between forward and backward is found out, as PyTorch finds in-place changes."""
    module = sgd(device, np.ones((6, 1), np.float32))
    rows = torch.tensor([[1, 2]], device=device)
    factors = torch.ones(1, 2, device=device, requires_grad=True)
    weighted = module(rows, None, factors)
    module(rows).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        weighted.sum().backward()
    # Without a gradient of the factors nothing needs the old table.
    weighted, again = module(rows, None, factors.detach()), module(rows)
    again.sum().backward()
    weighted.sum().backward()
    # A tied output layer needs it too.
    tied = torch.nn.functional.linear(torch.ones(1, 1, device=device, requires_grad=True),
                                      module.weight)
    module(rows).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        tied.sum().backward()


def test_lookups_must_stay_until_backward(device):
    module = sgd(device)
    for change in (0, 1):
        inputs = [torch.tensor([1, 2], device=device), torch.tensor([0, 2], device=device)]
        module.include_last_offset = True
        out = module(*inputs)
        inputs[change] += 0
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()
    assert column(module) == [0] * 6


def test_hooks_see_the_gradient_of_the_sums(device):
    module = sgd(device)
    out = module(torch.tensor([[1]], device=device))
    out.register_hook(lambda gradient: gradient * 3)
    seen = []
    module.weight.register_hook(seen.append)  # has nothing to see
    out.sum().backward()
    assert column(module) == [0, -3, 0, 0, 0, 0] and seen == [None]


def test_no_gradient_of_a_fused_table(device):
    module = sgd(device)
    out = module(torch.tensor([[1]], device=device))
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        torch.autograd.grad(out.sum(), module.weight)
    # Another optimizer has nothing to do with the table, weight decay included.
    other = torch.optim.SGD(module.parameters(), lr=1.0, weight_decay=0.5)
    module = sgd(device, np.ones((6, 1), np.float32))
    other.param_groups[0]["params"] = [module.weight]
    module(torch.tensor([[1]], device=device)).sum().backward()
    other.step()
    assert column(module) == [1, 0, 1, 1, 1, 1]


# state, copies, places


def test_state_dict_both_ways(device):
    theirs = torch.nn.EmbeddingBag(R, D, device=device)
    for options in ({}, {"optimizer": "sgd", "lr": 0.1}):
        ours = EmbeddingBag(R, D, device=device, **options)
        assert list(ours.state_dict()) == ["weight"]
        ours.load_state_dict(theirs.state_dict())
        assert torch.equal(ours.weight, theirs.weight)
        other = torch.nn.EmbeddingBag(R, D, device=device)
        other.load_state_dict(ours.state_dict())
        assert torch.equal(other.weight, ours.weight)


def test_state_of_adagrad_in_the_state_dict(device):
    batch = Batch(18)
    inputs = tensors(device, batch.grad_out, batch.indices, batch.ends[:-1])
    options = dict(mode="sum", optimizer="rowwise_adagrad", lr=0.1)
    ours = module_with(EmbeddingBag, batch.weight, device, **options)
    run(ours, *inputs)
    saved = io.BytesIO()
    torch.save(torch.nn.Sequential(ours).state_dict(), saved)
    saved.seek(0)
    loaded = torch.nn.Sequential(EmbeddingBag(R, D, device=device, **options))
    loaded.load_state_dict(torch.load(saved))
    assert list(loaded.state_dict()) == ["0.weight", "0.state"]
    run(ours, *inputs)
    run(loaded[0], *inputs)
    assert torch.equal(loaded[0].weight, ours.weight) and torch.equal(loaded[0].state, ours.state)
    # PyTorch's own state_dict has no state: it starts anew.
    assert ours.state.any()
    theirs = torch.nn.EmbeddingBag(R, D, device=device)
    plain = theirs.state_dict()
    ours.load_state_dict(plain, strict=True)
    assert not ours.state.any() and list(plain) == ["weight"]
    assert torch.equal(ours.weight, theirs.weight)
    with pytest.raises(RuntimeError, match=r'Missing key.* "weight", "state"'):
        ours.load_state_dict({})
    # The other way only the state is left over.
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert found.unexpected_keys == ["state"] and not found.missing_keys
    run(ours, *inputs)
    ours.reset_parameters()
    assert not ours.state.any()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_train_on_their_own(duplicate, device):
    batch = Batch(19)
    inputs = tensors(device, batch.grad_out, batch.indices, batch.ends[:-1])
    module = module_with(EmbeddingBag, batch.weight, device, mode="sum", padding_idx=2,
                         optimizer="rowwise_adagrad", lr=0.1, eps=0.5)
    run(module, *inputs)
    again = duplicate(module)
    assert repr(again) == repr(module)
    before = array(module.weight).copy()
    run(again, *inputs)
    np.testing.assert_array_equal(array(module.weight), before)
    run(module, *inputs)
    assert torch.equal(again.weight, module.weight) and torch.equal(again.state, module.state)


def test_text_is_torchs_and_the_optimizer():
    for options in ({}, {"mode": "sum", "padding_idx": 1, "include_last_offset": True}):
        assert repr(EmbeddingBag(4, 3, **options)) == repr(torch.nn.EmbeddingBag(4, 3, **options))
    assert repr(EmbeddingBag(4, 3, optimizer="rowwise_adagrad", lr=0.5)) == (
        "EmbeddingBag(4, 3, mode='mean', optimizer='rowwise_adagrad', lr=0.5, eps=1e-08)")
    assert isinstance(EmbeddingBag(4, 3), torch.nn.EmbeddingBag)


def test_other_types_and_places_are_named():
    module = EmbeddingBag(4, 3)
    with pytest.raises(InputError, match="input must be on cpu as weight, not on meta"):
        module(torch.zeros((1, 2), dtype=torch.int64, device="meta"))
    with pytest.raises(InputError, match="per_sample_weights must be on cpu as weight, not on me"):
        EmbeddingBag(4, 3, mode="sum")(torch.zeros((1, 2), dtype=torch.int64), None,
                                       torch.zeros((1, 2), device="meta"))
    with pytest.raises(InputTypeError, match=r"weight must be of dtype torch\.float32, not torch"):
        EmbeddingBag(4, 3).double()(torch.tensor([[1]]))
    with pytest.raises(InputError, match="weight must be on a cpu or cuda device, not meta"):
        EmbeddingBag(4, 3, device="meta")(torch.zeros((1, 2), dtype=torch.int64, device="meta"))


def test_binary32_under_autocast(device):
    module = EmbeddingBag(4, 8, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out = module(torch.tensor([[1]], device=device))
        loss = torch.nn.functional.linear(out, torch.ones(2, 8, device=device)).sum()
    assert out.dtype == torch.float32
    loss.backward()
    assert module.weight.grad.dtype == torch.float32 and module.weight.grad[1].tolist() == [2] * 8


def test_compiled_model_learns_the_same():
    """Dynamo leaves a module out that is told to be; the rest is compiled."""
    torch.manual_seed(4)
    models = [torch.nn.Sequential(sgd("cpu", np.ones((6, 3), np.float32)), torch.nn.Tanh(),
                                  torch.nn.Linear(3, 1))]
    models.append(copy.deepcopy(models[0]))
    models[1][0].forward = torch.compiler.disable(models[1][0].forward)
    compiled = torch.compile(models[1], backend="eager")
    rows = torch.tensor([[1, 2], [2, 3]])
    for _ in range(3):
        losses = [model(rows).sum() for model in (models[0], compiled)]
        for loss in losses:
            loss.backward()
        assert losses[0].item() == losses[1].item()
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_memory_is_shared_with_the_gpus_arrays(stand_in):
    """The stand-in sees the tensors' own memory, on PyTorch's current stream."""
    batch = Batch(20)
    stand_in.stream.cuda_stream = 77
    module = sgd(torch.device("cpu"), batch.weight, include_last_offset=True)
    grad_out, indices, ends, factors = tensors("cpu", batch.grad_out, batch.indices, batch.ends,
                                               batch.factors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            module(indices, ends, factors).backward(grad_out)
    given = {tensor.data_ptr() for tensor in (module.weight, grad_out, indices, ends, factors)}
    assert set(stand_in.shared) == given
    assert stand_in.streams == [77] and stand_in.entered == []
    stand_in.stream.cuda_stream = 0
    module(indices, ends)
    assert stand_in.streams == [77]


def test_missing_cupy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match="cupy cannot be imported"):
        torch_module._bridge(torch.device("cuda", 5))


def test_cuda_current_stream_is_used():
    """On a side stream, without any synchronisation of the default one."""
    reason = reason_without_cuda()
    if reason:
        pytest.skip(reason)
    batch = Batch(21, bags=2000, longest=50, rows=5000, dim=64)
    casting = golden.cast(batch.indices, batch.ends, 5000)
    expected = batch.weight.copy()
    module = sgd(torch.device("cuda"), batch.weight, include_last_offset=True, lr=0.125)
    grad_out, indices, ends = tensors("cuda", batch.grad_out, batch.indices, batch.ends)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.cuda._sleep(10_000_000)
            module(indices, ends).backward(grad_out)
            golden.backward_update(expected, batch.grad_out, casting, golden.SGD(0.125))
    stream.synchronize()
    assert golden.bits_equal(array(module.weight), expected)


def test_moved_between_devices():
    reason = reason_without_cuda()
    if reason:
        pytest.skip(reason)
    batch = Batch(22)
    module = module_with(EmbeddingBag, batch.weight, "cpu", mode="sum",
                         optimizer="rowwise_adagrad", lr=0.1)
    other = copy.deepcopy(module)
    for place in ("cpu", "cuda", "cpu"):
        module.to(place)
        run(module, *tensors(place, batch.grad_out, batch.indices, batch.ends[:-1]))
        run(other, *tensors("cpu", batch.grad_out, batch.indices, batch.ends[:-1]))
    assert torch.equal(module.weight, other.weight) and torch.equal(module.state, other.state)


def test_torch_is_imported_by_its_module_alone():
    script = ("import sys, tcast.host.cpu, tcast.golden, tcast.api; "
              "assert 'torch' not in sys.modules; import tcast.torch; "
              "assert 'torch' in sys.modules and tcast.torch.EmbeddingBag")
    subprocess.run([sys.executable, "-c", script], check=True)
