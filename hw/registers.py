"""The register map: the only definition of the AXI4-Lite registers.

The register bank, the driver, the C header and the reference in docs/ are generated from it.
All registers are 32 bits wide; 64-bit facts stand in two of them, low half first.

Rules that hold for every register:

- An access to an address without a register, and a write to a register that is only read, is
  answered with SLVERR and changes nothing; so is a write to a window once window_lock is 1.
- Write strobes are honoured: a byte lane that is not strobed keeps its bits, sets no interrupt
  cause to 0 and starts nothing.
- Bits without a field read as 0, and writes to them are ignored. The two lowest address bits are
  ignored.
- Fixed bits ignore what is written, for reading and for the engine: the low 7 bits of ring_base and
  the low 12 bits of a window's base are always 0, the low 12 bits of a window's limit always 1.
"""

from dataclasses import dataclass
from enum import IntEnum

from .fields import Access, Field

__all__ = ["ADDRESS_WIDTH", "CAST_COUNTERS", "COUNTERS", "ERROR_DOC", "ID_VALUE", "N_WINDOWS",
           "REGISTERS", "START_CYCLES", "VERSION", "CastReader", "ErrorCode", "ErrorDoc", "Reader",
           "Register", "by_name", "constant_values"]

ADDRESS_WIDTH = 12
ID_VALUE = int.from_bytes(b"TCST", "little")
VERSION = (0, 2, 0)  # major, minor, patch of the register map and the descriptor
N_WINDOWS = 4
#: Cycles from a descriptor's last R beat to the first one with the descriptor in work.
START_CYCLES = 7


class ErrorCode(IntEnum):
    """What stopped the engine; ERROR_DOC says what the rest of the record then holds."""

    NONE = 0
    DESCRIPTOR = 1
    INDEX_RANGE = 2
    TARGET_RANGE = 3
    TARGET_ORDER = 4
    OFFSET_FIRST = 5
    OFFSET_ORDER = 6
    OFFSET_RANGE = 7
    WINDOW_READ = 8
    WINDOW_WRITE = 9
    READ_RESPONSE = 10
    WRITE_RESPONSE = 11
    OFFSET_LAST = 12
    SEGMENT_COUNT = 13


class Reader(IntEnum):
    """Who reads: the AXI ID of its bursts. Smaller numbers are served first."""

    DESCRIPTOR = 0
    OFFSET = 1
    INDEX = 2
    WEIGHT = 3
    TARGET = 4
    SCALE = 5
    OLD_ROW = 6
    ROW = 7
    COUNT = 8


class CastReader(IntEnum):
    """Who reads in the cast unit. Smaller numbers are served first."""

    DESCRIPTOR = 0
    OFFSET = 1
    INDEX = 2
    PAIR = 3


@dataclass(frozen=True)
class ErrorDoc:
    """What happened, and what error_position, error_value and error_limit hold then."""

    what: str
    position: str
    value: str
    limit: str


ERROR_DOC = {
    ErrorCode.NONE: ErrorDoc("No error.", "0", "0", "0"),
    ErrorCode.DESCRIPTOR: ErrorDoc(
        "A descriptor field is not allowed.", "byte offset of the field", "the field",
        "its limit, or 0 where it has none"),
    ErrorCode.INDEX_RANGE: ErrorDoc(
        "An index is outside the source rows, or the rows of a cast.", "number of the lookup",
        "the index, sign-extended", "src_rows or num_rows"),
    ErrorCode.TARGET_RANGE: ErrorDoc(
        "A target is outside the destination rows.", "number of the segment",
        "the target, sign-extended", "dst_rows"),
    ErrorCode.TARGET_ORDER: ErrorDoc(
        "The targets of an SGD descriptor do not strictly increase.", "number of the segment",
        "the target", "the target before it"),
    ErrorCode.OFFSET_FIRST: ErrorDoc(
        "The first offset is not 0.", "0", "offsets[0]", "0"),
    ErrorCode.OFFSET_ORDER: ErrorDoc(
        "An offset is smaller than the one before it.", "s, where offsets[s] < offsets[s-1]",
        "offsets[s]", "offsets[s-1]"),
    ErrorCode.OFFSET_RANGE: ErrorDoc(
        "An offset is larger than the number of lookups.", "s, where offsets[s] > n_lookups",
        "offsets[s]", "n_lookups"),
    ErrorCode.WINDOW_READ: ErrorDoc(
        "A read would leave the windows that allow reading; it was not issued.",
        "number of the element or row", "the address",
        "the reader (enum Reader, or CastReader)"),
    ErrorCode.WINDOW_WRITE: ErrorDoc(
        "A write would leave the windows that allow writing; it was not issued.",
        "number of the segment, or 0 in a cast", "the address", "0"),
    ErrorCode.READ_RESPONSE: ErrorDoc(
        "The memory answered a read with an error.",
        "beats that this reader had received since no descriptor was in work", "RRESP",
        "the reader (enum Reader, or CastReader)"),
    ErrorCode.WRITE_RESPONSE: ErrorDoc(
        "The memory answered a write with an error.",
        "bursts answered since no descriptor was in work", "BRESP", "0"),
    ErrorCode.OFFSET_LAST: ErrorDoc(
        "The last offset of a cast is not its number of lookups.", "n_bags", "offsets[n_bags]",
        "n_lookups"),
    ErrorCode.SEGMENT_COUNT: ErrorDoc(
        "The number of segments that was read from memory is above n_segments.", "0",
        "the number", "n_segments"),
}


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


def _word(name, offset, doc, access=Access.R, reset=0, enum=None, width=32, fixed=0):
    return Register(name, offset, doc,
                    (Field("value", 0, width, doc, enum, access, reset, fixed),))


def _pair(name, offset, doc, access=Access.R, reset=0, fixed=0):
    return (_word(f"{name}_lo", offset, f"{doc} Low half.", access, reset, fixed=fixed),
            _word(f"{name}_hi", offset + 4, f"{doc} High half.", access))


#: Performance counters: name, and the exact condition under which it counts. The first group are
#: cycle counts of the read channel; they are exclusive and sum to `cycles`.
COUNTERS = (
    ("cycles", "Cycles in which a descriptor waits in the ring, is fetched, is checked or is in "
               "work, unless an error or a soft reset has stopped the engine."),
    ("read_useful", "Cycles of `cycles` with an R beat transferred, a descriptor's too."),
    ("read_memory", "No R beat, but read bursts are outstanding: waiting for the memory."),
    ("read_address", "None outstanding, an AR is valid: its first cycle, and those in which it is "
                     "not accepted."),
    ("read_credit", "None outstanding, a reader has a burst but no room for its data: the reducer "
                    "or the writer holds it up."),
    ("read_index", "None outstanding, a segment waits for its next lookup's index or weight."),
    ("read_offset", "None outstanding, lookups are waiting for their segment's offsets."),
    ("read_drain", "None outstanding, a descriptor is in work and no lookup is left to issue: sums "
                   "and writes are finishing."),
    ("read_overhead", "All the rest: descriptor fetch and decode, pipeline fill."),
    ("r_beats", "R beats transferred, all readers."),
    ("row_beats", "R beats of gathered rows."),
    ("w_beats", "W beats transferred."),
    ("w_stall", "Cycles with WVALID and not WREADY."),
    ("read_bursts", "AR transfers."),
    ("write_bursts", "AW transfers."),
    ("rows", "Lookups issued."),
    ("segments", "Segments completed by the reducer."),
    ("steady_cycles", "Cycles from the first beat of a gathered row to the last R or W beat, both "
                      "counted."),
    ("descriptors", "Descriptors completed."),
    ("steady_r_beats", "R beats from the first beat of a gathered row on, but for descriptors."),
    ("steady_w_beats", "W beats from the first beat of a gathered row on."),
    ("work_cycles", f"Cycles from the first one with a descriptor in work, {START_CYCLES} behind "
                    "the descriptor's last R beat, to the last R or W beat, both counted."),
)

#: Counters of the cast unit; 0 where there is none.
CAST_COUNTERS = (
    ("cast_cycles", "Cycles in which a cast waits in its ring, is fetched, is checked, waits or is "
                    "in work, unless an error or a soft reset has stopped the engine."),
    ("cast_work_cycles", "Those of them in which a cast is in work."),
    ("cast_r_beats", "R beats of the cast unit."),
    ("cast_w_beats", "W beats of the cast unit."),
    ("cast_read_bursts", "AR transfers of the cast unit."),
    ("cast_write_bursts", "AW transfers of the cast unit."),
    ("casts", "Casts completed."),
)

_RW = Access.RW
_PAGE_MASK = 0xFFF


def _irq(name, offset, doc, access):
    return Register(name, offset, doc, (
        Field("done", 0, 1, "A descriptor with its interrupt bit completed.", access=access),
        Field("error", 1, 1, "The engine stopped with an error.", access=access),
        Field("cast_done", 2, 1, "A cast with its interrupt bit completed.", access=access)))


def _registers():
    yield _word("id", 0x000, "Identity: the characters `TCST`.", reset=ID_VALUE)
    yield Register("version", 0x004, "Version of the register map and descriptor layout.", (
        Field("patch", 0, 8, "Patch.", reset=VERSION[2]),
        Field("minor", 8, 8, "Minor.", reset=VERSION[1]),
        Field("major", 16, 8, "Major.", reset=VERSION[0])))
    yield _word("config_hash", 0x008, "Hash of the configuration the engine was generated from.")
    yield Register("capability", 0x00C, "What this engine can do.", (
        Field("lanes", 0, 8, "binary32 lanes; a beat has four bytes for each."),
        Field("dim_max", 8, 12, "Largest row in elements."),
        Field("windows", 20, 4, "Number of address windows.", reset=N_WINDOWS)))
    yield Register("feature", 0x010, "Optional features.", (
        Field("sgd", 0, 1, "Sink SGD.", reset=1),
        Field("weighted", 1, 1, "Per-lookup weights.", reset=1),
        Field("scaled", 2, 1, "Per-segment scales, with the sink WRITE.", reset=1),
        Field("rowwise_adagrad", 3, 1, "Row-wise Adagrad.", reset=0),
        Field("cast", 4, 1, "Cast unit.")))
    yield Register("control", 0x020, "Control.", (
        Field("enable", 0, 1, "Fetch descriptors while head and tail of a ring differ.",
              access=_RW),
        Field("soft_reset", 1, 1,
              "Stop issuing, let every transfer in flight finish, then reset everything but this "
              "bank. Clears enable, both rings' heads, tails and counts, and the error record.",
              access=Access.PULSE),
        Field("clear_counters", 2, 1, "Set every counter to 0.", access=Access.PULSE)))
    yield Register("status", 0x024, "Status.", (
        Field("busy", 0, 1, "A descriptor is in work, or transfers are in flight."),
        Field("error", 1, 1, "Stopped by an error; the record holds the first. Only a soft reset "
                             "leaves this state."),
        Field("resetting", 2, 1, "A soft reset waits for transfers in flight.")))
    yield _irq("irq_status", 0x028,
               "Interrupt causes; the irq output is the OR of those enabled. A cause that arrives "
               "while it is being cleared stays set.", Access.W1C)
    yield _irq("irq_enable", 0x02C, "Which causes raise irq.", _RW)
    yield from _pair("ring_base", 0x030, "Address of the descriptor ring, a multiple of 128 bytes.",
                     _RW, fixed=0x7F)
    yield _word("ring_size_log2", 0x038, "Log2 of the ring's descriptors, 0 to 15.", _RW,
                width=4)
    yield _word("ring_tail", 0x03C,
                "Slot behind the last descriptor handed over. Writing it hands over.", _RW,
                width=16)
    yield _word("ring_head", 0x040, "Slot of the oldest descriptor not completed.", width=16)
    yield _word("completed", 0x044, "Descriptors of this ring completed, modulo 2**32.")
    yield _word("error_code", 0x050, "What stopped the engine.", enum=ErrorCode, width=8)
    yield _word("error_descriptor", 0x054, "Ring slot of the descriptor at fault.", width=16)
    yield _word("error_position", 0x058, "Where in it; the unit depends on the code.")
    yield _word("error_unit", 0x05C, "Whose descriptor: 0 the gather-scatter unit's, 1 the cast "
                                     "unit's.", width=1)
    yield from _pair("error_value", 0x060, "The value at fault.")
    yield from _pair("error_limit", 0x068, "The limit that it broke.")
    yield _word("window_lock", 0x07C,
                "Write 1 to make the windows read-only until the next hardware reset.",
                Access.W1S, width=1)
    for n in range(N_WINDOWS):
        base = 0x080 + 0x20 * n
        yield from _pair(f"window{n}_base", base, f"Window {n}: first byte, a multiple of 4 KiB.",
                         _RW, fixed=_PAGE_MASK)
        yield from _pair(f"window{n}_limit", base + 8,
                         f"Window {n}: last byte, one less than a multiple of 4 KiB.", _RW,
                         reset=_PAGE_MASK, fixed=_PAGE_MASK)
        yield Register(f"window{n}_access", base + 16,
                       f"Window {n}: what it allows; 0 closes it.", (
                           Field("read", 0, 1, "Reads allowed.", access=_RW),
                           Field("write", 1, 1, "Writes allowed.", access=_RW)))
    yield from _pair("cast_ring_base", 0x100,
                     "Address of the cast unit's ring, a multiple of 128 bytes.", _RW, fixed=0x7F)
    yield _word("cast_ring_size_log2", 0x108, "Log2 of that ring's descriptors, 0 to 15.", _RW,
                width=4)
    yield _word("cast_ring_tail", 0x10C,
                "Slot behind the last cast handed over. Writing it hands over.", _RW, width=16)
    yield _word("cast_ring_head", 0x110, "Slot of the oldest cast not completed.", width=16)
    yield _word("cast_completed", 0x114, "Casts completed, modulo 2**32.")
    yield _word("cast_segments", 0x118, "U, the number of distinct rows, of the last cast.")
    for n, (name, doc) in enumerate(COUNTERS + CAST_COUNTERS):
        yield from _pair(f"counter_{name}", 0x200 + 8 * n,
                         f"{doc} 64 bits; read while the engine is idle.")


REGISTERS = tuple(_registers())


def by_name():
    """Return the registers as a dict of name to Register."""
    return {register.name: register for register in REGISTERS}


def constant_values(config):
    """Return the registers that say what the engine is, as a dict of name to 32-bit value.

    These never change in a given engine: they follow from the map and the configuration.

    Parameters
    ----------
    config : EngineConfig
        What the engine is generated from.
    """
    registers = by_name()
    values = {name: registers[name].reset for name in ("id", "version", "capability", "feature")}
    for field in registers["capability"].fields:
        if field.name == "lanes":
            values["capability"] |= config.derived.lanes << field.lsb
        elif field.name == "dim_max":
            values["capability"] |= config.dim_max << field.lsb
    cast = next(field for field in registers["feature"].fields if field.name == "cast")
    values["feature"] |= (config.cast_port != 0) << cast.lsb
    return {**values, "config_hash": config.hash}
