"""Simulation: registers, memory, time, and what goes wrong, on the stand-in engine (copier.sv)."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tcast.hw.config import EngineConfig
from tcast.sim.simulation import ProtocolError, RegisterError, Simulation

ID = 0x54534554
BEAT = 64
SOURCE, TARGET = 0x1234_5678_0000_0000, 0xFFFF_FFFF_FFF0_0000


def start(s, source, target, beats, count, fault=0):
    for offset, value in ((0x10, source % 2**32), (0x14, source >> 32), (0x18, target % 2**32),
                          (0x1C, target >> 32), (0x20, beats), (0x24, count), (0x28, fault),
                          (0x2C, 1)):
        s.write_register(offset, value)


def arrays(beats, seed=1):
    source = np.random.default_rng(seed).integers(0, 2**32, 16 * beats, dtype=np.uint32)
    return source, np.full_like(source, 0xAAAAAAAA)


def test_copies_between_arrays(copier):
    s = copier(latency=64)
    assert s.read_register(0) == ID
    source, target = arrays(64)
    s.map(SOURCE, source, writable=False)
    s.map(TARGET, target)
    start(s, SOURCE, TARGET, beats=4, count=15)
    assert not s.irq
    assert not s.wait(50)
    assert s.wait(10_000)
    assert s.irq
    np.testing.assert_array_equal(target[:960], source[:960])
    assert (target[960:] == 0xAAAAAAAA).all()
    assert s.bursts_open == 0
    counters = s.memory_counters()
    assert counters["cycles"] == s.cycles
    for name in ("read_bursts", "write_bursts", "write_responses"):
        assert counters[name] == 15
    assert counters["read_beats"] == counters["write_beats"] == 60
    assert counters["error_beats"] == 0


@pytest.mark.parametrize("latency", [1, 64, 300])
def test_latency_as_the_engine_sees_it(copier, latency):
    s = copier(latency=latency)
    source, target = arrays(16)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    start(s, SOURCE, TARGET, beats=2, count=8)
    assert s.wait(10_000)
    first_ar, first_r, last_r, _, first_wlast, first_b, last_b = (
        s.read_register(offset) for offset in range(0x40, 0x5C, 4))
    assert first_r - first_ar == latency
    assert last_r - first_r == 15
    assert first_b - first_wlast == latency
    assert last_b - first_b == 14


def test_back_pressure_can_change_between_runs(copier):
    s = copier(latency=4, seed=3)
    source, target = arrays(256)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    times = []
    for pressure in (0.0, 0.5, {"r": 0.9}, 0.0):
        s.set_memory(backpressure=0.0)
        s.set_memory(backpressure=pressure)
        target[:] = 0
        before = s.cycles
        start(s, SOURCE, TARGET, beats=8, count=32)
        assert s.wait(100_000)
        s.write_register(0x30, 1)
        times.append(s.cycles - before)
        np.testing.assert_array_equal(target, source)
    assert times[0] == times[3] < times[1] < times[2]


def test_error_responses_reach_the_engine(copier):
    s = copier()
    source, target = arrays(8)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    s.add_error_range(TARGET + 2 * BEAT, BEAT, "SLVERR", read=False)
    start(s, SOURCE, TARGET, beats=2, count=4)
    assert s.wait(10_000)
    assert s.read_register(0x5C) == 2
    expected = source.copy()
    expected[32:48] = 0xAAAAAAAA
    np.testing.assert_array_equal(target, expected)
    s.clear_error_ranges()
    s.unmap(SOURCE)
    start(s, SOURCE, TARGET, beats=2, count=4)
    s.wait(10_000)
    assert s.read_register(0x5C) == 3
    assert (target == 0xDEADBEEF).all()


def test_stall_hangs_the_memory_but_not_the_registers(copier):
    s = copier()
    source, target = arrays(8)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    s.set_memory(stall=True)
    start(s, SOURCE, TARGET, beats=2, count=4)
    assert not s.wait(5000)
    assert s.read_register(0) == ID
    s.set_memory(stall=False)
    assert s.wait(5000)
    np.testing.assert_array_equal(source, target)


def test_equal_seeds_give_equal_runs(copier):
    def run(seed):
        s = copier(seed=seed, backpressure=0.4, read_jitter=50)
        source, target = arrays(64)
        s.map(SOURCE, source)
        s.map(TARGET, target)
        start(s, SOURCE, TARGET, beats=2, count=32)
        assert s.wait(100_000)
        return s.cycles

    assert run(1) == run(1)
    assert len({run(seed) for seed in range(6)}) > 1


def test_two_at_once_do_not_disturb_each_other(copier):
    a, b = copier(latency=10), copier(latency=200)
    results = {}
    for name, s in (("a", a), ("b", b)):
        results[name] = arrays(64, seed=ord(name))
        s.map(SOURCE, results[name][0])
        s.map(TARGET, results[name][1])
        start(s, SOURCE, TARGET, beats=4, count=16)
    while not (a.irq and b.irq):
        a.step(3)
        b.step(5)
        assert a.cycles < 10_000
    for source, target in results.values():
        np.testing.assert_array_equal(source, target)


def test_two_threads_run_at_the_same_time(copier):
    pairs = []
    for seed in (1, 2):
        s = copier(seed=seed, backpressure=0.3)
        source, target = arrays(1024, seed)
        s.map(SOURCE, source)
        s.map(TARGET, target)
        pairs.append((s, source, target))

    def work(s):
        for _ in range(20):
            start(s, SOURCE, TARGET, beats=16, count=64)
            assert s.wait(100_000)

    threads = [threading.Thread(target=work, args=(s,)) for s, _, _ in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, source, target in pairs:
        np.testing.assert_array_equal(source, target)


def test_a_broken_rule_raises(copier):
    s = copier(backpressure={"ar": 0.9})
    source, target = arrays(64)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    with pytest.raises(ProtocolError, match=r"cycle \d+: the AR payload changed before ARREADY"):
        start(s, SOURCE, TARGET, beats=1, count=40, fault=1)
        s.wait(1000)
    s.reset()
    start(s, SOURCE, TARGET, beats=1, count=40)
    assert s.wait(10_000)


def test_a_read_across_a_page_raises(copier):
    s = copier()
    source, target = arrays(128)
    s.map(0x1000, source)
    s.map(TARGET, target)
    with pytest.raises(ProtocolError, match="a read burst crosses 4 KiB"):
        start(s, 0x1FC0, TARGET, beats=2, count=1)
        s.wait(1000)


def test_a_failed_assertion_of_the_design_raises(copier):
    s = copier()
    with pytest.raises(ProtocolError, match="assertion of the design"):
        start(s, SOURCE, TARGET, beats=1, count=1, fault=2)


def test_registers_that_are_not_there(copier):
    s = copier()
    with pytest.raises(RegisterError, match=r"read of register 0x800 was answered SLVERR"):
        s.read_register(0x800)
    with pytest.raises(RegisterError, match=r"write of register 0x000 was answered SLVERR"):
        s.write_register(0, 1)
    with pytest.raises(ValueError, match="value must be from 0"):
        s.write_register(0x10, -1)


def test_reset_keeps_arrays_and_options(copier):
    s = copier(latency=33)
    source, target = arrays(4)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    start(s, SOURCE, TARGET, beats=4, count=1)
    s.step(20)
    assert s.bursts_open == 1
    s.reset()
    assert s.bursts_open == 0
    assert s.read_register(0x10) == 0
    start(s, SOURCE, TARGET, beats=4, count=1)
    assert s.wait(1000)
    assert s.read_register(0x44) - s.read_register(0x40) == 33
    np.testing.assert_array_equal(source, target)


def test_map_refuses_what_it_cannot_do(copier):
    s = copier()
    array = np.zeros(64, np.uint32)
    fixed = np.zeros(64, np.uint32)
    fixed.flags.writeable = False
    s.map(0x1000, array)
    for address in (0x1000, 0x1000 - 4, 0x10FF):
        with pytest.raises(ValueError, match="must not overlap"):
            s.map(address, np.zeros(2, np.uint32))
    s.map(0x1100, np.zeros(64, np.uint32))
    with pytest.raises(ValueError, match="writable=False"):
        s.map(0x2000, fixed)
    with pytest.raises(ValueError, match="C-contiguous and not empty"):
        s.map(0x3000, np.zeros((8, 8))[:, :4])
    with pytest.raises(ValueError, match="C-contiguous and not empty"):
        s.map(0x3000, np.zeros(0))
    with pytest.raises(ValueError, match="address must be from 0"):
        s.map(2**64 - 4, array)
    with pytest.raises(TypeError, match="NumPy array, not list"):
        s.map(0x3000, [1])
    with pytest.raises(KeyError):
        s.unmap(0x3000)
    s.unmap(0x1000)
    s.map(0x1000, array)


def test_mapped_arrays_live_as_long_as_they_are_mapped(copier):
    s = copier()
    target = np.zeros(16 * 64, np.uint32)
    s.map(TARGET, target)
    s.map(SOURCE, np.arange(16 * 64, dtype=np.uint32))
    gc.collect()
    np.full(16 * 64, 7, np.uint32)
    start(s, SOURCE, TARGET, beats=8, count=8)
    assert s.wait(10_000)
    np.testing.assert_array_equal(target, np.arange(16 * 64))


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"latency": 0}, ValueError, "read_latency must be from 1"),
    ({"latency": 2.5}, TypeError, "read_latency must be of type int, not 2.5"),
    ({"backpressure": 1.0}, ValueError, r"backpressure must be from 0 to 0.99, not 1.0"),
    ({"backpressure": {"x": 0.1}}, ValueError, "backpressure must name channels"),
    ({"reorder": 1}, TypeError, "reorder must be of type bool, not 1"),
    ({"speed": 1}, TypeError, "memory option must be .* not 'speed'"),
])
def test_options_are_checked(copier, options, error, text):
    with pytest.raises(error, match=text):
        copier(**options)


def test_closed_simulations_say_so(copier):
    s = copier()
    s.close()
    s.close()
    for call in (lambda: s.read_register(0), lambda: s.wait(5), lambda: s.cycles,
                 lambda: s.map(0, np.zeros(4)), lambda: s.set_memory(stall=True), s.reset):
        with pytest.raises(ValueError, match="must be open, not closed"):
            call()


def test_closing_in_any_order(copier):
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        simulations = [copier(latency=n + 1) for n in range(3)]
        for n in order:
            assert simulations[n].read_register(0) == ID
            simulations[n].close()
            for other in simulations:
                if other._handle is not None:
                    other.step(5)


def test_waves(copier, tmp_path):
    s = copier(waves=tmp_path / "copy.vcd")
    s.read_register(0)
    s.close()
    text = (tmp_path / "copy.vcd").read_text()
    assert "s_axil_araddr" in text and "#10" in text
    with pytest.raises(OSError, match="waves must be a file"):
        copier(waves=tmp_path / "no" / "copy.vcd")


def test_an_unanswered_register_access_ends(tmp_path):
    # A copier whose register port never answers.
    silent = tmp_path / "silent.sv"
    text = Path(__file__).with_name("copier.sv").read_text()
    answers = "assign s_axil_arready = !s_axil_rvalid;"
    assert answers in text
    silent.write_text(text.replace(answers, "assign s_axil_arready = 0;"))
    with Simulation(EngineConfig(name="copier", data_width=512), verilog=silent) as s:
        with pytest.raises(ProtocolError, match="does not answer a read"):
            s.read_register(0)


def test_speed(copier):
    """The harness, memory and checkers cost little: at most 0.3 µs a cycle on a quiet machine."""
    s = copier(latency=20)
    source, target = arrays(4096)
    s.map(SOURCE, source)
    s.map(TARGET, target)
    before, began = s.cycles, time.process_time()
    for _ in range(20):
        start(s, SOURCE, TARGET, beats=64, count=64)
        assert s.wait(100_000)
    rate = (s.cycles - before) / (time.process_time() - began)
    print(f"{rate:,.0f} cycles per CPU second")
    assert rate > 500_000
