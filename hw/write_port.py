"""WritePort: the AW, W and B channels; rows leave in order and are counted until answered."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi import BURST_INCR, axi4_signature
from .queue import Queue
from .register_slice import RegisterSlice
from .registers import N_WINDOWS, ErrorCode
from .types import COUNT_WIDTH, burst, error_record, strobed_beat
from .windows import matches, windows_layout

__all__ = ["WritePort"]


class WritePort(wiring.Component):
    """Write bursts whose data is already here; say when all of a descriptor's are answered.

    Contract: AW is announced only for a burst inside the windows, with all of its data in the
    queue behind ``data``: once announced a burst always completes, so a reset or an error never
    leaves one half-written. A burst outside the windows is reported and never issued.

    Parameters
    ----------
    config : EngineConfig
    strobed : bool
        Beats say which of their words are written; else all are.

    Members
    -------
    bursts : In(stream.Signature(burst()))
        Where rows go; ``end`` stands behind a descriptor's last burst.
    data : In(stream.Signature(data_width)), or of strobed_beat()
        Beats, in the order of the bursts.
    pushed : In(1)
        A beat entered the queue behind ``data``.
    windows : In(windows_layout())
    halt : In(1)
        Issue no further burst.
    restart : In(1)
        No descriptor is in work: the bursts that an error reports count from 0.
    descriptor_done : Out(1)
        Pulse: all writes of the oldest unfinished descriptor are answered.
    error : Out(error_record())
        A window was missed, or the memory answered with an error.
    idle : Out(1)
        Nothing on AW or W, nothing unanswered.
    bus : AXI4 write channels as members named like the ports (aw*, w*, b*).

    Timing: a burst needs three cycles to AW; one burst and one beat a cycle.
    Reset: only while idle.
    """

    def __init__(self, config, *, strobed=False):
        self.config = config
        self.strobed = strobed
        derived = config.derived
        bus = axi4_signature(config.data_width).members
        super().__init__({
            "bursts": In(stream.Signature(burst(derived))),
            "data": In(stream.Signature(strobed_beat(config) if strobed else config.data_width)),
            "pushed": In(1),
            "windows": In(windows_layout()),
            "halt": In(1),
            "restart": In(1),
            "descriptor_done": Out(1),
            "error": Out(error_record()),
            "idle": Out(1),
            "bus": Out(wiring.Signature(
                {name: bus[name] for name in bus if name.startswith(("aw", "w", "b"))})),
        })

    def elaborate(self, platform):
        """Window check and AW register; W driven by the lengths of announced bursts."""
        m = Module()
        config, derived = self.config, self.config.derived
        bus = self.bus

        # A burst claims its data and is compared with the windows on its way from the first slice
        # into the second, where it waits for the bus with the answers: nothing in front of it sees
        # AWREADY in its cycle. An end is a burst of no beats.
        m.submodules.arriving = arriving = RegisterSlice(burst(derived))
        m.submodules.leaving = leaving = RegisterSlice(data.StructLayout(
            {"burst": burst(derived), "inside": N_WINDOWS}))
        connect(m, flipped(self.bursts), arriving.i)
        chosen, checked = arriving.o.payload, leaving.o.payload.burst
        pending, inside = leaving.o.valid, leaving.o.payload.inside.any()
        unclaimed = Signal(range(config.write_buffer_beats + 1))  # beats in the data queue
        here = unclaimed >= chosen.beats
        m.d.comb += [
            leaving.i.valid.eq(arriving.o.valid & here),
            arriving.o.ready.eq(leaving.i.ready & here),
            leaving.i.payload.burst.eq(chosen),
            leaving.i.payload.inside.eq(matches(self.windows, chosen.address, "write")),
        ]
        claim = leaving.i.valid & leaving.i.ready
        m.d.sync += unclaimed.eq(unclaimed + self.pushed - Mux(claim, chosen.beats, 0))

        take = Signal()    # `checked` is announced
        retire = Signal()  # `checked` was an end
        m.d.comb += leaving.o.ready.eq(take | retire)

        # Unanswered bursts; the highest bit says that there are as many as may be.
        count_width = config.writes_outstanding.bit_length() + 1
        announced = Signal(count_width)
        answered = Signal(count_width)
        unanswered = Signal(range(config.writes_outstanding + 1))
        m.d.sync += unanswered.eq(unanswered + take - bus.bvalid)

        m.submodules.lengths = lengths = Queue(9, 16)
        m.submodules.ends = ends = Queue(
            count_width, config.descriptors_in_flight)
        failed = Signal()
        m.d.comb += [
            take.eq(pending & ~checked.end & inside & ~unanswered[-1] & lengths.i.ready
                    & ~self.halt & ~failed & (~bus.awvalid | bus.awready)),
            lengths.i.valid.eq(take),
            lengths.i.payload.eq(checked.beats),
            ends.i.valid.eq(pending & checked.end),
            ends.i.payload.eq(announced),
            retire.eq(ends.i.valid & ends.i.ready),
        ]
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(take):
            m.d.sync += [
                announced.eq(announced + 1),
                bus.awvalid.eq(1),
                bus.awaddr.eq(checked.address),
                bus.awlen.eq(checked.beats - 1),
            ]
        m.d.comb += [
            bus.awsize.eq(derived.beat_bytes_log2),
            bus.awburst.eq(BURST_INCR),
            bus.awcache.eq(0b0011),  # normal, non-cacheable, bufferable
            bus.bready.eq(1),
        ]

        # W: the data of an announced burst is in the queue, so valid never waits for the reducer.
        active = Signal()
        remaining = Signal(9)
        last = Signal()  # remaining is 1
        sent = bus.wvalid & bus.wready
        m.d.comb += [
            bus.wvalid.eq(active & self.data.valid),
            bus.wdata.eq(self.data.payload.data if self.strobed else self.data.payload),
            bus.wstrb.eq(Cat(word.replicate(4) for word in self.data.payload.words)
                         if self.strobed else ~0),
            bus.wlast.eq(last),
            self.data.ready.eq(active & bus.wready),
            lengths.o.ready.eq(~active | (sent & last)),
        ]
        with m.If(sent):
            m.d.sync += [remaining.eq(remaining - 1), last.eq(remaining == 2)]
        with m.If(lengths.o.ready):
            m.d.sync += [active.eq(lengths.o.valid), remaining.eq(lengths.o.payload),
                         last.eq(lengths.o.payload == 1)]

        # B.
        answers = Signal(COUNT_WIDTH)
        with m.If(bus.bvalid):
            m.d.sync += [answered.eq(answered + 1), answers.eq(answers + 1)]
        with m.If(self.restart):
            m.d.sync += answers.eq(0)
        reached = (answered - ends.o.payload)[:count_width][-1] == 0
        m.d.comb += [
            ends.o.ready.eq(reached),
            self.descriptor_done.eq(ends.o.valid & reached),
            self.idle.eq(~bus.awvalid & ~active & (unanswered == 0)),
        ]

        missed = pending & ~checked.end & ~inside & ~self.halt & ~failed
        with m.If(missed):
            m.d.sync += failed.eq(1)
        with m.If(bus.bvalid & bus.bresp[1]):
            m.d.comb += [
                self.error.valid.eq(1),
                self.error.code.eq(ErrorCode.WRITE_RESPONSE),
                self.error.position.eq(answers),
                self.error.slot.eq(0),
                self.error.limit.eq(0),
                self.error.value.eq(bus.bresp),
            ]
        with m.Else():
            m.d.comb += [
                self.error.valid.eq(missed),
                self.error.code.eq(ErrorCode.WINDOW_WRITE),
                self.error.position.eq(checked.position),
                self.error.value.eq(checked.address),
            ]
        return m
