"""DRAM channels for the memory model: their timing from public sources, in engine cycles.

Each channel is a table of parameters in the unit of its source. One access (a burst of the DRAM) is
one beat of the engine's port and one cycle of the engine's clock; every parameter is converted to
cycles by rounding up, so that the model is never faster than the source allows. What the model
does with them is said in sim/cpp/dram.h.
"""

from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from math import ceil

__all__ = ["COUNTERS", "DRAMS", "OFF", "TABLES", "Channel", "Dram", "find_dram"]

#: Counters of the DRAM (sim/cpp/dram.h). Each cycle is in exactly one of the first six.
COUNTERS = ("read_cycles", "write_cycles", "idle_cycles", "refresh_cycles", "turn_cycles",
            "bank_cycles", "activates", "conflicts", "turns", "refreshes")


@dataclass(frozen=True, kw_only=True)
class Dram:
    """A DRAM channel and its controller as the memory model takes them.

    Attributes
    ----------
    beat_bytes : int
        Bytes of an access, which are those of a beat; 0 for no DRAM.
    groups, banks : int
        Bank groups, and banks in each; powers of two.
    row_bytes : int
        Bytes of an open row over the whole channel; a power of two.
    interleave : int
        Bytes in one bank before the next bank group; a power of two, at least a beat and at most
        row_bytes.
    tCL ... tRFC : int
        JEDEC's parameters in engine cycles. tRTW is the gap on the data bus between a read and a
        write; tREFI 0 means no refresh.
    window : int
        Accesses of a direction among which the controller chooses.
    batch : int
        Accesses of a direction before the other one has its turn.
    """

    beat_bytes: int
    groups: int
    banks: int
    row_bytes: int
    interleave: int
    tCL: int
    tCWL: int
    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tCCD_S: int
    tCCD_L: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tRTP: int
    tWR: int
    tWTR_S: int
    tWTR_L: int
    tRTW: int
    tREFI: int
    tRFC: int
    window: int = 64
    batch: int = 64

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 0 <= value < 2**32:
                raise ValueError(f"{field.name} must be an int from 0 to 2**32 - 1, not {value!r}")
        for name in ("groups", "banks", "row_bytes", "interleave"):
            value = getattr(self, name)
            if value & (value - 1) or not value:
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if not self.beat_bytes <= self.interleave <= self.row_bytes:
            raise ValueError(f"interleave must be from beat_bytes to row_bytes, "
                             f"not {self.interleave!r}")
        for name in ("tCCD_S", "tCCD_L", "window", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")

    def cycles(self):
        """Return all numbers in the order of sim/cpp/dram.h."""
        return astuple(self)


@dataclass(frozen=True)
class Channel:
    """A DRAM channel as its sources give it.

    Attributes
    ----------
    title : str
        What it is.
    clock_mhz : int
        Clock of the DRAM, in which a time in "ck" counts.
    engine_mhz : int
        Clock of the engine, one beat of which takes as long as one access.
    organisation : dict of str to (int, str)
        beat_bytes, groups, banks, row_bytes and interleave, each with its source.
    timing : dict of str to (number, str, str)
        Value, unit ("ns" or "ck", or "ns >= N ck" for the longer of the two) and source.
    """

    title: str
    clock_mhz: int
    engine_mhz: int
    organisation: dict
    timing: dict

    def engine_cycles(self, name):
        """Return a parameter in engine cycles, rounded up."""
        value, unit, _ = self.timing[name]
        clocks = Fraction(str(value))
        if unit != "ck":
            clocks = clocks * self.clock_mhz / 1000
            if unit != "ns":
                clocks = max(clocks, int(unit.split()[2]))
        return ceil(clocks * self.engine_mhz / self.clock_mhz)

    def dram(self, **changes):
        """Return the Dram, with ``changes`` applied."""
        numbers = {name: value for name, (value, _) in self.organisation.items()}
        numbers |= {name: self.engine_cycles(name) for name in self.timing}
        return Dram(**numbers | changes)


_JEDEC = "JESD79-4, DDR4-2400"
_MICRON = "Micron MT40A1G8-083E (8 Gb x8, DDR4-2400 16-16-16) data sheet"
_DRAMSIM = "DRAMsim3 HBM2_8Gb_x128 (tCK 1 ns)"

#: For the preset ddr512: a 64-bit channel of eight x8 devices, one rank. A burst of eight
#: transfers moves 64 bytes in 4 clocks.
DDR4_2400 = Channel(
    "64-bit DDR4-2400 channel, one rank of eight 8 Gb x8 devices", 1200, 300,
    {"beat_bytes": (64, "burst of 8 on 64 bits"),
     "groups": (4, f"{_JEDEC}, x8"), "banks": (4, f"{_JEDEC}, x8"),
     "row_bytes": (8192, f"{_MICRON}: page of 1 KiB, eight devices"),
     "interleave": (256, "choice of the controller")},
    {"tCL": (16, "ck", _MICRON),
     "tCWL": (12, "ck", f"{_JEDEC}: 12 or 16"),
     "tRCD": (13.32, "ns", _MICRON),
     "tRP": (13.32, "ns", _MICRON),
     "tRAS": (32, "ns", _JEDEC),
     "tRC": (45.32, "ns", f"{_MICRON}: tRAS + tRP"),
     "tCCD_S": (4, "ck", _JEDEC),
     "tCCD_L": (5, "ns >= 5 ck", _JEDEC),
     "tRRD_S": (3.3, "ns >= 4 ck", f"{_JEDEC}, 1 KiB page"),
     "tRRD_L": (4.9, "ns >= 4 ck", f"{_JEDEC}, 1 KiB page"),
     "tFAW": (21, "ns >= 20 ck", f"{_JEDEC}, 1 KiB page"),
     "tRTP": (7.5, "ns >= 4 ck", _JEDEC),
     "tWR": (15, "ns", _JEDEC),
     "tWTR_S": (2.5, "ns >= 2 ck", _JEDEC),
     "tWTR_L": (7.5, "ns >= 4 ck", _JEDEC),
     "tRTW": (2, "ck", f"{_JEDEC}: read to write is CL - CWL + BL/2 + 2 clocks"),
     "tREFI": (7800, "ns", f"{_JEDEC}, up to 85 C"),
     "tRFC": (350, "ns", f"{_JEDEC}, 8 Gb")})

#: For the preset hbm256: a pseudo-channel of 64 bits at 2 Gb/s. A burst of four transfers moves 32
#: bytes in 2 clocks. Vendors' data sheets of HBM2 are not public; the times are those that the
#: public simulator DRAMsim3 (University of Maryland) carries.
HBM2_PC = Channel(
    "one HBM2 pseudo-channel, 64 bits at 2 Gb/s", 1000, 500,
    {"beat_bytes": (32, "JESD235A, pseudo-channel mode: burst of 4 on 64 bits"),
     "groups": (4, "JESD235A"), "banks": (4, "JESD235A, 4-high stack"),
     "row_bytes": (1024, "JESD235A, pseudo-channel mode: page of 1 KiB"),
     "interleave": (256, "choice of the controller")},
    {"tCL": (14, "ck", _DRAMSIM),
     "tCWL": (4, "ck", _DRAMSIM),
     "tRCD": (14, "ns", _DRAMSIM),
     "tRP": (14, "ns", _DRAMSIM),
     "tRAS": (34, "ns", _DRAMSIM),
     "tRC": (48, "ns", f"{_DRAMSIM}: tRAS + tRP"),
     "tCCD_S": (2, "ck", "JESD235A, burst of 4"),
     "tCCD_L": (4, "ck", f"{_DRAMSIM}: twice tCCD_S"),
     "tRRD_S": (4, "ns", _DRAMSIM),
     "tRRD_L": (6, "ns", _DRAMSIM),
     "tFAW": (30, "ns", _DRAMSIM),
     "tRTP": (6, "ns", f"{_DRAMSIM}: tRTP_L"),
     "tWR": (16, "ns", _DRAMSIM),
     "tWTR_S": (6, "ns", _DRAMSIM),
     "tWTR_L": (8, "ns", _DRAMSIM),
     "tRTW": (2, "ck", "as DDR4: two clocks between the drivers"),
     "tREFI": (3900, "ns", _DRAMSIM),
     "tRFC": (260, "ns", _DRAMSIM)})

#: Channels by the name that ``dram=`` takes.
TABLES = {"ddr4-2400": DDR4_2400, "hbm2-pc": HBM2_PC}
DRAMS = {name: channel.dram() for name, channel in TABLES.items()}
#: Takes a DRAM away.
OFF = Dram(**{field.name: 1 for field in fields(Dram)} | {"beat_bytes": 0})


def find_dram(dram):
    """Return the Dram of a name, "off" included, or ``dram`` itself if it is one."""
    if isinstance(dram, Dram):
        return dram
    if not isinstance(dram, str):
        raise TypeError(f"dram must be a name or a Dram, not {dram!r}")
    if dram == "off":
        return OFF
    if dram not in DRAMS:
        raise ValueError(f"dram must be off, {', '.join(DRAMS)} or a Dram, not {dram!r}")
    return DRAMS[dram]
