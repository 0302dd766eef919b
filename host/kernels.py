"""The GPU's kernels: CUDA C++ in ``cuda/``, compiled for what a call needs when it needs it.

Types and sizes are macros at the head of each source, so that a kernel is compiled for one kind of
index, one sink and one shape of rows: loops are unrolled and nothing is spilled for what is not
there. A test compiles the same text with a C++ compiler, behind an emulation of CUDA's threads,
and compares bits with the golden model where there is no GPU.
"""

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

__all__ = ["CUDA_OPTIONS", "KEY_TILE", "Shape", "Tuning", "cuda_source", "defines", "index_type"]

_SOURCES = Path(__file__).resolve().parent / "cuda"

#: What the contract needs of the compiler: nothing contracted, subnormals kept.
CUDA_OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

#: Lookups of a block of the casting kernels (their TC_TILE).
KEY_TILE = 2048

#: Bytes of memory that the threads of a block may share without asking for more.
_SHARED_BYTES = 48 << 10

#: Sinks of the gather kernel.
WRITE, SGD, ADAGRAD = 0, 1, 2


def cuda_source(name):
    """Return the text of ``cuda/NAME.cu``: "gather" or "casting"."""
    return (_SOURCES / f"{name}.cu").read_text(encoding="utf-8")


def defines(**macros):
    """Return compiler options that set the macros ``TC_NAME``, given in lower case, sorted."""
    return tuple(f"-DTC_{name.upper()}={value}" for name, value in sorted(macros.items()))


def index_type(dtype):
    """Return the kernels' name of int32 or int64."""
    return {4: "int", 8: "tc_long"}[np.dtype(dtype).itemsize]


@dataclass(frozen=True)
class Tuning:
    """What changes a gather kernel's speed and none of its bits; bench/gpu.py tries others.

    Attributes
    ----------
    block : int
        Threads of a block, a multiple of 32; at least 256.
    min_blocks : int
        Blocks that must fit a multiprocessor; bounds the registers of a thread.
    batch : int
        Segments that a group of threads has in flight, where rows are overwritten.
    update_batch : int
        The same where rows are updated.
    slice : int
        Columns of a long segment that a block sums, a multiple of 4; at most block / 8.
    stages : int
        Buffers of rows that a block copies ahead, at least 2.
    stage_rows : int
        Rows in each, a multiple of 8, at most ``block``.
    """

    block: int = 256
    min_blocks: int = 2
    batch: int = 2
    update_batch: int = 2
    slice: int = 8
    stages: int = 4
    stage_rows: int = 256

    def __post_init__(self):
        # The rows and their weights; the rest of what a block shares is about a KiB.
        shared = 4 * self.stages * self.stage_rows * (self.slice + 1) + 1100
        if shared > _SHARED_BYTES:
            raise ValueError(f"stages * stage_rows * (slice + 1) must be at most "
                             f"{(_SHARED_BYTES - 1100) // 4}, the shared memory of a block, "
                             f"not {self.stages * self.stage_rows * (self.slice + 1)}")

    @functools.cache  # noqa: B019 - a handful of frozen objects
    def macros(self, sink):
        """Return the kernel's macros, a dict by name in lower case (not to be changed)."""
        values = asdict(self)
        update_batch = values.pop("update_batch")
        return values if sink == WRITE else values | {"batch": update_batch}

    def but(self, **changes):
        """Return a copy with some values changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Shape:
    """How the threads of a warp share the columns of a row.

    Attributes
    ----------
    vector : int
        Columns of a thread: 4 where every row is aligned to 16 bytes, else 1.
    lanes : int
        Threads of a row: a power of two up to 32.
    tiles : int
        How often they go over the row: 1; 2, 4 or 8 where registers hold all of a row's gradient
        (padded to a power of two); or 0, any number.
    """

    vector: int
    lanes: int
    tiles: int

    @staticmethod
    def of(dim, aligned, sink):
        """Return the shape for rows of ``dim`` columns."""
        vector = 4 if aligned and dim % 4 == 0 else 1
        pieces = -(-dim // vector)
        lanes = min(32, 1 << (pieces - 1).bit_length())
        tiles = -(-pieces // lanes)
        if tiles > 1:
            padded = 1 << (tiles - 1).bit_length()
            tiles = padded if sink == ADAGRAD and padded <= 8 else 0
        return Shape(vector, lanes, tiles)
