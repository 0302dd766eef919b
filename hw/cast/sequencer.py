"""CastSequencer: the cast unit's ring: fetches a descriptor, checks it, waits for its turn."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..descriptor import CAST_FIELDS, CAST_LOOKUPS_MAX, DESCRIPTOR_BYTES, ElementKind
from ..fetcher import DescriptorFetcher
from ..registers import CastReader, ErrorCode
from ..types import SLOT_WIDTH, burst, error_record
from .types import PAIR_COUNT_WIDTH

__all__ = ["CastSequencer"]


class CastSequencer(wiring.Component):
    """Hand out the descriptors of the ring, one at a time.

    Contract: a descriptor stands at ``o`` until ``done``; the next one follows. One that ``waits``
    stands there only when the other unit has completed as many as it says. A bad one, or one that
    could not be fetched, is reported in its turn and stops the ring.

    Members
    -------
    enable, ring_base, ring_size_log2, tail, head : see Sequencer
    fetch, fetched, fetch_missed, missed_slot, fetch_resp : see DescriptorFetcher
    other_completed : In(32)
        Descriptors that the gather-scatter unit has completed, modulo 2**32.
    halt : In(1)
        Start nothing more.
    o : Out
        The fields of CAST_FIELDS, and ``valid``.
    list_bytes : Out(32)
        Bytes of one list in scratch memory.
    fits : Out(1)
        The pairs stay on the chip.
    done : In(1)
        Pulse: it has completed.
    slot : Out(SLOT_WIDTH)
        Its place in the ring.
    count : Out(32)
        Descriptors completed, modulo 2**32.
    interrupt : Out(1)
        Pulse: one that asked for it completed.
    busy : Out(1)
        A descriptor is fetched, checked, waits or is in work.
    error : Out(error_record())

    Timing: four cycles from a descriptor's last beat to ``o``.
    Reset: forgets all, head and count return to 0.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "enable": In(1), "ring_base": In(64), "ring_size_log2": In(4), "tail": In(SLOT_WIDTH),
            "head": Out(SLOT_WIDTH),
            "fetch": Out(stream.Signature(burst(derived))),
            "fetched": In(stream.Signature(config.data_width, always_ready=True)),
            "fetch_missed": In(1), "missed_slot": In(SLOT_WIDTH), "fetch_resp": In(2),
            "other_completed": In(32), "halt": In(1),
            "o": Out(data.StructLayout(
                {"valid": 1, **{field.name: field.width for field in CAST_FIELDS}})),
            "list_bytes": Out(32), "fits": Out(1), "done": In(1),
            "slot": Out(SLOT_WIDTH), "count": Out(32), "interrupt": Out(1), "busy": Out(1),
            "error": Out(error_record()),
        })

    def elaborate(self, platform):
        """Receive, check, wait, work."""
        m = Module()
        config, derived = self.config, self.config.derived

        m.submodules.fetcher = fetcher = DescriptorFetcher(config)
        connect(m, fetcher.fetch, flipped(self.fetch))
        connect(m, flipped(self.fetched), fetcher.fetched)
        for name in ("ring_base", "ring_size_log2", "tail",
                     "fetch_missed", "missed_slot", "fetch_resp"):
            m.d.comb += getattr(fetcher, name).eq(getattr(self, name))

        word = Signal(8 * DESCRIPTOR_BYTES, reset_less=True)
        fields = {field.name: word[field.lsb:field.lsb + field.width] for field in CAST_FIELDS}
        m.d.comb += [self.o[name].eq(value) for name, value in fields.items()]
        slot_mask = Signal(SLOT_WIDTH)
        received = Signal(range(DESCRIPTOR_BYTES // derived.beat_bytes))
        m.d.comb += [slot_mask.eq((1 << self.ring_size_log2) - 1), self.slot.eq(self.head)]

        # Scratch memory.
        line_log2 = derived.cast_line_bytes.bit_length() - 1
        lookups = fields["n_lookups"][:PAIR_COUNT_WIDTH]
        lines = Signal(PAIR_COUNT_WIDTH)
        m.d.comb += [
            lines.eq(((lookups << 3) + (derived.cast_line_bytes - 1)) >> line_log2),
            self.fits.eq((lookups <= config.cast_buffer_pairs) & (config.cast_buffer_pairs != 0)),
            self.list_bytes.eq(lines << line_log2),
        ]

        rules = self._rules(fields)
        bad = Signal(len(rules))
        first_bad = Signal(range(len(rules)))
        for n in reversed(range(len(rules))):
            with m.If(bad[n]):
                m.d.comb += first_bad.eq(n)
        bytes_of = {field.name: field.lsb // 8 for field in CAST_FIELDS}
        with m.Switch(first_bad):
            for n, (name, _, limit) in enumerate(rules):
                with m.Case(n):
                    m.d.comb += [self.error.position.eq(bytes_of[name]),
                                 self.error.value.eq(fields[name]), self.error.limit.eq(limit)]
        fault = Signal(data.StructLayout(
            {"valid": 1, "missed": 1, "resp": 2, "position": SLOT_WIDTH}))
        m.d.comb += [self.error.code.eq(ErrorCode.DESCRIPTOR), self.error.slot.eq(self.slot)]
        with m.If(fault.valid):
            m.d.comb += [
                self.error.code.eq(Mux(fault.missed, ErrorCode.WINDOW_READ,
                                       ErrorCode.READ_RESPONSE)),
                self.error.position.eq(fault.position),
                self.error.value.eq(Mux(
                    fault.missed, Cat(Const(0, 7), self.ring_base[7:] + self.slot), fault.resp)),
                self.error.limit.eq(CastReader.DESCRIPTOR),
            ]

        behind = (self.other_completed - fields["wait_count"])[31]
        failed = Signal()
        m.d.comb += fetcher.enable.eq(self.enable & ~self.halt & ~failed)
        with m.FSM(name="state") as fsm:
            with m.State("RECEIVE"):
                with m.If(fetcher.missed.valid & (fetcher.missed.slot == self.slot)):
                    m.d.sync += [fault.valid.eq(1), fault.missed.eq(1),
                                 fault.position.eq(self.slot)]
                    m.next = "START"
                with m.Elif(fetcher.o.valid):
                    beat = fetcher.o.payload
                    m.d.comb += fetcher.o.ready.eq(1)
                    with m.If(beat.resp[1] & ~fault.valid):
                        m.d.sync += [fault.valid.eq(1), fault.resp.eq(beat.resp),
                                     fault.position.eq(received)]
                    m.d.sync += [
                        word.eq(Cat(word, beat.word)[config.data_width:]),
                        received.eq(received + 1),
                    ]
                    with m.If(beat.last):
                        m.d.sync += received.eq(0)
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += bad.eq(Cat(rule for _, rule, _ in rules))
                m.next = "START"
            with m.State("START"):
                with m.If(fault.valid | bad.any()):
                    m.d.comb += self.error.valid.eq(~failed & ~self.halt)
                    m.d.sync += failed.eq(1)
                with m.Elif(~self.halt & ~(fields["waits"] & behind)):
                    m.next = "WORK"
            with m.State("WORK"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.done):
                    m.d.comb += self.interrupt.eq(fields["interrupt"])
                    m.d.sync += [
                        self.head.eq((self.head + 1) & slot_mask),
                        self.count.eq(self.count + 1),
                    ]
                    m.next = "RECEIVE"
        m.d.comb += self.busy.eq(~fsm.ongoing("RECEIVE") | fetcher.busy)
        return m

    def _rules(self, fields):
        """Return (field, is it bad, the limit to report), in the order of the fields."""
        derived = self.config.derived
        beat_log2 = derived.beat_bytes_log2
        line_log2 = derived.cast_line_bytes.bit_length() - 1

        def no_width(name):
            return (fields[name] != ElementKind.INT32) & (fields[name] != ElementKind.INT64)

        def misaligned(name, kind):
            return ((fields[kind] == ElementKind.INT32) & fields[name][:2].any()) \
                | ((fields[kind] == ElementKind.INT64) & fields[name][:3].any())

        n, rows = fields["n_lookups"], fields["num_rows"]
        needed = Mux(self.fits, 0, self.list_bytes << 1)
        row_limit = Mux(rows == 0, 0, 1 << 31)
        results = ("bags_base", "segments_base", "rows_base", "count_base")
        return [
            ("index_kind", no_width("index_kind"), int(max(ElementKind))),
            ("offset_kind", fields["offset_kind"] > max(ElementKind), int(max(ElementKind))),
            ("row_kind", no_width("row_kind"), int(max(ElementKind))),
            ("n_lookups", n > CAST_LOOKUPS_MAX, CAST_LOOKUPS_MAX),
            ("n_bags", (fields["offset_kind"] == ElementKind.SEQUENTIAL)
             & (fields["n_bags"] != n), n),
            ("num_rows", ((rows == 0) & (n != 0))
             | ((fields["row_kind"] == ElementKind.INT32) & (rows > 1 << 31)), row_limit),
            ("scratch_bytes", fields["scratch_bytes"] < needed, needed),
            ("index_base", misaligned("index_base", "index_kind"), 0),
            ("offset_base", misaligned("offset_base", "offset_kind"), 0),
            ("scratch_base", ~self.fits & fields["scratch_base"][:line_log2].any(), 0),
            *((name, fields[name][:beat_log2].any(), 0) for name in results),
        ]
