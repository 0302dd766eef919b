"""ReadPort: the AR and R channels, shared by all readers."""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import BURST_INCR, axi4_signature
from .registers import ErrorCode, Reader
from .select import first_of, select
from .types import COUNT_WIDTH, SLOT_WIDTH, burst, error_record
from .windows import allowed, windows_layout

__all__ = ["ReadPort"]

_ARRAY_READERS = len(set(Reader) - {
    Reader.DESCRIPTOR, Reader.OLD_ROW, Reader.ROW, Reader.COUNT})


class ReadPort(wiring.Component):
    """Merge the readers' bursts, guard them by the windows, and hand the data back by ID.

    Contract: a burst outside the windows is reported and never issued; an AR once valid stays;
    every R beat is taken at once, because each reader has reserved room for it. Descriptors are
    fetched while others work, so what is wrong with a fetch stops nothing here: the sequencer hears
    of it, and reports it in its turn.

    Parameters
    ----------
    config : EngineConfig
    readers : IntEnum
        Who reads, with DESCRIPTOR among them.
    beats_max : int or None
        Beats that all readers but DESCRIPTOR have room for; None: those of the gather-scatter unit.

    Members
    -------
    bursts : In(stream.Signature(burst())) × len(readers)
        Requests, smaller numbers first.
    beats : Out(stream.Signature(data_width, always_ready=True)) × len(readers)
        Data.
    windows : In(windows_layout())
    halt : In(1)
        Issue nothing more. What is valid on AR stays valid.
    restart : In(1)
        No descriptor is in work: the beats that an error reports count from 0.
    fetch_missed : Out(1)
        Pulse: a burst of Reader.DESCRIPTOR was outside the windows and has been dropped.
    missed_slot : Out(SLOT_WIDTH)
        Its position.
    fetch_resp : Out(2)
        RRESP of the beat of Reader.DESCRIPTOR.
    error : Out(error_record())
        A window was missed, or the memory answered with an error; not of Reader.DESCRIPTOR.
    idle : Out(1)
        Nothing on AR, nothing outstanding.
    outstanding : Out(1)
        Bursts are unanswered.
    bus : AXI4 read channels as members named like the ports (ar*, r*).

    Timing: a burst needs two cycles to AR, a beat one cycle from R; one burst and one beat a cycle.
    Reset: only while idle.
    """

    def __init__(self, config, readers=Reader, beats_max=None):
        self.config = config
        self.readers = readers
        self.beats_max = beats_max or (config.row_buffer_beats + config.old_buffer_beats
                                       + _ARRAY_READERS * config.array_buffer_beats + 1)
        derived = config.derived
        bus = axi4_signature(config.data_width).members
        super().__init__({
            "bursts": In(stream.Signature(burst(derived))).array(len(readers)),
            "beats": Out(stream.Signature(config.data_width, always_ready=True))
            .array(len(readers)),
            "windows": In(windows_layout()),
            "halt": In(1),
            "restart": In(1),
            "fetch_missed": Out(1),
            "missed_slot": Out(SLOT_WIDTH),
            "fetch_resp": Out(2),
            "error": Out(error_record()),
            "idle": Out(1),
            "outstanding": Out(1),
            "bus": Out(wiring.Signature(
                {name: bus[name] for name in bus if name.startswith(("ar", "r"))})),
        })

    def elaborate(self, platform):
        """Arbiter, window check, AR register; R register, demultiplexer."""
        m = Module()
        config, readers = self.config, self.readers
        bus = self.bus

        # The burst that the windows are compared with.
        chosen = Signal(burst(config.derived))
        chosen_id = Signal(range(len(readers)))
        pending = Signal()
        take = Signal()   # `pending` moves on
        free = ~pending | take | self.fetch_missed
        sources = [self.bursts[reader] for reader in readers]
        grants = first_of(source.valid for source in sources)
        taken = Const(0)
        for source in sources:
            m.d.comb += source.ready.eq(free & ~taken)
            taken = taken | source.valid
        with m.If(free):
            m.d.sync += [
                pending.eq(taken),
                Value.cast(chosen).eq(select(grants, [source.payload for source in sources])),
                chosen_id.eq(select(
                    grants, [Const(reader, len(chosen_id)) for reader in readers])),
            ]

        inside = Signal()
        failed = Signal()
        m.d.comb += [
            inside.eq(allowed(self.windows, chosen.address, "read")),
            take.eq(pending & inside & ~self.halt & ~failed & (~bus.arvalid | bus.arready)),
        ]
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(take):
            m.d.sync += [
                bus.arvalid.eq(1),
                bus.arid.eq(chosen_id),
                bus.araddr.eq(chosen.address),
                bus.arlen.eq(chosen.beats - 1),
            ]
        m.d.comb += [
            bus.arsize.eq(config.derived.beat_bytes_log2),
            bus.arburst.eq(BURST_INCR),
            bus.arcache.eq(0b0011),  # normal, non-cacheable, bufferable
            bus.rready.eq(1),
        ]

        # R behind one register.
        valid = Signal()
        rid = Signal.like(bus.rid)
        word = Signal(config.data_width, reset_less=True)
        resp_bad = Signal()
        resp = Signal(2)
        m.d.sync += [
            valid.eq(bus.rvalid), rid.eq(bus.rid), word.eq(bus.rdata),
            resp.eq(bus.rresp), resp_bad.eq(bus.rvalid & bus.rresp[1]),
        ]
        received = []
        for reader in readers:
            m.d.comb += [
                self.beats[reader].valid.eq(valid & (rid == reader)),
                self.beats[reader].payload.eq(word),
            ]
            if reader == readers.DESCRIPTOR:
                received.append(Const(0, COUNT_WIDTH))
                continue
            count = Signal(COUNT_WIDTH, name=f"received_{reader.name.lower()}")
            received.append(count)
            with m.If(self.restart):
                m.d.sync += count.eq(0)
            with m.Elif(self.beats[reader].valid):
                m.d.sync += count.eq(count + 1)

        # There are no more bursts than all buffers have beats, and the descriptors.
        outstanding = Signal(range(self.beats_max + config.derived.descriptors_ahead + 1))
        issued = bus.arvalid & bus.arready
        finished = bus.rvalid & bus.rlast
        m.d.sync += outstanding.eq(outstanding + issued - finished)
        m.d.comb += [
            self.outstanding.eq(outstanding != 0),
            self.idle.eq(~bus.arvalid & (outstanding == 0) & ~valid),
        ]

        outside = pending & ~inside & ~self.halt & ~failed
        missed = outside & (chosen_id != readers.DESCRIPTOR)
        m.d.comb += [
            self.fetch_missed.eq(outside & (chosen_id == readers.DESCRIPTOR)),
            self.missed_slot.eq(chosen.position),
            self.fetch_resp.eq(resp),
        ]
        with m.If(missed):
            m.d.sync += failed.eq(1)
        with m.If(resp_bad & (rid != readers.DESCRIPTOR)):
            m.d.comb += [
                self.error.valid.eq(1),
                self.error.code.eq(ErrorCode.READ_RESPONSE),
                self.error.position.eq(select([rid == reader for reader in readers], received)),
                self.error.slot.eq(0),
                self.error.value.eq(resp),
                self.error.limit.eq(rid),
            ]
        with m.Else():
            m.d.comb += [
                self.error.valid.eq(missed),
                self.error.code.eq(ErrorCode.WINDOW_READ),
                self.error.position.eq(chosen.position),
                self.error.value.eq(chosen.address),
                self.error.limit.eq(chosen_id),
            ]
        return m
