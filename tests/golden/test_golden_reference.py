"""The loops against sums written out by hand."""

import numpy as np
import pytest

from tcast.golden import SGD, reference

P = {k: f"(x{k}+x{k + 8})" for k in range(8)}       # partials of two rows
Q = {k: f"((x{k}+x{k + 8})+x{k + 16})" for k in range(8)}  # and of three

TREES = {
    1: "x0",
    2: "(x0+x1)",
    3: "((x0+x1)+x2)",
    4: "((x0+x1)+(x2+x3))",
    5: "(((x0+x1)+(x2+x3))+x4)",
    6: "(((x0+x1)+(x2+x3))+(x4+x5))",
    7: "(((x0+x1)+(x2+x3))+((x4+x5)+x6))",
    8: "(((x0+x1)+(x2+x3))+((x4+x5)+(x6+x7)))",
    9: "((((x0+x8)+x1)+(x2+x3))+((x4+x5)+(x6+x7)))",
    10: f"((({P[0]}+{P[1]})+(x2+x3))+((x4+x5)+(x6+x7)))",
    11: f"((({P[0]}+{P[1]})+({P[2]}+x3))+((x4+x5)+(x6+x7)))",
    12: f"((({P[0]}+{P[1]})+({P[2]}+{P[3]}))+((x4+x5)+(x6+x7)))",
    13: f"((({P[0]}+{P[1]})+({P[2]}+{P[3]}))+(({P[4]}+x5)+(x6+x7)))",
    14: f"((({P[0]}+{P[1]})+({P[2]}+{P[3]}))+(({P[4]}+{P[5]})+(x6+x7)))",
    15: f"((({P[0]}+{P[1]})+({P[2]}+{P[3]}))+(({P[4]}+{P[5]})+({P[6]}+x7)))",
    16: f"((({P[0]}+{P[1]})+({P[2]}+{P[3]}))+(({P[4]}+{P[5]})+({P[6]}+{P[7]})))",
    17: f"((({Q[0]}+{P[1]})+({P[2]}+{P[3]}))+(({P[4]}+{P[5]})+({P[6]}+{P[7]})))",
    18: f"((({Q[0]}+{Q[1]})+({P[2]}+{P[3]}))+(({P[4]}+{P[5]})+({P[6]}+{P[7]})))",
    19: f"((({Q[0]}+{Q[1]})+({Q[2]}+{P[3]}))+(({P[4]}+{P[5]})+({P[6]}+{P[7]})))",
    20: f"((({Q[0]}+{Q[1]})+({Q[2]}+{Q[3]}))+(({P[4]}+{P[5]})+({P[6]}+{P[7]})))",
}


@pytest.mark.parametrize("n", TREES)
def test_segment_sum_is_the_tree(n, monkeypatch):
    monkeypatch.setattr(reference, "add", lambda a, b: f"({a}+{b})")
    assert reference.segment_sum([f"x{i}" for i in range(n)]) == TREES[n]


def test_empty_segment_has_no_sum():
    assert reference.segment_sum([]) is None


WEIGHT = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
INDICES = np.array([0, 2, 2, 1], np.int32)
OFFSETS = np.array([0, 2, 2, 4], np.int32)


def test_forward_by_hand():
    np.testing.assert_array_equal(reference.embedding_bag(WEIGHT, INDICES, OFFSETS),
                                  [[6, 8], [0, 0], [8, 10]])
    np.testing.assert_array_equal(
        reference.embedding_bag(WEIGHT, INDICES, OFFSETS, mode="mean"), [[3, 4], [0, 0], [4, 5]])
    weights = np.array([1, 2, 3, 4], np.float32)
    np.testing.assert_array_equal(reference.embedding_bag(WEIGHT, INDICES, OFFSETS, weights),
                                  [[11, 14], [0, 0], [27, 34]])


def test_casting_by_hand():
    casting = reference.cast(INDICES, OFFSETS, 3, np.array([1, 2, 3, 4], np.float32))
    assert casting.rows.tolist() == [0, 1, 2]
    assert casting.segment_offsets.tolist() == [0, 1, 2, 4]
    assert casting.bags.tolist() == [0, 2, 0, 2]
    assert casting.positions.tolist() == [0, 3, 1, 2]
    assert casting.weights.tolist() == [1, 4, 2, 3]
    with pytest.raises(ValueError, match="from 0 to 1"):
        reference.cast(INDICES, OFFSETS, 2)


def test_backward_by_hand():
    grad_out = np.array([[1, 10], [2, 20], [4, 40]], np.float32)
    casting = reference.cast(INDICES, OFFSETS, 3)
    np.testing.assert_array_equal(reference.casted_gather_reduce(grad_out, casting),
                                  [[1, 10], [4, 40], [5, 50]])
    np.testing.assert_array_equal(reference.expand(grad_out, OFFSETS), grad_out[[0, 0, 2, 2]])
    weight = WEIGHT.copy()
    reference.backward_update(weight, grad_out, casting, SGD(0.5))
    np.testing.assert_array_equal(weight, [[0.5, -3], [1, -16], [2.5, -19]])


def test_scatter_keeps_the_last():
    dst = np.zeros((3, 1), np.float32)
    reference.scatter(dst, np.array([2, 0, 2]), np.array([[1], [2], [3]], np.float32))
    assert dst[:, 0].tolist() == [2, 0, 3]
