"""Synthetic lookups have the distribution they claim."""

import numpy as np
import pytest

from tcast.golden import trace

GENERATORS = (trace.uniform, trace.powerlaw, trace.meta2022)


@pytest.mark.parametrize("count", [20_000, 100_003, 1_000_000])
def test_meta2022_has_the_published_histogram(count):
    rows = trace.meta2022(1, 2**31, count)
    shares = trace.reuse_shares(rows)
    np.testing.assert_allclose(shares, trace.META2022_SHARES, atol=0.001)
    assert len(rows) / len(np.unique(rows)) == pytest.approx(trace.META2022_MEAN, rel=0.01)
    assert sum(trace.META2022_SHARES) == pytest.approx(1)
    # The comparison has teeth: the other distributions are far away.
    other = trace.reuse_shares(trace.powerlaw(1, 2**31, count))
    assert np.abs(other - trace.META2022_SHARES).max() > 0.05


@pytest.mark.parametrize("num_rows, count", [(1, 50), (3, 4096), (36, 4096), (1000, 100_000)])
def test_meta2022_of_a_small_table(num_rows, count):
    rows = trace.meta2022(2, num_rows, count)
    runs = np.unique(rows, return_counts=True)[1]
    assert len(runs) == num_rows
    assert runs.sum() == count


def test_powerlaw_has_its_exponent():
    for exponent in (0.7, 1.0, 1.05, 1.6):
        rows = trace.powerlaw(3, 10_000, 1_000_000, exponent)
        runs = np.sort(np.unique(rows, return_counts=True)[1])[::-1].astype(float)
        ranks = np.arange(10, 300)
        slope = np.polyfit(np.log(ranks + 0.5), np.log(runs[ranks - 1]), 1)[0]
        assert slope == pytest.approx(-exponent, abs=0.06)


def test_uniform_is_flat():
    runs = np.bincount(trace.uniform(4, 100, 1_000_000), minlength=100)
    assert abs(runs - 10_000).max() < 600  # six standard deviations


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("num_rows, count", [(1, 10), (2, 10), (7, 0), (1000, 1), (2**32, 100)])
def test_rows_are_in_the_table_and_follow_the_seed(generate, num_rows, count):
    rows = generate(5, num_rows, count)
    assert rows.dtype == np.int64 and rows.shape == (count,)
    assert ((rows >= 0) & (rows < num_rows)).all()
    np.testing.assert_array_equal(rows, generate(np.random.default_rng(5), num_rows, count))
    if num_rows > 1000 and count > 10:
        assert not np.array_equal(rows, generate(6, num_rows, count))


def test_spread_is_one_to_one():
    for num_rows in (1, 2, 3, 10, 97, 4096, 6006):
        rows = trace._spread(np.random.default_rng(num_rows), np.arange(num_rows), num_rows)
        np.testing.assert_array_equal(np.sort(rows), np.arange(num_rows))


@pytest.mark.parametrize("generate", GENERATORS)
def test_generators_refuse(generate):
    for arguments, error, message in (((0, 1), ValueError, "num_rows must be at least 1, not 0"),
                                      ((1, -1), ValueError, "count must be at least 0, not -1"),
                                      ((2**33, 1), ValueError, "num_rows must be at most"),
                                      ((1.5, 1), TypeError, "num_rows must be an int")):
        with pytest.raises(error, match=message):
            generate(0, *arguments)


def test_exponent_is_checked():
    with pytest.raises(ValueError, match="exponent must be a finite number above 0, not 0"):
        trace.powerlaw(0, 1, 1, 0)


def test_bag_offsets():
    offsets = trace.bag_offsets(6, 10_000, 5, np.int32)
    assert offsets.dtype == np.int32 and offsets[0] == 0 and len(offsets) == 10_001
    lengths = np.diff(offsets)
    assert lengths.min() == 0 and lengths.mean() == pytest.approx(5, rel=0.05)
    with pytest.raises(ValueError, match="mean_pooling must be above 0"):
        trace.bag_offsets(6, 1, 0)
