"""The DRAM behind the memory model: every parameter by exact cycle counts, and results unharmed."""

from dataclasses import fields, replace

import numpy as np
import pytest

from tcast.hw.config import EngineConfig
from tcast.sim.dram import DDR4_2400, DRAMS, HBM2_PC, Dram, find_dram
from tcast.sim.simulation import Simulation, dram_counters

BEAT, ROW, CHUNK = 64, 1024, 256
GROUPS, BANKS = 4, 4

#: No two sums of these are equal by chance.
SLOW = Dram(beat_bytes=BEAT, groups=GROUPS, banks=BANKS, row_bytes=ROW, interleave=CHUNK,
            tCL=11, tCWL=7, tRCD=13, tRP=17, tRAS=40, tRC=60, tCCD_S=1, tCCD_L=3, tRRD_S=2,
            tRRD_L=5, tFAW=30, tRTP=6, tWR=19, tWTR_S=4, tWTR_L=9, tRTW=2, tREFI=0, tRFC=0)
LATENCY = 5


def address(row=0, bank=0, group=0, column=0):
    """Byte address of a beat: interleave, group, rest of the row, bank, row."""
    chunk, beat = divmod(column, CHUNK // BEAT)
    return ((((row * BANKS + bank) * (ROW // CHUNK) + chunk) * GROUPS + group) * CHUNK
            + beat * BEAT)


@pytest.fixture
def dram(memory):
    """A function that makes a memory with a DRAM of SLOW, changed, and runs requests on it.

    It returns the cycles of the R beats (reads) or of the B responses (writes) from the cycle of
    the first address handshake, less LATENCY: reads give the cycles of their data on the bus, and
    writes too.
    """
    def run(requests, window=None, **changes):
        if window is not None:
            changes["window"] = window
        m = memory(latency=LATENCY, dram=replace(SLOW, **changes))
        m.map(0, np.zeros(1 << 20, np.uint8))
        for kind, where in requests:
            if kind == "r":
                m.read(where)
            else:
                m.write(where, bytes(BEAT))
        m.finish()
        m.run(2)
        run.memory = m
        run.counters = dram_counters(m.library, m.bench)
        first = min(entry[0] for channel in ("ar", "aw") for entry in m.log[channel])
        reads = [entry[0] - first - LATENCY for entry in m.log["r"]]
        writes = [entry[0] - first - LATENCY for entry in m.log["b"]]
        return reads, writes
    return run


#: Cycle of the data of the first access, whose bank is closed: it queues, is activated, is read.
FIRST = 1 + SLOW.tRCD + SLOW.tCL
FIRST_WRITE = 1 + SLOW.tRCD + SLOW.tCWL


def test_a_closed_bank_takes_an_activate_and_a_column_command(dram):
    assert dram([("r", address(row=3))]) == ([FIRST], [])
    assert dram([("w", address(row=3))]) == ([], [FIRST_WRITE])
    assert dram([("r", address())], tRCD=20) == ([FIRST + 7], [])
    assert dram([("r", address())], tCL=20) == ([FIRST + 9], [])
    assert dram([("w", address())], tCWL=20) == ([], [FIRST_WRITE + 13])
    assert dram.counters["activates"] == 1 and dram.counters["conflicts"] == 0


def test_row_hits_come_every_tccd(dram):
    hits = [("r", address(column=i)) for i in range(4)]
    assert dram(hits)[0] == [FIRST + 3 * i for i in range(4)]  # tCCD_L, one bank group
    assert dram(hits, tCCD_L=5)[0] == [FIRST + 5 * i for i in range(4)]
    assert dram.counters["activates"] == 1
    # Two groups, both open: tCCD_S in turn.
    opened = [("r", address()), ("r", address(group=1))]
    both = [("r", address(column=i, group=g)) for i in (1, 2, 3) for g in (0, 1)]
    for ccd in (1, 2):
        times = dram(opened + both, tCCD_S=ccd, tCCD_L=4)[0]
        # The first of group 1 is activated tRRD_S after that of group 0.
        assert times[:2] == [FIRST, FIRST + 2]
        assert times[2:] == [FIRST + d for d in (4, 6, 8, 10, 12, 14)]
    times = dram(opened + both, tCCD_S=3, tCCD_L=4)[0]
    assert np.diff(times[2:]).min() == 3


def test_a_row_conflict_waits_for_tras_trp_trc_and_trtp(dram):
    conflict = [("r", address(row=0)), ("r", address(row=1))]
    # Activated in cycle 1: precharge in 1 + tRAS, activate at the later of tRP after it and tRC.
    assert dram(conflict)[0] == [FIRST, FIRST + 60]
    assert dram.counters["conflicts"] == 1 and dram.counters["activates"] == 2
    assert dram(conflict, tRC=0)[0] == [FIRST, FIRST + 40 + 17]
    assert dram(conflict, tRC=0, tRP=20)[0] == [FIRST, FIRST + 40 + 20]
    assert dram(conflict, tRC=0, tRAS=50)[0] == [FIRST, FIRST + 50 + 17]
    # Not bound by tRAS: tRTP after the column command, which is tRCD after the activate.
    assert dram(conflict, tRC=0, tRAS=0)[0] == [FIRST, FIRST + 13 + 6 + 17]
    assert dram(conflict, tRC=0, tRAS=0, tRTP=30)[0] == [FIRST, FIRST + 13 + 30 + 17]


def test_a_written_row_is_closed_after_twr(dram):
    conflict = [("w", address(row=0)), ("w", address(row=1))]
    closed = SLOW.tRCD + SLOW.tCWL + 1 + SLOW.tWR  # from the activate
    assert dram(conflict, tRC=0, tRAS=0)[1] == [FIRST_WRITE, FIRST_WRITE + closed + 17]
    assert dram(conflict, tRC=0, tRAS=0, tWR=1)[1] == [FIRST_WRITE, FIRST_WRITE + closed - 18 + 17]


def test_activates_keep_trrd_and_tfaw(dram):
    groups = [("r", address(group=i)) for i in range(4)]
    assert dram(groups)[0] == [FIRST + 2 * i for i in range(4)]
    assert dram(groups, tRRD_S=4)[0] == [FIRST + 4 * i for i in range(4)]
    same = [("r", address(bank=i)) for i in range(4)]
    assert dram(same)[0] == [FIRST + 5 * i for i in range(4)]
    assert dram(same, tRRD_L=6)[0] == [FIRST + 6 * i for i in range(4)]
    eight = [("r", address(group=i % 4, bank=i // 4)) for i in range(8)]
    assert dram(eight)[0] == [FIRST + 30 * (i // 4) + 2 * (i % 4) for i in range(8)]
    assert dram(eight, tFAW=50)[0][4] == FIRST + 50


def test_refresh_closes_the_banks_and_takes_trfc(memory):
    def second(**changes):
        """Latencies of two reads of one row, the second in cycle 600, and the counters."""
        m = memory(latency=LATENCY, dram=replace(SLOW, **changes))
        m.map(0, np.zeros(1 << 16, np.uint8))
        m.run(3)
        m.read(address())
        m.finish()
        m.run(600 - m.cycle)
        m.read(address(column=1))
        m.finish()
        latencies = [r[0] - ar[0] - LATENCY
                     for r, ar in zip(m.log["r"], m.log["ar"], strict=True)]
        return latencies, dram_counters(m.library, m.bench)

    latencies, counters = second()
    assert latencies == [FIRST, 1 + SLOW.tCL]
    assert counters["refreshes"] == 0
    # Commands begin in cycle 2, the first after the reset's, so the refresh is due in tREFI + 2.
    # All banks are precharged then, refreshed tRP later, and the row has to be opened again.
    for interval, duration in ((580, 50), (580, 60), (585, 50)):
        latencies, counters = second(tREFI=interval, tRFC=duration)
        opened = 2 + interval + SLOW.tRP + duration
        assert latencies == [FIRST, opened - 600 + SLOW.tRCD + SLOW.tCL]
        assert counters["refreshes"] == 1
        assert counters["refresh_cycles"] == SLOW.tRP + duration
        assert counters["activates"] == 2


def turn(m, first, second, gap=60, group=0):
    """Cycles from the data of one access to that of the next, which is of the other direction.

    Both rows are open; the second access is offered with the first.
    """
    m.map(0, np.zeros(1 << 16, np.uint8))
    for g in {0, group}:
        m.read(address(group=g))
        m.finish()
    m.run(gap)
    times = {}
    for kind, g in ((first, 0), (second, group)):
        if kind == "r":
            m.read(address(column=1, group=g))
        else:
            m.write(address(column=1, group=g), bytes(BEAT))
        if kind == first:
            m.edge()
    m.finish()
    times["r"], times["w"] = m.log["r"][-1][0], m.log["b"][-1][0]
    return times[second] - times[first]


@pytest.mark.parametrize("gap", [0, 2, 6])
def test_read_to_write_leaves_a_gap_on_the_data_bus(memory, gap):
    m = memory(latency=LATENCY, dram=replace(SLOW, tRTW=gap))
    assert turn(m, "r", "w") == 1 + gap


def test_write_to_read_waits_for_twtr_after_the_data(memory):
    def wait(group, **changes):
        m = memory(latency=LATENCY, dram=replace(SLOW, **changes))
        return turn(m, "w", "r", group=group)

    # The read's command comes 1 + tWTR after the write's data began, its data tCL later.
    assert wait(0) == 1 + SLOW.tWTR_L + SLOW.tCL
    assert wait(1) == 1 + SLOW.tWTR_S + SLOW.tCL
    assert wait(0, tWTR_L=20) == 1 + 20 + SLOW.tCL
    assert wait(1, tWTR_S=6) == 1 + 6 + SLOW.tCL


def test_row_hits_overtake_in_the_window_but_r_stays_in_order(dram):
    # A hit behind a conflict is read first if the window shows it.
    requests = [("r", address(row=0)), ("r", address(row=1)), ("r", address(row=0, column=1))]
    times = dram(requests, window=3)[0]
    assert dram.counters["conflicts"] == 1
    assert times == [FIRST, FIRST + 60, FIRST + 61]  # R in the order of the requests
    times = dram(requests, window=1)[0]
    assert dram.counters["conflicts"] == 2
    assert times == [FIRST, FIRST + 60, FIRST + 120]


@pytest.mark.parametrize("batch", [2, 8])
def test_directions_take_turns_of_batch(dram, batch):
    requests = [(kind, address(column=i % 16, group=i // 16 % 4))
                for i in range(64) for kind in "rw"]
    reads, writes = dram(requests, batch=batch)
    assert len(reads) == len(writes) == 64
    assert dram.counters["read_cycles"] == dram.counters["write_cycles"] == 64
    assert abs(dram.counters["turns"] - 2 * 64 // batch) <= 4, dram.counters


def test_one_data_bus_and_every_cycle_counted(dram, rng):
    requests = [("rw"[int(rng.integers(2))],
                 BEAT * int(rng.integers(0, (1 << 20) // BEAT))) for _ in range(400)]
    dram(requests, tREFI=700, tRFC=90)
    counters, m = dram.counters, dram.memory
    assert counters["read_cycles"] == len(m.log["r"]) and counters["write_cycles"] == len(
        m.log["b"])
    assert counters["refreshes"] >= 2
    six = list(counters.values())[:6]
    assert sum(six) == m.cycle - 1, counters  # the first edge was the reset


@pytest.mark.parametrize("options", [{}, {"reorder": True}, {"reorder": True, "interleave": True},
                                     {"late": False}, {"read_jitter": 30, "write_jitter": 20}])
def test_data_and_order_are_right(memory, rng, seed, options):
    m = memory(seed=seed, latency=LATENCY, dram=replace(SLOW, tREFI=500, tRFC=40), **options)
    data = rng.integers(0, 2**32, 1 << 14, dtype=np.uint32)
    original = data.copy()
    m.map(0, data)
    wanted, target = {}, original.copy()
    for i in range(150):
        beats = int(rng.integers(1, 9))
        at = BEAT * int(rng.integers(0, 500))
        m.read(at, beats, id=i % 3)
        wanted.setdefault(i % 3, []).append(original.view(np.uint8)[at:at + beats * BEAT].tobytes())
        to = (1 << 15) + BEAT * int(rng.integers(0, 500))
        fresh = rng.integers(0, 2**32, 16 * beats, dtype=np.uint32)
        m.write(to, fresh.tobytes())
        target.view(np.uint8)[to:to + beats * BEAT] = fresh.view(np.uint8)
    m.finish()
    np.testing.assert_array_equal(data, target)
    for id, bursts in wanted.items():
        assert b"".join(r[2] for r in m.log["r"] if r[1] == id) == b"".join(bursts)
    if not options.get("reorder"):
        assert [r[1] for r in m.log["r"] if r[4]] == [ar[1] for ar in m.log["ar"]]


def test_off_is_the_fixed_latency_memory_to_the_cycle(memory, rng):
    at = [BEAT * int(rng.integers(0, 900)) for _ in range(200)]

    def log(*steps):
        m = memory(seed=9, latency=20, read_jitter=9, backpressure=0.2)
        for step in steps:
            m.set(dram=step)
        m.map(0, np.zeros(1 << 16, np.uint8))
        for where in at:
            m.read(where, 2)
            m.write(where, bytes(BEAT))
        m.finish()
        return m.log

    assert log() == log("off") == log(SLOW, "off") != log(SLOW)


def test_what_cannot_be_set_is_refused(memory):
    m = memory(latency=9)
    with pytest.raises(ValueError, match="dram must be off, ddr4-2400, hbm2-pc or a Dram"):
        m.set(dram="ddr9")
    with pytest.raises(ValueError, match="port's beats"):
        m.set(dram="hbm2-pc")
    with pytest.raises(TypeError, match="dram"):
        m.set(dram=3)
    m.map(0, np.zeros(64, np.uint8))
    m.read(0)
    m.run(3)
    with pytest.raises(ValueError, match="no burst is open"):
        m.set(dram=SLOW)
    m.finish()
    m.set(dram=SLOW)
    with pytest.raises(ValueError, match="banks must be a power of two, not 3"):
        replace(SLOW, banks=3)


def test_parameters_are_the_sources_rounded_up():
    assert [DDR4_2400.engine_cycles(name) for name in ("tCL", "tRCD", "tRC", "tCCD_L", "tFAW",
                                                       "tREFI", "tRFC")] == [4, 4, 14, 2, 7, 2340,
                                                                             105]
    assert [HBM2_PC.engine_cycles(name) for name in ("tCL", "tRC", "tCCD_S", "tRFC")] == [7, 24, 1,
                                                                                         130]
    for channel in (DDR4_2400, HBM2_PC):
        # A beat each engine cycle is the channel's data rate.
        transfers = 8 if channel is DDR4_2400 else 4
        assert channel.engine_mhz * transfers == 2 * channel.clock_mhz
        missing = {field.name for field in fields(Dram)} - {*channel.organisation, *channel.timing}
        assert missing == {"window", "batch"}
    assert find_dram("ddr4-2400") is DRAMS["ddr4-2400"]


def test_trace_and_replay(copier):
    s = copier(latency=8, dram="ddr4-2400", trace=True)
    source = np.arange(16 * 64, dtype=np.uint32)
    target = np.zeros_like(source)
    s.map(0, source)
    s.map(1 << 20, target)
    for offset, value in ((0x10, 0), (0x14, 0), (0x18, 1 << 20), (0x1C, 0), (0x20, 4), (0x24, 16),
                          (0x28, 0), (0x2C, 1)):
        s.write_register(offset, value)
    assert s.wait(10_000)
    np.testing.assert_array_equal(source, target)
    trace = s.memory_trace()
    assert trace["write"].tolist() == [0] * 16 + [1] * 16
    assert trace["address"].tolist() == [*range(0, 4096, 256),
                                         *range(1 << 20, (1 << 20) + 4096, 256)]
    assert (trace["beats"] == 4).all() and (np.diff(trace["cycle"].astype(np.int64)) > 0).all()
    assert len(s.memory_trace()) == 0
    cycles, counters = s.replay(trace, dram="ddr4-2400", latency=8)
    assert counters["read_cycles"] == counters["write_cycles"] == 64
    # 64 beats each way, a latency at the end, and rows to be opened; the copier does one after the
    # other and takes longer.
    assert 128 < cycles < 200
    ends = s.cycles
    assert cycles < ends
    # With one read outstanding: burst by burst, of which each waits for its four row hits (tCCD_L
    # is 2, CL 4) and the latency; then the writes.
    slow, counters = s.replay(trace, in_order=True, dram="ddr4-2400", latency=8,
                              read_outstanding=1)
    assert slow >= 16 * (1 + 4 + 3 * 2 + 8) + 64 and counters["read_cycles"] == 64
    # Without a DRAM: the reads' 64 beats after their latency, the writes beside them.
    assert s.replay(trace[:16], latency=8)[0] == 1 + 8 + 63
    assert s.replay(trace[16:], latency=8)[0] == 64 + 8


@pytest.mark.parametrize("preset", ["tiny64"])
def test_results_on_the_engine_are_goldens(preset, seed):
    from tcast.equality import same_bits
    from tcast.golden import SGD
    from tcast.host.driver import EngineDevice
    from tcast.host.golden_backend import GoldenDevice
    config = EngineConfig.preset(preset)
    dram = replace(DRAMS["ddr4-2400"], beat_bytes=config.derived.beat_bytes, tREFI=900)
    rng = np.random.default_rng(seed)
    rows, lookups, dim = 300, 700, 16
    weight = rng.standard_normal((rows, dim), dtype=np.float32)
    indices = rng.integers(0, rows, lookups).astype(np.int32)
    offsets = np.append(np.arange(0, lookups, 20), lookups).astype(np.int32)
    grad = rng.standard_normal((len(offsets) - 1, dim), dtype=np.float32)
    golden = GoldenDevice()
    casting = golden.cast(indices, offsets, rows)
    cycles = []
    for options in ({"dram": dram}, {"dram": dram, "reorder": True, "late": False}, {}):
        simulation = Simulation(config, latency=20, seed=seed, **options)
        with EngineDevice(simulation, config) as device:
            same_bits("forward", device.embedding_bag(weight, indices, offsets),
                      golden.embedding_bag(weight, indices, offsets))
            mine, theirs = weight.copy(), weight.copy()
            device.backward_update(mine, grad, casting, SGD(0.1))
            golden.backward_update(theirs, grad, casting, SGD(0.1))
            same_bits("weight", mine, theirs)
            cycles.append(simulation.cycles)
            if options:
                counters = simulation.dram_counters()
                assert counters["refreshes"] >= 2 and counters["turns"] >= 2
    assert cycles[0] > cycles[2]
