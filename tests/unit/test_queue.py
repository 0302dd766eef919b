"""Queue: order, room, latency and throughput."""

import pytest
from stream_bench import STALLS, StreamBench

from tcast.hw.queue import Queue


@pytest.mark.parametrize("stall", STALLS, ids=str)
@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 8])
def test_queue_keeps_order(depth, stall, registered):
    bench = StreamBench(Queue(16, depth, registered=registered), seed=depth)
    items = [bench.random.randrange(1 << 16) for _ in range(200)]
    bench.source(bench.dut.i, items, stall[0])
    sink = bench.sink(bench.dut.o, len(items), stall[1])
    bench.run()
    assert sink.items == items


@pytest.mark.parametrize("registered", [False, True])
def test_queue_takes_two_cycles_then_one_payload_per_cycle(registered):
    bench = StreamBench(Queue(16, 4, registered=registered))
    bench.source(bench.dut.i, range(50))
    sink = bench.sink(bench.dut.o, 50)
    bench.run()
    assert sink.cycles == list(range(2 + registered, 52 + registered))


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("depth, capacity", [(2, 3), (5, 5), (6, 9), (64, 65), (65, 65)])
def test_queue_holds_depth_payloads(depth, capacity, registered):
    bench = StreamBench(Queue(8, depth + registered, registered=registered))
    capacity += registered
    bench.source(bench.dut.i, [1], repeat=True)
    level, ready = bench.watch(bench.dut.level), bench.watch(bench.dut.i.ready)
    bench.idle(depth + 10)
    bench.run()
    assert level[-1] == sum(ready) == bench.dut.capacity == capacity


def test_queue_is_empty_after_a_reset():
    bench = StreamBench(Queue(8, 4))
    bench.source(bench.dut.i, [1, 2, 3, 4])
    bench.reset_once(10)
    valid = bench.watch(bench.dut.o.valid)
    level = bench.watch(bench.dut.level)
    bench.idle(15)
    bench.run()
    assert valid[9] and level[9] == 4
    assert not any(valid[11:]) and not any(level[11:])


@pytest.mark.parametrize("depth", [1, 0, -4, 2.5])
def test_queue_depth_is_checked(depth):
    with pytest.raises(ValueError, match="depth must be an int of at least 2"):
        Queue(8, depth)
