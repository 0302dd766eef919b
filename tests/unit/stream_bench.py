"""Bench of one component in pysim: sources and sinks with random waits, and the stream rules."""

import random

from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.lib.data import Layout
from amaranth.sim import Simulator

from tcast.hw.config import EngineConfig

CLOCK = 1e-8

#: The smallest of everything, so that every limit is met.
SMALL = EngineConfig(
    name="small_engine", data_width=64, dim_max=16, row_buffer_beats=64, old_buffer_beats=64,
    array_buffer_beats=16, write_buffer_beats=64, burst_beats_max=16, writes_outstanding=4,
    descriptors_in_flight=4, add_stages=1, mul_stages=1,
    cast_port=0, cast_digit_bits=4, cast_buffer_pairs=64, cast_pairs=1)

#: How often (source, sink) are willing, in each cycle.
STALLS = [(1, 1), (0.5, 1), (1, 0.5), (0.4, 0.4)]


def bits(shape, value):
    """Return the integer that stands for ``value`` (an int, or a dict for a struct layout)."""
    return Value.cast(shape.const(value)).value if isinstance(shape, Layout) else int(value)


def plain(shape, word):
    """Return an integer as what ``shape`` makes of it: a dict for a struct layout."""
    if not isinstance(shape, Layout):
        return word
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in shape}


class Sink:
    """What a sink has accepted: ``items``, and the clock cycle of each in ``cycles``."""

    def __init__(self):
        self.items = []
        self.cycles = []


class StreamBench:
    """A component with sources and sinks attached to its streams.

    Each item leaves a source after a geometric wait and is held until accepted. Sinks check the
    rules of streams: valid stays, and the payload does not change, until ready.

    Parameters
    ----------
    dut : Component
    seed : int
        Of all random waits; printed.
    limit : int
        Cycles after which a run has hung.
    """

    def __init__(self, dut, seed=0, limit=20_000):
        print(f"SEED={seed}")
        self.dut = dut
        self.random = random.Random(seed)
        self.cycle = 0
        self.reset = Signal()
        self.sim = Simulator(ResetInserter(self.reset)(dut))
        self.sim.add_clock(CLOCK)
        self._limit = limit
        self._seed = seed
        self._open = 0

    def process(self, function, *, background=False):
        """Add ``async function(ctx)``; the run ends with the last one not in the background."""
        async def process(ctx):
            await function(ctx)
            self._open -= not background
        self._open += not background
        self.sim.add_process(process)

    def set(self, **inputs):
        """Hold inputs of the component at constant values."""
        async def process(ctx):
            for name, value in inputs.items():
                ctx.set(getattr(self.dut, name), value)
        self.process(process)

    def source(self, stream, items, p=1.0, *, repeat=False, background=False):
        """Send ``items``; the run waits for the last, but not for one in the background.

        ``repeat`` sends them again and again. What is not valid is rubbish: the complement of the
        last item.
        """
        shape = stream.signature.members["payload"].shape
        words = [bits(shape, item) for item in items]

        async def process(ctx):
            payload = Value.cast(stream.payload)
            while True:
                for word in words:
                    while self.random.random() >= p:
                        await ctx.tick()
                    ctx.set(payload, word)
                    ctx.set(stream.valid, 1)
                    ready = False
                    while not ready:
                        _, _, ready = await ctx.tick().sample(stream.ready)
                    ctx.set(stream.valid, 0)
                    ctx.set(payload, ~word & ((1 << len(payload)) - 1))
                if not repeat:
                    return
        self.process(process, background=repeat or background)

    def sink(self, stream, n=None, p=1.0, *, steady=True, significant=lambda item: item):
        """Accept ``n`` items (None: for as long as the run lasts); return the Sink.

        ``significant(item)`` is what may not change while it waits; ``steady=False`` is for outputs
        whose valid waits for another stream's ready, and so may fall.
        """
        shape = stream.signature.members["payload"].shape
        sink = Sink()
        always = stream.signature.always_ready

        async def process(ctx):
            payload = Value.cast(stream.payload)
            held = None
            while n is None or len(sink.items) < n:
                ready = always or self.random.random() < p
                if not always:
                    ctx.set(stream.ready, ready)
                _, _, valid, word, reset = await ctx.tick().sample(
                    stream.valid, payload, self.reset)
                item = plain(shape, word) if valid else None
                if held is not None and steady:
                    assert valid, f"valid fell before ready, SEED={self._seed}"
                    assert significant(item) == significant(held), \
                        f"payload changed before ready, SEED={self._seed}"
                held = item if not ready and not reset else None
                if valid and ready:
                    sink.items.append(item)
                    sink.cycles.append(self.cycle)
            if not always:
                ctx.set(stream.ready, 0)
        self.process(process, background=n is None)
        return sink

    def watch(self, signal):
        """Return a list that will hold the value of ``signal`` in each cycle."""
        seen = []

        async def process(ctx):
            while True:
                _, _, value = await ctx.tick().sample(Value.cast(signal))
                seen.append(value)
        self.process(process, background=True)
        return seen

    def idle(self, cycles):
        """Keep the run going for so many cycles."""
        async def process(ctx):
            for _ in range(cycles):
                await ctx.tick()
        self.process(process)

    def reset_once(self, cycle):
        """Reset the component, for one clock, after ``cycle`` cycles."""
        async def process(ctx):
            for _ in range(cycle):
                await ctx.tick()
            ctx.set(self.reset, 1)
            await ctx.tick()
            ctx.set(self.reset, 0)
        self.process(process)

    def run(self):
        """Simulate until every process that is not in the background has ended."""
        async def clock(ctx):
            while self._open:
                await ctx.tick()
                self.cycle += 1
                assert self.cycle < self._limit, \
                    f"no end after {self.cycle} cycles, SEED={self._seed}"
        self.sim.add_testbench(clock)
        self.sim.run()
