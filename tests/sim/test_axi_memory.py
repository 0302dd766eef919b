"""The memory model, cycle by cycle: each option is shown to do what it says, and nothing else."""

import numpy as np
import pytest

BEAT = 64


def pattern(beats, start=0):
    return np.arange(start, start + 16 * beats, dtype=np.uint32)


def beat_bytes(array, beat):
    return array.tobytes()[BEAT * beat:BEAT * (beat + 1)]


@pytest.mark.parametrize("latency", [1, 2, 3, 20, 64, 300])
def test_read_latency_is_exact(memory, latency):
    m = memory(read_latency=latency, write_latency=7)
    data = pattern(16)
    m.map(0x1000, data)
    m.read(0x1000, 4)
    m.finish()
    start = m.log["ar"][0][0]
    assert [r[0] - start for r in m.log["r"]] == [latency + i for i in range(4)]
    assert [r[2] for r in m.log["r"]] == [beat_bytes(data, i) for i in range(4)]
    assert [r[4] for r in m.log["r"]] == [0, 0, 0, 1]


def test_reads_move_a_beat_every_cycle_over_all_bursts(memory, rng):
    m = memory(latency=30)
    data = pattern(256)
    m.map(0, data)
    wanted = []
    for _ in range(100):
        beats = int(rng.integers(1, 9))
        beat = int(rng.integers(0, 256 - beats))
        m.read(BEAT * beat, beats, id=int(rng.integers(0, 6)))
        wanted += [beat_bytes(data, beat + i) for i in range(beats)]
    m.finish()
    cycles = [r[0] for r in m.log["r"]]
    assert cycles == list(range(cycles[0], cycles[0] + len(wanted)))
    assert [r[2] for r in m.log["r"]] == wanted
    assert [r[1] for r in m.log["r"] if r[4]] == [ar[1] for ar in m.log["ar"]]


def test_one_beat_bursts_move_one_per_cycle(memory):
    m = memory(latency=5)
    m.map(0, pattern(64))
    for i in range(64):
        m.read(BEAT * i)
        m.write(BEAT * i, bytes(BEAT))
    m.finish()
    for channel in ("ar", "r", "aw", "w", "b"):
        cycles = [entry[0] for entry in m.log[channel]]
        assert cycles == list(range(cycles[0], cycles[0] + 64)), channel


@pytest.mark.parametrize("latency", [1, 2, 64])
@pytest.mark.parametrize("late", [True, False])
def test_write_latency_is_exact_from_the_later_of_address_and_data(memory, latency, late):
    m = memory(write_latency=latency, read_latency=9, late=late)
    data = pattern(16)
    m.map(0x1000, data)
    new = pattern(3, 1000).tobytes()
    m.write(0x1040, new)                                  # together: the last beat is later
    m.finish()
    assert m.log["b"][0][0] - m.log["w"][2][0] == latency
    m.write_data(new)                                     # data first
    m.run(10)
    m.aw.append((0, 0x1200, 3))
    m.finish()
    assert m.log["aw"][1][0] > m.log["w"][5][0]
    assert m.log["b"][1][0] - m.log["aw"][1][0] == latency
    expected = pattern(16)
    expected.view(np.uint8)[0x40:0x40 + len(new)] = np.frombuffer(new, np.uint8)
    expected.view(np.uint8)[0x200:0x200 + len(new)] = np.frombuffer(new, np.uint8)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_outstanding_limits_hold_and_are_reached(memory, limit):
    m = memory(latency=20, read_outstanding=limit, write_outstanding=limit)
    m.map(0, pattern(64))
    for i in range(20):
        m.read(BEAT * i, 2)
        m.write(BEAT * i, bytes(BEAT))
    m.finish()
    ends = [r[0] for r in m.log["r"] if r[4]]
    for n, ar in enumerate(m.log["ar"]):
        assert sum(end < ar[0] for end in ends) >= n - limit + 1
    for n, aw in enumerate(m.log["aw"]):
        assert sum(b[0] < aw[0] for b in m.log["b"]) >= n - limit + 1
    counters = m.counters()
    assert counters[6:8] == [limit, limit]


def test_write_ahead_is_exact(memory):
    for ahead in (0, 1, 6):
        m = memory(write_ahead=ahead)
        data = pattern(16)
        m.map(0, data)
        m.write_data(bytes(8 * BEAT))
        m.run(40)
        assert len(m.log["w"]) == ahead
        m.aw.append((0, 0, 8))
        m.finish()
        assert len(m.log["b"]) == 1
        assert not data[:128].any() and data[128:].all()


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("channel", ["ar", "r", "aw", "w", "b"])
def test_back_pressure_has_the_probability_asked_for(memory, seed, channel, p):
    m = memory(seed=seed, latency=1, backpressure={channel: p})
    m.map(0, pattern(16))
    n = 2000
    for _ in range(n):
        if len(m.ar) < 8:
            m.read(0)
        if len(m.aw) < 8:
            m.write(0, bytes(BEAT))
        m.edge()
    offered = m.offered[channel] / n
    assert abs(offered - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5 + 0.01, offered
    # The other direction is not touched.
    other = {"ar": "aw", "r": "b", "aw": "ar", "w": "r", "b": "ar"}[channel]
    assert m.offered[other] / n > 0.98


def test_equal_seeds_give_equal_runs_and_others_differ(memory):
    def trace(seed):
        m = memory(seed=seed, backpressure=0.5, read_jitter=30, write_jitter=30, reorder=True)
        m.map(0, pattern(64))
        for i in range(50):
            m.read(BEAT * i, 2, id=i % 4)
            m.write(BEAT * i, bytes(BEAT))
        m.finish()
        return m.log

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_jitter_is_uniform_up_to_its_limit(memory, seed):
    m = memory(seed=seed, latency=10, read_jitter=15, write_jitter=7)
    m.map(0, pattern(16))
    reads, writes = [], []
    for _ in range(400):
        m.read(0)
        m.write(0, bytes(BEAT))
        m.finish()
        reads.append(m.log["r"][-1][0] - m.log["ar"][-1][0])
        writes.append(m.log["b"][-1][0] - max(m.log["aw"][-1][0], m.log["w"][-1][0]))
    assert set(reads) == set(range(10, 26))
    assert set(writes) == set(range(10, 18))
    assert abs(np.mean(reads) - 17.5) < 5 * 4.6 / 20
    assert abs(np.mean(writes) - 13.5) < 5 * 2.3 / 20


def test_in_order_over_ids_by_default_even_with_jitter(memory, seed):
    m = memory(seed=seed, read_jitter=40)
    m.map(0, pattern(64))
    for i in range(60):
        m.read(BEAT * i, 2, id=i % 7)
    m.finish()
    assert [r[1] for r in m.log["r"] if r[4]] == [i % 7 for i in range(60)]


@pytest.mark.parametrize("interleave", [False, True])
def test_reorder_is_between_ids_only(memory, seed, interleave):
    m = memory(seed=seed, latency=10, reorder=True, interleave=interleave)
    data = pattern(256)
    m.map(0, data)
    wanted = {id: [] for id in range(4)}
    for i in range(60):
        m.read(BEAT * 4 * i, 4, id=i % 4)
        wanted[i % 4] += [beat_bytes(data, 4 * i + k) for k in range(4)]
    m.finish()
    for id in range(4):
        assert [r[2] for r in m.log["r"] if r[1] == id] == wanted[id]
    ids = [r[1] for r in m.log["r"]]
    whole = all(len(set(ids[i:i + 4])) == 1 for i in range(0, len(ids), 4))
    assert whole != interleave
    assert [r[1] for r in m.log["r"] if r[4]] != [i % 4 for i in range(60)]


@pytest.mark.parametrize("late", [True, False])
def test_late_memory_effects(memory, late):
    m = memory(read_latency=20, write_latency=20, late=late)
    data = pattern(16)
    m.map(0, data)
    old, new = beat_bytes(data, 0), b"\x77" * BEAT
    m.write(0, new)
    m.run(5)
    m.read(0)            # after the data, before the response
    m.finish()
    assert m.log["ar"][0][0] < m.log["b"][0][0]
    assert m.log["r"][0][2] == (old if late else new)
    m.read(0)
    m.run(5)
    m.write(0, old)      # its data comes before the read's
    m.finish()
    assert m.log["r"][1][2] == (new if late else old)
    assert m.counters()[8] == 0


def test_writes_to_one_place_keep_their_order(memory, seed, rng):
    for late in (True, False):
        m = memory(seed=seed, late=late, backpressure=0.4, write_jitter=30)
        data = pattern(1)
        m.map(0, data)
        for i in range(50):
            m.write(0, bytes([i]) * BEAT)
            if i % 10 == 5:
                m.run(30)
                m.set(late=bool(rng.integers(2)))   # changing it on the way does no harm
        m.finish()
        assert data.tobytes() == bytes([49]) * BEAT


def test_strobes_select_bytes(memory):
    m = memory()
    data = pattern(1)
    before = data.tobytes()
    m.map(0, data)
    m.write(0, b"\xee" * BEAT, strobe=bytes([0b10100101] * 8))
    m.finish()
    chosen = [0b10100101 >> (i % 8) & 1 for i in range(BEAT)]
    assert data.tobytes() == bytes(0xEE if c else b for c, b in zip(chosen, before, strict=True))


def test_unmapped_and_read_only(memory):
    m = memory()
    data, fixed = pattern(2), pattern(2, 500)
    copy = data.copy(), fixed.copy()
    m.map(0x1000, data)
    m.map(0x1000 + data.nbytes, fixed, writable=False)
    m.read(0xFC0, 6)                     # one beat before, two in each, one behind
    for address in (0xFC0, 0x1080, 0x1100):
        m.write(address, b"\x55" * BEAT)
    m.write(0x1040, b"\x55" * 3 * BEAT)  # one beat good, two read-only
    m.finish()
    assert [r[3] for r in m.log["r"]] == [3, 0, 0, 0, 0, 3]
    assert m.log["r"][0][2] == np.full(16, 0xDEADBEEF, np.uint32).tobytes()
    assert [b[2] for b in m.log["b"]] == [3, 2, 3, 2]
    np.testing.assert_array_equal(fixed, copy[1])
    assert beat_bytes(data, 0) == beat_bytes(copy[0], 0)
    assert beat_bytes(data, 1) == b"\x55" * BEAT
    assert m.counters()[8] == 2 + 2 + 1 + 2


def test_beats_of_several_regions(memory):
    m = memory()
    whole = np.arange(3 * BEAT, dtype=np.uint8)
    before = whole.copy()
    poison = np.full(16, 0xDEADBEEF, np.uint32).view(np.uint8)
    # Bytes 7 to 19, 20 to 99 and 100 to 160 of three beats; the rest is nobody's.
    for first, last in ((7, 19), (20, 99), (100, 160)):
        m.map(0x1000 + first, whole[first:last + 1])
    m.read(0x1000, 3)
    m.read(0x10C0)
    m.read(0xFC0)
    m.finish()
    assert [r[3] for r in m.log["r"]] == [0, 0, 0, 3, 3]
    expected = before.copy()
    expected[:7], expected[161:] = poison[:7], poison[33:]
    assert b"".join(r[2] for r in m.log["r"][:3]) == expected.tobytes()

    m.write(0x1000, b"\x55" * 2 * BEAT)                 # its first beat has bytes of nobody
    m.finish()
    expected = before.copy()
    expected[BEAT:2 * BEAT] = 0x55
    np.testing.assert_array_equal(whole, expected)
    m.write(0x1000, b"\x66" * BEAT, strobe=(2**64 - 2**7).to_bytes(8, "little"))
    m.finish()
    expected[7:64] = 0x66
    np.testing.assert_array_equal(whole, expected)
    assert [b[2] for b in m.log["b"]] == [3, 0]
    m.library.bench_unmap(m.bench, 0x1000 + 20)
    m.map(0x1000 + 20, whole[20:100], writable=False)
    m.write(0x1040, bytes(BEAT))
    m.write(0x1040, bytes(BEAT), strobe=(2**64 - 2**36).to_bytes(8, "little"))
    m.finish()
    expected[100:128] = 0
    np.testing.assert_array_equal(whole, expected)
    assert [b[2] for b in m.log["b"]] == [3, 0, 2, 0]


@pytest.mark.parametrize("response", [2, 3])
@pytest.mark.parametrize(("read", "write"), [(1, 0), (0, 1), (1, 1)])
def test_error_ranges(memory, response, read, write):
    m = memory()
    data = pattern(8)
    before = data.copy()
    m.map(0x1000, data)
    m.error(0x1100, 0x1147, response, read, write)   # beat 4, and 8 bytes of beat 5
    m.read(0x1000, 8)
    m.finish()
    m.write(0x1000, b"\x55" * 8 * BEAT)
    m.finish()
    assert [r[3] for r in m.log["r"]] == [response * read * (i in (4, 5)) for i in range(8)]
    assert m.log["b"][0][2] == response * write
    for i in range(8):
        kept = write and i in (4, 5)
        assert beat_bytes(data, i) == (beat_bytes(before, i) if kept else b"\x55" * BEAT)
    m.library.bench_clear_error_ranges(m.bench)
    m.read(0x1100)
    m.finish()
    assert m.log["r"][-1][3] == 0


def test_stall_freezes_every_channel(memory):
    m = memory(latency=4)
    m.map(0, pattern(64))
    for _ in range(50):
        m.read(0, 2)
        m.write(0, bytes(BEAT))
    m.run(20)
    m.accept["r"] = m.accept["b"] = False
    m.run(2)
    m.set(stall=True)
    m.run(3)
    counts = {channel: len(entries) for channel, entries in m.log.items()}
    assert m.pins["rvalid"].value == m.pins["bvalid"].value == 1   # presented ones must stay
    m.run(100)
    assert {channel: len(entries) for channel, entries in m.log.items()} == counts
    m.accept["r"] = m.accept["b"] = True
    m.run(100)
    counts["r"] += 1
    counts["b"] += 1
    assert {channel: len(entries) for channel, entries in m.log.items()} == counts
    m.set(stall=False)
    m.finish()
    assert len(m.log["r"]) == 100 and len(m.log["b"]) == 50


def test_payload_waits_for_ready(memory):
    m = memory(latency=2, backpressure=0.3)
    m.map(0, pattern(16))
    m.accept["r"] = False
    m.read(0x40, 2)
    m.run(20)
    seen = set()
    for _ in range(20):
        seen.add((m.pins["rvalid"].value, m.pins["rlast"].value, bytes(m.rdata)))
        m.edge()
    assert seen == {(1, 0, beat_bytes(m.regions[0], 1))}


def test_reset_forgets_what_is_in_flight(memory):
    m = memory(latency=10)
    data = pattern(16)
    m.map(0, data)
    m.read(0, 4)
    m.write(0, b"\x55" * 2 * BEAT)
    m.run(5)
    m.edge(resetn=0)
    m.ar, m.aw, m.w = [], [], []
    for log in m.log.values():
        log.clear()
    m.run(30)
    assert not m.log["r"] and not m.log["b"]
    np.testing.assert_array_equal(data, pattern(16))
    m.write(0, b"\x66" * BEAT)
    m.finish()
    m.read(0)
    m.finish()
    assert m.log["r"][0][2] == b"\x66" * BEAT


def test_regions_at_both_ends_of_the_address_space(memory):
    m = memory()
    low, high = pattern(1), pattern(1, 100)
    m.map(0, low)
    m.map(2**64 - BEAT, high)
    m.read(2**64 - BEAT)
    m.read(0)
    m.finish()
    assert [r[2] for r in m.log["r"]] == [high.tobytes(), low.tobytes()]
    assert not m.library.bench_map(m.bench, 2**64 - 1, 1, low.ctypes.data, 1)
    assert not m.library.bench_map(m.bench, 0, 1, low.ctypes.data, 1)


@pytest.mark.parametrize("round", range(4))
def test_random_traffic_against_a_dictionary(memory, seed, rng, round):
    m = memory(seed=seed + round, latency=int(rng.integers(1, 40)), read_jitter=20, write_jitter=20,
               backpressure=float(rng.choice([0, 0.3, 0.8])), reorder=True,
               interleave=bool(round % 2), late=bool(round // 2),
               write_ahead=int(rng.integers(4)), read_outstanding=int(rng.integers(1, 20)),
               write_outstanding=int(rng.integers(1, 20)))
    source = rng.integers(0, 2**32, 16 * 64, dtype=np.uint32)
    target = np.full(16 * 64, 0xAAAAAAAA, np.uint32)
    regions = [target[16 * a:16 * b] for a, b in ((0, 10), (10, 30), (30, 64))]
    m.map(0x8000_0000_0000_0000, source, writable=False)
    for part in regions:
        m.map(0x4000 + BEAT * ((part.ctypes.data - target.ctypes.data) // BEAT), part)
    expected, wanted = target.copy(), {id: [] for id in range(6)}
    for _ in range(150):
        beats = int(rng.integers(1, 9))
        beat = int(rng.integers(0, 64 - beats))
        id = int(rng.integers(6))
        m.read(0x8000_0000_0000_0000 + BEAT * beat, beats, id)
        wanted[id] += [beat_bytes(source, beat + i) for i in range(beats)]
        data = rng.integers(0, 2**32, 16 * beats, dtype=np.uint32)
        beat = int(rng.integers(0, 64 - beats))
        m.write(0x4000 + BEAT * beat, data.tobytes())
        expected[16 * beat:16 * (beat + beats)] = data
    m.finish()
    np.testing.assert_array_equal(target, expected)
    for id, data in wanted.items():
        assert [r[2] for r in m.log["r"] if r[1] == id] == data
    assert {r[3] for r in m.log["r"]} == {0} and {b[2] for b in m.log["b"]} == {0}
