"""The register map: the only definition of the AXI4-Lite registers.

The register bank, the driver, the C header and the reference in docs/ are generated from it.
All registers are 32 bits wide; 64-bit facts stand in two of them, low half first.
"""

from dataclasses import dataclass
from enum import IntEnum

from .fields import Access, Field

__all__ = ["ADDRESS_WIDTH", "COUNTERS", "ID_VALUE", "N_WINDOWS", "REGISTERS", "VERSION", "ErrorCode",
           "Reader", "Register", "by_name"]

ADDRESS_WIDTH = 12
ID_VALUE = int.from_bytes(b"TCST", "little")
VERSION = (0, 1, 0)  # major, minor, patch of the register map and the descriptor
N_WINDOWS = 4


class ErrorCode(IntEnum):
    """What stopped the engine, with what the record's position, value and limit then hold."""

    NONE = 0
    DESCRIPTOR = 1      # position: byte offset of the bad field; value: the field; limit: its limit or 0
    INDEX_RANGE = 2     # position: lookup; value: the index (sign-extended); limit: src_rows
    TARGET_RANGE = 3    # position: segment; value: the target; limit: dst_rows
    TARGET_ORDER = 4    # position: segment; value: the target; limit: the target before it
    OFFSET_FIRST = 5    # position: 0; value: offsets[0]; limit: 0
    OFFSET_ORDER = 6    # position: s where offsets[s] < offsets[s-1]; value: offsets[s]; limit: offsets[s-1]
    OFFSET_RANGE = 7    # position: s where offsets[s] > n_lookups; value: offsets[s]; limit: n_lookups
    WINDOW_READ = 8     # position: element or row; value: address; limit: the reader (enum Reader)
    WINDOW_WRITE = 9    # position: segment; value: address; limit: 0
    READ_RESPONSE = 10  # position: beats this reader had received; value: RRESP; limit: the reader
    WRITE_RESPONSE = 11 # position: bursts answered so far; value: BRESP; limit: 0


class Reader(IntEnum):
    """Who reads: the AXI ID of its bursts. Smaller numbers are served first."""

    DESCRIPTOR = 0
    OFFSET = 1
    INDEX = 2
    TARGET = 3
    OLD_ROW = 4
    ROW = 5


@dataclass(frozen=True)
class Register:
    """One 32-bit register: name, byte offset, meaning, fields."""

    name: str
    offset: int
    doc: str
    fields: tuple[Field, ...]

    @property
    def reset(self):
        """Value after reset (where it does not depend on the configuration)."""
        return sum(field.reset << field.lsb for field in self.fields)


def _word(name, offset, doc, access=Access.R, reset=0, enum=None, width=32):
    return Register(name, offset, doc, (Field("value", 0, width, doc, enum, access, reset),))


def _pair(name, offset, doc, access=Access.R):
    return (_word(f"{name}_lo", offset, f"{doc} Low half.", access),
            _word(f"{name}_hi", offset + 4, f"{doc} High half.", access))


#: Performance counters: name, and the exact condition under which it counts. The first group are
#: cycle counts of the read channel; they are exclusive and sum to `cycles`.
COUNTERS = (
    ("cycles", "Cycles from the first to the last one in which a descriptor is in work."),
    ("read_useful", "Cycles of `cycles` with an R beat transferred."),
    ("read_memory", "No R beat, but read bursts are outstanding: waiting for the memory."),
    ("read_address", "None outstanding, an AR is valid and not accepted."),
    ("read_credit", "None outstanding, a reader has a burst but no room for its data: the reducer or the writer holds it up."),
    ("read_index", "None outstanding, segments are waiting for lookups, and no index has arrived."),
    ("read_offset", "None outstanding, lookups are waiting for their segment's offsets."),
    ("read_drain", "None outstanding, every read of the descriptors in work is done: writes are finishing."),
    ("read_overhead", "All the rest: descriptor fetch and decode, pipeline fill."),
    ("r_beats", "R beats transferred, all readers."),
    ("row_beats", "R beats of gathered rows."),
    ("w_beats", "W beats transferred."),
    ("w_stall", "Cycles with WVALID and not WREADY."),
    ("read_bursts", "AR transfers."),
    ("write_bursts", "AW transfers."),
    ("rows", "Lookups issued."),
    ("segments", "Segments completed by the reducer."),
    ("steady_cycles", "Cycles from the first beat of a gathered row to the last R or W beat, both counted."),
    ("descriptors", "Descriptors completed."),
)

_RW = Access.RW


def _registers():
    yield _word("id", 0x000, "Identity: the characters `TCST`.", reset=ID_VALUE)
    yield Register("version", 0x004, "Version of the register map and descriptor layout.", (
        Field("patch", 0, 8, "Patch.", reset=VERSION[2]), Field("minor", 8, 8, "Minor.", reset=VERSION[1]),
        Field("major", 16, 8, "Major.", reset=VERSION[0])))
    yield _word("config_hash", 0x008, "Hash of the configuration the engine was generated from.")
    yield Register("capability", 0x00C, "What this engine can do.", (
        Field("lanes", 0, 8, "binary32 lanes; a beat is 4 × lanes bytes."),
        Field("dim_max", 8, 12, "Largest row in elements."),
        Field("windows", 20, 4, "Number of address windows.", reset=N_WINDOWS)))
    yield Register("feature", 0x010, "Optional features.", (
        Field("sgd", 0, 1, "Sink SGD.", reset=1),
        Field("weighted", 1, 1, "Per-lookup weights.", reset=0),
        Field("scaled", 2, 1, "Per-segment scales.", reset=0),
        Field("rowwise_adagrad", 3, 1, "Row-wise Adagrad.", reset=0),
        Field("cast", 4, 1, "Cast unit.", reset=0)))
    yield Register("control", 0x020, "Control.", (
        Field("enable", 0, 1, "Fetch descriptors while head and tail differ.", access=_RW),
        Field("soft_reset", 1, 1,
              "Stop issuing, let every transfer in flight finish, then reset everything but this "
              "bank. Clears enable, ring_head, ring_tail and the error record.", access=Access.PULSE),
        Field("clear_counters", 2, 1, "Set every counter to 0.", access=Access.PULSE)))
    yield Register("status", 0x024, "Status.", (
        Field("busy", 0, 1, "A descriptor is in work, or transfers are in flight."),
        Field("error", 1, 1, "Stopped by an error; the record holds the first. Only a soft reset leaves this state."),
        Field("resetting", 2, 1, "A soft reset waits for transfers in flight.")))
    for name, offset, access in (("irq_status", 0x028, Access.W1C), ("irq_enable", 0x02C, _RW)):
        yield Register(name, offset, {"irq_status": "Interrupt causes; the irq output is the OR of those enabled.",
                                      "irq_enable": "Which causes raise irq."}[name], (
            Field("done", 0, 1, "A descriptor with its interrupt bit completed.", access=access),
            Field("error", 1, 1, "The engine stopped with an error.", access=access)))
    yield from _pair("ring_base", 0x030, "Address of the descriptor ring, a multiple of 128 bytes.", _RW)
    yield _word("ring_size_log2", 0x038, "Log2 of the ring's descriptors, 0 to 15.", _RW, width=4)
    yield _word("ring_tail", 0x03C, "Slot behind the last descriptor handed over. Writing it hands over.", _RW, width=16)
    yield _word("ring_head", 0x040, "Slot of the oldest descriptor not completed.", width=16)
    yield _word("error_code", 0x050, "What stopped the engine.", enum=ErrorCode, width=8)
    yield _word("error_descriptor", 0x054, "Ring slot of the descriptor at fault.", width=16)
    yield _word("error_position", 0x058, "Where in it; the unit depends on the code.")
    yield from _pair("error_value", 0x060, "The value at fault.")
    yield from _pair("error_limit", 0x068, "The limit that it broke.")
    yield _word("window_lock", 0x07C, "Write 1 to make the windows read-only until the next hardware reset.", _RW, width=1)
    for n in range(N_WINDOWS):
        base = 0x080 + 0x20 * n
        yield from _pair(f"window{n}_base", base, f"Window {n}: first byte, a multiple of 4 KiB.", _RW)
        yield from _pair(f"window{n}_limit", base + 8, f"Window {n}: last byte, one less than a multiple of 4 KiB.", _RW)
        yield Register(f"window{n}_access", base + 16, f"Window {n}: what it allows; 0 closes it.", (
            Field("read", 0, 1, "Reads allowed.", access=_RW), Field("write", 1, 1, "Writes allowed.", access=_RW)))
    for n, (name, doc) in enumerate(COUNTERS):
        yield from _pair(f"counter_{name}", 0x200 + 8 * n, doc + " 64 bits; read while the engine is idle.")


REGISTERS = tuple(_registers())


def by_name():
    """Return the registers as a dict of name to Register."""
    return {register.name: register for register in REGISTERS}
