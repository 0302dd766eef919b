"""Batches for the tests of the host path: awkward values, awkward shapes."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tcast.golden.machine import Machine
from tcast.host.driver import EngineDevice
from tcast.hw import descriptor, registers
from tcast.hw.config import EngineConfig

TINY = EngineConfig.preset("tiny64")
WIDE = EngineConfig.preset("ddr512")

# Zeros of both signs, subnormals, the ends of the range, infinities, NaNs with payloads.
WEIRD = np.array([
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000,
    0xBF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345,
    0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)


def open_machine(config=TINY, **options):
    """Return the driver on the functional model of an engine."""
    return EngineDevice(Machine(config, registers, descriptor), config, **options)


def floats(rng, shape, weird=0.1):
    """Return float32 normal numbers of many magnitudes, a share of them weird."""
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 30, shape)
    values = values.astype(np.float32)
    mask = rng.random(shape) < weird
    values[mask] = rng.choice(WEIRD, int(mask.sum()))
    return values


@dataclass
class Batch:
    """A table, a batch of bags, and the gradient of their sums."""

    weight: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray
    grad_out: np.ndarray
    sample_weights: np.ndarray

    @property
    def used(self):
        return int(self.offsets[-1])


def batch(seed, rows, bags, longest, dim, index_type, offset_type, weird=0.1, behind=0):
    """Return a Batch from a seed; ``behind`` lookups stand behind the last bag."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, bags)
    lengths[rng.random(bags) < 0.2] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # A power law, so that some rows come often.
    indices = (rows * rng.random(int(offsets[-1]) + behind) ** 3).astype(index_type)
    return Batch(floats(rng, (rows, dim), weird), indices, offsets.astype(offset_type),
                 floats(rng, (bags, dim), weird), floats(rng, len(indices), weird))


def batches(dims):
    """Return the strategy of batches with a number of columns drawn from ``dims``."""
    integers = st.sampled_from([np.int32, np.int64])
    return st.builds(
        batch, seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 2, 7, 100, 1000]),
        bags=st.sampled_from([0, 1, 2, 5, 40]), longest=st.sampled_from([0, 1, 2, 7, 9, 40, 300]),
        dim=st.sampled_from(dims), index_type=integers, offset_type=integers,
        weird=st.sampled_from([0.0, 0.05, 1.0]), behind=st.sampled_from([0, 3]))
