"""Core: the dataflow of the engine, gather → reduce → scatter, from the ring to the bus."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from .array_reader import ArrayReader
from .axi import axi4_signature
from .burst_reader import BurstReader
from .queue import Queue
from .read_port import ReadPort
from .reducer import Reducer
from .register_slice import RegisterSlice
from .registers import ErrorCode, Reader
from .rows import BurstSplitter, RowAddresser, RowNumberer
from .segments import SegmentLengths, SegmentWalker
from .select import first_of, select
from .sequencer import Sequencer
from .types import error_record, row, token
from .updater import Updater
from .windows import windows_layout
from .write_port import WritePort

__all__ = ["Core", "events_layout"]


def events_layout():
    """Return what the core tells the performance counters, each a condition of one cycle."""
    return data.StructLayout({
        "busy": 1,              # a descriptor is fetched, checked or in work
        "outstanding": 1,       # read bursts are unanswered
        "wants_credit": 1,      # a reader has a burst and no room for its data
        "wants_index": 1,       # a segment waits for an index
        "wants_segment": 1,     # the walker waits for a segment's length
        "walking": 1,           # the walker has lookups to issue
        "in_flight": 1,         # a descriptor has started and not completed
        "row_beat": 1,          # a beat of a gathered row arrived
        "useful_beat": 1,       # a beat arrived that is not a descriptor's
        "row": 1,               # a lookup was issued
        "segment": 1,           # the reducer took a segment's last beat
        "descriptor": 1,        # a descriptor completed
    })


class Core(wiring.Component):
    """Connect the units of the engine.

    Contract: docs/architecture.md. All units are connected by streams; the only controls that
    reach over them are ``halt`` and the reset.

    Members
    -------
    m_axi : Out(axi4_signature())
    windows : In(windows_layout())
    enable, ring_base, ring_size_log2, tail, head, count, other_completed : the ring, see Sequencer
    halt : In(1)
        Issue no further burst and start no further descriptor, from the next cycle on.
    idle : Out(1)
        No transfer is in flight. Under ``halt`` it stays so, from the next cycle on.
    busy : Out(1)
        A descriptor is fetched, checked or in work.
    interrupt : Out(1)
        Pulse: a descriptor that asked for it completed.
    error : Out(error_record())
        Something went wrong a cycle ago, and the core has halted itself; `halt` must follow in the
        next cycle.
    events : Out(events_layout())
        For the performance counters.

    Timing: docs/architecture.md.   Reset: only while ``idle``.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "m_axi": Out(axi4_signature(config.data_width)),
            "windows": In(windows_layout()),
            "enable": In(1), "ring_base": In(64), "ring_size_log2": In(4), "tail": In(16),
            "head": Out(16), "count": Out(32), "other_completed": In(32),
            "halt": In(1), "idle": Out(1), "busy": Out(1), "interrupt": Out(1),
            "error": Out(error_record()),
            "events": Out(events_layout()),
        })

    def elaborate(self, platform):
        """Connect, from the ring to the bus."""
        m = Module()
        config, derived = self.config, self.config.derived

        halt = Signal()
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.read_port = read_port = ReadPort(config)
        m.submodules.write_port = write_port = WritePort(config)
        for port in (read_port, write_port):
            for name, member in port.bus.signature.members.items():
                inner, outer = getattr(port.bus, name), getattr(self.m_axi, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
            m.d.comb += [port.windows.eq(self.windows), port.halt.eq(halt),
                         port.restart.eq(~sequencer.in_flight)]
        m.d.comb += self.idle.eq(read_port.idle & write_port.idle)

        def to_port(reader, bursts, beats):
            connect(m, bursts, read_port.bursts[reader])
            connect(m, read_port.beats[reader], beats)

        def sliced(name, source, late_ready=False):
            """Return a stream behind registers: what its consumer takes hangs on others, too."""
            m.submodules[name] = each = RegisterSlice(
                source.payload.shape(), late_ready=late_ready)
            connect(m, source, each.i)
            return each.o

        # Front: descriptors, and the arrays they name.
        to_port(Reader.DESCRIPTOR, sequencer.fetch, sequencer.fetched)
        to_port(Reader.COUNT, sequencer.count_fetch, sequencer.count_fetched)
        arrays = {}
        for reader, job in ((Reader.OFFSET, sequencer.offset_job),
                            (Reader.INDEX, sequencer.index_job),
                            (Reader.WEIGHT, sequencer.weight_job),
                            (Reader.TARGET, sequencer.target_job),
                            (Reader.SCALE, sequencer.scale_job)):
            m.submodules[f"{reader.name.lower()}_reader"] = arrays[reader] = ArrayReader(
                config, words_only=reader in (Reader.WEIGHT, Reader.SCALE))
            connect(m, job, arrays[reader].job)
            to_port(reader, arrays[reader].bursts, arrays[reader].beats)

        # Gather: segments, lookups, rows.
        m.submodules.lengths = lengths = SegmentLengths()
        m.submodules.walker = walker = SegmentWalker()
        m.submodules.source = source = RowAddresser(config, ErrorCode.INDEX_RANGE)
        m.submodules.source_splitter = source_splitter = BurstSplitter(config)
        m.submodules.row_reader = row_reader = BurstReader(config, config.row_buffer_beats)
        m.submodules.tokens = tokens = Queue(token(), config.row_buffer_beats)
        connect(m, sequencer.segment_job, lengths.job)
        connect(m, arrays[Reader.OFFSET].o, lengths.offsets)
        connect(m, lengths.o, walker.segments)
        connect(m, sequencer.walk_job, walker.job)
        connect(m, arrays[Reader.INDEX].o, walker.indices)
        connect(m, arrays[Reader.WEIGHT].o, walker.weights)
        connect(m, sliced("request_slice", walker.rows), source.i)
        connect(m, sliced("walker_slice", walker.tokens), tokens.i)
        connect(m, sequencer.source_job, source.job)
        connect(m, source.o, source_splitter.i)
        connect(m, source_splitter.o, row_reader.i)
        to_port(Reader.ROW, row_reader.o, row_reader.beats)

        # Scatter: target rows, their old content, the addresses to write to.
        m.submodules.targets = targets = RowNumberer()
        m.submodules.sink = sink = RowAddresser(config, ErrorCode.TARGET_RANGE, pass_end=True)
        rows = sink.o
        m.submodules.old_splitter = old_splitter = BurstSplitter(config)
        m.submodules.old_reader = old_reader = BurstReader(config, config.old_buffer_beats)
        m.submodules.addresses = addresses = Queue(
            row(derived), config.old_buffer_beats, registered=True)
        m.submodules.write_splitter = write_splitter = BurstSplitter(config)
        connect(m, sequencer.sink_job, sink.job)
        connect(m, sequencer.count_job, targets.job)
        connect(m, arrays[Reader.TARGET].o, targets.i)
        connect(m, sliced("target_slice", targets.o), sink.i)
        wants_old = rows.payload.read & ~rows.payload.end
        m.d.comb += [
            addresses.i.payload.eq(rows.payload),
            old_splitter.i.payload.eq(rows.payload),
            addresses.i.valid.eq(rows.valid & (old_splitter.i.ready | ~wants_old)),
            old_splitter.i.valid.eq(rows.valid & addresses.i.ready & wants_old),
            rows.ready.eq(addresses.i.ready & (old_splitter.i.ready | ~wants_old)),
        ]
        connect(m, old_splitter.o, old_reader.i)
        to_port(Reader.OLD_ROW, old_reader.o, old_reader.beats)
        connect(m, addresses.o, write_splitter.i)
        connect(m, write_splitter.o, write_port.bursts)

        # Reduce, update, write.
        m.submodules.reducer = reducer = Reducer(config)
        m.submodules.updater = updater = Updater(config)
        connect(m, sequencer.reduce_job, reducer.job)
        # It takes a beat if there is a token for it, and the other way round.
        connect(m, sliced("token_slice", tokens.o, late_ready=True), reducer.tokens)
        connect(m, sliced("row_slice", row_reader.data, late_ready=True), reducer.rows)
        connect(m, sequencer.update_job, updater.job)
        connect(m, arrays[Reader.SCALE].o, updater.scales)
        connect(m, reducer.o, updater.sums)
        connect(m, sliced("old_slice", old_reader.data, late_ready=True), updater.old)
        connect(m, updater.o, write_port.data)
        m.d.comb += write_port.pushed.eq(updater.pushed)

        # Control and status.
        # The end of a descriptor reaches the reducer behind every lookup, used or not. Behind a
        # register, because that handshake is long; the answers to the writes come later, as a rule.
        m.d.sync += sequencer.gathered.eq(reducer.job.valid & reducer.job.ready)
        m.d.comb += [
            sequencer.enable.eq(self.enable),
            sequencer.ring_base.eq(self.ring_base),
            sequencer.ring_size_log2.eq(self.ring_size_log2),
            sequencer.tail.eq(self.tail),
            sequencer.halt.eq(halt),
            sequencer.written.eq(write_port.descriptor_done),
            sequencer.fetch_missed.eq(read_port.fetch_missed),
            sequencer.missed_slot.eq(read_port.missed_slot),
            sequencer.fetch_resp.eq(read_port.fetch_resp),
            sequencer.other_completed.eq(self.other_completed),
            self.head.eq(sequencer.head),
            self.count.eq(sequencer.count),
            self.busy.eq(sequencer.busy),
            self.interrupt.eq(sequencer.interrupt),
        ]
        self._first_error(m, halt, sequencer,
                          (sequencer, lengths, source, sink, read_port, write_port))
        m.d.comb += [
            self.events.busy.eq(sequencer.busy & ~self.halt),
            self.events.outstanding.eq(read_port.outstanding),
            self.events.wants_credit.eq(
                Cat(reader.starved for reader in (*arrays.values(), row_reader, old_reader)).any()),
            self.events.wants_index.eq(walker.wants_index),
            self.events.wants_segment.eq(walker.wants_segment),
            self.events.walking.eq(walker.job.valid),
            self.events.in_flight.eq(sequencer.in_flight),
            self.events.row_beat.eq(row_reader.beats.valid),
            self.events.useful_beat.eq(Cat(
                read_port.beats[reader].valid for reader in Reader
                if reader != Reader.DESCRIPTOR).any()),
            self.events.row.eq(walker.issued),
            self.events.segment.eq(reducer.segment_done),
            self.events.descriptor.eq(sequencer.completed),
        ]
        return m

    def _first_error(self, m, halt, sequencer, units):
        """Halt in the cycle after the first error; show its record one later.

        The ports report for the oldest descriptor in work, but a number of segments is read for
        the one that starts next.
        """
        records = []
        for n, unit in enumerate(units):
            record = Signal(error_record(), name=f"error_{n}")
            m.d.sync += record.eq(unit.error)
            if isinstance(unit, ReadPort | WritePort):
                m.d.sync += record.slot.eq(sequencer.head)
            if isinstance(unit, ReadPort):
                with m.If(unit.error.limit == Reader.COUNT):
                    m.d.sync += record.slot.eq(sequencer.slot)
            records.append(record)
        grants = first_of(record.valid for record in records)
        m.d.comb += Value.cast(self.error).eq(select(grants, records))
        stopped = Signal()
        stops = stopped | Cat(unit.error.valid for unit in units).any()
        m.d.sync += [stopped.eq(stops), halt.eq(stops | self.halt)]
