"""The engine's ports against models that are not ours: cocotbext-axi's AxiRam and AxiLiteMaster."""

import cocotb
import numpy as np
from cocotb.task import bridge

from ... import golden
from ...cosimulation import WHOLE_STEP, Comparison, operations_of, step, whole_step
from ...host.driver import EngineDevice, EngineError
from ...hw.registers import ErrorCode, Reader
from ...workloads import TableInput
from .bench import Bench, PortsIo, config_of_run


def table(rng, rows=50, bags=7, beats=3, index_type=np.int64):
    """Return a TableInput with bags of 0 to 12 lookups and rows of ``beats`` beats."""
    lengths = rng.integers(0, 13, bags)
    lengths[1] = 0
    dim = beats * config_of_run().derived.lanes
    return TableInput(
        "table", rng.standard_normal((rows, dim), np.float32),
        rng.integers(0, rows, lengths.sum()).astype(index_type),
        np.concatenate([[0], np.cumsum(lengths)]).astype(index_type),
        rng.standard_normal((bags, dim), np.float32))


@cocotb.test()
@cocotb.parametrize(pauses=[0.0, 0.3, 0.8])
async def training_step(dut, pauses):
    """Every pass of a training step, bit for bit, whole memory image, with pauses everywhere."""
    bench = Bench(dut, register_pauses=pauses)
    await bench.start()
    seed = cocotb.RANDOM_SEED
    rng = np.random.default_rng(seed)
    io = PortsIo(bench, pauses, seed)

    def work():
        comparison = Comparison(io, config_of_run(), placement="scattered", seed=seed)
        operations = operations_of(config_of_run())
        items = [table(rng, index_type=index_type) for index_type in (np.int32, np.int64)]
        for item in items:
            step(comparison, item, golden.SGD(0.05), operations)
        whole_step(comparison, items, golden.SGD(0.05), operations[WHOLE_STEP])
        return operations

    operations = await bridge(work)()
    for operation in operations.values():
        assert operation.equal, (operation.name, operation.mismatches)
        assert operation.passes == (1 if operation.name == WHOLE_STEP else 2)
        assert operation.guard_bytes > 0
    bench.check()


@cocotb.test()
async def error_responses(dut):
    """SLVERR on any kind of read or write stops the engine with a record; a reset revives it."""
    bench = Bench(dut)
    await bench.start()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    io = PortsIo(bench, 0.2, cocotb.RANDOM_SEED)
    config = config_of_run()

    def work():
        device = EngineDevice(io, config)
        item = table(rng)
        casting = device.cast(item.indices, item.offsets, len(item.weight))
        optimizer = golden.SGD(0.1)

        def forward():
            return device.embedding_bag(item.weight, item.indices, item.offsets)

        def backward():
            device.backward_update(item.weight.copy(), item.grad_out, casting, optimizer)

        cases = [
            (forward, item.weight[item.indices[3]], True, ErrorCode.READ_RESPONSE, Reader.ROW),
            (forward, item.indices[2:3], True, ErrorCode.READ_RESPONSE, Reader.INDEX),
            (forward, item.offsets[4:5], True, ErrorCode.READ_RESPONSE, Reader.OFFSET),
            (backward, casting.rows[1:2], True, ErrorCode.READ_RESPONSE, Reader.TARGET),
            (backward, None, True, ErrorCode.READ_RESPONSE, Reader.OLD_ROW),
            (backward, None, False, ErrorCode.WRITE_RESPONSE, 0),
        ]
        expected = golden.embedding_bag(item.weight, item.indices, item.offsets)
        for action, where, reading, code, limit in cases:
            if where is None:
                # The copy of the weights that is updated: the only writable array.
                io.memory.on_map = lambda array, writable, reading=reading: (
                    io.memory.errors.append((array, reading, not reading)) if writable else None)
            else:
                io.memory.errors.append((where, reading, not reading))
            try:
                action()
            except EngineError as error:
                record = error.code, error.value, error.limit
                assert record == (code, 2, limit), (record, code, limit)
            else:
                raise AssertionError(f"{code.name} of reader {limit} was not reported")
            io.memory.on_map = None
            io.memory.errors.clear()
            np.testing.assert_array_equal(forward().view(np.uint32), expected.view(np.uint32))

    await bridge(work)()
    bench.check()
