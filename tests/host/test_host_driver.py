"""The driver, on the functional model of an engine: placing, windows, ring, errors, recovery."""

import numpy as np
import pytest
from engine_errors import cast_errors, engine_errors
from host_cases import TINY, WIDE, batch, floats, open_machine

import tcast
from tcast import golden
from tcast.golden.machine import Machine
from tcast.host.backend import BackendUnavailable
from tcast.host.driver import EngineDevice, EngineError, EngineTimeout, Pass
from tcast.host.io import EngineIo
from tcast.hw import descriptor, registers
from tcast.hw.config import EngineConfig
from tcast.hw.registers import ErrorCode

I32, I64, F32 = np.int32, np.int64, np.float32
#: Rings that stay mapped: one for each unit.
RINGS = 2
OFFSET = {name: register.offset for name, register in registers.by_name().items()}


class Spy:
    """An EngineIo that passes everything on to a Machine and can be told to misbehave."""

    def __init__(self, config=TINY):
        self.machine = Machine(config, registers, descriptor)
        self.mapped = {}
        self.maps = []            # every (address, bytes, writable) so far
        self.windows = []         # windows open at each hand-over: (base, limit, read, write)
        self.patch = {}           # register name -> value to read instead
        self.on_wait = None

    def read_register(self, offset):
        for name, value in self.patch.items():
            if OFFSET[name] == offset:
                return value
        return self.machine.read_register(offset)

    def write_register(self, offset, value):
        if offset == OFFSET["ring_tail"] and value:
            self.windows.append(self.open_windows())
        self.machine.write_register(offset, value)

    def open_windows(self):
        def pair(name):
            return (self.machine.read_register(OFFSET[f"{name}_lo"])
                    | self.machine.read_register(OFFSET[f"{name}_hi"]) << 32)

        windows = []
        for n in range(registers.N_WINDOWS):
            access = self.machine.read_register(OFFSET[f"window{n}_access"])
            if access:
                windows.append((pair(f"window{n}_base"), pair(f"window{n}_limit"),
                                bool(access & 1), bool(access & 2)))
        return windows

    def map(self, address, array, writable=True):
        self.machine.map(address, array, writable)
        self.mapped[address] = array
        self.maps.append((address, array.nbytes, writable))

    def unmap(self, address):
        self.machine.unmap(address)
        del self.mapped[address]

    def wait(self, max_cycles):
        if self.on_wait is not None:
            return self.on_wait(max_cycles)
        return self.machine.wait(max_cycles)

    def close(self):
        self.machine.close()


@pytest.fixture
def spy():
    return Spy()


def pass_of(seed=0, n_rows=20, bags=6, dim=4, **changes):
    """Return a good Pass: a forward pass of ``bags`` bags."""
    case = batch(seed, n_rows, bags, 5, dim, I64, I64, weird=0)
    values = dict(source=case.weight, indices=case.indices, offsets=case.offsets,
                  target=np.zeros((bags, dim), F32))
    return Pass(**values | changes)


def expected_of(item):
    return golden.gather_reduce(item.source, item.indices, item.offsets)


def still_works(device):
    item = pass_of(99)
    device.submit([item])
    assert golden.bits_equal(item.target, expected_of(item))


def test_implementations_are_engine_io(spy):
    assert isinstance(spy.machine, EngineIo)
    assert isinstance(spy, EngineIo)


@pytest.mark.parametrize("name, value, words", [
    ("id", 0xFFFFFFFF, ["id", "0xffffffff"]),
    ("version", 0x00020000, ["version 0.2", "2.0.0"]),
    ("version", 0x00000300, ["version 0.2", "0.3.0"]),
    ("config_hash", 0, ["config_hash", "0x00000000", "data_width=64"]),
    ("capability", 4 | 1024 << 8 | 4 << 20, ["capability", "'lanes': 4"]),
])
def test_probe_refuses_another_engine(spy, name, value, words):
    spy.patch[name] = value
    with pytest.raises(BackendUnavailable) as caught:
        EngineDevice(spy, TINY)
    for word in words:
        assert word in str(caught.value)
    assert not spy.mapped


def test_probe_accepts_another_patch_version(spy):
    spy.patch["version"] = 0x000002FF
    EngineDevice(spy, TINY).close()


@pytest.mark.parametrize("options, words", [
    ({"placement": "random"}, ["placement", "'random'"]),
    ({"ring_size_log2": 0}, ["ring_size_log2", "0"]),
    ({"ring_size_log2": 16}, ["ring_size_log2", "16"]),
    ({"timeout_cycles": 0}, ["timeout_cycles", "0"]),
])
def test_constructor_names_the_argument(spy, options, words):
    with pytest.raises(ValueError) as caught:
        EngineDevice(spy, TINY, **options)
    for word in words:
        assert word in str(caught.value)


# errors of the engine


@pytest.mark.parametrize("item, code, position, value, limit, words",
                         [case[1:] for case in engine_errors()],
                         ids=[case[0] for case in engine_errors()])
def test_engine_error_becomes_an_exception_and_the_device_stays_usable(
        spy, item, code, position, value, limit, words):
    device = EngineDevice(spy, TINY)
    before = pass_of(1)
    behind = pass_of(2)
    with pytest.raises(EngineError) as caught:
        device.submit([before, item, behind])
    error = caught.value
    assert (error.code, error.descriptor, error.position, error.value, error.limit) == (
        code, 1, position, value, limit)
    assert str(error).startswith("descriptor 1: ")
    for word in words:
        assert word in str(error)
    assert error.counters["descriptors"] == 1
    assert golden.bits_equal(before.target, expected_of(before)), "passes before it are done"
    assert not item.target.any() and not behind.target.any()
    assert len(spy.mapped) == RINGS, "only the rings stay mapped"
    still_works(device)


def test_every_error_code_is_provoked():
    found = {case[2] for case in [*engine_errors(), *cast_errors()]}
    assert found == set(ErrorCode) - {ErrorCode.NONE}


def test_unknown_error_code_is_reported(spy):
    device = EngineDevice(spy, TINY)
    spy.patch["error_code"] = 77
    with pytest.raises(EngineError, match="unknown error 77"):
        device.submit([pass_of(indices=np.full(100, -1))])


def test_error_in_a_later_piece_names_its_pass():
    device = open_machine(ring_size_log2=2)  # three descriptors at a time
    passes = [pass_of(n) for n in range(10)]
    bad = pass_of(3, indices=np.full(passes[3].lookups, 999))
    with pytest.raises(EngineError, match="descriptor 7: index of lookup 0"):
        device.submit([*passes[:7], bad, *passes[7:]])
    for item in passes[:7]:
        assert golden.bits_equal(item.target, expected_of(item))
    still_works(device)


# windows


def pages(address, n_bytes):
    return set(range(address >> 12, (address + n_bytes - 1 >> 12) + 1))


@pytest.mark.parametrize("placement, seed", [("aligned", 0)] + [
    ("scattered", seed) for seed in range(12)])
def test_windows_open_exactly_the_pages_needed(spy, placement, seed):
    device = EngineDevice(spy, TINY, placement=placement, seed=seed)
    rings = spy.maps[:RINGS]
    case = batch(seed, 300, 90, 9, 30, I32, I64)
    device.embedding_bag(case.weight, case.indices, case.offsets)
    casting = device.cast(case.indices, case.offsets, 300)
    for call, reads_target in (
            (lambda: device.embedding_bag(case.weight, case.indices, case.offsets), False),
            (lambda: device.backward_update(case.weight, case.grad_out, casting, tcast.SGD(1)),
             True)):
        spy.maps, spy.windows = list(rings), []
        call()
        (windows,) = spy.windows
        readable, writable = set(), set()
        for base, limit, read, write in windows:
            assert base % 4096 == 0 and limit % 4096 == 4095 and limit > base
            readable |= pages(base, limit - base + 1) if read else set()
            writable |= pages(base, limit - base + 1) if write else set()
        of_inputs, of_targets = set(), set()
        for address, n_bytes, is_target in spy.maps:
            (of_targets if is_target else of_inputs).update(pages(address, n_bytes))
        assert not of_inputs & of_targets
        assert writable == of_targets
        assert readable == of_inputs | (of_targets if reads_target else set())


def test_window_that_is_too_small_is_an_error(monkeypatch):
    device = open_machine()
    original = EngineDevice._write_pair

    def smaller(self, name, value):
        if name == "window2_limit":
            value -= 4096
        original(self, name, value)

    item = pass_of(n_rows=4096, indices=np.array([0, 4095]), offsets=np.arange(3),
                   target=np.zeros((2, 4), F32))
    monkeypatch.setattr(EngineDevice, "_write_pair", smaller)
    with pytest.raises(EngineError, match="reader ROW would read outside the windows"):
        device.submit([item])
    monkeypatch.undo()
    device._window_values.clear()
    device.submit([item])
    assert golden.bits_equal(item.target, expected_of(item))


# submissions


@pytest.mark.parametrize("ring_size_log2, count", [(1, 5), (2, 3), (2, 4), (3, 40), (8, 255)])
def test_ring_wraps_and_is_filled_in_pieces(ring_size_log2, count):
    device = open_machine(ring_size_log2=ring_size_log2)
    for repeat in range(3):
        passes = [pass_of(100 * repeat + n, bags=2, n_rows=5) for n in range(count)]
        device.submit(passes)
        for item in passes:
            assert golden.bits_equal(item.target, expected_of(item))
        assert device.counters()["descriptors"] == count


def test_a_pass_sees_those_before_it(spy):
    """Forward, then a pass that reads its result, then SGD on the source, in one submission."""
    device = EngineDevice(spy, TINY)
    first = pass_of(1)
    second = Pass(source=first.target, target=np.zeros((3, 4), F32), indices=np.array([5, 0, 5]))
    weight = first.source.copy()
    third = Pass(source=second.target, target=weight, rows=np.array([1, 2, 9]),
                 optimizer=tcast.SGD(0.5))
    fourth = Pass(source=weight, target=np.zeros((20, 4), F32))
    device.submit([first, second, third, fourth])
    out = expected_of(first)
    golden.scatter_update(expected := first.source.copy(), np.array([1, 2, 9]), out[[5, 0, 5]],
                          tcast.SGD(0.5))
    assert golden.bits_equal(first.target, out)
    assert golden.bits_equal(second.target, out[[5, 0, 5]])
    assert golden.bits_equal(weight, expected)
    assert golden.bits_equal(fourth.target, expected)
    # The rings, three integer arrays and indices, one source; each array was mapped once.
    assert len(spy.maps) == RINGS + 4 + 1 + 4


def test_a_result_can_be_a_source_without_sgd():
    first = pass_of(1)
    second = Pass(source=first.target, target=np.zeros((2, 4), F32), indices=np.array([3, 3]))
    open_machine().submit([first, second])
    assert golden.bits_equal(second.target, expected_of(first)[[3, 3]])


def test_an_array_used_twice_is_mapped_once(spy):
    device = EngineDevice(spy, TINY)
    item = pass_of()
    again = Pass(source=item.source, indices=item.indices, offsets=item.offsets,
                 target=np.zeros((6, 4), F32))
    device.submit([item, again])
    assert len(spy.maps) == RINGS + 2 + 1 + 2
    assert golden.bits_equal(item.target, again.target)


@pytest.mark.parametrize("seed", range(8))
def test_an_array_used_as_both_widths_suits_both(seed):
    device = open_machine(placement="scattered", seed=seed)
    source = np.arange(8, dtype=F32).reshape(4, 2)
    wide = np.array([3, 1], I64)
    passes = [Pass(source=source, target=np.zeros((2, 2), F32), indices=wide),
              Pass(source=source, target=np.zeros((4, 2), F32), indices=wide.view(I32))]
    device.submit(passes)
    assert passes[0].target.tolist() == [[6, 7], [2, 3]]
    assert passes[1].target.tolist() == [[6, 7], [0, 1], [2, 3], [0, 1]]


@pytest.mark.parametrize("placement", ["aligned", "scattered"])
def test_nothing_to_do(placement):
    """No bag, no lookup, no row: the engine gets the descriptor and writes what there is."""
    device = open_machine(placement=placement)
    weight, grad_out = np.ones((5, 4), F32), np.ones((3, 4), F32)
    none, zero = np.zeros(0, I64), np.zeros(1, I64)
    assert device.embedding_bag(weight, none, zero).shape == (0, 4)
    assert device.counters()["descriptors"] == 1
    empty_bags = device.embedding_bag(weight, none, np.zeros(4, I32))
    assert golden.bits_equal(empty_bags, np.zeros((3, 4), F32))
    assert device.gather(weight, none).shape == (0, 4)
    assert device.embedding_bag(np.ones((0, 4), F32), none, zero).shape == (0, 4)
    casting = device.cast(none, np.zeros(4, I32), 5)
    assert casting.rows.size == 0 and casting.segment_offsets.tolist() == [0]
    assert device.casted_gather_reduce(grad_out, casting).shape == (0, 4)
    device.backward_update(weight, grad_out, casting, tcast.SGD(1.0))
    device.scatter_update(weight, none, np.ones((0, 4), F32), tcast.SGD(1.0))
    device.scatter(weight, none, np.ones((0, 4), F32))
    assert device.coalesce(np.ones((0, 4), F32), casting).shape == (0, 4)
    assert device.expand(grad_out, np.zeros(4, I32)).shape == (0, 4)
    assert (weight == 1).all()
    device.submit([])
    assert device.counters()["descriptors"] == 0


@pytest.mark.parametrize("changes, error, words", [
    ({"source": np.ones((4, 4))}, TypeError, ["passes[0].source", "float64"]),
    ({"target": np.ones((6, 6), F32)}, ValueError, ["passes[0].target", "4 columns"]),
    ({"indices": np.zeros(3, np.uint8)}, TypeError, ["passes[0].indices", "uint8"]),
    ({"offsets": np.zeros(0, I64)}, ValueError, ["passes[0].offsets", "at least 1"]),
    ({"rows": np.zeros(5, I64)}, ValueError, ["passes[0].rows", "6", "not 5"]),
    ({"optimizer": 0.1}, TypeError, ["optimizer", "SGD"]),
    ({"n_lookups": 3}, ValueError, ["n_lookups", "None", "3"]),
    ({"indices": None, "n_lookups": -3}, ValueError, ["n_lookups", "-3"]),
    ({"fields": {"colour": 1}}, ValueError, ["descriptor field", "colour"]),
    ({"fields": {"dim": 1 << 16}}, ValueError, ["dim", "65536"]),
])
def test_submit_checks_shapes_and_maps_nothing(spy, changes, error, words):
    device = EngineDevice(spy, TINY)
    with pytest.raises(error) as caught:
        device.submit([pass_of(**changes)])
    for word in words:
        assert word in str(caught.value)
    assert len(spy.maps) == RINGS
    with pytest.raises(TypeError, match=r"passes\[0\] must be a Pass, not dict"):
        device.submit([{}])
    still_works(device)


# limits of an engine


@pytest.mark.parametrize("dim", [1, 3, 1026, 2048])
def test_columns_must_be_whole_beats(dim):
    device = open_machine()
    weight, values = np.ones((4, dim), F32), np.ones((1, dim), F32)
    zero, one = np.zeros(1, I64), np.array([0, 1])
    casting = device.cast(zero, one, 4)
    limit = rf"multiple of 2 columns .* up to 1024 .*not {dim}"
    for name, call in [
            ("weight", lambda: device.embedding_bag(weight, zero, one)),
            ("weight", lambda: device.gather(weight, zero)),
            ("grad_out", lambda: device.casted_gather_reduce(values, casting)),
            ("weight", lambda: device.scatter_update(weight, zero, values, tcast.SGD(1))),
            ("weight", lambda: device.backward_update(weight, values, casting, tcast.SGD(1))),
            ("grad_out", lambda: device.expand(values, one)),
            ("expanded", lambda: device.coalesce(values, casting)),
            ("dst", lambda: device.scatter(weight, zero, values))]:
        with pytest.raises(ValueError, match=f"{name} must have a {limit}"):
            call()
    assert (weight == 1).all()


@pytest.mark.parametrize("config", [TINY, WIDE, EngineConfig(data_width=64, dim_max=4)],
                         ids=["tiny64", "ddr512", "dim4"])
def test_smallest_and_largest_rows(config):
    lanes = config.derived.lanes
    for dim in (lanes, config.dim_max):
        case = batch(dim, 9, 5, 20, dim, I32, I32)
        with open_machine(config, placement="scattered", seed=dim) as device:
            assert golden.bits_equal(
                device.embedding_bag(case.weight, case.indices, case.offsets),
                golden.embedding_bag(case.weight, case.indices, case.offsets))


def test_row_stride_must_be_whole_beats():
    device = open_machine(WIDE)
    weight = np.ones((4, 24), F32)[:, :16]
    with pytest.raises(ValueError, match=r"dst must have a row stride that is a multiple of 64 "
                                         r"bytes .* below 4194304, not 96"):
        device.scatter(weight, np.zeros(1, I64), np.ones((1, 16), F32))


def test_source_that_cannot_be_copied_is_refused():
    """A source between whose rows there are no whole beats, and which the engine also writes."""
    device = open_machine(WIDE)
    table = np.ones((5, 24), F32)
    target = table.reshape(-1)[:112].reshape(7, 16)
    with pytest.raises(ValueError, match=r"passes\[0\].source must have contiguous rows"):
        device.submit([Pass(source=table[:, :16], target=target)])
    assert (table == 1).all()


def test_what_the_engine_lacks_is_refused(spy):
    spy.patch["feature"] = 0b1  # SGD and nothing else
    device = EngineDevice(spy, TINY)
    case = batch(0, 10, 3, 4, 4, I64, I64)
    weights = np.ones(len(case.indices), F32)
    with pytest.raises(ValueError, match="per_sample_weights must be None, not an array: bit "
                                         "`weighted` of this engine's feature register is 0"):
        device.embedding_bag(case.weight, case.indices, case.offsets, weights)
    with pytest.raises(ValueError, match="mode must be 'sum', not 'mean': bit `scaled`"):
        device.embedding_bag(case.weight, case.indices, case.offsets, mode="mean")
    casting = device.cast(case.indices, case.offsets, 10, weights)
    for call in (lambda: device.casted_gather_reduce(case.grad_out, casting),
                 lambda: device.backward_update(case.weight, case.grad_out, casting,
                                                tcast.SGD(1)),
                 lambda: device.coalesce(np.ones((case.used, 4), F32), casting)):
        with pytest.raises(ValueError, match=r"casting.weights must be None, not an array: bit"):
            call()


def test_engine_without_sgd_refuses_updates(spy):
    spy.patch["feature"] = 0
    device = EngineDevice(spy, TINY)
    with pytest.raises(ValueError, match=r"optimizer must be None, not SGD.*bit `sgd`"):
        device.scatter_update(np.ones((2, 4), F32), np.zeros(1, I64), np.ones((1, 4), F32),
                              tcast.SGD(1))
    still_works(device)


# time


def test_timeout_shows_status_and_leaves_the_device_usable(spy):
    device = EngineDevice(spy, TINY, timeout_cycles=123)
    asked = []
    spy.on_wait = lambda cycles: asked.append(cycles)
    with pytest.raises(EngineTimeout, match=r"within 123 cycles \(busy 0, error 0, resetting 0, "
                                            r"ring_head 1, ring_tail 1, cast_ring_head 0, "
                                            r"cast_ring_tail 0\)") as caught:
        device.submit([pass_of()])
    assert caught.value.counters["descriptors"] == 1
    assert asked == [123]
    assert len(spy.mapped) == RINGS
    spy.on_wait = None
    still_works(device)


def test_default_timeout_grows_with_the_work(spy):
    device = EngineDevice(spy, TINY)
    asked = []

    def wait(cycles):
        asked.append(cycles)
        return spy.machine.wait(cycles)

    spy.on_wait = wait
    for bags in (1, 1000):
        case = batch(0, 10, bags, 5, 4, I64, I64)
        device.embedding_bag(case.weight, case.indices, case.offsets)
    assert 100_000 < asked[0] < asked[1]


def test_engine_that_stays_busy_is_a_timeout(spy):
    device = EngineDevice(spy, TINY)
    spy.patch["status"] = 1
    with pytest.raises(EngineTimeout) as caught:
        device.submit([pass_of()])
    assert "could not be reset" in caught.value.__notes__[0]
    # It may still be writing: the arrays stay where they are, and the device is refused.
    assert len(spy.mapped) > RINGS
    spy.patch.clear()
    with pytest.raises(RuntimeError, match=r"cannot be used: .*soft reset"):
        device.submit([pass_of()])


def test_engine_that_does_not_answer_is_refused_from_then_on(spy):
    device = EngineDevice(spy, TINY)

    def fail(*arguments):
        raise OSError("bus is gone")

    def wait(cycles):
        spy.read_register = spy.write_register = fail
        fail()

    spy.on_wait = wait
    with pytest.raises(OSError, match="bus is gone") as caught:
        device.submit([pass_of()])
    assert "could not be reset" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="cannot be used: bus is gone"):
        device.submit([pass_of()])


def test_interruption_stops_the_engine_and_takes_the_arrays_back(spy):
    device = EngineDevice(spy, TINY)

    def interrupt(cycles):
        spy.on_wait = None
        raise KeyboardInterrupt

    spy.on_wait = interrupt
    with pytest.raises(KeyboardInterrupt):
        device.submit([pass_of()])
    assert len(spy.mapped) == RINGS
    still_works(device)


def test_closed_device_is_refused(spy):
    device = EngineDevice(spy, TINY)
    device.close()
    device.close()
    with pytest.raises(RuntimeError, match="closed"):
        device.submit([pass_of()])


def test_counters_name_every_cause(spy):
    device = EngineDevice(spy, TINY)
    assert device.counters() == {}
    case = batch(0, 10, 3, 4, 4, I64, I64)
    device.embedding_bag(case.weight, case.indices, case.offsets)
    counters = device.counters()
    assert set(counters) == {name for name, _ in registers.COUNTERS + registers.CAST_COUNTERS} | {
        "bursts"}
    assert counters["rows"] == case.used and counters["segments"] == 3
    assert counters["row_beats"] == 2 * case.used
    spy.machine._values["counter_cycles_hi"] = 5
    assert device.counters() == counters, "they are those of the last call"
    device.gather(case.weight, np.zeros(1, I64))
    assert device.counters()["rows"] == 1


def test_high_halves_of_registers_are_used(spy):
    device = EngineDevice(spy, TINY, placement="scattered", seed=5)
    spy.patch |= {"counter_cycles_lo": 7, "counter_cycles_hi": 3}
    device.gather(np.ones((2, 4), F32), np.zeros(1, I64))
    assert device.counters()["cycles"] == 7 + (3 << 32)


def test_values_between_rows_are_left_alone():
    """A window's pages and an array's bytes also hold what is not the target's rows."""
    rng = np.random.default_rng(0)
    wide = floats(rng, (6, 12), 0.3)
    before = wide.copy()
    device = open_machine(placement="scattered", seed=3)
    device.scatter(wide[1:5, 4:8], np.array([3, 0]), np.full((2, 4), 2, F32))
    expected = before.copy()
    expected[[4, 1], 4:8] = 2
    assert np.array_equal(wide.view(np.uint32), expected.view(np.uint32))


def test_source_whose_stride_the_engine_cannot_count_is_copied():
    wide = np.zeros((3, 1 << 17), F32)  # 65,536 beats from row to row
    wide[:, :2] = np.arange(6, dtype=F32).reshape(3, 2)
    device = open_machine()
    assert device.gather(wide[:, :2], np.array([2, 0])).tolist() == [[4, 5], [0, 1]]
    with pytest.raises(ValueError, match="weight must have a row stride"):
        device.scatter_update(wide[:, :2], np.array([0]), np.ones((1, 2), F32), tcast.SGD(1))
