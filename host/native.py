"""The compiled core of the cpu backend: built once with the C++ compiler, called through ctypes.

``cpp/core.cpp`` is compiled for the best instruction set of this processor that it has a path for,
when it is first asked for; see :mod:`.build_cache`. What cannot be built raises BuildError, and
the cpu backend goes on with NumPy.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np

from ..golden import SGD
from . import packed_cast
from .buffers import Buffers
from .build_cache import BuildError, build_once, file_facts, run_logged
from .checked_casting import CheckedCasting

__all__ = ["INSTRUCTION_SETS", "NativeCore", "expected", "instruction_sets", "load", "loaded"]

_SOURCE = Path(__file__).resolve().parent / "cpp" / "core.cpp"

#: Best first: name -> (what the processor must have, flags of the compiler).
INSTRUCTION_SETS = {
    "avx512": (("avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"),
               ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mbmi2",
                "-mprefer-vector-width=512")),
    "avx2": (("avx2", "bmi2"), ("-mavx2", "-mbmi2")),
    "portable": ((), ()),
}

#: No contraction: the numerics contract. No errno: it is not looked at, and makes calls of roots.
_FLAGS = ("-O3", "-std=c++20", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno")

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Integers(ctypes.Structure):
    _fields_ = (("base", _POINTER), ("bytes", _INT))


class _Pass(ctypes.Structure):
    """``tc_pass`` of core.cpp."""

    _fields_ = (
        ("src", _POINTER), ("indices", _Integers), ("offsets", _Integers), ("rows", _Integers),
        ("weights", _POINTER), ("scales", _POINTER), ("dst", _POINTER), ("state", _POINTER),
        *((name, _INT) for name in ("src_stride", "dst_stride", "n_segments", "dim", "sink",
                                    "threads")),
        ("lr", ctypes.c_float), ("eps", ctypes.c_float))


class _Cast(ctypes.Structure):
    """``tc_cast_arguments`` of core.cpp."""

    _fields_ = (
        ("indices", _Integers), ("offsets", _Integers),
        *((name, _INT) for name in ("n_lookups", "n_bags", "row_bits", "low_bits", "by_position",
                                    "threads")),
        *((name, _POINTER) for name in ("weights", "bags", "segment_offsets", "rows", "positions",
                                        "casted_weights", "keys", "spare", "bag_of_lookup")),
        ("key_bytes", _INT))


_WRITE, _SGD, _ROWWISE_ADAGRAD = range(3)


def _address(array):
    return None if array is None else array.__array_interface__["data"][0]


def _integers(array):
    return _Integers(None, 0) if array is None else _Integers(_address(array), array.itemsize)


def _dense(array):
    """Return ``array`` C-contiguous and aligned, itself if it is; None for None."""
    if array is None:
        return None
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def _with_rows(array):
    """Return a float32 matrix with contiguous rows at a stride the core can walk."""
    row, column = array.strides
    fits = (column == 4 or array.shape[1] == 1) and row >= 0 and row % 4 == 0
    return array if fits and array.flags.aligned else np.ascontiguousarray(array)


class NativeCore:
    """Passes and castings by the compiled core; arguments are checked NumPy arrays.

    Parameters
    ----------
    library : ctypes.CDLL
        The compiled core.
    name : str
        Its instruction set, of INSTRUCTION_SETS.

    Attributes
    ----------
    buffers : Buffers
        Where results and scratch come from.
    """

    def __init__(self, library, name):
        self.name = name
        self._library = library
        self.buffers = Buffers()
        library.tc_run.argtypes = library.tc_cast.argtypes = (_POINTER,)
        library.tc_run.restype = None
        library.tc_cast.restype = library.tc_first_outside.restype = _INT
        library.tc_first_fall.restype = _INT
        library.tc_first_outside.argtypes = (_POINTER, _INT, _INT, _INT)
        library.tc_first_fall.argtypes = (_POINTER, _INT, _INT)
        library.tc_read_rows.argtypes = (_POINTER, _INT, _INT, _POINTER, _INT, _INT)
        library.tc_read_rows.restype = ctypes.c_float
        library.tc_update_rows.argtypes = (_POINTER, _INT, _INT, _POINTER, _INT, _INT)
        library.tc_update_rows.restype = None

    def run(self, source, target, threads, *, indices=None, offsets=None, weights=None,
            scales=None, rows=None, optimizer=None, state=None):
        """Run one pass of the engine's dataflow; ``target`` has contiguous rows.

        Without ``offsets`` each lookup is a segment of its own, without ``indices`` lookup i reads
        row i, without ``rows`` segment s goes to row s. Rows must be distinct.
        """
        source = _with_rows(source)
        indices, offsets, rows = _dense(indices), _dense(offsets), _dense(rows)
        weights, scales = _dense(weights), _dense(scales)
        if offsets is not None:
            n_segments = offsets.size - 1
        else:
            n_segments = source.shape[0] if indices is None else indices.size
        sink, lr, eps = _WRITE, 0.0, 0.0
        if optimizer is not None:
            sink, lr = _SGD, optimizer.lr32
            if not isinstance(optimizer, SGD):
                sink, eps = _ROWWISE_ADAGRAD, optimizer.eps32
        own_target, own_state = _with_rows(target), _dense(state)
        self._library.tc_run(ctypes.byref(_Pass(
            _address(source), _integers(indices), _integers(offsets), _integers(rows),
            _address(weights), _address(scales), _address(own_target), _address(own_state),
            source.strides[0] // 4, own_target.strides[0] // 4, n_segments, target.shape[1], sink,
            threads, lr, eps)))
        for own, given in ((own_target, target), (own_state, state)):
            if own is not given:
                given[...] = own

    def cast(self, indices, offsets, num_rows, weights, threads):
        """Return the CheckedCasting of a batch."""
        n_bags = offsets.size - 1
        if weights is not None:
            return self._cast_by_position(indices, offsets, num_rows, weights, threads)

        def find(casting):
            found = self._cast_by_position(indices, offsets, num_rows, None, threads)
            for name in ("bags", "segment_offsets", "rows"):
                if not np.array_equal(getattr(found, name), getattr(casting, name)):
                    raise ValueError("indices and offsets must stay as they were cast until "
                                     "positions is first asked for")
            return found.positions

        return CheckedCasting(
            **self._cast(indices, offsets, num_rows, None, threads, max(n_bags - 1, 0), False),
            n_bags=n_bags, num_rows=num_rows, find_positions=find)

    def _cast_by_position(self, indices, offsets, num_rows, weights, threads):
        return CheckedCasting(
            **self._cast(indices, offsets, num_rows, weights, threads,
                         max(indices.size - 1, 0), True),
            n_bags=offsets.size - 1, num_rows=num_rows)

    def _cast(self, indices, offsets, num_rows, weights, threads, most_low, by_position):
        """Return the arrays; keys are rows and numbers up to ``most_low``."""
        indices, offsets, weights = _dense(indices), _dense(offsets), _dense(weights)
        n, dtype = indices.size, indices.dtype
        row_bits, low_bits = max(num_rows - 1, 0).bit_length(), most_low.bit_length()
        packed_cast.check_key_bits(row_bits + low_bits, num_rows, n)
        key_bytes = 4 if row_bits + low_bits <= 32 and n < 1 << 31 else 8
        empty = self.buffers.empty
        bags, starts, rows = (empty(count, dtype) for count in (n, n + 1, n))
        positions = empty(n, dtype) if by_position else None
        casted_weights = None if weights is None else empty(n, np.float32)
        keys, spare = (empty(n * key_bytes, np.uint8) for _ in range(2))
        bag_of_lookup = empty(n, np.int32) if by_position else None
        count = self._library.tc_cast(ctypes.byref(_Cast(
            _integers(indices), _integers(offsets), n, offsets.size - 1, row_bits, low_bits,
            by_position, threads, _address(weights), _address(bags), _address(starts),
            _address(rows), _address(positions), _address(casted_weights), _address(keys),
            _address(spare), _address(bag_of_lookup), key_bytes)))
        return {"bags": bags, "segment_offsets": starts[:count + 1], "rows": rows[:count],
                "weights": casted_weights, **({"positions": positions} if by_position else {})}

    # checks, in one pass over the array

    def first_outside(self, values, limit):
        """Return the position of the first of ``values`` that is not in [0, limit), or -1."""
        values = _dense(values)
        return self._library.tc_first_outside(_address(values), values.itemsize, values.size, limit)

    def first_fall(self, values):
        """Return the position of the first of ``values`` that is below the one before, or -1."""
        values = _dense(values)
        return self._library.tc_first_fall(_address(values), values.itemsize, values.size)

    # limits of the machine: the same rows, and nothing but them

    def read_rows(self, table, rows, distance, threads):
        """Read ``table[rows]`` in that order into registers: the limit of a gather.

        ``table`` float32 [R, D] and ``rows`` int64 [N] are C-contiguous; ``distance`` is how many
        rows ahead is prefetched; each thread reads a share of the rows.
        """
        self._library.tc_read_rows(_address(table), table.shape[1], rows.size, _address(rows),
                                   distance, threads)

    def rmw_rows(self, table, rows, distance, threads):
        """Read, change and write each of ``table[rows]``: the limit of an update.

        As read_rows; the rows are distinct.
        """
        self._library.tc_update_rows(_address(table), table.shape[1], rows.size, _address(rows),
                                     distance, threads)


@functools.cache
def _processor():
    """Return the set of this processor's features; empty where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def instruction_sets():
    """Return the names of INSTRUCTION_SETS that this processor has, best first."""
    return [name for name, (needed, _) in INSTRUCTION_SETS.items()
            if _processor().issuperset(needed)]


def _compile(name):
    compiler = shutil.which("g++")
    if compiler is None:
        raise BuildError("g++ is not installed; the compiled core needs it. On Debian or Ubuntu: "
                         "apt-get install g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    flags = (*_FLAGS, "-fopenmp", *INSTRUCTION_SETS[name][1])
    facts = {"compiler": version.splitlines()[:1], "flags": flags, "machine": platform.machine(),
             "files": file_facts([_SOURCE])}

    def build(directory):
        run_logged([compiler, *flags, "-o", directory / "core.so", _SOURCE], directory, None)

    return build_once(facts, "native", build) / "core.so"


#: How long OpenMP's threads wait in a loop before they sleep, where nobody has said it: some 20 µs.
#: By default it is long enough that, beside other work, most of a call is waiting.
_SPIN = {"GOMP_SPINCOUNT": "10000"}

_loaded = {}


def _open(path):
    """Load the library; OpenMP reads the environment when it is loaded first."""
    asked = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    set_here = {} if asked else _SPIN
    os.environ.update(set_here)
    try:
        return ctypes.CDLL(str(path))
    finally:
        for name in set_here:
            del os.environ[name]


def expected():
    """Return (name, reason): the core that the cpu backend would use, without compiling it."""
    name = instruction_sets()[0]
    if name not in _loaded and shutil.which("g++") is None:
        return "numpy", "g++ is not installed, so there is no compiled core"
    if name == "portable":
        return name, "this processor is not known to have AVX2"
    return name, f"the best instruction set of this processor: {', '.join(instruction_sets())}"


def load(name=None):
    """Return the NativeCore for an instruction set, compiled if it has not been.

    Parameters
    ----------
    name : str or None
        Of INSTRUCTION_SETS; None: the best that this processor has.

    Raises
    ------
    BuildError
        There is no compiler, or it failed; or this processor lacks the instruction set.
    """
    if name is None:
        name = instruction_sets()[0]
    elif name not in instruction_sets():
        raise BuildError(f"this processor has no {name}; it has {', '.join(instruction_sets())}")
    if name not in _loaded:
        try:
            _loaded[name] = NativeCore(_open(_compile(name)), name)
        except OSError as error:
            raise BuildError(f"the compiled core cannot be loaded or kept: {error}") from error
    return _loaded[name]


def loaded():
    """Return a NativeCore that has been loaded already, or None."""
    return next(iter(_loaded.values()), None)
