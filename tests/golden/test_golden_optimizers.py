"""The optimizers' rules, operation by operation in an independent soft-float."""

import numpy as np
import pytest
import softfloatpy as sf
from golden_data import floats

from tcast import golden
from tcast.golden import numerics


def soft(x):
    return sf.Float32.from_bytes(int(np.float32(x).view(np.uint32)).to_bytes(4, "big"))


def hard(x):
    return np.frombuffer(x.to_bytes()[::-1], np.float32)[0]


def test_sgd_rounds_twice():
    rng = np.random.default_rng(1)
    weight, grads = floats(rng, (40, 5)), floats(rng, (40, 5))
    expected = weight.copy()
    lr = soft(0.3)
    for s in range(40):
        for d in range(5):
            step = sf.f32_mul(lr, soft(grads[s, d]))
            expected[s, d] = hard(sf.f32_sub(soft(weight[s, d]), step))
    fused = (weight.astype(np.float64) - np.float64(np.float32(0.3)) * grads).astype(np.float32)
    golden.scatter_update(weight, np.arange(40), grads, golden.SGD(0.3))
    assert golden.bits_equal(weight, expected)
    assert not golden.bits_equal(weight, fused)  # a fused multiply-add would be noticed


def test_sgd_of_special_values():
    lr = golden.SGD(0.0)
    weight = np.array([[1, -0.0, np.inf, 0]], np.float32)
    grads = np.array([[np.inf, 0, 1, -1]], np.float32)
    golden.scatter_update(weight, np.array([0]), grads, lr)
    assert weight.view(np.uint32)[0].tolist() == [0x7FC00000, 1 << 31, 0x7F800000, 0]


@pytest.mark.parametrize("lr, bits", [(1, 0x3F800000), (0.1, 0x3DCCCCCD), (0, 0), (1e-45, 1),
                                      (np.float32(0.5), 0x3F000000)])
def test_learning_rate_is_rounded_once(lr, bits):
    assert golden.SGD(lr).lr_bits == bits
    assert golden.SGD(lr).lr32.dtype == np.float32


@pytest.mark.parametrize("lr, error", [
    (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), (1e39, ValueError),
    ("1", TypeError), (True, TypeError), (None, TypeError), (1j, TypeError)])
def test_learning_rate_is_refused(lr, error):
    for optimizer in (golden.SGD, golden.RowwiseAdagrad):
        with pytest.raises(error, match="lr must be a"):
            optimizer(lr)
    with pytest.raises(error, match="eps must be a"):
        golden.RowwiseAdagrad(0.1, lr)


@pytest.mark.parametrize("dim", [1, 3, 8, 13])
def test_rowwise_adagrad_operation_by_operation(dim):
    rng = np.random.default_rng(dim)
    rule = golden.RowwiseAdagrad(0.05, 1e-6)
    weight, grads = floats(rng, (12, dim)), floats(rng, (9, dim))
    state = abs(floats(rng, 12))
    rows = np.sort(rng.choice(12, 9, replace=False))
    expected_weight, expected_state = weight.copy(), state.copy()
    for s, row in enumerate(rows):
        level = [sf.f32_mul(soft(g), soft(g)) for g in grads[s]]
        while len(level) > 1:
            pairs = [sf.f32_add(a, b)
                     for a, b in zip(level[0::2], level[1::2], strict=False)]
            level = pairs + (level[-1:] if len(level) % 2 else [])
        mean = sf.f32_mul(level[0], sf.f32_div(soft(1), soft(dim)))
        new = sf.f32_add(soft(state[row]), mean)
        step = sf.f32_div(soft(0.05), sf.f32_add(sf.f32_sqrt(new), soft(1e-6)))
        expected_state[row] = hard(new)
        for d in range(dim):
            expected_weight[row, d] = hard(sf.f32_sub(soft(weight[row, d]),
                                                      sf.f32_mul(step, soft(grads[s, d]))))
    golden.scatter_update(weight, rows, grads, rule, state)
    assert golden.bits_equal(state, expected_state)
    assert golden.bits_equal(weight, expected_weight)


def test_rowwise_adagrad_of_a_zero_gradient_without_eps():
    weight, state = np.ones((1, 2), np.float32), np.zeros(1, np.float32)
    golden.scatter_update(weight, np.array([0]), np.zeros((1, 2), np.float32),
                          golden.RowwiseAdagrad(0.1, 0), state)
    assert numerics.bits(weight).tolist() == [[0x7FC00000] * 2]  # ∞ · 0
    assert state[0] == 0


@pytest.mark.parametrize("changes, error, message", [
    (dict(optimizer=golden.SGD(1)), TypeError, "state must be None with SGD, not ndarray"),
    (dict(state=None), TypeError, "state must be a numpy.ndarray with RowwiseAdagrad"),
    (dict(state=np.zeros(3)), TypeError, "state must be of dtype float32, not float64"),
    (dict(state=np.zeros(2, np.float32)), ValueError, r"state must have shape \(3,\)"),
    (dict(state=np.broadcast_to(np.float32(0), 3)), ValueError, "state must be writable"),
    (dict(rows=np.array([1, 1])), ValueError, r"rows\[1\] must be above")])
def test_rowwise_adagrad_refuses(changes, error, message):
    arguments = dict(weight=np.ones((3, 2), np.float32), state=np.zeros(3, np.float32),
                     rows=np.array([0, 2]), grads=np.ones((2, 2), np.float32),
                     optimizer=golden.RowwiseAdagrad(0.1)) | changes
    with pytest.raises(error, match=message):
        golden.scatter_update(**arguments)
    assert (arguments["weight"] == 1).all()
