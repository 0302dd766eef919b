"""ReadPort: the AR and R channels, shared by all readers."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .axi import BURST_INCR, axi4_signature
from .register_slice import RegisterSlice
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
    rows : tuple of members of readers
        Those of single rows: a burst of one may be a beat, and each cycle may bring one.
    beats_max : int or None
        Beats that all readers but DESCRIPTOR have room for; None: those of the gather-scatter unit.

    Members
    -------
    bursts : In(stream.Signature(burst())) × len(readers)
        Requests; those of the others before those of ``rows``, then smaller numbers first.
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

    Timing: a burst of ``rows`` needs two cycles to AR, another one three; one burst a cycle, every
    other one of those. A beat needs one cycle from R; one a cycle.
    Reset: only while idle.
    """

    def __init__(self, config, readers=Reader, rows=(Reader.OLD_ROW, Reader.ROW), beats_max=None):
        self.config = config
        self.readers = readers
        self.rows = rows
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

        # A choice among all readers at once would be the longest path of the engine. Of those whose
        # bursts are long it is made a cycle before, and goes before what comes every cycle.
        id_width = (len(readers) - 1).bit_length()
        m.submodules.chosen = chosen = RegisterSlice(
            data.StructLayout({"burst": burst(config.derived), "id": id_width}))
        others = [reader for reader in readers if reader not in self.rows]
        granted, taken = Signal(len(others)), Signal()  # taken: granted is not 0
        valids = [self.bursts[reader].valid for reader in others]
        with m.If(~taken):
            m.d.sync += [granted.eq(Cat(first_of(valids))), taken.eq(Cat(valids).any())]
        with m.Elif(chosen.i.ready):
            m.d.sync += [granted.eq(0), taken.eq(0)]
        order = [*others, *self.rows]
        grants = [*granted, *(~taken & first for first in first_of(
            self.bursts[reader].valid for reader in self.rows))]
        for reader, grant in zip(order, grants, strict=True):
            m.d.comb += self.bursts[reader].ready.eq(grant & chosen.i.ready)
        m.d.comb += [
            chosen.i.valid.eq(taken | Cat(self.bursts[reader].valid for reader in self.rows).any()),
            Value.cast(chosen.i.payload).eq(select(grants, [
                Cat(self.bursts[reader].payload, Const(reader, id_width)) for reader in order])),
        ]

        # In front of AR a burst is compared with the windows; nothing in front of it sees ARREADY
        # in its cycle.
        checked = chosen.o.payload
        failed = Signal()
        arrived = Signal()  # a cycle ago, at AR
        refused = arrived & ~bus.arvalid  # it missed the windows
        free = ~refused & (~bus.arvalid | bus.arready)
        m.d.comb += chosen.o.ready.eq(free & ~self.halt & ~failed)
        take = chosen.o.valid & chosen.o.ready

        # It goes on to AR whatever the windows say: they decide on ARVALID alone, and nothing in
        # front of it waits for that. As little as can be stands behind them.
        inside = allowed(self.windows, checked.burst.address, "read")
        position = Signal(COUNT_WIDTH)
        m.d.sync += arrived.eq(take)
        with m.If(free):
            m.d.sync += bus.arvalid.eq(inside & chosen.o.valid & ~self.halt & ~failed)
        with m.If(take):
            m.d.sync += [
                bus.arid.eq(checked.id),
                bus.araddr.eq(checked.burst.address),
                bus.arlen.eq(checked.burst.beats - 1),
                position.eq(checked.burst.position),
            ]
        m.d.comb += [
            bus.arsize.eq(config.derived.beat_bytes_log2),
            bus.arburst.eq(BURST_INCR),
            bus.arcache.eq(0b0011),  # normal, non-cacheable, bufferable
            bus.rready.eq(1),
        ]

        # R behind one register, and with it who gets the beat: the readers lie far apart.
        valid = Signal()
        rid = Signal.like(bus.rid)
        word = Signal(config.data_width, reset_less=True)
        resp_bad = Signal()
        resp = Signal(2)
        m.d.sync += [
            valid.eq(bus.rvalid), rid.eq(bus.rid), word.eq(bus.rdata),
            resp.eq(bus.rresp), resp_bad.eq(bus.rvalid & bus.rresp[1]),
        ]
        for reader in readers:
            m.d.sync += self.beats[reader].valid.eq(bus.rvalid & (bus.rid == reader))
            m.d.comb += self.beats[reader].payload.eq(word)

        # Beats that each reader has received, for the error record: a small memory, in which a
        # count means something once `counted` says so; `known` is what it says of `rid`.
        m.submodules.counts = counts = Memory(shape=COUNT_WIDTH, depth=1 << id_width, init=[])
        count, next_count = counts.read_port(domain="comb"), counts.write_port()
        counted, known = Signal(1 << id_width), Signal()
        received = count.data & known.replicate(COUNT_WIDTH)
        m.d.comb += [
            count.addr.eq(rid),
            next_count.addr.eq(rid),
            next_count.data.eq(received + 1),
            next_count.en.eq(valid),
        ]
        with m.If(self.restart):
            m.d.sync += counted.eq(0)
        with m.Else():
            with m.If(valid):
                m.d.sync += counted.bit_select(rid[:id_width], 1).eq(1)
            m.d.sync += known.eq(counted.bit_select(bus.rid[:id_width], 1)
                                 | (valid & (rid == bus.rid)))

        # There are no more bursts than all buffers have beats, and the descriptors.
        outstanding = Signal(range(self.beats_max + config.derived.descriptors_ahead + 1))
        issued = bus.arvalid & bus.arready
        finished = bus.rvalid & bus.rlast
        m.d.sync += outstanding.eq(outstanding + issued - finished)
        m.d.comb += [
            self.outstanding.eq(outstanding != 0),
            self.idle.eq(~bus.arvalid & (outstanding == 0) & ~valid),
        ]

        missed = refused & (bus.arid != readers.DESCRIPTOR)
        m.d.comb += [
            self.fetch_missed.eq(refused & (bus.arid == readers.DESCRIPTOR)),
            self.missed_slot.eq(position),
            self.fetch_resp.eq(resp),
        ]
        with m.If(missed):
            m.d.sync += failed.eq(1)
        with m.If(resp_bad & (rid != readers.DESCRIPTOR)):
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
