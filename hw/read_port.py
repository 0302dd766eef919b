"""ReadPort: the AR and R channels, shared by all readers."""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .axi import BURST_INCR, axi4_signature
from .registers import N_WINDOWS, ErrorCode, Reader
from .select import first_of, select
from .types import COUNT_WIDTH, SLOT_WIDTH, burst, error_record
from .windows import matches, windows_layout

__all__ = ["ReadPort"]

_ARRAY_READERS = len(set(Reader) - {Reader.DESCRIPTOR, Reader.OLD_ROW, Reader.ROW})


class ReadPort(wiring.Component):
    """Merge the readers' bursts, guard them by the windows, and hand the data back by ID.

    Contract: a burst outside the windows is reported and never issued; an AR once valid stays;
    every R beat is taken at once, because each reader has reserved room for it. Descriptors are
    fetched while others work, so what is wrong with a fetch stops nothing here: the sequencer hears
    of it, and reports it in its turn.

    Members
    -------
    bursts : In(stream.Signature(burst())) × len(Reader)
        Requests, smaller numbers first.
    beats : Out(stream.Signature(data_width, always_ready=True)) × len(Reader)
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

    Timing: a burst needs three cycles to AR, a beat one cycle from R; one burst and one beat a
    cycle.
    Reset: only while idle.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        bus = axi4_signature(config.data_width).members
        super().__init__({
            "bursts": In(stream.Signature(burst(derived))).array(len(Reader)),
            "beats": Out(stream.Signature(config.data_width, always_ready=True))
            .array(len(Reader)),
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
        config = self.config
        bus = self.bus

        # The burst that the windows are compared with.
        chosen = Signal(burst(config.derived))
        chosen_id = Signal(range(len(Reader)))
        pending = Signal()
        failed = Signal()
        refused = Signal()  # what stands on AR, without ARVALID, missed the windows
        free = ~refused & (~bus.arvalid | bus.arready)
        # The one in front of it waits with the answer of each window.
        checked, checked_id = Signal.like(chosen), Signal.like(chosen_id)
        checked_valid, windows = Signal(), Signal(N_WINDOWS)
        take = checked_valid & free & ~self.halt & ~failed
        move = ~checked_valid | take
        accept = ~pending | move
        with m.If(move):
            m.d.sync += [
                checked_valid.eq(pending), checked.eq(chosen), checked_id.eq(chosen_id),
                windows.eq(matches(self.windows, chosen.address, "read")),
            ]
        sources = [self.bursts[reader] for reader in Reader]
        grants = first_of(source.valid for source in sources)
        taken = Const(0)
        for source in sources:
            m.d.comb += source.ready.eq(accept & ~taken)
            taken = taken | source.valid
        with m.If(accept):
            m.d.sync += [
                pending.eq(taken),
                Value.cast(chosen).eq(select(grants, [source.payload for source in sources])),
                chosen_id.eq(select(
                    grants, [Const(reader, len(chosen_id)) for reader in Reader])),
            ]

        # It goes on to AR whatever the windows say: they decide on ARVALID alone, and nothing in
        # front of it waits for that.
        inside = windows.any()
        position = Signal(COUNT_WIDTH)
        m.d.sync += refused.eq(take & ~inside)
        with m.If(free):
            m.d.sync += bus.arvalid.eq(take & inside)
        with m.If(take):
            m.d.sync += [
                bus.arid.eq(checked_id),
                bus.araddr.eq(checked.address),
                bus.arlen.eq(checked.beats - 1),
                position.eq(checked.position),
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
        for reader in Reader:
            m.d.comb += [
                self.beats[reader].valid.eq(valid & (rid == reader)),
                self.beats[reader].payload.eq(word),
            ]

        # Beats that each reader has received, for the error record: a small memory, in which a
        # count means something once `counted` says so.
        m.submodules.counts = counts = Memory(shape=COUNT_WIDTH, depth=len(Reader), init=[])
        count, next_count = counts.read_port(domain="comb"), counts.write_port()
        counted = Signal(len(Reader))
        received = count.data & counted.bit_select(rid, 1).replicate(COUNT_WIDTH)
        m.d.comb += [
            count.addr.eq(rid),
            next_count.addr.eq(rid),
            next_count.data.eq(received + 1),
            next_count.en.eq(valid),
        ]
        with m.If(self.restart):
            m.d.sync += counted.eq(0)
        with m.Elif(valid):
            m.d.sync += counted.bit_select(rid, 1).eq(1)

        # There are no more bursts than all buffers have beats, and the descriptors.
        beats_max = (config.row_buffer_beats + config.old_buffer_beats
                     + _ARRAY_READERS * config.array_buffer_beats
                     + config.derived.descriptors_ahead)
        outstanding = Signal(range(beats_max + 1))
        issued = bus.arvalid & bus.arready
        finished = bus.rvalid & bus.rlast
        m.d.sync += outstanding.eq(outstanding + issued - finished)
        m.d.comb += [
            self.outstanding.eq(outstanding != 0),
            self.idle.eq(~bus.arvalid & (outstanding == 0) & ~valid),
        ]

        missed = refused & (bus.arid != Reader.DESCRIPTOR)
        m.d.comb += [
            self.fetch_missed.eq(refused & (bus.arid == Reader.DESCRIPTOR)),
            self.missed_slot.eq(position),
            self.fetch_resp.eq(resp),
        ]
        with m.If(missed):
            m.d.sync += failed.eq(1)
        with m.If(resp_bad & (rid != Reader.DESCRIPTOR)):
            m.d.comb += [
                self.error.valid.eq(1),
                self.error.code.eq(ErrorCode.READ_RESPONSE),
                self.error.position.eq(received),
                self.error.slot.eq(0),
                self.error.value.eq(resp),
                self.error.limit.eq(rid),
            ]
        with m.Else():
            m.d.comb += [
                self.error.valid.eq(missed),
                self.error.code.eq(ErrorCode.WINDOW_READ),
                self.error.position.eq(position),
                self.error.value.eq(bus.araddr),
                self.error.limit.eq(bus.arid),
            ]
        return m
