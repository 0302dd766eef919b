"""Engine configuration: what a user chooses (EngineConfig) and what follows from it (Derived).

Imports nothing but the standard library, so that the driver and the host path can read it where
no hardware tool is installed.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields, replace

from .descriptor import DESCRIPTOR_BYTES
from .keywords import KEYWORDS

__all__ = ["PRESETS", "Derived", "EngineConfig"]

#: AXI4 forbids a burst that crosses a 4 KiB boundary (IHI 0022, A3.4.1).
PAGE_BYTES = 4096


def _power_of_two(value):
    return value > 0 and value & (value - 1) == 0


def _require(name, value, ok, rule):
    if not ok:
        raise ValueError(f"{name} must be {rule}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What the user of the generator chooses. Immutable and validated.

    Attributes
    ----------
    name : str
        Name of the emitted top module.
    data_width : int
        Width of the AXI4 data bus in bits: 64, 128, 256, 512 or 1024. A beat holds
        ``data_width / 32`` binary32 lanes.
    dim_max : int
        Largest row in elements; a power of two, at least one beat, at most 1024.
    row_buffer_beats : int
        Read data in flight for gathered rows, in beats; power of two. A beat of it is claimed for
        ``latency + 8`` cycles at the least, so it hides a latency of its size less 8 and less a
        burst. Costs that many beats of memory, and a queue of as many 43-bit tokens.
    old_buffer_beats : int
        The same for rows read to be updated; power of two. At most half of all reads are theirs,
        but each also waits for its sum. Costs that many beats of memory, and a queue of as many
        107-bit addresses.
    array_buffer_beats : int
        The same for each of the index, offset, weight, target and scale arrays; power of two.
        Fetched in bursts of a quarter of it, of which four are in flight. Costs five times that
        many beats of memory.
    write_buffer_beats : int
        Rows waiting to be written, in beats; power of two. A burst is announced only when its
        data is here; the latency does not matter. Costs that many beats of memory.
    burst_beats_max : int
        Longest burst in beats; a power of two of at least a descriptor's 128 bytes, at most 256
        beats, and at most 4 KiB.
    writes_outstanding : int
        Write bursts that may wait for their response; power of two. A row that is written waits
        ``latency + 4`` cycles. Costs two counters and nothing else.
    descriptors_in_flight : int
        Descriptors whose work may overlap (those after the first must be ``relaxed``); power of
        two. One is in work for about three latencies, 86 cycles and the beats that it reads; half
        as many again are fetched ahead. Costs that many places in each of fifteen queues, and half
        that many descriptors of memory.
    add_stages : int
        Pipeline stages of the binary32 adder, 1 to 6 (a partial sum returns after eight rows,
        and the memory that holds it takes two cycles).
    mul_stages : int
        Pipeline stages of the binary32 multiplier, 1 to 7.
    cast_port : int
        The cast unit: 0 none, 1 on the engine's AXI port, 2 on a port of its own.
    cast_digit_bits : int
        Bits of the row by which a pass of the cast's sort orders, 4 to 11: a table of R rows takes
        ``ceil(log2(R) / cast_digit_bits)`` passes. Costs a line of 64 bytes (a beat, where that is
        more) and about 200 bits for each of ``2 ** cast_digit_bits`` bins, and as many cycles a
        pass.
    cast_buffer_pairs : int
        Lookups up to which a cast stays on the chip between its passes; 0 or a power of two from
        64 to 65,536. Costs 128 bits of memory for each.
    cast_pairs : int
        Pairs a cycle in the cast's last pass, and half as many as indices a cycle in its first: 1
        or 2; of those in a beat where that is less.

    The defaults are those of ``for_latency(256)``. On ECP5 with a 128-bit bus a buffer of 64 to 512
    beats takes four block RAMs, whatever its depth, and its control 7 LUT more at 512 than at 256;
    one of 32 takes none and 256 LUT (each measured alone, after synthesis).
    """

    name: str = "tcast"
    data_width: int = 512
    dim_max: int = 1024
    row_buffer_beats: int = 512
    old_buffer_beats: int = 256
    array_buffer_beats: int = 64
    write_buffer_beats: int = 256
    burst_beats_max: int = 64
    writes_outstanding: int = 256
    descriptors_in_flight: int = 32
    add_stages: int = 5
    mul_stages: int = 6
    cast_port: int = 1
    cast_digit_bits: int = 10
    cast_buffer_pairs: int = 16384
    cast_pairs: int = 2

    def __post_init__(self):
        for field in fields(self):
            if field.name != "name" and type(getattr(self, field.name)) is not int:
                raise TypeError(f"{field.name} must be an int, not {getattr(self, field.name)!r}")
        _require("name", self.name, isinstance(self.name, str)
                 and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name) is not None
                 and self.name not in KEYWORDS,
                 "a Verilog identifier of ASCII letters, digits and underscores, and no keyword")
        _require("data_width", self.data_width, self.data_width in (64, 128, 256, 512, 1024),
                 "64, 128, 256, 512 or 1024")
        lanes = self.data_width // 32
        _require("dim_max", self.dim_max,
                 _power_of_two(self.dim_max) and 2 * lanes <= self.dim_max <= 1024,
                 f"a power of two from {2 * lanes} (two beats) to 1024")
        beat_bytes = self.data_width // 8
        least = max(1, DESCRIPTOR_BYTES // beat_bytes)
        limit = min(256, PAGE_BYTES // beat_bytes)
        _require("burst_beats_max", self.burst_beats_max,
                 _power_of_two(self.burst_beats_max) and least <= self.burst_beats_max <= limit,
                 f"a power of two from {least} (a descriptor) to {limit} (AXI4: 256 beats, 4 KiB)")
        for name in ("row_buffer_beats", "old_buffer_beats", "write_buffer_beats"):
            value = getattr(self, name)
            _require(name, value,
                     _power_of_two(value) and max(64, 2 * self.burst_beats_max) <= value <= 4096,
                     f"a power of two from {max(64, 2 * self.burst_beats_max)} to 4096")
        _require("array_buffer_beats", self.array_buffer_beats,
                 _power_of_two(self.array_buffer_beats) and 16 <= self.array_buffer_beats <= 1024,
                 "a power of two from 16 to 1024")
        _require("writes_outstanding", self.writes_outstanding,
                 _power_of_two(self.writes_outstanding) and 4 <= self.writes_outstanding <= 1024,
                 "a power of two from 4 to 1024")
        _require("descriptors_in_flight", self.descriptors_in_flight,
                 _power_of_two(self.descriptors_in_flight)
                 and 4 <= self.descriptors_in_flight <= 64, "a power of two from 4 to 64")
        _require("add_stages", self.add_stages, 1 <= self.add_stages <= 6, "1 to 6")
        _require("mul_stages", self.mul_stages, 1 <= self.mul_stages <= 7, "1 to 7")
        _require("cast_port", self.cast_port, 0 <= self.cast_port <= 2, "0, 1 or 2")
        _require("cast_digit_bits", self.cast_digit_bits, 4 <= self.cast_digit_bits <= 11,
                 "4 to 11")
        _require("cast_buffer_pairs", self.cast_buffer_pairs,
                 self.cast_buffer_pairs == 0 or (_power_of_two(self.cast_buffer_pairs)
                                                 and 64 <= self.cast_buffer_pairs <= 65536),
                 "0 or a power of two from 64 to 65536")
        _require("cast_pairs", self.cast_pairs, 1 <= self.cast_pairs <= 2, "1 or 2")

    @classmethod
    def preset(cls, name, **changes):
        """Return the named preset, with ``changes`` applied; ValueError names those that exist."""
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
        return replace(PRESETS[name], **changes)

    @classmethod
    def for_latency(cls, latency, *, data_width=512, row_bytes=64, **changes):
        """Return a configuration whose buffers keep the bus busy at a stated memory latency.

        Parameters
        ----------
        latency : int
            Cycles from a burst's address to its first beat, and from a write to its response.
        data_width : int
            Width of the bus in bits.
        row_bytes : int
            The shortest rows for which this must hold; shorter ones need more bursts in flight.
        **changes
            Other fields, or values in place of those that follow from the latency.
        """
        for name, value in (("latency", latency), ("row_bytes", row_bytes)):
            _require(name, value, type(value) is int and value > 0, "an int above 0")
        beat_bytes = data_width // 8
        row_beats = -(-row_bytes // beat_bytes)
        burst = changes.get("burst_beats_max", min(64, PAGE_BYTES // beat_bytes))
        loop = latency + 8  # from the claim of a place in a buffer until it is free again
        # Of a lookup's beats, those of an int64 index; a burst in four is being claimed.
        array_share = 8 / (row_bytes + 8)
        sizes = {
            "row_buffer_beats": max(64, 2 * burst, loop + burst),
            # Half of the reads, and those whose sums are in the reducer.
            "old_buffer_beats": max(64, 2 * burst, loop // 2 + burst + 48),
            "array_buffer_beats": max(16, int(loop * array_share * 4 / 3) + 1),
            # A row that is written has been read, and so has its index.
            "writes_outstanding": max(4, int(loop / row_beats * row_bytes / (row_bytes + 4))),
            # Descriptors of 32 lookups, each with its own bag: the shortest for which it must hold.
            "descriptors_in_flight": min(64, max(4, (3 * latency + 86) // (32 * row_beats) + 2)),
        }
        sizes = {name: 1 << (value - 1).bit_length() for name, value in sizes.items()}
        return cls(**{"data_width": data_width, "burst_beats_max": burst, **sizes, **changes})

    def on_one_port(self):
        """Return it with the cast unit, where there is one, on the engine's port."""
        return replace(self, cast_port=min(self.cast_port, 1))

    def as_dict(self):
        """Return the fields as a plain dict, in declaration order."""
        return asdict(self)

    @property
    def hash(self):
        """32-bit hash of every field but the name; the engine shows it in CONFIG_HASH."""
        facts = {key: value for key, value in self.as_dict().items() if key != "name"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:4], "little")

    @property
    def derived(self):
        """The numbers that follow from the configuration."""
        return Derived(self)


class Derived:
    """Numbers that follow from an EngineConfig, computed in one place.

    Attributes
    ----------
    lanes : int
        binary32 elements in a beat.
    beat_bytes, beat_bytes_log2 : int
        Bytes in a beat.
    row_beats_max : int
        Beats of the largest row.
    col_width : int
        Bits of a beat number inside a row, 0 to row_beats_max - 1.
    row_beats_width : int
        Bits of a number of beats of a row, 0 to row_beats_max.
    page_beats : int
        Beats in 4 KiB.
    array_burst_beats : int
        Burst length of the array readers: a quarter of their buffer, at most the longest burst.
    descriptors_ahead : int
        Descriptors fetched before their turn.
    stride_beats_width : int
        Bits of a row stride counted in beats.
    cast_pairs : int
        Pairs a cycle in the cast's last pass, as the bus allows.
    cast_line_bytes : int
        Bytes that a bin of the cast's sort collects before it writes them; what scratch memory is
        aligned to.
    cast_buffer_beats : int
        Read data in flight for the cast's indices, and as much for its pairs, in beats.
    """

    def __init__(self, config):
        self.config = config
        self.lanes = config.data_width // 32
        self.beat_bytes = config.data_width // 8
        self.beat_bytes_log2 = self.beat_bytes.bit_length() - 1
        self.row_beats_max = config.dim_max // self.lanes
        self.col_width = (self.row_beats_max - 1).bit_length()
        self.row_beats_width = self.row_beats_max.bit_length()
        self.page_beats = PAGE_BYTES // self.beat_bytes
        self.array_burst_beats = min(config.burst_beats_max, config.array_buffer_beats // 4)
        self.descriptors_ahead = config.descriptors_in_flight // 2
        self.stride_beats_width = 16
        self.cast_pairs = min(config.cast_pairs, self.beat_bytes // 8)
        self.cast_line_bytes = max(64, self.beat_bytes)
        # At most cast_pairs pairs of 8 bytes are read a cycle, where the rows take a beat.
        share = self.beat_bytes // (8 * self.cast_pairs)
        self.cast_buffer_beats = max(2 * config.burst_beats_max, config.row_buffer_beats // share)

    def cast_scratch_bytes(self, n_lookups):
        """Return the bytes of scratch memory that a cast of ``n_lookups`` needs.

        Two lists of 8 bytes for each lookup, each in whole lines; none where the lists fit the
        cast unit's own memory.
        """
        if n_lookups <= self.config.cast_buffer_pairs:
            return 0
        line = self.cast_line_bytes
        return 2 * (-(-8 * n_lookups // line) * line)

    def as_dict(self):
        """Return the numbers as a plain dict."""
        return {key: value for key, value in vars(self).items() if key != "config"}


PRESETS = {
    # Smallest and fastest to build; the shortest pipelines, so that both ends are exercised.
    "tiny64": EngineConfig(
        name="tcast_tiny64", data_width=64, row_buffer_beats=256, old_buffer_beats=256,
        array_buffer_beats=32, write_buffer_beats=128, burst_beats_max=64,
        writes_outstanding=64, descriptors_in_flight=4, add_stages=3, mul_stages=3,
        cast_digit_bits=5, cast_buffer_pairs=64, cast_pairs=1),
    # An ECP5-85F with a 128-bit DDR3 controller port: for_latency(256), and old_buffer_beats as
    # many as a block RAM has.
    "ecp5-128": EngineConfig(
        name="tcast_ecp5_128", data_width=128, row_buffer_beats=512, old_buffer_beats=512,
        array_buffer_beats=64, write_buffer_beats=128, burst_beats_max=64,
        writes_outstanding=64, descriptors_in_flight=8, add_stages=6, mul_stages=7,
        cast_digit_bits=8, cast_buffer_pairs=2048),
    # One HBM2 pseudo-channel as Xilinx's controller shows it: 256 bits, long latency.
    "hbm256": EngineConfig(
        name="tcast_hbm256", data_width=256, row_buffer_beats=512, old_buffer_beats=512,
        array_buffer_beats=64, write_buffer_beats=256, burst_beats_max=64,
        writes_outstanding=256, descriptors_in_flight=16, add_stages=6, mul_stages=7,
        cast_port=2, cast_buffer_pairs=4096),
    # One DDR4 channel behind a 512-bit controller port.
    "ddr512": EngineConfig(name="tcast_ddr512"),
}
