"""CastUnit: tensor casting next to the memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..array_reader import ArrayReader
from ..axi import axi4_signature
from ..descriptor import ElementKind
from ..queue import Queue
from ..read_port import ReadPort
from ..registers import CastReader, ErrorCode
from ..segments import SegmentLengths
from ..select import first_of, select
from ..types import SLOT_WIDTH, error_record, strobed_beat
from ..windows import windows_layout
from ..write_port import WritePort
from .array_writer import ArrayWriter
from .bags import BagNumberer
from .bins import Bins
from .burst_merge import BurstMerge
from .emitter import Emitter
from .line_writer import LineWriter
from .list_reader import ListReader
from .sequencer import CastSequencer
from .store import PairStore
from .types import PAIR_COUNT_WIDTH

__all__ = ["CastUnit"]


class CastUnit(wiring.Component):
    """Sort the (row, bag) pairs of a batch by row, stably, and write the casting.

    A radix sort, least significant digit first: the digits of the indices are counted, then each
    pass sends every pair to its bin, in memory or, where the list is short, on the chip. The last
    pass finds the runs of equal rows. Source: Tensor Casting (HPCA 2021), which casts on the host.

    Contract: docs/programming.md. Nothing is written to the results before all indices and offsets
    have been checked.

    Members
    -------
    m_axi : Out(axi4_signature())
        Memory. Reads carry the ID of their CastReader, writes ID 0.
    windows : In(windows_layout())
    enable, ring_base, ring_size_log2, tail, head : the ring, see CastSequencer
    count : Out(32)
        Casts completed, modulo 2**32.
    other_completed : In(32)
        The same of the gather-scatter unit.
    segments : Out(32)
        U of the last cast.
    halt, idle, busy, interrupt, error : see Core
    working : Out(1)
        A cast is in work.
    descriptor : Out(1)
        Pulse: a cast completed.

    Timing: docs/cast.md.   Reset: only while ``idle``.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "m_axi": Out(axi4_signature(config.data_width)),
            "windows": In(windows_layout()),
            "enable": In(1), "ring_base": In(64), "ring_size_log2": In(4), "tail": In(SLOT_WIDTH),
            "head": Out(SLOT_WIDTH), "count": Out(32), "other_completed": In(32),
            "segments": Out(32),
            "halt": In(1), "idle": Out(1), "busy": Out(1), "interrupt": Out(1),
            "error": Out(error_record()), "working": Out(1), "descriptor": Out(1),
        })

    def elaborate(self, platform):
        """The dataflow, then the phases that switch it."""
        m = Module()
        config, derived = self.config, self.config.derived
        bits, most = config.cast_digit_bits, config.derived.cast_pairs
        lanes = 2 * most

        m.submodules.sequencer = sequencer = CastSequencer(config)
        for name in ("enable", "ring_base", "ring_size_log2", "tail", "other_completed", "halt"):
            m.d.comb += getattr(sequencer, name).eq(getattr(self, name))
        for name in ("head", "count", "busy", "interrupt"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))
        job = sequencer.o
        count = job.n_lookups[:PAIR_COUNT_WIDTH]

        # Ports.
        m.submodules.read_port = read_port = ReadPort(
            config, CastReader, (), 2 * derived.cast_buffer_beats + config.array_buffer_beats)
        m.submodules.write_port = write_port = WritePort(config, strobed=True)
        for port in (read_port, write_port):
            for name, member in port.bus.signature.members.items():
                inner, outer = getattr(port.bus, name), getattr(self.m_axi, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
            m.d.comb += [port.windows.eq(self.windows), port.halt.eq(self.halt),
                         port.restart.eq(~job.valid)]
        m.d.comb += [
            self.idle.eq(read_port.idle & write_port.idle),
            sequencer.fetch_missed.eq(read_port.fetch_missed),
            sequencer.missed_slot.eq(read_port.missed_slot),
            sequencer.fetch_resp.eq(read_port.fetch_resp),
        ]
        connect(m, sequencer.fetch, read_port.bursts[CastReader.DESCRIPTOR])
        connect(m, read_port.beats[CastReader.DESCRIPTOR], sequencer.fetched)

        def to_port(reader, unit):
            connect(m, unit.bursts, read_port.bursts[reader])
            connect(m, read_port.beats[reader], unit.beats)

        # Sources: indices with their bags, and the lists of the passes before.
        m.submodules.offsets = offsets = ArrayReader(config)
        m.submodules.lengths = lengths = SegmentLengths()
        m.submodules.bags = bags = BagNumberer()
        m.submodules.indices = indices = ListReader(config, lanes)
        m.submodules.listed = listed = ListReader(config, most)
        m.submodules.bins = bins = Bins(config, lanes)
        to_port(CastReader.OFFSET, offsets)
        to_port(CastReader.INDEX, indices)
        to_port(CastReader.PAIR, listed)
        connect(m, offsets.o, lengths.offsets)
        connect(m, lengths.o, bags.bags)
        stored = None
        if config.cast_buffer_pairs:
            m.submodules.store = stored = PairStore(config)
            m.d.comb += [
                stored.write.eq(bins.written & sequencer.fits),
                stored.position.eq(bins.position),
                stored.pair.eq(bins.pair),
            ]

        # Sinks.
        block = min(config.burst_beats_max, 16)
        m.submodules.emitter = emitter = Emitter(config)
        m.submodules.line_writer = line_writer = LineWriter(config)
        m.submodules.bag_writer = bag_writer = ArrayWriter(config, most, block)
        m.submodules.start_writer = start_writer = ArrayWriter(config, most, block)
        m.submodules.row_writer = row_writer = ArrayWriter(config, 2 * most, block)
        arrays = (bag_writer, start_writer, row_writer)
        writers = (line_writer, *arrays)
        m.submodules.merge = merge = BurstMerge(config, len(writers))
        m.submodules.beats = beats = Queue(strobed_beat(config), config.write_buffer_beats + 1)
        connect(m, bins.lines, line_writer.i)
        connect(m, emitter.bags, bag_writer.i)
        connect(m, emitter.starts, start_writer.i)
        connect(m, emitter.rows, row_writer.i)
        for n, writer in enumerate(writers):
            connect(m, writer.bursts, merge.bursts[n])
            connect(m, writer.data, merge.data[n])
        connect(m, merge.o_bursts, write_port.bursts)
        connect(m, merge.o_data, beats.i)
        connect(m, beats.o, write_port.data)
        m.d.comb += write_port.pushed.eq(beats.i.valid & beats.i.ready)

        # The digit in work.
        number = Signal(4)
        rest = Signal(32)       # of num_rows - 1, from this digit up
        last = (rest >> bits) == 0
        from_list = Signal()    # the list that is read; the other is written
        m.d.comb += [
            bins.number.eq(number),
            bins.last.eq(last),
            bins.top.eq(Mux(last, rest[:bits], ~Const(0, bits))),
            bins.keep.eq(sequencer.fits),
        ]

        # Indices are checked where they are counted; a cycle later, to keep the path short.
        counting = Signal()
        seen = Signal(indices.o.payload.shape())
        m.d.sync += seen.count.eq(
            Mux(counting & indices.o.valid & indices.o.ready, indices.o.payload.count, 0))
        m.d.sync += seen.item.eq(indices.o.payload.item)
        position = Signal(PAIR_COUNT_WIDTH)
        wrong = Signal(lanes)
        m.d.comb += wrong.eq(Cat(
            (seen.count > n) & (seen.item[n] >= job.num_rows) for n in range(lanes)))
        first_wrong = first_of(wrong)
        bad_index = Signal(error_record())
        m.d.comb += bins.counting.count.eq(seen.count)
        for n in range(lanes):
            m.d.comb += bins.counting.row[n].eq(seen.item[n])
        m.d.sync += [
            position.eq(Mux(counting, position + seen.count, 0)),
            bad_index.valid.eq(wrong.any()),
            bad_index.code.eq(ErrorCode.INDEX_RANGE),
            bad_index.slot.eq(sequencer.slot),
            bad_index.position.eq(
                position + select(first_wrong, [Const(n, 2) for n in range(lanes)])),
            bad_index.value.eq(select(first_wrong, [seen.item[n] for n in range(lanes)])),
            bad_index.limit.eq(job.num_rows),
        ]

        # Jobs, in the phases below: each is asked for once.
        unit_bags = job.offset_kind == ElementKind.SEQUENTIAL
        m.d.comb += [
            indices.job.payload.kind.eq(job.index_kind),
            indices.job.payload.base.eq(job.index_base),
            indices.job.payload.count.eq(count),
            indices.job.payload.single.eq(~counting),
            offsets.job.payload.kind.eq(job.offset_kind),
            offsets.job.payload.base.eq(job.offset_base),
            offsets.job.payload.count.eq(job.n_bags + 1),
            lengths.job.payload.unit.eq(unit_bags),
            lengths.job.payload.n_lookups.eq(job.n_lookups),
            lengths.job.payload.n_segments.eq(job.n_bags),
            lengths.job.payload.slot.eq(sequencer.slot),
            bags.n_lookups.eq(job.n_lookups),
            bags.n_bags.eq(job.n_bags),
            bags.slot.eq(sequencer.slot),
            emitter.job.payload.count.eq(count),
            emitter.job.payload.wide.eq(job.row_kind == ElementKind.INT64),
            bag_writer.job.payload.eq(job.bags_base),
            row_writer.job.payload.eq(job.rows_base),
        ]
        emitting = Signal()
        list_base = [job.scratch_base, job.scratch_base + sequencer.list_bytes]
        m.d.comb += [
            listed.job.payload.kind.eq(ElementKind.INT64),
            listed.job.payload.base.eq(Mux(from_list, list_base[1], list_base[0])),
            listed.job.payload.count.eq(count),
            listed.job.payload.single.eq(~emitting),
        ]
        base = Signal(64)
        m.d.sync += base.eq(Mux(from_list, list_base[0], list_base[1]))
        m.d.comb += line_writer.base.eq(base)

        # Pairs: of the first pass from the indices, later from the list before.
        first_pass = number == 0
        sorting = Signal()
        reading = Signal()      # a list is wanted
        read_done = Signal()
        lists = [(listed, ~sequencer.fits)]
        if stored is not None:
            lists.append((stored, sequencer.fits))
            m.d.comb += [
                stored.into.eq(~from_list),
                stored.job.payload.list.eq(from_list),
                stored.job.payload.count.eq(count),
                stored.job.payload.single.eq(~emitting),
            ]
        from_indices = sorting & first_pass
        m.d.comb += [
            bags.indices.payload.eq(indices.o.payload.item[0]),
            bags.indices.valid.eq(indices.o.valid & from_indices),
            indices.o.ready.eq(counting | (from_indices & bags.indices.ready)),
            bags.o.ready.eq(from_indices & bins.i.ready),
        ]
        with m.If(from_indices):
            m.d.comb += [bins.i.valid.eq(bags.o.valid), bins.i.payload.eq(bags.o.payload)]
        for source, chosen in lists:
            wanted = reading & chosen
            m.d.comb += source.job.valid.eq(wanted)
            with m.If(source.job.ready & wanted):
                m.d.comb += read_done.eq(1)
            with m.If(chosen & emitting):
                m.d.comb += [
                    emitter.i.valid.eq(source.o.valid),
                    emitter.i.payload.count.eq(source.o.payload.count),
                    *(Value.cast(emitter.i.payload.item[n]).eq(
                        Value.cast(source.o.payload.item[n])) for n in range(most)),
                    source.o.ready.eq(emitter.i.ready),
                ]
            with m.Elif(chosen & sorting & ~first_pass):
                m.d.comb += [
                    bins.i.valid.eq(source.o.valid),
                    Value.cast(bins.i.payload).eq(Value.cast(source.o.payload.item[0])),
                    source.o.ready.eq(bins.i.ready),
                ]

        # Phases.
        quiet = bins.idle & line_writer.idle & merge.idle
        asked = Signal(4)       # of a phase's jobs, those that have been taken
        written = Signal(3)     # arrays that are complete
        total = Signal()        # the start writer is at U
        source_done = Signal()
        ended = Signal()        # the results are written
        m.d.comb += start_writer.job.payload.eq(
            Mux(total, job.count_base, job.segments_base))
        m.d.comb += sequencer.done.eq(0)
        with m.FSM(name="phase"):
            with m.State("CLEAR"):
                # The counters hold anything.
                m.d.comb += [bins.top.eq(~0), bins.prefix.eq(1)]
                m.next = "CLEARING"
            with m.State("CLEARING"):
                m.d.comb += bins.top.eq(~0)
                with m.If(bins.idle):
                    m.next = "REST"
            with m.State("REST"):
                m.d.sync += [number.eq(0), rest.eq(Mux(job.num_rows == 0, 0, job.num_rows - 1)),
                             from_list.eq(1),
                             written.eq(0), total.eq(0), ended.eq(0)]
                with m.If(job.valid & ~self.halt):
                    m.next = "COUNT"
            with m.State("COUNT"):
                # The digits of all indices; without any, only the ends are written.
                m.d.comb += [counting.eq(1), indices.job.valid.eq(1)]
                with m.If(indices.job.ready):
                    m.d.sync += asked.eq(0)
                    m.next = "COUNTED"
            with m.State("COUNTED"):
                # The last of them stand in `seen`.
                m.next = "PREFIX"
            with m.State("PREFIX"):
                m.d.comb += bins.prefix.eq(1)
                m.d.sync += [source_done.eq(0), asked.eq(0)]
                m.next = "SORT"
            with m.State("SORT"):
                # Sources start while the bins are placed.
                m.d.comb += sorting.eq(1)
                with m.If(first_pass):
                    m.d.comb += [
                        indices.job.valid.eq(~asked[0]),
                        offsets.job.valid.eq(~asked[1] & ~unit_bags),
                        lengths.job.valid.eq(~asked[2]),
                    ]
                    for n, unit in enumerate((indices, offsets, lengths)):
                        with m.If(unit.job.valid & unit.job.ready):
                            m.d.sync += asked[n].eq(1)
                    with m.If(bags.done):
                        m.d.sync += source_done.eq(1)
                with m.Else():
                    m.d.comb += reading.eq(~source_done)
                    with m.If(read_done):
                        m.d.sync += source_done.eq(1)
                with m.If(source_done & bins.idle):
                    m.next = "SORTED"
            with m.State("SORTED"):
                with m.If(sequencer.fits):
                    m.next = "TURN"
                with m.Else():
                    m.d.comb += bins.flush.eq(1)
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(quiet):
                    m.d.comb += merge.end.eq(1)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(write_port.descriptor_done):
                    m.next = "TURN"
            with m.State("TURN"):
                # What was written is read next.
                m.d.sync += [
                    from_list.eq(~from_list), number.eq(number + 1), rest.eq(rest >> bits),
                    asked.eq(0),
                ]
                with m.If(ended):
                    with m.If(~self.halt):
                        m.d.comb += sequencer.done.eq(1)
                        m.next = "REST"
                with m.Elif(last):
                    m.next = "EMIT"
                with m.Else():
                    m.next = "PREFIX"
            with m.State("EMIT"):
                m.d.comb += [
                    emitting.eq(1),
                    reading.eq(~asked[0]),
                    emitter.job.valid.eq(~asked[1]),
                    bag_writer.job.valid.eq(~written[0]),
                    start_writer.job.valid.eq(~written[1]),
                    row_writer.job.valid.eq(~written[2]),
                ]
                with m.If(read_done):
                    m.d.sync += asked[0].eq(1)
                with m.If(emitter.job.valid & emitter.job.ready):
                    m.d.sync += [asked[1].eq(1), self.segments.eq(emitter.distinct)]
                for n, writer in enumerate(arrays):
                    with m.If(writer.job.valid & writer.job.ready):
                        m.d.sync += written[n].eq(1)
                with m.If(start_writer.job.ready & ~total):
                    m.d.sync += [written[1].eq(0), total.eq(1)]
                with m.If(written.all() & Cat(writer.idle for writer in arrays).all() & merge.idle):
                    m.d.comb += merge.end.eq(1)
                    m.d.sync += ended.eq(1)
                    m.next = "DRAIN"
        m.d.comb += [self.descriptor.eq(sequencer.done), self.working.eq(job.valid)]

        # The first error; the ports report for the descriptor in work.
        records = []
        for n, record in enumerate((sequencer.error, lengths.error, bags.error, bad_index,
                                    read_port.error, write_port.error)):
            shown = Signal(error_record(), name=f"error_{n}")
            m.d.comb += shown.eq(record)
            if n >= 4:
                m.d.comb += shown.slot.eq(sequencer.slot)
            records.append(shown)
        grants = first_of(record.valid for record in records)
        m.d.comb += Value.cast(self.error).eq(select(grants, records))
        return m
