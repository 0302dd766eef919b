"""Driver of an engine: places arrays, fills descriptors, runs them, reports errors and counters.

It reaches the engine through an :class:`~.io.EngineIo` alone, so the same code drives the
functional model, the simulated engine and hardware.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..golden import SGD, bag_ids, reciprocals
from ..hw.descriptor import CAST_FIELDS, DESCRIPTOR_BYTES, FIELDS, ElementKind, Sink, pack
from ..hw.registers import (
    CAST_COUNTERS,
    COUNTERS,
    ID_VALUE,
    N_WINDOWS,
    VERSION,
    CastReader,
    ErrorCode,
    Reader,
    by_name,
)
from . import packed_cast, validation
from .backend import BackendUnavailable, Device
from .cast_job import Cast, fits_unit
from .checked_casting import CheckedCasting
from .placement import PLACEMENTS, Slot, place
from .ring import Ring

__all__ = ["Cast", "EngineDevice", "EngineError", "EngineTimeout", "Pass"]

_REGISTERS = by_name()
#: Number of the placement region and of the address window that covers it.
_RING, _ARRAYS, _SOURCES, _TARGETS = range(4)
#: Polls of a status bit, and cycles that pass between two of them.
_POLLS, _POLL_CYCLES = 1000, 64
#: Codes whose value and limit are integers of an array, so they are signed.
_SIGNED = (ErrorCode.INDEX_RANGE, ErrorCode.TARGET_RANGE, ErrorCode.TARGET_ORDER,
           ErrorCode.OFFSET_FIRST, ErrorCode.OFFSET_ORDER, ErrorCode.OFFSET_RANGE,
           ErrorCode.OFFSET_LAST)
_RESPONSES = {2: "SLVERR", 3: "DECERR"}
#: Members of a Pass that become arrays in memory beside the rows.
_ARRAY_KEYS = ("indices", "offsets", "rows", "weights", "scales", "count")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of gather → reduce → scatter for :meth:`EngineDevice.submit`: one descriptor.

    Attributes
    ----------
    source : float32 [Rs, D]
        Rows that are gathered.
    target : float32 [Rt, D]
        Rows that are written, in place.
    indices : int32 or int64 [N], or None
        Source row of each lookup; None: lookup i reads row i.
    offsets : int32 or int64 [S + 1], or None
        Segment s holds lookups ``offsets[s]`` to ``offsets[s + 1] - 1``; None: each its own.
    rows : int32 or int64 [S], or None
        Target row of each segment; None: segment s goes to row s.
    weights : float32 [N], or None
        Multiplies each gathered row before the sum.
    scales : float32 [S], or None
        Multiplies each sum; only without an optimizer.
    optimizer : SGD or None
        None overwrites the target rows, SGD updates them.
    n_lookups : int or None
        N where ``indices`` is None; None: as many as source rows.
    relaxed : bool
        Start while earlier passes are still writing.
    after : int or None
        Start when so many casts of the submission have completed.
    count : uint32 [1] or None
        Where the number of segments stands when the pass starts; S is the most that it may be.
    fields : mapping of str to int
        Descriptor fields to set after all others, whatever they hold: to provoke errors in tests.
    """

    source: np.ndarray
    target: np.ndarray
    indices: np.ndarray | None = None
    offsets: np.ndarray | None = None
    rows: np.ndarray | None = None
    weights: np.ndarray | None = None
    scales: np.ndarray | None = None
    optimizer: SGD | None = None
    n_lookups: int | None = None
    relaxed: bool = False
    after: int | None = None
    count: np.ndarray | None = None
    fields: Mapping[str, int] = field(default_factory=dict)

    @property
    def lookups(self):
        """Number of lookups N."""
        if self.indices is not None:
            return self.indices.size
        return self.source.shape[0] if self.n_lookups is None else self.n_lookups

    @property
    def segments(self):
        """Number of segments S."""
        return self.lookups if self.offsets is None else self.offsets.size - 1


class EngineError(RuntimeError):
    """The engine stopped with an error; the driver has reset it and it can be used again.

    What passes before the faulty one wrote stands in memory, and so may part of what that one
    wrote, and of what the other unit was at work on.

    Attributes
    ----------
    code : ErrorCode
        What was wrong.
    unit : int
        0: a pass is at fault; 1: a cast.
    descriptor : int
        Its number among the passes, or the casts, of its submission.
    position, value, limit : int
        Where in it, the value at fault, the limit it broke; see ErrorCode for their meaning.
    counters : dict
        The performance counters when it stopped.
    """

    def __init__(self, code, descriptor, position, value, limit, counters, fields, unit=0):
        self.code = code
        self.unit = unit
        self.descriptor = descriptor
        self.position = position
        self.value = value
        self.limit = limit
        self.counters = counters
        super().__init__(f"{('descriptor', 'cast')[unit]} {descriptor}: "
                         f"{_explain(code, position, value, limit, fields, unit)}")


class EngineTimeout(TimeoutError):
    """The engine did not finish in time; the driver has tried to reset it.

    Attributes
    ----------
    status : dict of str to int
        The status register's fields and the ring's head and tail when the driver gave up.
    counters : dict
        The performance counters then.
    """

    def __init__(self, cycles, status, counters):
        self.status = status
        self.counters = counters
        facts = ", ".join(f"{key} {value}" for key, value in status.items())
        super().__init__(f"engine did not finish within {cycles} cycles ({facts})")


def _explain(code, position, value, limit, fields, unit=0):
    """Return an error record as a sentence; ``fields`` are the values of the unit's descriptor."""
    def reader(number):
        names = {int(member): member.name for member in (Reader, CastReader)[unit]}
        return f"reader {names.get(number, number)}"

    if code == ErrorCode.DESCRIPTOR:
        # Several fields may share a byte; those that do not hold the value are not meant.
        names = [item.name for item in (FIELDS, CAST_FIELDS)[unit]
                 if item.lsb // 8 == position and fields.get(item.name, 0) == value]
        return (f"field {' or '.join(names) or '?'} (byte 0x{position:02x}) is {value:#x}, "
                f"limit {limit:#x}")
    if code == ErrorCode.INDEX_RANGE:
        return f"index of lookup {position} must be at least 0 and below {limit}, not {value}"
    if code == ErrorCode.TARGET_RANGE:
        return f"target of segment {position} must be at least 0 and below {limit}, not {value}"
    if code == ErrorCode.TARGET_ORDER:
        return f"target of segment {position} must be above the one before it, {limit}, not {value}"
    if code == ErrorCode.OFFSET_FIRST:
        return f"offsets[0] must be 0, not {value}"
    if code == ErrorCode.OFFSET_ORDER:
        return f"offsets[{position}] must be at least the one before it, {limit}, not {value}"
    if code == ErrorCode.OFFSET_RANGE:
        return f"offsets[{position}] must be at most {limit}, not {value}"
    if code == ErrorCode.OFFSET_LAST:
        return f"offsets[{position}], the last, must be {limit}, not {value}"
    if code == ErrorCode.SEGMENT_COUNT:
        return f"number of segments in memory must be at most {limit}, not {value}"
    if code == ErrorCode.WINDOW_READ:
        return (f"{reader(limit)} would read outside the windows at address {value:#x} "
                f"(element or row {position})")
    if code == ErrorCode.WINDOW_WRITE:
        what = "a result" if unit else f"segment {position}"
        return f"{what} would be written outside the windows at address {value:#x}"
    if code == ErrorCode.READ_RESPONSE:
        return (f"memory answered {_RESPONSES.get(value, value)} to {reader(limit)} after "
                f"{position} beats")
    if code == ErrorCode.WRITE_RESPONSE:
        return f"memory answered {_RESPONSES.get(value, value)} to a write after {position} bursts"
    return f"unknown error {int(code)} at {position}, value {value:#x}, limit {limit:#x}"


def _kind(array):
    """Return the ElementKind of an integer array, or of None."""
    if array is None:
        return ElementKind.SEQUENTIAL
    return ElementKind.INT32 if array.dtype == np.int32 else ElementKind.INT64


def _row_stride(array):
    """Return the bytes from one row to the next, one row where there is only one."""
    return array.strides[0] if array.shape[0] > 1 else array.shape[1] * array.itemsize


def _bytes_of_rows(array):
    """Return the memory from the first row's first byte to the last row's last as a uint8 view.

    It holds what lies between the rows as well, where they are further apart than a row.
    """
    rows, dim = array.shape
    row_bytes = dim * array.itemsize
    n_bytes = (rows - 1) * _row_stride(array) + row_bytes if rows else 0
    return np.lib.stride_tricks.as_strided(
        array[:1].view(np.uint8), shape=(n_bytes,), strides=(1,),
        writeable=array.flags.writeable)


class _Memory:
    """The arrays of one submission: their bytes by region, and after placing their addresses."""

    def __init__(self):
        self._slots = {_ARRAYS: {}, _SOURCES: {}, _TARGETS: {}}
        self.regions = {}

    @staticmethod
    def _key(data):
        return (data.ctypes.data, data.size)

    def add(self, region, data, alignment):
        """Add the bytes ``data`` (uint8 [n]); the same bytes added again are placed once."""
        slots = self._slots[region]
        known = slots.get(self._key(data))
        if known is None or known[1] < alignment:
            slots[self._key(data)] = (data, alignment)

    def move_shared(self):
        """Make sources that are targets as well one mapping, among the targets."""
        sources, targets = self._slots[_SOURCES], self._slots[_TARGETS]
        shared = [key for key in sources if key in targets and key[1]]
        for key in shared:
            del sources[key]
        return bool(shared)

    def place(self, placement, rng):
        """Choose the address of everything added."""
        for number, slots in self._slots.items():
            if slots:
                sizes = [Slot(data.size, alignment) for data, alignment in slots.values()]
                region = place(sizes, number, placement, rng)
                self.regions[number] = (region, dict(zip(slots, region.addresses, strict=True)))

    def address(self, data, *regions):
        """Return the address of ``data``, looked for in ``regions`` in turn."""
        for number in regions:
            if number in self.regions:
                address = self.regions[number][1].get(self._key(data))
                if address is not None:
                    return address
        raise KeyError("array was not placed")

    def holds(self, region, data):
        """Return whether ``data`` has been added to ``region``."""
        return self._key(data) in self._slots[region]

    def mappings(self):
        """Yield (address, data, writable) of everything that has bytes."""
        for number, (_, addresses) in self.regions.items():
            for key, address in addresses.items():
                data, _ = self._slots[number][key]
                if data.size:
                    yield address, data, number == _TARGETS


class EngineDevice(Device):
    """An engine behind the API of :class:`~.backend.Device`.

    Rows are whole beats here: the columns of every float32 array must be a multiple of the lanes
    and at most the engine's ``dim_max``, and the distance between the rows of an array that is
    updated a multiple of the beat. Arrays that are only read are copied where they are not laid
    out like that. Per-sample weights and mode "mean" are refused unless the engine's feature
    register has them. Casting is done by the engine's cast unit where there is one, and on the host
    where not, or where there are more than 2**24 lookups or 2**32 - 1 rows.

    Parameters
    ----------
    io : EngineIo
        The engine.
    config : EngineConfig
        What the engine was generated from; its hash must be the engine's.
    placement : str
        Where arrays appear to the engine, see :func:`.placement.place`.
    seed : int
        Chooses addresses with placement "scattered".
    ring_size_log2 : int
        Log2 of each descriptor ring's slots, 1 to 15.
    host_cast : bool
        Cast on the host all the same.
    timeout_cycles : int or None
        Cycles after which a submission is given up; None: 100,000 and 256 per beat of data.

    Attributes
    ----------
    scratch : tuple of (int, int)
        Address and size of the memory that the last submission left undefined.

    Raises
    ------
    BackendUnavailable
        What answers is not an engine of this version and configuration.
    """

    name = "engine"

    def __init__(self, io, config, *, placement="aligned", seed=0, ring_size_log2=8,
                 host_cast=False, timeout_cycles=None):
        if placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {placement!r}")
        if not 1 <= validation.scalar_count("ring_size_log2", ring_size_log2) <= 15:
            raise ValueError(f"ring_size_log2 must be from 1 to 15, not {ring_size_log2!r}")
        if timeout_cycles is not None and validation.scalar_count(
                "timeout_cycles", timeout_cycles) < 1:
            raise ValueError("timeout_cycles must be at least 1, not 0")
        self.io = io
        self.config = config
        self._placement = placement
        self._rng = np.random.default_rng(seed)
        self._timeout_cycles = timeout_cycles
        self._broken = None
        self.scratch = ()
        self._counters = {}
        self._window_values = {}
        self._probe()
        self._features = self._read("feature")
        self._host_cast = bool(host_cast) or not self._features["cast"]
        self._passes = Ring("", FIELDS, ring_size_log2)
        self._casts = Ring("cast_", CAST_FIELDS, ring_size_log2)
        # Both units are served from one region, and so through one window.
        self._rings = [self._casts, self._passes] if self._features["cast"] else [self._passes]
        self.reset()
        region = place([Slot(ring.memory.nbytes, DESCRIPTOR_BYTES) for ring in self._rings],
                       _RING, placement, self._rng)
        self._ring_region = region
        for ring, address in zip(self._rings, region.addresses, strict=True):
            io.map(address, ring.memory, writable=False)
        for ring, address in zip(self._rings, region.addresses, strict=True):
            self._write_pair(f"{ring.prefix}ring_base", address)
            self._write(f"{ring.prefix}ring_size_log2", value=ring_size_log2)
        self._write("irq_enable", done=1, error=1, cast_done=1)

    # registers

    def _read(self, name):
        """Return the fields of a register as a dict of name to int."""
        register = _REGISTERS[name]
        word = self.io.read_register(register.offset)
        return {item.name: (word & item.mask) >> item.lsb for item in register.fields}

    def _read_value(self, name):
        return self._read(name)["value"]

    def _read_pair(self, name):
        return self._read_value(f"{name}_lo") | self._read_value(f"{name}_hi") << 32

    def _write(self, name, **values):
        """Write a register; fields left out are 0."""
        register = _REGISTERS[name]
        fields = {item.name: item for item in register.fields}
        word = sum(int(value) << fields[key].lsb for key, value in values.items())
        self.io.write_register(register.offset, word)

    def _write_pair(self, name, value):
        self._write(f"{name}_lo", value=value & 0xFFFFFFFF)
        self._write(f"{name}_hi", value=value >> 32)

    def _probe(self):
        """Refuse anything but an engine of this version and configuration."""
        identity = self._read_value("id")
        if identity != ID_VALUE:
            raise BackendUnavailable(
                f"engine's id register must be {ID_VALUE:#010x}, not {identity:#010x}")
        version = self._read("version")
        found = (version["major"], version["minor"], version["patch"])
        if found[:2] != VERSION[:2]:
            raise BackendUnavailable(
                f"engine's register map must be version {VERSION[0]}.{VERSION[1]}, "
                f"not {'.'.join(map(str, found))}")
        config_hash = self._read_value("config_hash")
        if config_hash != self.config.hash:
            raise BackendUnavailable(
                f"engine's config_hash must be {self.config.hash:#010x} (of {self.config!r}), "
                f"not {config_hash:#010x}")
        capability = self._read("capability")
        expected = {"lanes": self.config.derived.lanes, "dim_max": self.config.dim_max,
                    "windows": N_WINDOWS}
        if capability != expected:
            raise BackendUnavailable(
                f"engine's capability register must hold {expected}, not {capability}")

    # running

    def submit(self, passes, casts=()):
        """Run passes in order, and casts in theirs, in one submission; wait until all are complete.

        Both go on at the same time, but for what ``after`` says. The arrays' shapes and layout are
        checked here; what indices, offsets and rows hold is left to the engine's own checks.

        Parameters
        ----------
        passes : sequence of Pass
            A pass sees every memory effect of those before it, unless it is relaxed.
        casts : sequence of Cast
            For an engine with a cast unit.

        Raises
        ------
        EngineError
            The engine stopped with an error; it has been reset.
        EngineTimeout
            It did not finish in time.
        """
        self._usable()
        passes, casts = list(passes), list(casts)
        for number, item in enumerate(passes):
            self._check_pass(f"passes[{number}]", item)
            self._check_after(f"passes[{number}]", item, "casts", casts)
        for number, item in enumerate(casts):
            self._check_cast(f"casts[{number}]", item)
            self._check_after(f"casts[{number}]", item, "passes", passes)
        if not passes and not casts:
            self._counters = dict.fromkeys(self._counter_names(), 0)
            return
        memory, arrays, cast_arrays = self._lay_out(passes, casts)
        descriptors = [self._descriptor(item, its, memory)
                       for item, its in zip(passes, arrays, strict=True)]
        cast_descriptors = [self._cast_descriptor(item, its, memory)
                            for item, its in zip(casts, cast_arrays, strict=True)]
        # Once a pass that waits for all casts has completed, there is nothing else to wait for.
        covered = any(item.after == len(casts) for item in passes)
        self._passes.start(descriptors)
        self._casts.start(cast_descriptors, interrupts=not covered)
        reads_targets = (memory.shared or bool(casts)
                         or any(item.optimizer is not None for item in passes))
        timeout = self._timeout_cycles or self._estimate(passes, casts)
        mapped = []
        try:
            for address, data, writable in memory.mappings():
                self.io.map(address, data, writable=writable)
                mapped.append(address)
            self._program_windows(memory.regions, reads_targets)
            self._run(timeout)
        except BaseException as error:
            # The engine may still be at work on these arrays: stop it before they go.
            try:
                self.reset()
            except Exception as failure:
                self._broken = self._broken or str(failure)
                error.add_note(f"The engine could not be reset after this: {failure}")
            raise
        finally:
            if self._broken is None:
                for address in mapped:
                    self.io.unmap(address)

    def _usable(self):
        if self._closed:
            raise RuntimeError("device is closed")
        if self._broken is not None:
            raise RuntimeError(f"device cannot be used: {self._broken}")

    def _check_pass(self, name, item):
        if not isinstance(item, Pass):
            raise TypeError(f"{name} must be a Pass, not {type(item).__name__}")
        validation.matrix(f"{name}.source", item.source)
        validation.matrix(f"{name}.target", item.target, dim=item.source.shape[1],
                          dim_of="as source")
        validation.writable(f"{name}.target", item.target)
        if item.n_lookups is not None:
            if item.indices is not None:
                raise ValueError(f"{name}.n_lookups must be None where indices are given, "
                                 f"not {item.n_lookups!r}")
            validation.scalar_count(f"{name}.n_lookups", item.n_lookups)
        for key in ("indices", "offsets", "rows"):
            if getattr(item, key) is not None:
                validation.index_kind(f"{name}.{key}", getattr(item, key))
        if item.offsets is not None and item.offsets.size < 1:
            raise ValueError(f"{name}.offsets must have at least 1 element, not 0")
        if item.rows is not None and item.rows.size != item.segments:
            raise ValueError(f"{name}.rows must have {item.segments} elements (segments), "
                             f"not {item.rows.size}")
        for key, size, unit in (("weights", item.lookups, "lookups"),
                                ("scales", item.segments, "segments")):
            array = getattr(item, key)
            if array is not None:
                validation.factors(f"{name}.{key}", array, size, unit)
        if item.weights is not None and not self._features["weighted"]:
            raise self._lacks("weighted", f"{name}.weights must be None, not an array")
        if item.scales is not None and not self._features["scaled"]:
            raise self._lacks("scaled", f"{name}.scales must be None, not an array")
        if item.optimizer is not None:
            if item.scales is not None:
                raise ValueError(f"{name}.scales must be None with an optimizer, not an array")
            validation.optimizer_sgd(f"{name}.optimizer", item.optimizer)
            if not self._features["sgd"]:
                raise self._lacks("sgd", f"{name}.optimizer must be None, not {item.optimizer!r}")
        if item.count is not None:
            validation.factors(f"{name}.count", item.count, 1, "number", np.uint32)
            if item.offsets is None:
                raise ValueError(f"{name}.count must be None without offsets, not an array")
        self._check_rows(f"{name}.source", item.source)
        self._check_target(f"{name}.target", item.target)

    @staticmethod
    def _check_after(name, item, others_name, others):
        """Check what a pass or a cast waits for."""
        if item.after is not None and validation.scalar_count(
                f"{name}.after", item.after) > len(others):
            raise ValueError(f"{name}.after must be at most {len(others)}, the {others_name} of "
                             f"the submission, not {item.after!r}")

    def _check_cast(self, name, item):
        if not isinstance(item, Cast):
            raise TypeError(f"{name} must be a Cast, not {type(item).__name__}")
        if not self._features["cast"]:
            raise self._lacks("cast", "casts must be empty, not a Cast")
        validation.index_kind(f"{name}.indices", item.indices)
        if item.offsets is not None:
            validation.index_kind(f"{name}.offsets", item.offsets)
            if item.offsets.size < 1:
                raise ValueError(f"{name}.offsets must have at least 1 element, not 0")
        validation.scalar_count(f"{name}.num_rows", item.num_rows)
        if not fits_unit(item.indices.size, item.num_rows):
            raise ValueError(f"{name} must have at most 2**24 lookups and 2**32 - 1 rows, "
                             f"not {item.indices.size} and {item.num_rows}")

    def _check_rows(self, name, array):
        """Check an array's columns against what the engine can do."""
        lanes, dim = self.config.derived.lanes, array.shape[1]
        if dim % lanes or dim > self.config.dim_max:
            raise ValueError(
                f"{name} must have a multiple of {lanes} columns (the lanes of this engine) up to "
                f"{self.config.dim_max} (its dim_max), not {dim}")

    def _check_target(self, name, array):
        """Check the layout of an array that is written in place."""
        self._check_rows(name, array)
        stride, beat = _row_stride(array), self.config.derived.beat_bytes
        if stride % beat or stride >= beat << 16:
            raise ValueError(f"{name} must have a row stride that is a multiple of {beat} bytes "
                             f"(the beat of this engine) below {beat << 16}, not {stride}")

    def _lacks(self, feature, what):
        """Return the error of an argument that needs a feature this engine does not have."""
        return ValueError(f"{what}: bit `{feature}` of this engine's feature register is "
                          f"{self._features[feature]}")

    def _check_weights(self, name, weights):
        if weights is not None and not self._features["weighted"]:
            raise self._lacks("weighted", f"{name} must be None, not an array")

    def _lay_out(self, passes, casts):
        """Place all arrays; return the memory, and each pass's and each cast's arrays as mapped."""
        derived = self.config.derived
        beat = derived.beat_bytes
        memory = _Memory()
        cast_arrays = []
        # The casts run one after the other, so they share it.
        scratch = np.empty(max((derived.cast_scratch_bytes(item.indices.size) for item in casts),
                               default=0), np.uint8)
        if casts:
            memory.add(_TARGETS, scratch, derived.cast_line_bytes)
        for item in casts:
            its = {"scratch": scratch}
            for name, _ in item.RESULTS:
                memory.add(_TARGETS, getattr(item, name).view(np.uint8), beat)
            for key in ("indices", "offsets"):
                array = getattr(item, key)
                its[key] = None if array is None else np.require(array, requirements="CA")
                if array is not None:
                    memory.add(_ARRAYS, its[key].view(np.uint8), array.itemsize)
            cast_arrays.append(its)
        targets = [item.target for item in passes]
        arrays = []
        for number, item in enumerate(passes):
            its = {"target": item.target, "source": item.source}
            stride = _row_stride(item.source)
            if (item.source.strides[1] != 4 or stride % beat or stride >= beat << 16
                    or stride < item.source.shape[1] * 4 or item.source.ctypes.data % 4):
                if any(np.may_share_memory(item.source, target) for target in targets):
                    raise ValueError(
                        f"passes[{number}].source must have contiguous rows at a multiple of "
                        f"{beat} bytes (the beat of this engine) where it is a target as well, "
                        f"not strides {item.source.strides!r}")
                its["source"] = np.ascontiguousarray(item.source)
            for key in _ARRAY_KEYS:
                array = getattr(item, key)
                its[key] = None if array is None else np.require(array, requirements="CA")
                # What a cast of the submission writes has its place among the targets.
                if array is not None and not memory.holds(_TARGETS, its[key].view(np.uint8)):
                    memory.add(_ARRAYS, its[key].view(np.uint8), array.itemsize)
            memory.add(_SOURCES, _bytes_of_rows(its["source"]), beat)
            memory.add(_TARGETS, _bytes_of_rows(its["target"]), beat)
            arrays.append(its)
        memory.shared = memory.move_shared()
        memory.place(self._placement, self._rng)
        self.scratch = ((memory.address(scratch, _TARGETS), scratch.size),) if scratch.size else ()
        return memory, arrays, cast_arrays

    def _descriptor(self, item, its, memory):
        """Return the field values of a pass."""
        def base(key):
            return 0 if its[key] is None else memory.address(
                its[key].view(np.uint8), _ARRAYS, _TARGETS)

        source, target = its["source"], its["target"]
        lr = 0 if item.optimizer is None else item.optimizer.lr_bits
        values = {
            "index_kind": _kind(its["indices"]), "segment_kind": _kind(its["offsets"]),
            "target_kind": _kind(its["rows"]),
            "sink": Sink.WRITE if item.optimizer is None else Sink.SGD,
            "relaxed": bool(item.relaxed), "dim": source.shape[1],
            "n_lookups": item.lookups, "n_segments": item.segments,
            "src_base": memory.address(_bytes_of_rows(source), _SOURCES, _TARGETS),
            "src_stride": _row_stride(source), "src_rows": source.shape[0],
            "dst_base": memory.address(_bytes_of_rows(target), _TARGETS),
            "dst_stride": _row_stride(target), "dst_rows": target.shape[0],
            "index_base": base("indices"), "offset_base": base("offsets"),
            "target_base": base("rows"), "lr": lr,
            "weighted": item.weights is not None, "weight_base": base("weights"),
            "scaled": item.scales is not None, "scale_base": base("scales"),
            "counted": item.count is not None, "count_base": base("count"),
        } | self._wait(item, self._casts) | dict(item.fields)
        pack(values)  # raises where a value does not fit its field, before anything is mapped
        return values

    def _cast_descriptor(self, item, its, memory):
        """Return the field values of a cast."""
        def base(key):
            return 0 if its[key] is None else memory.address(its[key].view(np.uint8), _ARRAYS)

        values = {
            "index_kind": _kind(its["indices"]), "offset_kind": _kind(its["offsets"]),
            "row_kind": _kind(item.rows), "n_lookups": item.indices.size, "n_bags": item.n_bags,
            "num_rows": item.rows_below, "index_base": base("indices"),
            "offset_base": base("offsets"), "scratch_bytes": its["scratch"].size,
            "scratch_base": memory.address(its["scratch"], _TARGETS),
        } | {at: memory.address(getattr(item, name).view(np.uint8), _TARGETS)
             for name, at in item.RESULTS} | self._wait(item, self._passes) | dict(item.fields)
        pack(values, CAST_FIELDS)
        return values

    @staticmethod
    def _wait(item, other):
        """Return the fields that make ``item`` wait for the unit of the ring ``other``."""
        if item.after is None:
            return {}
        return {"waits": 1, "wait_count": (other.completed + item.after) % 2**32}

    def _estimate(self, passes, casts):
        """Return the cycles after which a submission is given up."""
        beat = self.config.derived.beat_bytes
        n_bytes = 0
        for item in passes:
            n_bytes += (item.lookups + 2 * item.segments) * item.source.shape[1] * 4
            for array in (getattr(item, key) for key in _ARRAY_KEYS):
                n_bytes += 0 if array is None else array.nbytes
        for item in casts:
            # Each pass of the sort reads and writes every pair, and turns over every bin.
            digits = -(-32 // self.config.cast_digit_bits) + 1
            n_bytes += digits * (16 * item.indices.size + (beat << self.config.cast_digit_bits))
        return 100_000 + 256 * (n_bytes // beat + len(passes) + len(casts))

    def _program_windows(self, regions, reads_targets):
        """Open exactly the pages of each region, with exactly the permissions it needs."""
        windows = {_RING: (self._ring_region, 1, 0)}
        for number, (region, _) in regions.items():
            writes = int(number == _TARGETS)
            windows[number] = (region, int(not writes or reads_targets), writes)
        for number in range(N_WINDOWS):
            if number not in windows:
                wanted = (0, 0, 0, 0)
            else:
                region, reads, writes = windows[number]
                wanted = (region.base, region.limit, reads, writes)
            if self._window_values.get(number) != wanted:
                base, limit, reads, writes = wanted
                self._write(f"window{number}_access")
                self._write_pair(f"window{number}_base", base)
                self._write_pair(f"window{number}_limit", limit)
                self._write(f"window{number}_access", read=reads, write=writes)
                self._window_values[number] = wanted

    def _run(self, timeout):
        """Hand the submission over, in as many pieces as the rings need, and wait for each."""
        self._counters = None
        self._write("irq_status", done=1, error=1, cast_done=1)
        self._write("control", enable=1, clear_counters=1)
        at_work = set()
        while True:
            # Casts first: the passes that wait for them come last.
            for ring in self._rings:
                if ring.more and ring not in at_work:
                    ring.fill()
                    at_work.add(ring)
                    self._write(f"{ring.prefix}ring_tail", value=ring.tail)
            asking = [ring for ring in at_work if ring.asks]
            if not asking:
                break
            if not self.io.wait(timeout):
                raise self._timeout(timeout)
            cause = self._read("irq_status")
            if cause["error"]:
                raise self._error()
            come = [ring for ring in asking if cause[f"{ring.prefix}done"]]
            if not come:
                break
            self._write("irq_status", **{f"{ring.prefix}done": 1 for ring in come})
            for ring in come:
                # A descriptor of a test may have asked for an interrupt of its own.
                if self._head(ring) == ring.tail:
                    ring.finish()
                    at_work.discard(ring)
        self._wait_idle(timeout)
        for ring in self._rings:
            ring.finish()

    def _head(self, ring):
        return self._read_value(f"{ring.prefix}ring_head")

    def _wait_idle(self, cycles):
        """Wait the few cycles from the interrupt until the engine shows that it rests."""
        for _ in range(_POLLS):
            if not self._read("status")["busy"]:
                if any(self._head(ring) != ring.tail for ring in self._rings):
                    break
                return
        raise self._timeout(cycles)

    def _timeout(self, cycles):
        status = self._read("status")
        for ring in reversed(self._rings):
            status |= {f"{ring.prefix}ring_head": self._head(ring),
                       f"{ring.prefix}ring_tail": ring.tail}
        return EngineTimeout(cycles, status, self.counters())

    def _error(self):
        """Return the error record as an exception."""
        number = self._read_value("error_code")
        code = ErrorCode(number) if number in ErrorCode._value2member_map_ else number
        unit, slot = self._read_value("error_unit"), self._read_value("error_descriptor")
        value, limit = self._read_pair("error_value"), self._read_pair("error_limit")
        if code in _SIGNED:
            value, limit = (word - (word >> 63 << 64) for word in (value, limit))
        ring = (self._passes, self._casts)[unit]
        descriptor = ring.number_of(slot)
        fields = ring.descriptors[descriptor] if descriptor < len(ring.descriptors) else {}
        return EngineError(code, descriptor, self._read_value("error_position"), value, limit,
                           self.counters(), fields, unit)

    def reset(self):
        """Stop the engine, let every transfer in flight finish, and make it ready again.

        Raises
        ------
        RuntimeError
            It did not come out of its reset; the device cannot be used any more.
        """
        self._write("control", soft_reset=1)
        for _ in range(_POLLS):
            self._write("irq_status", done=1, error=1, cast_done=1)
            status = self._read("status")
            if not (status["resetting"] or status["busy"] or status["error"]):
                break
            self.io.wait(_POLL_CYCLES)
        else:
            self._broken = f"it did not come out of its soft reset (status {status})"
            raise RuntimeError(f"engine {self._broken[3:]}")
        for ring in self._rings:
            ring.reset(self._head(ring))
            self._write(f"{ring.prefix}ring_tail", value=ring.tail)

    def close(self):
        """Release the engine."""
        if not self._closed:
            super().close()
            self.io.close()

    # the operations, each one pass

    def _gathered(self, name, source, n_segments, **arrays):
        """Run a pass that writes a new array and return it."""
        self._check_rows(name, source)
        out = np.empty((n_segments, source.shape[1]), np.float32)
        # No result looks like this, so that a row that was not written shows.
        out.view(np.uint8)[...] = 0xAA
        self.submit([Pass(source=source, target=out, **arrays)])
        return out

    def _embedding_bag(self, weight, indices, offsets, weights, mode):
        self._check_weights("per_sample_weights", weights)
        if mode == "mean" and not self._features["scaled"]:
            raise self._lacks("scaled", f"mode must be 'sum', not {mode!r}")
        return self._gathered("weight", weight, offsets.size - 1, indices=indices, offsets=offsets,
                              weights=weights,
                              scales=reciprocals(offsets) if mode == "mean" else None)

    def _gather(self, weight, indices):
        return self._gathered("weight", weight, indices.size, indices=indices)

    def _cast(self, indices, offsets, num_rows, weights):
        if self._host_cast or not fits_unit(indices.size, num_rows):
            return packed_cast.cast(indices, offsets, num_rows, weights)
        dtype = indices.dtype
        # Weights are brought into the order of the rows here, by the lookups' positions.
        item = Cast(indices=indices, offsets=offsets if weights is None else None,
                    num_rows=num_rows)
        self.submit([], [item])
        bags, segment_offsets, rows = item.results()
        bags = bags.astype(dtype, copy=False)
        segment_offsets = segment_offsets.astype(dtype, copy=False)
        n_bags = offsets.size - 1
        if weights is None:
            return CheckedCasting(
                bags, segment_offsets, rows, None, n_bags=n_bags, num_rows=num_rows,
                find_positions=lambda _: packed_cast.sort_rows(indices, num_rows)[1].astype(dtype))
        return CheckedCasting(
            bag_ids(offsets)[bags].astype(dtype, copy=False), segment_offsets, rows, weights[bags],
            n_bags=n_bags, num_rows=num_rows, positions=bags)

    def _training_step(self, layers, optimizer):
        validation.optimizer_sgd("optimizer", optimizer)
        for number, layer in enumerate(layers):
            self._check_target(f"layers[{number}].weight", layer.weight)
        if self._host_cast or not all(
                fits_unit(layer.indices.size, layer.weight.shape[0]) for layer in layers):
            return super()._training_step(layers, optimizer)
        casts, forwards, updates = [], [], []
        for number, layer in enumerate(layers):
            casts.append(cast := Cast(indices=layer.indices, offsets=layer.offsets,
                                      num_rows=layer.weight.shape[0]))
            out = np.empty(layer.grad_out.shape, np.float32)
            out.view(np.uint8)[...] = 0xAA
            # Forward passes read what no one of them writes. The first update waits for them all;
            # one whose table no other layer has need not wait for those before it.
            forwards.append(Pass(source=layer.weight, target=out, indices=layer.indices,
                                 offsets=layer.offsets, relaxed=number > 0))
            alone = not any(np.may_share_memory(layer.weight, other.weight)
                            for other in layers[:number])
            updates.append(Pass(
                source=layer.grad_out, target=layer.weight, indices=cast.bags,
                offsets=cast.segment_offsets, rows=cast.rows, optimizer=optimizer,
                count=cast.count, after=number + 1, relaxed=number > 0 and alone))
        self.submit([*forwards, *updates], casts)
        return [item.target for item in forwards]

    def _casted_gather_reduce(self, grad_out, casting):
        self._check_weights("casting.weights", casting.weights)
        return self._gathered("grad_out", grad_out, casting.rows.size, indices=casting.bags,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter_update(self, weight, rows, grads, optimizer, state):
        validation.optimizer_sgd("optimizer", optimizer)
        self._check_target("weight", weight)
        self.submit([Pass(source=grads, target=weight, rows=rows, optimizer=optimizer)])

    def _backward_update(self, weight, grad_out, casting, optimizer, state):
        validation.optimizer_sgd("optimizer", optimizer)
        self._check_target("weight", weight)
        self._check_weights("casting.weights", casting.weights)
        self.submit([Pass(source=grad_out, target=weight, indices=casting.bags,
                          offsets=casting.segment_offsets, rows=casting.rows,
                          weights=casting.weights, optimizer=optimizer)])

    def _expand(self, grad_out, offsets):
        bags = bag_ids(offsets)
        return self._gathered("grad_out", grad_out, bags.size, indices=bags)

    def _coalesce(self, expanded, casting):
        self._check_weights("casting.weights", casting.weights)
        return self._gathered("expanded", expanded, casting.rows.size, indices=casting.positions,
                              offsets=casting.segment_offsets, weights=casting.weights)

    def _scatter(self, dst, rows, values):
        self._check_target("dst", dst)
        self.submit([Pass(source=values, target=dst, rows=rows)])

    # counters

    def _counters_here(self):
        """Return the names of the counters that this engine has."""
        return [name for name, _ in COUNTERS + (CAST_COUNTERS if self._features["cast"] else ())]

    def _counter_names(self):
        return [*self._counters_here(), "bursts"]

    def counters(self):
        """Return the engine's counters of the last call, a dict of name to int.

        Those of ``hw.registers.COUNTERS`` (among them "cycles", "steady_cycles", "r_beats",
        "w_beats", "rows", and the cycles of the read channel by cause, "read_useful" to
        "read_overhead", which sum to "cycles"), those of CAST_COUNTERS where there is a cast unit,
        and "bursts", reads and writes of the gather-scatter unit together.
        """
        if self._counters is None:
            values = {name: self._read_pair(f"counter_{name}") for name in self._counters_here()}
            values["bursts"] = values["read_bursts"] + values["write_bursts"]
            self._counters = values
        return dict(self._counters)
