"""Fields of registers and descriptors: one definition, from which everything else is generated."""

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["Access", "Field", "enum_doc"]


class Access:
    """How the bus may use a register.

    R is read only; RW read-write; W1C write one to clear; W1S write one to set, cleared by the
    hardware reset alone; PULSE starts something when one is written and reads as 0.
    """

    R = "R"
    RW = "RW"
    W1C = "W1C"
    W1S = "W1S"
    PULSE = "W"


@dataclass(frozen=True)
class Field:
    """A run of bits with a name and a meaning.

    Attributes
    ----------
    name : str
        snake_case name.
    lsb : int
        Position of the lowest bit, counted from bit 0 of the containing structure.
    width : int
        Bits.
    doc : str
        Meaning, with its unit.
    enum : type[IntEnum] or None
        Named values, where the field has any.
    access : str
        For registers: one of Access.
    reset : int
        For registers: value after reset.
    fixed : int
        For registers: mask, inside the field, of the bits that keep their reset value whatever is
        written.
    """

    name: str
    lsb: int
    width: int
    doc: str
    enum: type[IntEnum] | None = field(default=None)
    access: str = Access.R
    reset: int = 0
    fixed: int = 0

    @property
    def mask(self):
        """Mask of the field inside its structure."""
        return ((1 << self.width) - 1) << self.lsb


def enum_doc(enum):
    """Return the named values of ``enum`` as one line of text."""
    return ", ".join(f"{int(member)} {member.name}" for member in enum)
