"""The demonstration's model learns, the table is what learns, and equal backends stay equal."""

import numpy as np
import pytest

import tcast
from tcast.data import Log, NextItem, load_log
from tcast.equality import MismatchError
from tcast.training import NextItemModel, table_rate, train

LOG = load_log()


def test_a_few_dozen_steps_lower_the_loss_and_the_table_is_what_learned():
    with tcast.open("golden") as device:
        training = train(device, LOG, steps=40)
        frozen = train(device, LOG, steps=40, lr=0.0)
    before, after = training.held_out_before, training.held_out_after
    assert before["loss"] == pytest.approx(np.log(2), abs=0.01)
    assert np.mean(training.losses[-5:]) < np.mean(training.losses[:5]) - 0.04
    assert after["loss"] < before["loss"] - 0.04
    assert after["ranked"] > before["ranked"] + 0.1
    assert frozen.held_out_after["loss"] > after["loss"] + 0.04


def test_training_is_determined_by_its_seed():
    with tcast.open("golden") as device:
        runs = [train(device, LOG, steps=3, batch=16, dim=8, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].losses == runs[1].losses
    assert np.array_equal(runs[0].model.weight, runs[1].model.weight)
    assert runs[0].losses != runs[2].losses


def test_backends_that_share_the_contract_train_to_the_same_bits():
    seen = []
    with tcast.open("cpu") as device, tcast.open("golden") as reference:
        training = train(device, LOG, steps=4, batch=32, dim=16, reference=reference,
                         on_step=lambda number, step: seen.append((number, step.loss)))
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert [loss for _, loss in seen] == training.losses
    assert all(step.lookups >= step.rows > 0 for step in training.steps)


@pytest.mark.parametrize(("method", "words"), [
    ("embedding_bag", r"step 1, pooled rows\[0, 0\]"), ("backward_update", r"step 1, table\[0, 0\]")
])
def test_one_wrong_bit_in_any_step_is_found(method, words):
    class Wrong:
        calls = 0

        def __init__(self, device):
            self.device = device

        def __getattr__(self, name):
            if name != method:
                return getattr(self.device, name)

            def call(weight, *arguments):
                result = getattr(self.device, name)(weight, *arguments)
                self.calls += 1
                if self.calls == 2:
                    changed = weight if result is None else result
                    changed.view(np.uint32)[0, 0] ^= 1
                return result

            return call

    with tcast.open("golden") as reference, pytest.raises(MismatchError, match=words):
        train(Wrong(tcast.open("golden")), LOG, steps=3, batch=8, dim=8, reference=reference)


def test_the_gradient_is_the_derivative_of_the_loss():
    log = Log("log", "test", np.arange(12) % 7, np.array([0, 5, 12]), 7)
    bags = NextItem(log).batch(np.random.default_rng(0), 6)
    model = NextItemModel(7, 4, seed=3)
    negatives = np.array([1, 2, 3, 4, 5, 6])
    rng = np.random.default_rng(4)
    pooled = rng.standard_normal((6, 4)).astype(np.float32)
    gradient = model.gradient(pooled, bags, negatives)
    for b, d in ((0, 0), (3, 2), (5, 3)):
        step = np.zeros_like(pooled)
        step[b, d] = 0.02
        slope = (model.gradient(pooled + step, bags, negatives).loss
                 - model.gradient(pooled - step, bags, negatives).loss) / 0.04
        assert gradient.grad_out[b, d] == pytest.approx(slope, abs=2e-4)


def test_scores_beyond_binary32s_exponent_give_no_warning_and_no_nan(recwarn):
    log = Log("log", "test", np.arange(12) % 7, np.array([0, 5, 12]), 7)
    bags = NextItem(log).batch(np.random.default_rng(0), 2)
    model = NextItemModel(7, 4, seed=0)
    gradient = model.gradient(np.full((2, 4), 1e5, np.float32), bags, np.array([1, 2]))
    assert np.isfinite(gradient.loss) and np.isfinite(gradient.grad_out).all()
    assert not recwarn


def test_the_tables_rate_is_a_binary32_number():
    assert table_rate(LOG, 0.1) == float(np.float32(0.1 * LOG.num_items))
