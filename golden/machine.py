"""Functional model of the engine: executes descriptors on an image of the 64-bit address space.

Nothing of the hardware is imported: a descriptor comes as a mapping of field names to integers, the
register map as an object with the names of ``hw.registers``. There is no time: whatever is handed
over completes within the register write that hands it over, unless it waits for the other unit.
Each of the two rings is worked off in order; they take turns, each going on until it is empty or
its next descriptor waits. One that waits for what never comes leaves the engine busy.

Order of checks. A descriptor with one fault gives the same error record here and in hardware. One
with several gives the first of these, while hardware, whose readers run side by side, may report
another:

1. the descriptor's fields, in the order of their bytes, before it waits for anything; then, behind
   the wait, the number of segments where it stands in memory;
2. the offset array: its window, the memory's response, then offsets in order: the first is 0, none
   decreases, none exceeds ``n_lookups``;
3. the index array likewise; then, lookup by lookup, the index's range and the row's window;
4. the target array likewise; then, segment by segment, the target's range, its order (SGD), and the
   row's read window (SGD) and write window;
5. the memory's response to the gathered rows, to the rows to be updated, and to the writes.

What an error leaves in memory. Here a descriptor that fails writes nothing. Hardware may have
written any of its target rows before the fault was found, so after an error the target rows of the
failing descriptor are undefined; all else in memory is as here.

Sources and targets of one descriptor must not overlap, except that SGD reads what it updates.
"""

import numpy as np

from .access import INT32, INT64, SEQUENTIAL, ErrorRecord, Guard, Stop, Unit, Window
from .cast_pass import CastPass, execute_cast
from .memory import ADDRESS_MASK, Memory, MemoryFault
from .numerics import check_environment, mul, sub
from .vectorised import segment_sums, store_rows

__all__ = ["DESCRIPTOR_BYTES", "FIELD_BYTES", "ErrorRecord", "Machine", "Memory",
           "RegisterError", "Window", "execute"]

PAGE_LOG2 = 12
DESCRIPTOR_BYTES = 128
WRITE, SGD = 0, 1                    # hw.descriptor.Sink

#: Byte of the descriptor in which each checked field starts: what a DESCRIPTOR error reports.
FIELD_BYTES = {
    "index_kind": 0x00, "segment_kind": 0x00, "target_kind": 0x00, "sink": 0x00, "weighted": 0x01,
    "scaled": 0x01, "waits": 0x02, "counted": 0x02, "dim": 0x04, "n_segments": 0x0C,
    "src_base": 0x10, "src_stride": 0x18, "dst_base": 0x20, "dst_stride": 0x28,
    "index_base": 0x30, "offset_base": 0x38, "target_base": 0x40, "weight_base": 0x48,
    "scale_base": 0x50, "count_base": 0x60,
}

# Numbers of hw.registers.ErrorCode and Reader; a test compares them.
_DESCRIPTOR, _INDEX_RANGE, _TARGET_RANGE, _TARGET_ORDER = 1, 2, 3, 4
_WINDOW_READ, _WINDOW_WRITE, _READ_RESPONSE, _WRITE_RESPONSE = 8, 9, 10, 11
_SEGMENT_COUNT = 13
(_READ_DESCRIPTOR, _READ_OFFSET, _READ_INDEX, _READ_WEIGHT, _READ_TARGET, _READ_SCALE,
 _READ_OLD_ROW, _READ_ROW, _READ_COUNT) = range(9)


class _Rows:
    """The rows of a table in memory: base, stride, dim."""

    def __init__(self, base, stride, dim):
        self.base, self.stride, self.dim = base, stride, dim
        self.n_bytes = 4 * dim

    def address(self, number):
        return (self.base + number * self.stride) & ADDRESS_MASK

    def outside(self, guard, numbers, write):
        """Return for each row whether a burst of it is not allowed; a row has at most two pages."""
        with np.errstate(over="ignore"):
            first = np.uint64(self.base) + numbers.astype(np.uint64) * np.uint64(self.stride)
            last = first + np.uint64(self.n_bytes - 1)
        return ~(guard.allowed(first, write) & guard.allowed(last, write))

    def locate(self, memory, numbers, write):
        """Find the rows ``numbers`` (int64 [n], n >= 1) in memory.

        Returns
        -------
        (view, renumbered) or (None, None)
            ``view[renumbered[i]]`` is row ``numbers[i]``; None unless one mapped array holds all.
        """
        low, high = int(numbers.min()), int(numbers.max())
        view = memory.view(self.address(low), (high - low + 1, self.dim), np.float32,
                           (self.stride, 4), write)
        return (None, None) if view is None else (view, numbers - low)

    def fault(self, memory, numbers, write):
        """Return (position, MemoryFault) of the first row not accessible, or None."""
        distinct, first = np.unique(numbers, return_index=True)
        for n in np.argsort(first):
            try:
                memory.pieces(self.address(int(distinct[n])), self.n_bytes, write)
            except MemoryFault as fault:
                return int(first[n]), fault
        return None


class _Pass(Unit):
    """One descriptor of the gather-scatter unit at work."""

    def __init__(self, memory, descriptor, lanes, dim_max, windows, burst_beats_max, cast_unit):
        super().__init__(memory, dict(descriptor), 4 * lanes, windows)
        self.lanes = lanes
        self.dim_max = dim_max
        self.cast_unit = cast_unit
        self.burst_bytes = ((1 << PAGE_LOG2) if burst_beats_max is None
                            else burst_beats_max * self.beat_bytes)

    def run(self):
        """Execute, or raise Stop with memory as it was; return (rows gathered, segments)."""
        d = self.descriptor
        self.check_fields()
        if d["counted"]:
            d["n_segments"] = self.count()
        offsets = self.offsets()
        n = d["n_lookups"] if offsets is None else int(offsets[-1])
        source = _Rows(d["src_base"], d["src_stride"], d["dim"])
        target = _Rows(d["dst_base"], d["dst_stride"], d["dim"])
        lookups = self.lookups(source, n)
        weights = self.factors("weighted", "weight_base", d["n_lookups"], _READ_WEIGHT)
        targets = self.targets(target)
        scales = self.factors("scaled", "scale_base", d["n_segments"], _READ_SCALE)
        if offsets is None:
            offsets = np.arange(n + 1)

        # Responses of the memory, before anything is written.
        src, lookups = self.fetch(source, lookups, _READ_ROW)
        old, renumbered = (self.fetch(target, targets, _READ_OLD_ROW) if d["sink"] == SGD
                           else (None, None))
        self.check_writes(target, targets)

        sums = segment_sums(src, lookups, offsets, None if weights is None else weights[:n])
        if scales is not None:
            sums = mul(sums, scales[:, np.newaxis])
        if d["sink"] == SGD:
            lr32 = np.uint32(d["lr"]).view(np.float32)
            results = sub(old[renumbered], mul(lr32, sums))
        else:
            results = sums
        self.store(target, targets, results)
        return n, len(targets)

    # descriptor

    def check_fields(self):
        d = self.descriptor
        row_bytes = 4 * d["dim"]

        def require(ok, name, limit=0):
            if not ok:
                raise Stop(_DESCRIPTOR, FIELD_BYTES[name], d[name], limit)

        for name in ("index_kind", "segment_kind", "target_kind"):
            require(d[name] <= INT64, name, INT64)
        require(d["sink"] <= SGD, "sink", SGD)
        require(not d["scaled"] or d["sink"] == WRITE, "scaled")
        require(not d["waits"] or self.cast_unit, "waits")
        require(not d["counted"] or d["segment_kind"] != SEQUENTIAL, "counted")
        require(0 < d["dim"] <= self.dim_max and d["dim"] % self.lanes == 0, "dim", self.dim_max)
        if d["segment_kind"] == SEQUENTIAL:
            require(d["n_segments"] == d["n_lookups"], "n_segments", d["n_lookups"])
        for base, stride in (("src_base", "src_stride"), ("dst_base", "dst_stride")):
            require(d[base] % self.beat_bytes == 0, base)
            require(d[stride] % self.beat_bytes == 0
                    and row_bytes <= d[stride] < self.beat_bytes << 16, stride, row_bytes)
        for base, kind in (("index_base", "index_kind"), ("offset_base", "segment_kind"),
                           ("target_base", "target_kind")):
            if d[kind] != SEQUENTIAL:
                require(d[base] % (4 if d[kind] == INT32 else 8) == 0, base)
        for base, flag in (("weight_base", "weighted"), ("scale_base", "scaled"),
                           ("count_base", "counted")):
            require(not d[flag] or d[base] % 4 == 0, base)

    # integer arrays

    def count(self):
        """Return the number of segments that stands in memory."""
        d = self.descriptor
        value = int(self.array(d["count_base"], INT32, 1, _READ_COUNT)[0]) & 0xFFFFFFFF
        if value > d["n_segments"]:
            raise Stop(_SEGMENT_COUNT, 0, value, d["n_segments"])
        return value

    def factors(self, flag, base, count, reader):
        """Return the binary32 array at ``base``, or None where the descriptor does not use it."""
        if not self.descriptor[flag]:
            return None
        array = self.array(self.descriptor[base], INT32, count, reader)
        return array.astype(np.int32).view(np.float32)

    def offsets(self):
        """Return the checked offsets, or None where each lookup is its own segment."""
        d = self.descriptor
        if d["segment_kind"] == SEQUENTIAL:
            return None
        return self.offset_array(d["offset_base"], d["segment_kind"], d["n_segments"] + 1,
                                 d["n_lookups"], _READ_OFFSET)

    def lookups(self, source, n):
        """Return the checked row of each of the first ``n`` lookups, int64 [n]."""
        d = self.descriptor
        if d["index_kind"] == SEQUENTIAL:
            # One more than there are rows is enough to find the fault.
            numbers = np.arange(min(n, d["src_rows"] + 1))
        else:
            numbers = self.array(d["index_base"], d["index_kind"], d["n_lookups"],
                                 _READ_INDEX)[:n]
        beyond = (numbers < 0) | (numbers >= d["src_rows"])
        outside = source.outside(self.guard, numbers, write=False)
        wrong = beyond | outside
        if wrong.any():
            i = int(np.argmax(wrong))
            if beyond[i]:
                raise Stop(_INDEX_RANGE, i, numbers[i], d["src_rows"])
            address = self.guard.first_outside(source.address(int(numbers[i])), source.n_bytes,
                                               write=False)
            raise Stop(_WINDOW_READ, i, address, _READ_ROW)
        return numbers

    def targets(self, target):
        """Return the checked target row of each segment, int64 [S]."""
        d = self.descriptor
        if d["target_kind"] == SEQUENTIAL:
            numbers = np.arange(min(d["n_segments"], d["dst_rows"] + 1))
        else:
            numbers = self.array(d["target_base"], d["target_kind"], d["n_segments"],
                                 _READ_TARGET)
        beyond = (numbers < 0) | (numbers >= d["dst_rows"])
        stuck = unread = np.zeros(len(numbers), bool)
        if d["sink"] == SGD:
            stuck = np.append(False, numbers[1:] <= numbers[:-1])[:len(numbers)]
            unread = target.outside(self.guard, numbers, write=False)
        unwritten = target.outside(self.guard, numbers, write=True)
        wrong = beyond | stuck | unread | unwritten
        if wrong.any():
            s = int(np.argmax(wrong))
            if beyond[s]:
                raise Stop(_TARGET_RANGE, s, numbers[s], d["dst_rows"])
            if stuck[s]:
                raise Stop(_TARGET_ORDER, s, numbers[s], numbers[s - 1])
            write = not unread[s]
            address = self.guard.first_outside(target.address(int(numbers[s])), target.n_bytes,
                                               write)
            raise Stop(_WINDOW_WRITE if write else _WINDOW_READ, s, address,
                        0 if write else _READ_OLD_ROW)
        return numbers

    # rows

    def fetch(self, rows, numbers, reader):
        """Return (table, renumbered) such that table[renumbered[i]] is row numbers[i]."""
        if len(numbers) == 0:
            return np.zeros((0, rows.dim), np.float32), numbers
        view, renumbered = rows.locate(self.memory, numbers, write=False)
        if view is not None:
            return view, renumbered
        found = rows.fault(self.memory, numbers, write=False)
        if found:
            position, fault = found
            into = (fault.address - rows.address(int(numbers[position]))) & ADDRESS_MASK
            beats = (position * rows.n_bytes + into) // self.beat_bytes
            raise Stop(_READ_RESPONSE, beats, fault.response, reader)
        distinct, renumbered = np.unique(numbers, return_inverse=True)
        data = b"".join(self.memory.read(rows.address(int(n)), rows.n_bytes) for n in distinct)
        return np.frombuffer(data, np.float32).reshape(len(distinct), rows.dim), renumbered

    def check_writes(self, target, targets):
        """Raise for the first target row that memory would refuse to write."""
        if len(targets) == 0 or target.locate(self.memory, targets, write=True)[0] is not None:
            return
        found = target.fault(self.memory, targets, write=True)
        if found:
            position, fault = found
            bursts = sum(len(self.bursts(target.address(int(n)), target.n_bytes))
                         for n in targets[:position])
            into = [at for at in self.bursts(target.address(int(targets[position])), target.n_bytes)
                    if at <= fault.address]
            raise Stop(_WRITE_RESPONSE, bursts + len(into) - 1, fault.response, 0)

    def bursts(self, address, n_bytes):
        """Return the address of each burst of a row: they end at multiples of the longest burst."""
        second = (address // self.burst_bytes + 1) * self.burst_bytes
        return [address, *range(second, address + n_bytes, self.burst_bytes)]

    def store(self, target, targets, results):
        """Write the rows, in order of segments."""
        if len(targets) == 0:
            return
        view, renumbered = target.locate(self.memory, targets, write=True)
        if view is not None:
            store_rows(view, renumbered, results)
            return
        for number, row in zip(targets, results, strict=True):
            self.memory.write(target.address(int(number)), row.tobytes())


def execute(memory, descriptor, *, lanes, dim_max, windows=None, slot=0, burst_beats_max=None,
            counters=None, cast_unit=True):
    """Execute one decoded descriptor on the memory image, whatever it waits for.

    Parameters
    ----------
    memory : Memory
        Changed in place.
    descriptor : mapping of str to int
        Field values, as ``hw.descriptor.unpack`` returns them.
    lanes : int
        binary32 elements in a beat.
    dim_max : int
        Longest row in elements.
    windows : sequence of Window or None
        What may be accessed; None is everything.
    slot : int
        Ring slot, for the error record.
    burst_beats_max : int or None
        Longest burst, which the position of a WRITE_RESPONSE error counts; None: 4 KiB.
    counters : dict of str to int or None
        ``rows``, ``segments``, ``row_beats``, ``w_beats`` and ``descriptors`` are increased by what
        a completed descriptor did.
    cast_unit : bool
        Whether there is one; without it no descriptor may wait for it.

    Returns
    -------
    ErrorRecord or None
        None: the descriptor completed.
    """
    check_environment()
    work = _Pass(memory, descriptor, lanes, dim_max, windows, burst_beats_max, cast_unit)
    try:
        n_rows, n_segments = work.run()
    except Stop as stop:
        code, *rest = stop.fields
        return ErrorRecord(code, slot, *rest)
    if counters is not None:
        row_beats = descriptor["dim"] // lanes
        for name, amount in (("rows", n_rows), ("segments", n_segments), ("descriptors", 1),
                             ("row_beats", n_rows * row_beats),
                             ("w_beats", n_segments * row_beats)):
            counters[name] = counters.get(name, 0) + amount
    return None


class RegisterError(RuntimeError):
    """A register access that the bus answers with SLVERR; nothing has changed."""


class Machine:
    """The engine behind its registers: what the driver talks to (``host.io.EngineIo``).

    Parameters
    ----------
    config : hw.config.EngineConfig
        What engine it is.
    registers : module
        ``hw.registers``: the register map, its constants and the number of windows.
    descriptor : module
        ``hw.descriptor``: the layouts of descriptors and how to unpack them.
    """

    def __init__(self, config, registers, descriptor):
        self.memory = Memory()
        self.counters = {}
        self._config = config
        self._registers = registers
        self._unpack = descriptor.unpack
        self._lanes = config.data_width // 32
        self._layouts = {"": descriptor.FIELDS}  # of each unit's descriptors, by its prefix
        if config.cast_port:
            self._layouts["cast_"] = descriptor.CAST_FIELDS
        self._waiting = {}  # prefix -> the descriptor that waits for the other unit
        self._by_name = registers.by_name()
        self._by_offset = {register.offset: register for register in registers.REGISTERS}
        self._lockable = {name for n in range(registers.N_WINDOWS) for name in self._by_name
                          if name.startswith(f"window{n}_")}
        self._values = {name: register.reset for name, register in self._by_name.items()}
        self._values |= registers.constant_values(config)

    # fields and pairs of registers

    def _set(self, name, **fields):
        for field in self._by_name[name].fields:
            if field.name in fields:
                self._values[name] &= ~field.mask
                self._values[name] |= int(fields[field.name]) << field.lsb & field.mask

    def _get(self, name, field="value"):
        found = next(f for f in self._by_name[name].fields if f.name == field)
        return (self._values[name] & found.mask) >> found.lsb

    def _pair(self, name):
        return self._values[f"{name}_lo"] | self._values[f"{name}_hi"] << 32

    def _set_pair(self, name, value):
        self._values[f"{name}_lo"] = value & 0xFFFFFFFF
        self._values[f"{name}_hi"] = value >> 32 & 0xFFFFFFFF

    def _register(self, offset):
        if offset not in self._by_offset:
            raise RegisterError(f"offset must be that of a register, not {offset!r} (SLVERR)")
        return self._by_offset[offset]

    # EngineIo

    def read_register(self, offset):
        """Return the 32-bit register at byte ``offset``; RegisterError where there is none."""
        return self._values[self._register(offset).name]

    def write_register(self, offset, value):
        """Write a 32-bit register; all that this starts has completed when it returns.

        RegisterError where the bus answers SLVERR: no register, one that is only read, a window
        after the lock. ValueError for a value that is not of 32 bits.
        """
        register = self._register(offset)
        value = int(value)
        if not 0 <= value < 1 << 32:
            raise ValueError(f"value must be from 0 to 2**32 - 1, not {value!r}")
        name, access = register.name, self._registers.Access
        if all(field.access == access.R for field in register.fields):
            raise RegisterError(f"offset must be that of a writable register, not {offset!r}: "
                                f"{name} is only read (SLVERR)")
        if name in self._lockable and self._values["window_lock"]:
            raise RegisterError(f"offset must not be that of a window after window_lock, "
                                f"not {offset!r}: {name} (SLVERR)")
        for field in register.fields:
            part = value & field.mask
            if field.access == access.RW:
                fixed = field.fixed << field.lsb
                kept = self._values[name] & (~field.mask | fixed)
                self._values[name] = kept | part & ~fixed
            elif field.access == access.W1S:
                self._values[name] |= part
            elif field.access == access.W1C:
                self._values[name] &= ~part
            elif field.access == access.PULSE and part:
                self._pulse(field.name)
        self._run()

    def map(self, address, array, writable=True):
        """Make the bytes of ``array`` the memory from ``address`` on; see Memory.map."""
        self.memory.map(address, array, writable)

    def unmap(self, address):
        """Remove the array mapped at ``address``."""
        self.memory.unmap(address)

    def wait(self, max_cycles):
        """Return whether irq is high; there is nothing to wait for."""
        return bool(self._values["irq_status"] & self._values["irq_enable"])

    def close(self):
        """Forget every mapping."""
        self.memory = Memory()

    # behaviour

    def _pulse(self, field):
        if field == "clear_counters":
            self.counters = {}
            for name in self._values:
                if name.startswith("counter_"):
                    self._values[name] = 0
            return
        # soft_reset
        for name in ("error_code", "error_descriptor", "error_position", "error_value_lo",
                     "error_value_hi", "error_limit_lo", "error_limit_hi", "error_unit",
                     "ring_head", "ring_tail", "completed", "cast_ring_head", "cast_ring_tail",
                     "cast_completed", "cast_segments"):
            self._values[name] = 0
        self._waiting = {}
        self._set("control", enable=0)
        self._set("status", error=0)

    def _windows(self):
        return [Window(self._pair(f"window{n}_base"), self._pair(f"window{n}_limit"),
                       bool(self._get(f"window{n}_access", "read")),
                       bool(self._get(f"window{n}_access", "write")))
                for n in range(self._registers.N_WINDOWS)]

    def _run(self):
        """Execute descriptors until none can go on or an error stops the engine."""
        while any([self._run_ring(prefix) for prefix in self._layouts]):
            pass
        self._set("status", busy=bool(self._waiting) and not self._get("status", "error"))
        for name, value in self.counters.items():
            self._set_pair(f"counter_{name}", value)

    def _run_ring(self, prefix):
        """Execute descriptors of one ring until it is empty or waits; return whether one was."""
        completed = 0
        while not self._get("status", "error"):
            slot = self._values[f"{prefix}ring_head"]
            descriptor, record = self._next(prefix, slot)
            if record is not None:
                self._stop(record)
            if descriptor is None or self._waits(prefix, descriptor):
                break
            record = self._execute(prefix, descriptor, slot)
            if record is not None:
                self._stop(record)
                break
            completed += 1
            self._values[f"{prefix}ring_head"] = (slot + 1) % self._slots(prefix)
            self._values[f"{prefix}completed"] = (self._values[f"{prefix}completed"] + 1) % 2**32
            if descriptor["interrupt"]:
                self._set("irq_status", **{f"{prefix}done": 1})
        return completed

    def _slots(self, prefix):
        return 1 << self._values[f"{prefix}ring_size_log2"]

    def _next(self, prefix, slot):
        """Return (descriptor, None), (None, error record), or (None, None) if there is none."""
        if prefix in self._waiting:
            return self._waiting.pop(prefix), None
        if (not self._get("control", "enable")
                or slot == self._values[f"{prefix}ring_tail"] % self._slots(prefix)):
            return None, None
        descriptor, record = self._fetch(prefix, slot)
        if record is None:
            # A bad descriptor does not wait.
            try:
                self._work(prefix, descriptor).check_fields()
            except Stop as stop:
                record = self._record(prefix, slot, *stop.fields)
        return (descriptor, None) if record is None else (None, record)

    def _waits(self, prefix, descriptor):
        """Return whether a descriptor waits for the other unit; it is kept until then."""
        other = "" if prefix else "cast_"
        behind = (self._values[f"{other}completed"] - descriptor["wait_count"]) % 2**32 >= 2**31
        if descriptor["waits"] and behind:
            self._waiting[prefix] = descriptor
            return True
        return False

    def _work(self, prefix, descriptor):
        """Return the descriptor at work."""
        if prefix:
            return CastPass(self.memory, descriptor, self._config, self._windows())
        return _Pass(self.memory, descriptor, self._lanes, self._config.dim_max, self._windows(),
                     self._config.burst_beats_max, bool(self._config.cast_port))

    def _execute(self, prefix, descriptor, slot):
        """Execute a descriptor; return an error record or None."""
        if not prefix:
            return execute(
                self.memory, descriptor, lanes=self._lanes, dim_max=self._config.dim_max,
                windows=self._windows(), slot=slot, cast_unit=bool(self._config.cast_port),
                burst_beats_max=self._config.burst_beats_max, counters=self.counters)
        record, segments = execute_cast(self.memory, descriptor, self._config,
                                        windows=self._windows(), slot=slot)
        if record is None:
            self._values["cast_segments"] = segments
            self.counters["casts"] = self.counters.get("casts", 0) + 1
        return record

    @staticmethod
    def _record(prefix, slot, code, position, value, limit):
        return ErrorRecord(code, slot, position, value, limit, int(bool(prefix)))

    def _fetch(self, prefix, slot):
        """Return (descriptor, None), or (None, error record)."""
        address = (self._pair(f"{prefix}ring_base") + DESCRIPTOR_BYTES * slot) & ADDRESS_MASK
        outside = Guard(self._windows()).first_outside(address, DESCRIPTOR_BYTES, write=False)
        if outside is not None:
            return None, self._record(prefix, slot, _WINDOW_READ, slot, outside, _READ_DESCRIPTOR)
        try:
            data = self.memory.read(address, DESCRIPTOR_BYTES)
        except MemoryFault as fault:
            beats = ((fault.address - address) & ADDRESS_MASK) // (4 * self._lanes)
            return None, self._record(prefix, slot, _READ_RESPONSE, beats, fault.response,
                                      _READ_DESCRIPTOR)
        return self._unpack(data, self._layouts[prefix]), None

    def _stop(self, record):
        self._values["error_code"] = record.code
        self._values["error_descriptor"] = record.descriptor
        self._values["error_unit"] = record.unit
        self._values["error_position"] = record.position & 0xFFFFFFFF
        self._set_pair("error_value", record.value)
        self._set_pair("error_limit", record.limit)
        self._set("status", error=1)
        self._set("irq_status", error=1)
