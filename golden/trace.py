"""Synthetic lookups: row numbers that follow a distribution of reuse, drawn from a seed.

Every generator takes a seed or a ``numpy.random.Generator`` (which then moves on), and returns
int64 row numbers in [0, num_rows); popular rows are spread over the table.
"""

import math

import numpy as np

__all__ = ["META2022_BINS", "META2022_MEAN", "META2022_SHARES", "bag_offsets", "meta2022",
           "powerlaw", "reuse_shares", "uniform"]

#: Lookups per distinct row, first and last of each bin; the last bin is open.
META2022_BINS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128),
                 (129, 256), (257, 512), (513, math.inf))
#: Share of the distinct rows in each bin, as published for Meta's production tables with
#: dlrm_datasets (2022).
META2022_SHARES = (0.342, 0.144, 0.149, 0.138, 0.112, 0.068, 0.029, 0.010, 0.004, 0.002, 0.002)
#: Mean lookups per distinct row there.
META2022_MEAN = 12.7

# Most lookups of one row. With counts that are log-uniform within a bin, this ends the open bin
# where the mean of all becomes META2022_MEAN; a test computes the mean.
_META2022_LONGEST = 5044


def _check(num_rows, count):
    for name, value, least in (("num_rows", num_rows, 1), ("count", count, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an int, not {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if num_rows > 1 << 32:
        raise ValueError(f"num_rows must be at most 2**32, not {num_rows!r}")


def _spread(rng, ranks, num_rows):
    """Map ranks in [0, num_rows) to rows, one to one: popular rows must not be neighbours."""
    step = int(rng.integers(num_rows // 2, num_rows)) | 1 if num_rows > 1 else 1
    while math.gcd(step, num_rows) != 1:
        step += 1
    shift = int(rng.integers(num_rows))
    # Both factors are at most 2**32, so the product does not wrap.
    rows = np.asarray(ranks, np.uint64) * np.uint64(step % num_rows) % np.uint64(num_rows)
    return ((rows + np.uint64(shift)) % np.uint64(num_rows)).astype(np.int64)


def uniform(seed, num_rows, count):
    """Return ``count`` rows, each equally likely, int64 [count]."""
    _check(num_rows, count)
    return np.random.default_rng(seed).integers(0, num_rows, count, dtype=np.int64)


def powerlaw(seed, num_rows, count, exponent=1.05):
    """Return ``count`` rows whose popularity falls as rank^-exponent, int64 [count].

    The rank is the integer part of a bounded Pareto variable on [1, num_rows + 1), by inversion.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        Seed.
    num_rows : int
        Rows of the table.
    count : int
        Lookups.
    exponent : float
        Above 0; 1 is Zipf's law.
    """
    _check(num_rows, count)
    if not 0 < exponent < math.inf:
        raise ValueError(f"exponent must be a finite number above 0, not {exponent!r}")
    rng = np.random.default_rng(seed)
    quantiles = rng.random(count)
    power = 1 - exponent
    if abs(power) < 1e-9:
        ranks = (num_rows + 1.0) ** quantiles
    else:
        ranks = (1 + quantiles * ((num_rows + 1.0) ** power - 1)) ** (1 / power)
    ranks = np.clip(ranks.astype(np.int64) - 1, 0, num_rows - 1)
    return _spread(rng, ranks, num_rows)


def _run_lengths(n_distinct):
    """Return ``n_distinct`` run lengths at evenly spaced quantiles of the histogram, ascending."""
    ends = np.cumsum(META2022_SHARES)
    quantiles = (np.arange(n_distinct) + 0.5) / n_distinct * ends[-1]
    number = np.minimum(np.searchsorted(ends, quantiles, side="right"), len(ends) - 1)
    share = np.array(META2022_SHARES)[number]
    within = np.clip((quantiles - (ends[number] - share)) / share, 0, 1)
    low = np.array([low for low, _ in META2022_BINS], float)[number]
    high = np.array([min(high, _META2022_LONGEST) for _, high in META2022_BINS], float)[number]
    # Log-uniform: the density falls within a bin as it does from bin to bin.
    lengths = np.floor(low * ((high + 1) / low) ** within)
    return np.minimum(lengths, high).astype(np.int64)


def meta2022(seed, num_rows, count):
    """Return ``count`` rows with the reuse of Meta's production tables, int64 [count].

    The number of distinct rows and their run lengths are set to the published histogram, not drawn;
    which rows these are, and the order of the lookups, is random. From 20,000 lookups on, bin
    shares are within 0.001 of the histogram and the mean run within 1 % of it. A smaller sample
    cannot hold the longest runs, and its mean run is shorter. A table with fewer rows than the
    histogram asks for has all its rows looked up, with the histogram's run lengths in proportion.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        Seed.
    num_rows : int
        Rows of the table.
    count : int
        Lookups.
    """
    _check(num_rows, count)
    rng = np.random.default_rng(seed)
    if count == 0:
        return np.zeros(0, np.int64)
    # The largest number of distinct rows whose runs are not longer than `count` together.
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _run_lengths(middle).sum() <= count else (low, middle - 1)
    lengths = _run_lengths(low)
    if low > num_rows:
        shape = _run_lengths(num_rows).astype(float)
        ends = np.floor(np.cumsum(shape) / shape.sum() * count + 0.5).astype(np.int64)
        lengths = np.diff(ends, prepend=0)
    lengths[-1] += count - lengths.sum()  # what is missing goes to the longest run
    ranks = np.repeat(np.arange(len(lengths)), lengths)
    return rng.permutation(_spread(rng, ranks, num_rows))


def bag_offsets(seed, n_bags, mean_pooling, dtype=np.int64):
    """Return CSR offsets of bags whose lengths are geometric, empty ones among them.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        Seed.
    n_bags : int
        Bags.
    mean_pooling : float
        Expected lookups per bag, above 0.
    dtype : numpy dtype
        int32 or int64.

    Returns
    -------
    dtype [n_bags + 1]
    """
    if not mean_pooling > 0:
        raise ValueError(f"mean_pooling must be above 0, not {mean_pooling!r}")
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / (1 + mean_pooling), n_bags) - 1
    return np.append(0, np.cumsum(lengths)).astype(dtype)


def reuse_shares(rows):
    """Return the share of the distinct rows in each bin of META2022_BINS, float64 [11]."""
    runs = np.unique(rows, return_counts=True)[1]
    return np.array([np.count_nonzero((runs >= low) & (runs <= high)) / max(1, len(runs))
                     for low, high in META2022_BINS])
