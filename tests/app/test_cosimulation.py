"""The comparison of `tcast cosim`, on the functional model instead of the RTL.

The engine under test here is a second functional model, whole or with a fault planted, so that
every kind of mismatch is seen to be found.
"""

from dataclasses import replace

import numpy as np
import pytest

from tcast import SGD, EngineConfig
from tcast.cosimulation import (
    OPERATIONS,
    TABLE_OPERATIONS,
    WHOLE_STEP,
    Comparison,
    Operation,
    limit_of,
    operations_of,
    step,
    whole_step,
)
from tcast.golden.machine import Machine
from tcast.hw import descriptor, registers
from tcast.workloads import TableInput

CONFIG = EngineConfig.preset("tiny64")


def table(seed=0, rows=50, dim=8, bags=9):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 7, bags)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return TableInput("t", rng.standard_normal((rows, dim), dtype=np.float32),
                      rng.integers(0, rows, offsets[-1]).astype(np.int32), offsets,
                      rng.standard_normal((bags, dim), dtype=np.float32))


def run(io, item, config=CONFIG, host_cast=False, **options):
    operations = operations_of(config, host_cast)
    ended = []
    with Comparison(io, config, host_cast=host_cast, **options) as comparison:
        step(comparison, item, SGD(0.5), operations, ended.append)
        assert ended == [name for name in operations if name != WHOLE_STEP]
        if WHOLE_STEP in operations:
            whole_step(comparison, [item, table(1)], SGD(0.5), operations[WHOLE_STEP])
    return operations


def machine(config=CONFIG):
    return Machine(config, registers, descriptor)


@pytest.mark.parametrize("placement", ["aligned", "scattered"])
@pytest.mark.parametrize("cast_port, host_cast", [(1, False), (2, False), (1, True), (0, False)])
def test_a_whole_engine_is_equal_in_every_operation(placement, cast_port, host_cast):
    config = replace(CONFIG, cast_port=cast_port)
    operations = run(machine(config), table(), config, host_cast, placement=placement, seed=3)
    names = OPERATIONS if cast_port and not host_cast else [
        name for name in TABLE_OPERATIONS if name != "cast"]
    assert list(operations) == list(names)
    for operation in operations.values():
        assert operation.equal, operation.mismatches
        assert operation.passes == 1
        assert operation.image_bytes > operation.guard_bytes > 4096


class Faulty:
    """An engine that changes one byte after each wait, chosen by ``where``."""

    def __init__(self, where):
        self.inner, self.where, self.mapped = machine(), where, {}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def map(self, address, array, writable=True):
        self.mapped[address] = (array, writable)
        self.inner.map(address, array, writable)

    def unmap(self, address):
        del self.mapped[address]
        self.inner.unmap(address)

    def wait(self, max_cycles):
        done = self.inner.wait(max_cycles)
        for address, (array, writable) in sorted(self.mapped.items()):
            data = array.reshape(-1).view(np.uint8)
            is_guard = len(data) > 2 and (data[:3] == 0xAA).all()
            if writable and self.where == ("guard" if is_guard else "data") and address >> 45:
                data[0] ^= 1
                break
        return done


@pytest.mark.parametrize(("where", "words"), [
    ("data", r"t, forward, out.*must be"),
    ("guard", r"t, forward, out: guard byte at 0x.* must be 0xaa, not 0xab"),
])
def test_one_changed_bit_is_a_mismatch(where, words):
    operations = run(Faulty(where), table())
    for operation in operations.values():
        assert not operation.equal
        assert len(operation.mismatches) == 1
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(operations["forward"].mismatches[0])


def test_an_engine_that_stops_is_a_mismatch_and_not_a_traceback():
    class Refusing(Machine):
        def write_register(self, offset, value):
            # Every window stays closed but that of the ring.
            if 0x0A0 <= offset < 0x100:
                value = 0
            super().write_register(offset, value)

    operations = run(Refusing(CONFIG, registers, descriptor), table())
    assert all("windows" in operation.mismatches[0] for operation in operations.values())


def test_one_failure_leaves_the_later_operations_alone():
    class Once(Machine):
        failed = False

        def wait(self, max_cycles):
            failed, self.failed = self.failed, True
            return failed and super().wait(max_cycles)

    operations = run(Once(CONFIG, registers, descriptor), table())
    assert [operation.equal for operation in operations.values()] == [False] + 8 * [True]


def test_a_result_that_is_not_what_lies_in_memory_is_a_mismatch():
    operation = Operation("forward")
    item = table()
    with Comparison(machine(), CONFIG) as comparison:
        def forward(device):
            out = device.embedding_bag(item.weight, item.indices, item.offsets)
            return {"out": out if device is not comparison.engine else -out}

        comparison.run(operation, "forward", forward)
    assert "forward, out[0, 0] must be" in operation.mismatches[0]


def test_an_operation_that_never_ran_is_not_equal():
    assert not Operation("forward").equal


def test_limits_are_named_by_the_counter_that_holds_them():
    base = dict.fromkeys((name for name, _ in registers.COUNTERS), 0) | {"cycles": 100}
    assert limit_of({}) == "nothing was counted"
    assert limit_of(base | {"read_useful": 95}).startswith("the read channel, with a beat in 95.0%")
    assert limit_of(base | {"read_useful": 50, "w_beats": 60, "w_stall": 35}).startswith(
        "the write channel, in use in 95.0%")
    for name, words in (("read_memory", "waiting for the memory"),
                        ("read_credit", "buffers full"), ("read_drain", "finishing the writes")):
        assert limit_of(base | {"read_useful": 50, name: 40}).startswith(words)
