"""tcast.torch.EmbeddingBag against PyTorch's own, and against the golden model to the bit.

Values are small integers where both must agree to the bit whatever the order of sums. For the
places in which the tests run see conftest.py.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
from torch_cases import Batch, D, R, array, both, golden_gradient, module_with, run, tensors

from tcast import golden
from tcast.golden import numerics

try:
    import torch
except ImportError:
    pytest.skip("PyTorch is not installed; the extra tcast[peers] brings it",
                allow_module_level=True)

from tcast.host import torch_module
from tcast.torch import EmbeddingBag, InputError, InputTypeError

# against PyTorch


@pytest.mark.parametrize("include_last_offset", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 0, 3, -2])
@pytest.mark.parametrize("kinds", [(np.int64, np.int64), (np.int32, np.int32),
                                   (np.int32, np.int64), (np.int64, np.int32)])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_sum_equals_torch_to_the_bit(device, weighted, sparse, kinds, padding_idx,
                                     include_last_offset):
    for seed in range(3):
        batch = Batch(seed, exact=True, rows=(R, 4)[seed % 2])
        offsets = batch.ends if include_last_offset else batch.ends[:-1]
        indices, offsets, factors, grad_out = tensors(
            device, batch.indices.astype(kinds[0]), offsets.astype(kinds[1]),
            batch.factors if weighted else None, batch.grad_out)
        ours, theirs = both(batch.weight, device, mode="sum", sparse=sparse,
                            padding_idx=padding_idx, include_last_offset=include_last_offset)
        found = run(ours, grad_out, indices, offsets, factors)
        expected = run(theirs, grad_out, indices, offsets, factors)
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, two)
        if padding_idx is not None:
            assert (batch.indices == padding_idx % len(batch.weight)).any()


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_mean_is_torchs_within_the_bound(device, padding_idx):
    batch = Batch(5)
    indices, offsets, grad_out = tensors(device, batch.indices, batch.ends[:-1], batch.grad_out)
    ours, theirs = both(batch.weight, device, padding_idx=padding_idx)
    assert ours.mode == "mean"
    kept = np.ones(len(batch.indices), bool) if padding_idx is None else (
        batch.indices != padding_idx)
    bags = golden.bag_ids(batch.ends)[kept]
    lengths = np.bincount(bags, minlength=len(batch.grad_out)).astype(float)[:, None]
    found = run(ours, grad_out, indices, offsets)
    expected = run(theirs, grad_out, indices, offsets)
    sizes = np.zeros((len(batch.grad_out), D)), np.zeros((R, D))
    np.add.at(sizes[0], bags, abs(batch.weight[batch.indices[kept]]) / lengths[bags])
    np.add.at(sizes[1], batch.indices[kept], abs(batch.grad_out[bags]) / lengths[bags])
    counts = lengths, np.bincount(batch.indices[kept], minlength=R)[:, None]
    for one, two, size, n in zip(found, expected, sizes, counts, strict=False):
        bound = 2 * numerics.sum_bound(n, size, 2)
        assert (abs(one - two.astype(float)) <= bound).all()
        assert (abs(np.roll(one, 1, 0) - two.astype(float)) > bound).any()
    assert not found[0][lengths[:, 0] == 0].any()


@pytest.mark.parametrize("options", [{}, {"include_last_offset": True}, {"padding_idx": 1}],
                         ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_input_of_two_dimensions(device, weighted, options):
    batch = Batch(6, bags=7, exact=True)
    rng = np.random.default_rng(6)
    for shape in ((7, 4), (7, 1), (1, 9), (0, 3)):
        indices, factors, grad_out = tensors(
            device, rng.integers(0, 5, shape), rng.integers(-3, 4, shape).astype(np.float32),
            batch.grad_out[:shape[0]])
        for order in (indices, indices.t().contiguous().t()):  # strided as well
            results = [run(module, grad_out, order, None, factors if weighted else None)
                       for module in both(batch.weight, device, mode="sum", **options)]
            for one, two in zip(*results, strict=True):
                np.testing.assert_array_equal(one, two)


def test_bags_of_no_lookups_at_all(device):
    """PyTorch refuses the second of these; here it is a batch of empty bags."""
    batch = Batch(7, exact=True)
    for module in both(batch.weight, device):
        none = torch.zeros(0, dtype=torch.int64, device=device)
        assert module(none, none).shape == (0, D)
        assert module(torch.ones(2, dtype=torch.int64, device=device), none).shape == (0, D)
        out = module(none, torch.zeros(3, dtype=torch.int64, device=device))
        out.sum().backward()
        assert out.shape == (3, D) and not out.any() and not module.weight.grad.any()
    ours = module_with(EmbeddingBag, batch.weight, device, optimizer="sgd", lr=1.0)
    out = ours(torch.zeros((3, 0), dtype=torch.int64, device=device))
    out.sum().backward()
    assert out.shape == (3, D) and not out.any()
    np.testing.assert_array_equal(array(ours.weight), batch.weight)


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_lookups_behind_the_last_bag(device, padding_idx):
    batch = Batch(8, behind=3, exact=True)
    batch.indices[-1] = 10 * R  # is not looked up
    indices, offsets, factors, grad_out = tensors(device, batch.indices, batch.ends, batch.factors,
                                                  batch.grad_out)
    options = dict(mode="sum", include_last_offset=True, padding_idx=padding_idx)
    ours = module_with(EmbeddingBag, batch.weight, device, **options)
    out, of_weight, of_factors = run(ours, grad_out, indices, offsets, factors)
    n = int(batch.ends[-1])
    theirs = module_with(torch.nn.EmbeddingBag, batch.weight, device, **options)
    expected = run(theirs, grad_out, indices[:n], offsets, factors[:n])
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(of_weight, expected[1])
    np.testing.assert_array_equal(of_factors, np.append(expected[2], [0, 0, 0]))


BAD_INPUTS = {
    "too large": (dict(), (1, 20), (0,), None, InputError,
                  r"indices\[1\] must be at least 0 and below 10 \(rows of weight\), "
                  r"not 20 \(bag 0\)"),
    "too large behind padding": (dict(padding_idx=3), (3, 3, 1, 20), (0, 3), None, InputError,
                                 r"indices\[3\] .* not 20 \(bag 1\)"),
    "negative": (dict(), (1, -1), (0,), None, InputError, r"indices\[1\] .* not -1"),
    "negative, which padding is not": (dict(padding_idx=-1), (1, -1), (0,), None, InputError,
                                       r"indices\[1\] .* not -1"),
    "offsets start": (dict(), (1, 2), (1, 2), None, InputError, r"offsets\[0\] must be 0, not 1"),
    "offsets end": (dict(), (1, 2, 3), (0, 5), None, InputError,
                    r"offsets\[-1\] must be at most 3 \(elements of input\), not 5"),
    "last offset": (dict(include_last_offset=True), (1, 2, 3), (0, 5), None, InputError,
                    r"offsets\[1\] must be at most 3 .*, not 5"),
    "no last offset": (dict(include_last_offset=True), (1, 2), (), None, InputError,
                       "offsets must have at least 1 element"),
    "offsets fall": (dict(), (1, 2, 3), (0, 2, 1), None, InputError,
                     r"offsets\[2\] must be at least offsets\[1\] = 2, not 1"),
    "offsets fall behind padding": (dict(padding_idx=2), (1, 2, 3), (0, 2, 1), None, InputError,
                                    r"offsets\[2\] must be at least offsets\[1\] = 2, not 1"),
    "no offsets": (dict(), (1,), None, None, InputError, "offsets must have 1 dimension"),
    "offsets of two dimensions": (dict(), (1,), ((0,),), None, InputError,
                                  "offsets must have 1 dimension"),
    "offsets too many": (dict(), ((1, 2),), (0,), None, InputError, "offsets must be None"),
    "three dimensions": (dict(), (((1,),),), None, None, InputError,
                         "input must have 1 or 2 dimensions, not 3"),
    "no dimensions": (dict(), 1, None, None, InputError, "input must have 1 or 2 dimensions"),
    "float input": (dict(), (1.0,), (0,), None, InputTypeError,
                    "input must be of dtype torch.int32 or torch.int64, not torch.float32"),
    "float offsets": (dict(), (1,), (0.0,), None, InputTypeError, "offsets must be of dtype"),
    "weighted mean": (dict(mode="mean"), (1,), (0,), (1.0,), NotImplementedError,
                      "per_sample_weights must be None with mode='mean'"),
    "too few factors": (dict(), (1, 2), (0,), (1.0,), InputError,
                        r"per_sample_weights must have the shape \(2,\) of input, not \(1,\)"),
    "integer factors": (dict(), (1, 2), (0,), (1, 2), InputTypeError,
                        "per_sample_weights must be of dtype torch.float32, not torch.int64"),
}
#: PyTorch takes offsets that fall for whatever they come to: with padding, and on one thread.
PASSED_BY_TORCH = "offsets fall", "offsets fall behind padding"


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_refused_as_by_torch(name, device):
    options, *values, kind, message = BAD_INPUTS[name]
    arguments = [None if value is None else torch.tensor(
        value, dtype=torch.int64 if value == () else None, device=device) for value in values]
    options = {"mode": "sum", **options}
    ours, theirs = both(np.ones((10, 2), np.float32), device, **options)
    with pytest.raises(kind, match=message) as found:
        ours(*arguments)
    # On a GPU an index out of range ends PyTorch's process.
    if device.type == "cpu" and name not in PASSED_BY_TORCH:
        with pytest.raises(Exception) as expected:
            theirs(*arguments)
        assert isinstance(found.value, type(expected.value))
    fused = EmbeddingBag(10, 2, device=device, optimizer="sgd", lr=1.0, **options)
    before = array(fused.weight).copy()
    with pytest.raises(kind, match=message):
        fused(*arguments)
    np.testing.assert_array_equal(array(fused.weight), before)


def test_end_of_many_lookups_behind_int32_offsets():
    module = EmbeddingBag(4, 3)
    offsets = torch.tensor([0, 5], dtype=torch.int32)
    for n, dtype in ((2**31 - 1, torch.int32), (2**31, torch.int64)):
        ends = module._with_end(offsets, n)
        assert ends.dtype == dtype and ends.tolist() == [0, 5, n]


@pytest.mark.parametrize("arguments, kind, message", [
    (dict(max_norm=1.0), ValueError, "max_norm must be None, not 1.0"),
    (dict(scale_grad_by_freq=True), ValueError, "scale_grad_by_freq must be False"),
    (dict(mode="max"), ValueError, "mode must be 'sum' or 'mean', not 'max'"),
    (dict(dtype=torch.float64), TypeError, "dtype must be torch.float32, not torch.float64"),
    (dict(_weight=torch.ones(10, 2).double()), TypeError, "_weight must be of dtype"),
    (dict(embedding_dim=0), ValueError, "embedding_dim must be at least 1, not 0"),
    (dict(padding_idx=10), AssertionError, "padding_idx must be within num_embeddings"),
    (dict(padding_idx=-11), AssertionError, "padding_idx must be within num_embeddings"),
    (dict(_weight=torch.ones(3, 2)), AssertionError, "Shape of weight does not match"),
    (dict(optimizer="adam", lr=1), ValueError,
     "optimizer must be None or one of sgd, rowwise_adagrad, not 'adam'"),
    (dict(optimizer="sgd"), ValueError, "lr must be given with optimizer='sgd', not None"),
    (dict(optimizer="sgd", lr=-1.0), ValueError, "lr must be a finite binary32 number"),
    (dict(optimizer="sgd", lr=1.0, eps=1.0), ValueError, "eps must be None with optimizer='sgd'"),
    (dict(lr=1.0), ValueError, "lr must be None without an optimizer, not 1.0"),
    (dict(eps=1.0), ValueError, "eps must be None without an optimizer, not 1.0"),
])
def test_constructor_refuses(arguments, kind, message):
    with pytest.raises(kind, match=message):
        EmbeddingBag(**{"num_embeddings": 10, "embedding_dim": 2, **arguments})


def test_from_pretrained():
    table = torch.arange(8.0).reshape(4, 2)
    for options in ({}, {"freeze": False, "padding_idx": -1, "mode": "sum", "sparse": True}):
        ours = EmbeddingBag.from_pretrained(table, **options)
        theirs = torch.nn.EmbeddingBag.from_pretrained(table, **options)
        assert ours.extra_repr() == theirs.extra_repr()
        for name in ("padding_idx", "mode", "sparse", "include_last_offset", "max_norm"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.weight.requires_grad == theirs.weight.requires_grad
        assert ours.weight.data_ptr() == table.data_ptr()
    with pytest.raises(ValueError, match="freeze must be False with optimizer='sgd'"):
        EmbeddingBag.from_pretrained(table, optimizer="sgd", lr=0.5)
    with pytest.raises(ValueError, match=r"embeddings must have 2 dimensions, not shape \(8,\)"):
        EmbeddingBag.from_pretrained(table.reshape(-1))
    fused = EmbeddingBag.from_pretrained(table.clone(), freeze=False, mode="sum",
                                         optimizer="sgd", lr=0.5)
    fused(torch.tensor([[1, 1]])).sum().backward()
    assert fused.weight.detach().tolist() == [[0, 1], [1, 2], [4, 5], [6, 7]]


def test_same_initial_values_as_torch():
    for options in ({}, {"padding_idx": 3}):
        tables = []
        for cls in (EmbeddingBag, torch.nn.EmbeddingBag):
            torch.manual_seed(1)
            tables.append(cls(R, D, **options).weight)
        assert torch.equal(*tables)


# to the bit


@pytest.mark.parametrize("mode, weighted", [("sum", False), ("sum", True), ("mean", False)])
@pytest.mark.parametrize("dim", [1, 5, 8, 33])
def test_bits_are_the_golden_models(device, mode, weighted, dim):
    batch = Batch(9, dim=dim, longest=60)
    factors = batch.factors if weighted else None
    cast_with = golden.mean_weights(batch.ends) if mode == "mean" else factors
    casting = golden.cast(batch.indices, batch.ends, R, cast_with)
    lr = 0.3
    inputs = tensors(device, batch.grad_out, batch.indices, batch.ends, factors)
    options = dict(mode=mode, include_last_offset=True)

    out, of_weight, of_factors = run(
        module_with(EmbeddingBag, batch.weight, device, **options), *inputs)
    assert golden.bits_equal(out, golden.embedding_bag(batch.weight, batch.indices, batch.ends,
                                                       factors, mode))
    assert golden.bits_equal(of_weight, golden_gradient(batch.weight, casting, batch.grad_out))
    if weighted:
        products = numerics.mul(batch.grad_out[golden.bag_ids(batch.ends)],
                                batch.weight[batch.indices])
        assert golden.bits_equal(of_factors, numerics.column_sum(products))

    sparse = module_with(EmbeddingBag, batch.weight, device, sparse=True, **options)
    run(sparse, *inputs)
    gradient = sparse.weight.grad
    assert gradient.is_coalesced()
    np.testing.assert_array_equal(array(gradient.indices()[0]), casting.rows)
    assert golden.bits_equal(array(gradient.values()),
                             golden.casted_gather_reduce(batch.grad_out, casting))

    fused = module_with(EmbeddingBag, batch.weight, device, optimizer="sgd", lr=lr, **options)
    expected = batch.weight.copy()
    for _ in range(2):
        run(fused, *inputs)
        golden.backward_update(expected, batch.grad_out, casting, golden.SGD(lr))
    assert fused.weight.grad is None
    assert golden.bits_equal(array(fused.weight), expected)

    fused = module_with(EmbeddingBag, batch.weight, device, optimizer="rowwise_adagrad", lr=lr,
                        eps=1e-3, **options)
    expected, state = batch.weight.copy(), np.zeros(R, np.float32)
    for _ in range(2):
        run(fused, *inputs)
        golden.backward_update(expected, batch.grad_out, casting,
                               golden.RowwiseAdagrad(lr, 1e-3), state)
    assert golden.bits_equal(array(fused.weight), expected)
    assert golden.bits_equal(array(fused.state), state)


def test_gradient_of_factors_in_parts(device, monkeypatch):
    batch = Batch(10, longest=40)
    inputs = tensors(device, batch.grad_out, batch.indices, batch.ends, batch.factors)
    module = module_with(EmbeddingBag, batch.weight, device, mode="sum", include_last_offset=True)
    whole = run(module, *inputs)[2]
    monkeypatch.setattr(torch_module, "_PRODUCTS", 7 * D)
    assert golden.bits_equal(run(module, *inputs)[2], whole)


def test_same_bits_on_every_run_and_number_of_threads():
    batch = Batch(11, bags=300, longest=200, rows=500)
    before = torch.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            module = module_with(EmbeddingBag, batch.weight, "cpu", mode="sum",
                                 include_last_offset=True, optimizer="rowwise_adagrad", lr=0.1)
            out, _, of_factors = run(module, *tensors("cpu", batch.grad_out, batch.indices,
                                                      batch.ends, batch.factors))
            assert torch_module._bridge(module.weight.device).device.threads == threads
            results.add(b"".join(part.tobytes() for part in (
                out, of_factors, array(module.weight), array(module.state))))
    finally:
        torch.set_num_threads(before)
    assert len(results) == 1


# gradients


def gradcheck(device, mode, padding_idx=None, *, fast_mode=False, tolerance=0.0, seed=12):
    """Check the gradients of a batch whose every sum, product and difference is exact.

    The layer is linear in the table and in the factors, so with numbers on a grid of 1/8 a
    difference quotient in binary32 is the derivative, without any error.
    """
    rng = np.random.default_rng(seed)
    ends = np.array([0, 4, 4, 6, 7, 15])  # 1/n is exact, with padding left out as well
    indices = rng.integers(1, 6, ends[-1])
    if padding_idx is not None:
        indices[[0, 2, 5]] = padding_idx
        indices[7:11] = padding_idx
    module = EmbeddingBag(6, 3, mode=mode, include_last_offset=True, padding_idx=padding_idx,
                          device=device)

    def grid(*shape):
        values, = tensors(device, rng.integers(-8, 9, shape).astype(np.float32) / 8)
        return values.requires_grad_()

    def layer(weight, factors):
        return torch.func.functional_call(module, {"weight": weight},
                                          (*tensors(device, indices, ends), factors))

    weight, factors = grid(6, 3), grid(len(indices)) if mode == "sum" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input #.* requires gradient and is not a double")
        return torch.autograd.gradcheck(
            layer, (weight, factors), eps=0.25, atol=tolerance, rtol=tolerance, nondet_tol=0.0,
            fast_mode=fast_mode, raise_exception=False)


@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradcheck_is_exact(mode, padding_idx, device):
    assert gradcheck(device, mode, padding_idx) is True
    # A random direction is on no grid, so the fast mode needs a tolerance.
    assert gradcheck(device, mode, padding_idx, fast_mode=True, tolerance=1e-4) is True


@pytest.mark.parametrize("fault", ["factors", "weight", "bag"])
def test_gradcheck_finds_a_fault(fault, monkeypatch):
    assert gradcheck("cpu", "sum") is True
    if fault == "factors":
        inner = torch_module._column_sum
        monkeypatch.setattr(torch_module, "_column_sum", lambda level: inner(level) + 2.0**-10)
    elif fault == "weight":
        inner = torch_module._weight_gradient
        monkeypatch.setattr(torch_module, "_weight_gradient",
                            lambda *arguments: inner(*arguments) * (1 + 2.0**-12))
    else:
        inner = torch_module._lengths
        monkeypatch.setattr(torch_module, "_lengths",
                            lambda offsets: inner(offsets).roll(1))
    assert gradcheck("cpu", "sum") is False


def test_random_values_pass_gradcheck_with_tolerance():
    torch.manual_seed(3)
    module = EmbeddingBag(R, D, mode="mean")
    indices = torch.randint(R, (9, 7))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input #.* requires gradient and is not a double")
        torch.autograd.gradcheck(
            lambda weight: torch.func.functional_call(module, {"weight": weight}, indices),
            module.weight, eps=0.125, atol=1e-4, rtol=1e-4)


def test_second_derivative_is_refused(device):
    module = EmbeddingBag(R, D, device=device)
    out = module(torch.tensor([[1, 2]], device=device))
    gradient, = torch.autograd.grad(out.pow(2).sum(), module.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_dense_gradient_of_a_step_with_adam(device):
    """A dense gradient serves optimizers that know nothing of sparse ones."""
    batch = Batch(13, exact=True)
    tables = []
    for module in both(batch.weight, device, mode="sum"):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        run(module, *tensors(device, batch.grad_out, batch.indices, batch.ends[:-1]))
        optimizer.step()
        tables.append(array(module.weight))
    np.testing.assert_array_equal(*tables)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradient_of_steps_with(name, device):
    batch = Batch(14, exact=True)
    tables = []
    for module in both(batch.weight, device, mode="sum", sparse=True):
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.25)
        for _ in range(2):
            optimizer.zero_grad()
            run(module, *tensors(device, batch.grad_out, batch.indices, batch.ends[:-1]))
            optimizer.step()
        tables.append(array(module.weight))
    np.testing.assert_array_equal(*tables)


def test_sparse_gradient_is_coalesced_and_accumulates(device):
    indices, more = (torch.tensor(rows, device=device) for rows in ([[3, 1, 3]], [[0, 3]]))
    ours, theirs = both(np.ones((5, 2), np.float32), device, mode="sum", sparse=True)
    gradient, = torch.autograd.grad(ours(indices).sum(), ours.weight)
    assert gradient.is_coalesced() and gradient.indices().tolist() == [[1, 3]]
    for module in (ours, pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        module(indices).sum().backward()
        assert module.weight.grad.is_coalesced()
    module.weight = torch.nn.Parameter(module.weight.detach().clone())
    module(indices).sum().backward()
    assert module.weight.grad.is_coalesced()
    theirs(indices).sum().backward()
    for module in (ours, theirs):
        module(more).sum().backward()
    assert torch.equal(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())
    coalesced = ours.weight.grad.coalesce()
    assert coalesced.indices().tolist() == [[0, 1, 3]]


def test_a_gradient_that_is_not_coalesced_is_not_called_so():
    weight = torch.nn.Parameter(torch.ones(5, 2))
    for rows in ([3, 1], [1, 1]):
        weight.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(2, 2), (5, 2),
                                              check_invariants=False)
        torch_module._mark_coalesced(weight)
        assert not weight.grad.is_coalesced()
