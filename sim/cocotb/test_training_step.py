"""Training steps on the engine with its C++ memory, bit for bit, under many kinds of memory."""

import cocotb
import numpy as np
from cocotb.task import bridge
from cocotb.triggers import ClockCycles

from ... import golden
from ...cosimulation import WHOLE_STEP, Comparison, operations_of, step, whole_step
from ...host.driver import EngineDevice
from ...workloads import TableInput
from .bench import Bench, TestbenchIo, config_of_run

MEMORIES = {
    "ideal": {"latency": 1},
    "usual": {"latency": 64},
    "far": {"latency": 300, "read_jitter": 100, "write_jitter": 100},
    "slow": {"latency": 20, "backpressure": 0.7},
    "reordering": {"latency": 30, "read_jitter": 60, "reorder": True, "backpressure": 0.2},
    "interleaving": {"latency": 5, "reorder": True, "interleave": True},
    "early": {"latency": 40, "late": False, "backpressure": {"b": 0.9, "w": 0.5}},
    "narrow": {"latency": 10, "read_outstanding": 1, "write_outstanding": 1, "write_ahead": 0},
}


def table(rng, rows, bags, beats, longest):
    """Return a TableInput: bags of 0 to ``longest`` lookups, an empty one among them."""
    lengths = rng.integers(0, longest + 1, bags)
    lengths[bags // 2] = 0
    dim = beats * config_of_run().derived.lanes
    kind = rng.choice([np.int32, np.int64])
    return TableInput(
        "table", rng.standard_normal((rows, dim), np.float32),
        rng.integers(0, rows, lengths.sum()).astype(kind),
        np.concatenate([[0], np.cumsum(lengths)]).astype(kind),
        rng.standard_normal((bags, dim), np.float32))


@cocotb.test()
@cocotb.parametrize(memory=list(MEMORIES))
async def training_step(dut, memory):
    """Every pass, results and the whole memory image, against the functional and golden models."""
    bench = Bench(dut)
    await bench.start()
    seed = cocotb.RANDOM_SEED
    rng = np.random.default_rng(seed)
    io = TestbenchIo(bench, seed, **MEMORIES[memory])

    def work():
        operations = operations_of(config_of_run())
        for placement in ("aligned", "scattered"):
            comparison = Comparison(io, config_of_run(), placement=placement, seed=seed)
            items = [table(rng, *shape)
                     for shape in ((200, 16, 4, 40), (3, 40, 1, 5), (30, 5, 9, 20))]
            for item in items:
                step(comparison, item, golden.SGD(0.05), operations)
            whole_step(comparison, items, golden.SGD(0.05), operations[WHOLE_STEP])
            for device in (comparison.engine, comparison.machine):
                device.close()
        return operations

    operations = await bridge(work)()
    for operation in operations.values():
        assert operation.equal, (operation.name, operation.mismatches)
        assert operation.passes == (2 if operation.name == WHOLE_STEP else 6)
        assert operation.guard_bytes > 0
    counters = bench.counters()
    cocotb.log.info("%s: %s", memory, counters)
    assert counters["error_beats"] == 0
    assert bench.library.bench_bursts_open(bench.memory) == 0
    bench.check()


@cocotb.test()
async def reset_in_the_middle(dut):
    """A hardware reset while transfers are in flight leaves an engine that works."""
    bench = Bench(dut)
    await bench.start()
    seed = cocotb.RANDOM_SEED
    rng = np.random.default_rng(seed)
    io = TestbenchIo(bench, seed, latency=50)
    item = table(rng, 100, 8, 4, 40)
    expected = golden.embedding_bag(item.weight, item.indices, item.offsets)

    async def pull_reset():
        while not bench.library.bench_bursts_open(bench.memory):
            await ClockCycles(dut.aclk, 10)
        await ClockCycles(dut.aclk, int(rng.integers(1, 100)))
        open_bursts = bench.library.bench_bursts_open(bench.memory)
        dut.aresetn.value = 0
        await ClockCycles(dut.aclk, 3)
        dut.aresetn.value = 1
        return open_bursts

    def forward(device):
        return device.embedding_bag(item.weight, item.indices, item.offsets)

    def interrupted():
        device = EngineDevice(io, config_of_run(), timeout_cycles=20_000)
        try:
            forward(device)
        except (RuntimeError, TimeoutError) as error:
            return type(error).__name__
        return "nothing"

    for _ in range(3):
        pulling = cocotb.start_soon(pull_reset())
        outcome = await bridge(interrupted)()
        assert outcome != "nothing", "the engine finished a pass that a reset had ended"
        assert await pulling > 0
        io.close()
        got = await bridge(lambda: forward(EngineDevice(io, config_of_run())))()
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
        io.close()
    bench.check()
