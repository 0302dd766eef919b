"""DescriptorFetcher: reads descriptors ahead of their turn, in the order of the ring."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .descriptor import DESCRIPTOR_BYTES
from .queue import Queue
from .types import SLOT_WIDTH, burst, descriptor_beat

__all__ = ["DescriptorFetcher"]


class DescriptorFetcher(wiring.Component):
    """Keep descriptors on their way, so that a ring of short ones never waits for the memory.

    Contract: slots are fetched in ring order, none at or behind ``tail``, and none before there is
    room for it. What was fetched leaves even when ``enable`` has fallen. Behind a slot whose fetch
    missed nothing more is asked for; what was asked for already may still leave behind those in
    front of it, and means nothing.

    Members
    -------
    enable : In(1)
        Fetch.
    ring_base, ring_size_log2, tail : In
        The ring, from the register bank.
    fetch : Out(stream.Signature(burst()))
        Requests for descriptors.
    fetched : In(stream.Signature(data_width, always_ready=True))
        Their beats.
    fetch_missed, missed_slot, fetch_resp : In
        See ReadPort.
    o : Out(stream.Signature(descriptor_beat()))
        The beats, with the memory's answers.
    missed : Out({valid, slot})
        The first slot outside the windows.
    busy : Out(1)
        A descriptor waits to be fetched, is fetched, or waits to leave.

    Timing: one descriptor asked for per cycle; two cycles from fetched to o.
    Reset: forgets all; transfers in flight must have ended.
    Errors: none of its own; those of the fetch leave with the descriptor.
    Resources: a memory of ``descriptors_ahead`` descriptors.
    """

    def __init__(self, config):
        self.config = config
        derived = config.derived
        super().__init__({
            "enable": In(1), "ring_base": In(64), "ring_size_log2": In(4), "tail": In(SLOT_WIDTH),
            "fetch": Out(stream.Signature(burst(derived))),
            "fetched": In(stream.Signature(config.data_width, always_ready=True)),
            "fetch_missed": In(1), "missed_slot": In(SLOT_WIDTH), "fetch_resp": In(2),
            "o": Out(stream.Signature(descriptor_beat(config))),
            "missed": Out(data.StructLayout({"valid": 1, "slot": SLOT_WIDTH})),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        """A request register in front, a buffer behind, and the descriptors between counted."""
        m = Module()
        derived = self.config.derived
        beats = DESCRIPTOR_BYTES // derived.beat_bytes
        depth = derived.descriptors_ahead

        m.submodules.buffer = buffer = Queue(descriptor_beat(self.config), depth * beats + 1)
        connect(m, buffer.o, flipped(self.o))
        received = Signal(range(beats))
        m.d.comb += [
            buffer.i.valid.eq(self.fetched.valid),  # ready: room was counted
            buffer.i.payload.word.eq(self.fetched.payload),
            buffer.i.payload.resp.eq(self.fetch_resp),
            buffer.i.payload.last.eq(received == beats - 1),
        ]
        with m.If(self.fetched.valid):
            m.d.sync += received.eq(received + 1)  # wraps: beats is a power of two

        slot = Signal(SLOT_WIDTH)  # the next to be asked for
        # The ring's size changes only while nothing is fetched; the tail may be seen a cycle later.
        slot_mask, end = Signal(SLOT_WIDTH), Signal(SLOT_WIDTH)
        m.d.sync += [slot_mask.eq((1 << self.ring_size_log2) - 1), end.eq(self.tail & slot_mask)]
        ahead = Signal(range(depth + 1))  # its highest bit says that it is all
        left = self.o.valid & self.o.ready & self.o.payload.last
        more = self.enable & ~self.missed.valid & (slot != end)
        ask = more & ~ahead[-1] & (~self.fetch.valid | self.fetch.ready)
        m.d.comb += [
            self.fetch.payload.beats.eq(beats),
            self.busy.eq(more | (ahead != 0)),
        ]
        m.d.sync += ahead.eq(ahead + ask - left)
        with m.If(self.fetch.ready):
            m.d.sync += self.fetch.valid.eq(0)
        with m.If(ask):
            m.d.sync += [
                self.fetch.valid.eq(1),
                self.fetch.payload.address.eq(Cat(Const(0, 7), self.ring_base[7:] + slot)),
                self.fetch.payload.position.eq(slot),
                slot.eq((slot + 1) & slot_mask),
            ]
        with m.If(self.fetch_missed & ~self.missed.valid):
            m.d.sync += [self.missed.valid.eq(1), self.missed.slot.eq(self.missed_slot)]
        return m
