"""RegisterSlice: order, room, latency, throughput, and no path through it."""

import pytest
from stream_bench import STALLS, StreamBench

from tcast.hw.register_slice import RegisterSlice

pytestmark = pytest.mark.parametrize("late_ready", (False, True), ids=("early", "late"))


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_register_slice_keeps_order(stall, late_ready):
    bench = StreamBench(RegisterSlice(16, late_ready=late_ready), seed=7)
    items = [bench.random.randrange(1 << 16) for _ in range(200)]
    bench.source(bench.dut.i, items, stall[0])
    sink = bench.sink(bench.dut.o, len(items), stall[1])
    bench.run()
    assert sink.items == items


def test_register_slice_takes_one_cycle_then_one_payload_per_cycle(late_ready):
    bench = StreamBench(RegisterSlice(16, late_ready=late_ready))
    bench.source(bench.dut.i, range(50))
    sink = bench.sink(bench.dut.o, 50)
    bench.run()
    assert sink.cycles == list(range(1, 51))


def test_register_slice_holds_two_payloads(late_ready):
    bench = StreamBench(RegisterSlice(8, late_ready=late_ready))
    bench.source(bench.dut.i, [1], repeat=True)
    ready = bench.watch(bench.dut.i.ready)
    bench.idle(10)
    bench.run()
    assert sum(ready) == 2


def test_register_slice_shows_neither_side_the_other_in_its_cycle(late_ready):
    """Taken at cycle 5: what waited moves on, and only then may the next one come."""
    bench = StreamBench(RegisterSlice(8, late_ready=late_ready))
    dut = bench.dut
    bench.source(dut.i, [1, 2, 3], repeat=True)
    ready, valid = bench.watch(dut.i.ready), bench.watch(dut.o.valid)

    async def take(ctx):
        for n in range(8):
            ctx.set(dut.o.ready, n == 5)
            await ctx.tick()
    bench.process(take)
    bench.run()
    assert ready[:8] == [1, 1, 0, 0, 0, 0, 1, 0]
    assert valid[:8] == [0, 1, 1, 1, 1, 1, 1, 1]


def test_register_slice_is_empty_after_a_reset(late_ready):
    bench = StreamBench(RegisterSlice(8, late_ready=late_ready))
    bench.source(bench.dut.i, [1, 2])
    bench.reset_once(10)
    valid, ready = bench.watch(bench.dut.o.valid), bench.watch(bench.dut.i.ready)
    bench.idle(15)
    bench.run()
    assert valid[9] and not ready[9]
    assert all(ready[11:]) and not any(valid[11:])
