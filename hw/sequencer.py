"""Sequencer: fetches descriptors from the ring, checks them, and hands each unit its part."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .descriptor import DESCRIPTOR_BYTES, FIELDS, ElementKind, Sink
from .fetcher import DescriptorFetcher
from .queue import Queue
from .registers import ErrorCode, Reader
from .select import first_of, select
from .types import (
    COUNT_WIDTH,
    SLOT_WIDTH,
    array_job,
    burst,
    error_record,
    reduce_job,
    row_job,
    segment_job,
    update_job,
    walk_job,
)

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Run the descriptor ring.

    Contract: descriptors start in ring order. One without ``relaxed`` starts when all before it
    have completed, so it sees all they wrote. One that ``waits`` starts when the cast unit has
    completed as many as it says; the number of segments of one that is ``counted`` is read then.
    Those behind it are fetched meanwhile, so that none may write a later descriptor, and the next
    one is checked. A bad one, or one that cannot be
    fetched, is reported when those before it have completed, and stops the ring. A descriptor has
    completed when all of its writes are answered and all of its lookups, those behind its last
    segment too, are used up: nothing is read for it any more.

    Members
    -------
    enable : In(1)
        Fetch descriptors.
    ring_base, ring_size_log2, tail : In
        The ring, from the register bank.
    head : Out(16)
        Slot of the oldest descriptor that has not completed.
    fetch : Out(stream.Signature(burst()))
        Requests for descriptors.
    fetched : In(stream.Signature(data_width, always_ready=True))
        Their beats.
    fetch_missed, missed_slot, fetch_resp : In
        See ReadPort.
    count_fetch : Out(stream.Signature(burst()))
        Request for a number of segments.
    count_fetched : In(stream.Signature(data_width, always_ready=True))
        The beat that holds it.
    other_completed : In(32)
        Descriptors that the cast unit has completed, modulo 2**32.
    index_job, offset_job, weight_job, target_job, scale_job : Out(stream.Signature(array_job()))
    segment_job : Out(stream.Signature(segment_job()))
    walk_job : Out(stream.Signature(walk_job()))
    count_job : Out(stream.Signature(COUNT_WIDTH))
    source_job, sink_job : Out(stream.Signature(row_job()))
    reduce_job : Out(stream.Signature(reduce_job()))
    update_job : Out(stream.Signature(update_job()))
        The parts, each behind a queue of its own.
    written : In(1)
        Pulse: the writes of one more descriptor are all answered.
    gathered : In(1)
        Pulse: the lookups of one more descriptor are all used up.
    halt : In(1)
        Start nothing more, complete nothing more.
    completed, interrupt : Out(1)
        Pulses: a descriptor completed; it asked for an interrupt.
    count : Out(32)
        Descriptors completed, modulo 2**32.
    slot : Out(SLOT_WIDTH)
        That of the descriptor that starts next.
    busy : Out(1)
        A descriptor is fetched, checked or in work.
    in_flight : Out(1)
        A descriptor is in work.
    error : Out(error_record())
        A descriptor that is bad, or that could not be fetched.

    Timing: a descriptor starts seven cycles after its last beat, the next one that many beats and
    three cycles after it.
    Reset: forgets all, head returns to 0.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        self.jobs = {
            "index_job": array_job(), "offset_job": array_job(), "weight_job": array_job(),
            "target_job": array_job(), "scale_job": array_job(),
            "segment_job": segment_job(), "walk_job": walk_job(),
            "source_job": row_job(derived), "sink_job": row_job(derived),
            "count_job": COUNT_WIDTH, "reduce_job": reduce_job(derived),
            "update_job": update_job(derived),
        }
        super().__init__({
            "enable": In(1), "ring_base": In(64), "ring_size_log2": In(4), "tail": In(SLOT_WIDTH),
            "head": Out(SLOT_WIDTH),
            "fetch": Out(stream.Signature(burst(derived))),
            "fetched": In(stream.Signature(config.data_width, always_ready=True)),
            "count_fetch": Out(stream.Signature(burst(derived))),
            "count_fetched": In(stream.Signature(config.data_width, always_ready=True)),
            "other_completed": In(32),
            **{name: Out(stream.Signature(shape)) for name, shape in self.jobs.items()},
            "fetch_missed": In(1), "missed_slot": In(SLOT_WIDTH), "fetch_resp": In(2),
            "written": In(1), "gathered": In(1), "halt": In(1),
            "completed": Out(1), "interrupt": Out(1), "count": Out(32), "slot": Out(SLOT_WIDTH),
            "busy": Out(1),
            "in_flight": Out(1), "error": Out(error_record()),
        })

    def elaborate(self, platform):
        """Receive, check, issue: one descriptor at a time; completion on its own."""
        m = Module()
        config, derived = self.config, self.config.derived
        beat_log2 = derived.beat_bytes_log2

        m.submodules.fetcher = fetcher = DescriptorFetcher(config)
        connect(m, fetcher.fetch, flipped(self.fetch))
        connect(m, flipped(self.fetched), fetcher.fetched)
        for name in ("ring_base", "ring_size_log2", "tail",
                     "fetch_missed", "missed_slot", "fetch_resp"):
            m.d.comb += getattr(fetcher, name).eq(getattr(self, name))

        word = Signal(8 * DESCRIPTOR_BYTES, reset_less=True)
        fields = {field.name: word[field.lsb:field.lsb + field.width] for field in FIELDS}
        slot = self.slot
        next_slot = Signal(SLOT_WIDTH)
        slot_mask = Signal(SLOT_WIDTH)
        received = Signal(range(DESCRIPTOR_BYTES // derived.beat_bytes))
        in_flight = Signal(range(config.descriptors_in_flight + 1))  # highest bit: all of them
        # The ring's size changes only while it is not in use.
        m.d.sync += slot_mask.eq((1 << self.ring_size_log2) - 1)
        m.d.comb += next_slot.eq((slot + 1) & slot_mask)

        # Check: one flag per rule, in the order of the fields.
        rules = self._rules(fields)
        bad = Signal(len(rules))
        first_bad = Signal(len(rules), reset_less=True)  # one-hot, a cycle behind `bad`
        m.d.sync += first_bad.eq(Cat(first_of(bad)))
        # What is wrong, a cycle behind `first_bad`.
        explanation = data.StructLayout(
            {"position": COUNT_WIDTH, "value": 64, "limit": COUNT_WIDTH})
        explanations = []
        for name, _, limit in rules:
            explanations.append(each := Signal(explanation, name=f"wrong_{name}"))
            m.d.comb += [each.position.eq(self._byte(name)), each.value.eq(fields[name]),
                         each.limit.eq(limit)]
        wrong = Signal(explanation, reset_less=True)
        m.d.sync += Value.cast(wrong).eq(select(first_bad, explanations))
        fault = Signal(data.StructLayout(
            {"valid": 1, "missed": 1, "resp": 2, "position": SLOT_WIDTH}))
        m.d.comb += [
            self.error.code.eq(ErrorCode.DESCRIPTOR), self.error.slot.eq(slot),
            self.error.position.eq(wrong.position), self.error.value.eq(wrong.value),
            self.error.limit.eq(wrong.limit),
        ]
        excess = Signal()  # more segments than n_segments
        counted = Signal(COUNT_WIDTH)
        with m.If(excess):
            m.d.comb += [
                self.error.code.eq(ErrorCode.SEGMENT_COUNT),
                self.error.position.eq(0),
                self.error.value.eq(counted),
                self.error.limit.eq(fields["n_segments"]),
            ]
        with m.Elif(fault.valid):
            m.d.comb += [
                self.error.code.eq(Mux(fault.missed, ErrorCode.WINDOW_READ,
                                       ErrorCode.READ_RESPONSE)),
                self.error.position.eq(fault.position),
                self.error.value.eq(Mux(
                    fault.missed, Cat(Const(0, 7), self.ring_base[7:] + slot), fault.resp)),
                self.error.limit.eq(Reader.DESCRIPTOR),
            ]

        # The parts.
        queues = {}
        for name, shape in self.jobs.items():
            m.submodules[name] = queues[name] = queue = Queue(
                shape, config.descriptors_in_flight)
            wiring.connect(m, queue.o, wiring.flipped(getattr(self, name)))
        row_beats = fields["dim"] >> (beat_log2 - 2)
        update = fields["sink"] == Sink.SGD
        unit = fields["segment_kind"] == ElementKind.SEQUENTIAL
        parts = {
            "index_job": {"kind": fields["index_kind"], "base": fields["index_base"],
                          "count": fields["n_lookups"]},
            "offset_job": {"kind": fields["segment_kind"], "base": fields["offset_base"],
                           "count": fields["n_segments"] + 1},
            "weight_job": {"kind": ElementKind.INT32, "base": fields["weight_base"],
                           "count": fields["n_lookups"]},
            "scale_job": {"kind": ElementKind.INT32, "base": fields["scale_base"],
                          "count": fields["n_segments"]},
            "target_job": {"kind": fields["target_kind"], "base": fields["target_base"],
                           "count": fields["n_segments"]},
            "segment_job": {"unit": unit, "n_lookups": fields["n_lookups"],
                            "n_segments": fields["n_segments"], "slot": slot},
            "source_job": {"base": fields["src_base"],
                           "stride_beats": fields["src_stride"] >> beat_log2,
                           "n_rows": fields["src_rows"], "row_beats": row_beats,
                           "increasing": 0, "read": 0, "slot": slot},
            "sink_job": {"base": fields["dst_base"],
                         "stride_beats": fields["dst_stride"] >> beat_log2,
                         "n_rows": fields["dst_rows"], "row_beats": row_beats,
                         "increasing": update, "read": update, "slot": slot},
            "walk_job": {"n_lookups": fields["n_lookups"], "weighted": fields["weighted"]},
            "reduce_job": {"row_beats": row_beats, "one_beat": row_beats == 1,
                           "weighted": fields["weighted"]},
            "update_job": {"update": update, "scaled": fields["scaled"], "lr": fields["lr"],
                           "n_segments": fields["n_segments"], "row_beats": row_beats},
        }
        for name, values in parts.items():
            for key, value in values.items():
                m.d.comb += queues[name].i.payload[key].eq(value)
        m.d.comb += queues["count_job"].i.payload.eq(fields["n_segments"])
        issue = Signal()
        wanted = {"offset_job": ~unit, "weight_job": fields["weighted"],
                  "scale_job": fields["scaled"]}
        for name, queue in queues.items():
            m.d.comb += queue.i.valid.eq(issue & wanted.get(name, 1))

        # Completion. Writes and lookups finish in either order: each may be ahead.
        done = Signal()
        ahead = []
        for name in ("written", "gathered"):
            count = Signal(range(config.descriptors_in_flight + 1), name=f"{name}_ahead")
            some = Signal(name=f"{name}_some")  # count is not 0
            pulse = getattr(self, name)
            m.d.sync += [count.eq(count + pulse - done),
                         some.eq(pulse | (some & ~(done & (count == 1))))]
            ahead.append(some)
        m.d.comb += done.eq(Cat(ahead).all() & ~self.halt)

        # Which descriptors in flight want an interrupt.
        m.submodules.finishing = finishing = Queue(
            data.StructLayout({"interrupt": 1}), config.descriptors_in_flight)
        m.d.comb += [
            finishing.i.payload.interrupt.eq(fields["interrupt"]),
            finishing.i.valid.eq(issue),
            finishing.o.ready.eq(done),
            self.completed.eq(done),
            self.interrupt.eq(done & finishing.o.payload.interrupt),
        ]
        m.d.sync += in_flight.eq(in_flight + issue - done)
        with m.If(done):
            m.d.sync += [self.head.eq((self.head + 1) & slot_mask), self.count.eq(self.count + 1)]

        # The number of segments in memory replaces the field, once.
        behind = Signal()
        m.d.sync += behind.eq((self.other_completed - fields["wait_count"])[31])
        replaced = Signal()
        lane = fields["count_base"][2:beat_log2]
        m.d.comb += [
            self.count_fetch.payload.address.eq(
                Cat(Const(0, beat_log2), fields["count_base"][beat_log2:])),
            self.count_fetch.payload.beats.eq(1),
        ]
        n_segments = next(field for field in FIELDS if field.name == "n_segments")

        # Room for every part (a queue may still hold that of a descriptor which completed a moment
        # ago), and no fence: as it was a cycle ago, and nothing was issued since.
        alone, clear = in_flight == 0, Signal()
        m.d.sync += clear.eq(Cat(queue.i.ready for queue in queues.values()).all()
                             & (alone | (fields["relaxed"] & ~in_flight[-1])))

        # Whether the fetch of this slot missed: known a cycle later, long before what is behind it
        # can come.
        missed_here = Signal()
        m.d.sync += missed_here.eq(fetcher.missed.valid & Mux(
            issue, fetcher.missed.slot == next_slot, fetcher.missed.slot == slot))

        failed = Signal()
        m.d.comb += fetcher.enable.eq(self.enable & ~self.halt & ~failed)
        with m.FSM(name="state") as fsm:
            with m.State("RECEIVE"):
                m.d.comb += fetcher.o.ready.eq(1)
                with m.If(missed_here):
                    m.d.sync += [fault.valid.eq(1), fault.missed.eq(1), fault.position.eq(slot)]
                    m.next = "ISSUE"
                with m.If(fetcher.o.valid):  # never beside the other
                    beat = fetcher.o.payload
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
                m.next = "ISSUE"
            with m.State("ISSUE"):
                with m.If(fault.valid | bad.any()):
                    m.next = "EXPLAIN"
                with m.Elif(~self.halt & clear & ~(fields["waits"] & behind)):
                    with m.If(fields["counted"] & ~replaced):
                        m.next = "ASK"
                    with m.Else():
                        m.next = "HAND_OUT"
            # Behind a register, because it reaches every part of the engine.
            with m.State("HAND_OUT"):
                with m.If(~self.halt):
                    m.d.comb += issue.eq(1)
                    m.d.sync += [slot.eq(next_slot), replaced.eq(0)]
                    m.next = "RECEIVE"
            with m.State("ASK"):
                m.d.comb += self.count_fetch.valid.eq(1)
                with m.If(self.count_fetch.ready):
                    m.next = "COUNT"
            with m.State("COUNT"):
                with m.If(self.count_fetched.valid):
                    m.d.sync += counted.eq(self.count_fetched.payload.word_select(lane, 32))
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += excess.eq(fields["n_segments"] < counted)
                m.next = "COUNTED"
            with m.State("COUNTED"):
                with m.If(excess):
                    m.next = "REFUSE"
                with m.Else():
                    m.d.sync += [
                        word[n_segments.lsb:n_segments.lsb + n_segments.width].eq(counted),
                        replaced.eq(1),
                    ]
                    m.next = "ISSUE"
            with m.State("EXPLAIN"):
                m.next = "REFUSE"
            with m.State("REFUSE"):
                m.d.comb += self.error.valid.eq(alone & ~failed)
                with m.If(alone):
                    m.d.sync += failed.eq(1)
        m.d.comb += [
            self.in_flight.eq(in_flight != 0),
            self.busy.eq(~fsm.ongoing("RECEIVE") | self.in_flight | fetcher.busy),
        ]
        return m

    @staticmethod
    def _byte(name):
        """Byte offset of a field, as the error record shows it."""
        return next(field.lsb // 8 for field in FIELDS if field.name == name)

    def _rules(self, fields):
        """Return (field, is it bad, the limit to report), in the order of the fields."""
        derived = self.config.derived
        beat_log2 = derived.beat_bytes_log2
        row_bytes = fields["dim"] << 2

        def misaligned_array(kind, base):
            return ((fields[kind] == ElementKind.INT32) & fields[base][:2].any()) \
                | ((fields[kind] == ElementKind.INT64) & fields[base][:3].any())

        def bad_stride(name):
            return fields[name][:beat_log2].any() | (fields[name] < row_bytes) \
                | fields[name][beat_log2 + derived.stride_beats_width:].any()

        unit = fields["segment_kind"] == ElementKind.SEQUENTIAL
        return [
            ("index_kind", fields["index_kind"] > max(ElementKind), int(max(ElementKind))),
            ("segment_kind", fields["segment_kind"] > max(ElementKind), int(max(ElementKind))),
            ("target_kind", fields["target_kind"] > max(ElementKind), int(max(ElementKind))),
            ("sink", fields["sink"] > max(Sink), int(max(Sink))),
            # One multiplier serves the scale and the learning rate.
            ("scaled", fields["scaled"] & (fields["sink"] != Sink.WRITE), 0),
            ("waits", fields["waits"] & (self.config.cast_port == 0), 0),
            ("counted", fields["counted"] & unit, 0),
            ("dim", (fields["dim"] == 0) | (fields["dim"] > self.config.dim_max)
             | fields["dim"][:beat_log2 - 2].any(), self.config.dim_max),
            ("n_segments", unit & (fields["n_segments"] != fields["n_lookups"]),
             fields["n_lookups"]),
            ("src_base", fields["src_base"][:beat_log2].any(), 0),
            ("src_stride", bad_stride("src_stride"), row_bytes),
            ("dst_base", fields["dst_base"][:beat_log2].any(), 0),
            ("dst_stride", bad_stride("dst_stride"), row_bytes),
            ("index_base", misaligned_array("index_kind", "index_base"), 0),
            ("offset_base", misaligned_array("segment_kind", "offset_base"), 0),
            ("target_base", misaligned_array("target_kind", "target_base"), 0),
            ("weight_base", fields["weighted"] & fields["weight_base"][:2].any(), 0),
            ("scale_base", fields["scaled"] & fields["scale_base"][:2].any(), 0),
            ("count_base", fields["counted"] & fields["count_base"][:2].any(), 0),
        ]
