"""BurstReader: its buffer is never overrun, whatever the memory and the consumer do."""

from collections import deque
from itertools import pairwise

import pytest
from stream_bench import STALLS, StreamBench

from tcast.hw.burst_reader import BurstReader

DEPTH = 32


def attach(bench, bursts, latency, p_source=1, p_port=1, p_data=1):
    """Feed bursts, answer them like a memory, take the data; return (issued, data, starved)."""
    dut = bench.dut
    issued, fed, taken = [], [], []
    bench.source(dut.i, bursts, p_source)
    sink = bench.sink(dut.o, len(bursts), p_port)

    async def memory(ctx):
        due = deque()
        total = sum(burst["beats"] for burst in bursts)
        ctx.set(dut.beats.valid, 0)
        while len(fed) < total:
            await ctx.tick()
            while len(issued) < len(sink.items):
                issued.append(sink.items[len(issued)])
                due.extend([bench.cycle + latency] * issued[-1]["beats"])
            arrives = bool(due) and due[0] <= bench.cycle
            ctx.set(dut.beats.valid, arrives)
            if arrives:
                due.popleft()
                ctx.set(dut.beats.payload, len(fed))
                fed.append(len(fed))
            reserved = sum(burst["beats"] for burst in issued)
            assert reserved - len(data.items) <= DEPTH + 1, "more requested than there is room for"
        await ctx.tick()
        ctx.set(dut.beats.valid, 0)

    data = bench.sink(dut.data, sum(burst["beats"] for burst in bursts), p_data)
    bench.process(memory)
    return issued, data, taken


def make(random, n, longest=16):
    return [{"address": 8 * i, "beats": random.randint(1, longest), "position": i, "end": 0}
            for i in range(n)]


BOTH = pytest.mark.parametrize("queued", [True, False], ids=["queued", "register"])


@BOTH
@pytest.mark.parametrize("stall", STALLS, ids=str)
@pytest.mark.parametrize("latency", [1, 40])
def test_burst_reader_passes_bursts_and_keeps_data(small, latency, stall, queued):
    bench = StreamBench(BurstReader(small, DEPTH, queued=queued), seed=latency)
    bursts = make(bench.random, 60)
    issued, data, _ = attach(bench, bursts, latency, stall[0], stall[1], stall[1])
    bench.run()
    assert issued == bursts
    assert data.items == list(range(len(data.items)))


@BOTH
def test_burst_reader_starves_without_room_and_not_with_it(small, queued):
    """A consumer that takes nothing gets exactly DEPTH beats requested; then `starved` rises."""
    bench = StreamBench(BurstReader(small, DEPTH, queued=queued))
    bench.source(bench.dut.i, [{"address": 0, "beats": 8, "position": 0, "end": 0}], repeat=True)
    sink = bench.sink(bench.dut.o)
    starved = bench.watch(bench.dut.starved)
    bench.idle(30)
    bench.run()
    assert len(sink.items) == DEPTH // 8
    # The queue hands the last one out when the next one starves already.
    first = starved.index(1)
    assert all(starved[first:]) and first == sink.cycles[-1] + (-1 if queued else 2)
    assert {later - cycle for cycle, later in pairwise(sink.cycles)} == {1 if queued else 3}


def test_burst_reader_moves_a_beat_per_cycle(small):
    """Bursts of one beat, 20 cycles of latency, 32 beats of room: no cycle is lost."""
    bench = StreamBench(BurstReader(small, DEPTH))
    _, data, _ = attach(bench, make(bench.random, 200, longest=1), 20)
    bench.run()
    assert data.cycles[-1] - data.cycles[0] == 199


@BOTH
def test_burst_reader_forgets_claims_and_data_in_a_reset(small, queued):
    bench = StreamBench(BurstReader(small, DEPTH, queued=queued))
    dut = bench.dut
    bench.source(dut.i, [{"address": 0, "beats": 16, "position": 0, "end": 0}], repeat=True)
    sink = bench.sink(dut.o)
    bench.reset_once(20)
    bench.idle(40)
    bench.run()
    assert len(sink.items) == 2 * DEPTH // 16  # both before and after
