"""ReadPort: arbitration, windows, the AR rules, errors, halting."""

from collections import deque

import pytest
from stream_bench import SMALL, STALLS, StreamBench

from tcast.hw.config import EngineConfig
from tcast.hw.read_port import ReadPort
from tcast.hw.registers import N_WINDOWS, ErrorCode, Reader

EVERYWHERE = [{"base": 0, "limit": (1 << 52) - 1, "read": 1, "write": 0}]
CLOSED = {"base": 0, "limit": 0, "read": 0, "write": 0}


def burst(address, beats, position=0):
    return {"address": address, "beats": beats, "position": position, "end": 0}


class Port:
    """A ReadPort, and a memory that answers in the order of the requests.

    The data of a beat is its address; ``resp(address)`` its response.
    """

    def __init__(self, bursts, *, windows=EVERYWHERE, stall=(1, 1), latency=5, seed=0, resp=None,
                 halt_at=None, restart_until=0):
        self.bench = bench = StreamBench(ReadPort(SMALL), seed=seed)
        self.issued, self.halt_at = [], halt_at
        self.wanted = bursts
        n_beats = {reader: 0 for reader in Reader}
        for reader, items in bursts.items():
            bench.source(bench.dut.bursts[reader], items, stall[0], repeat=True)
            n_beats[reader] = sum(item["beats"] for item in items)
        self.beats = {reader: bench.sink(bench.dut.beats[reader]) for reader in Reader}
        names = ("valid", "code", "position", "value", "limit")
        self.error = [bench.watch(getattr(bench.dut.error, name)) for name in names]
        self.fetch_missed = bench.watch(bench.dut.fetch_missed)
        self.fetch_resp = bench.watch(bench.dut.fetch_resp)
        self.idle = bench.watch(bench.dut.idle)
        self.outstanding = bench.watch(bench.dut.outstanding)
        latency_range = latency
        resp = resp or (lambda address: 0)

        async def memory(ctx):
            dut, bus = bench.dut, bench.dut.bus
            for n in range(N_WINDOWS):
                ctx.set(dut.windows[n], windows[n] if n < len(windows) else CLOSED)
            due, ready, held = deque(), False, None
            ctx.set(dut.restart, restart_until > 0)
            while True:
                _, _, *ar, rready = await ctx.tick().sample(
                    bus.arvalid, bus.araddr, bus.arlen, bus.arid, bus.arsize, bus.arburst,
                    bus.rready)
                assert rready
                if held is not None:
                    assert ar == held, "AR changed while it waited"
                held = ar if ar[0] and not ready else None
                if ar[0] and ready:
                    assert ar[4:] == [3, 1]
                    self.issued.append((ar[3], ar[1], ar[2] + 1, bench.cycle))
                    due.extend((bench.cycle + latency_range, ar[3], ar[1] + 8 * n, n == ar[2])
                               for n in range(ar[2] + 1))
                if halt_at is not None and bench.cycle + 1 >= halt_at:
                    ctx.set(dut.halt, 1)
                if bench.cycle + 1 >= restart_until:
                    ctx.set(dut.restart, 0)
                ready = bench.random.random() < stall[1]
                ctx.set(bus.arready, ready)
                valid = bool(due) and due[0][0] <= bench.cycle
                ctx.set(bus.rvalid, valid)
                if valid:
                    _, reader, address, last = due.popleft()
                    ctx.set(bus.rid, reader)
                    ctx.set(bus.rdata, address)
                    ctx.set(bus.rlast, last)
                    ctx.set(bus.rresp, resp(address))
        bench.process(memory, background=True)

    def run(self, cycles):
        self.bench.idle(cycles)
        self.bench.run()
        return self

    @property
    def records(self):
        return [record[1:] for record in zip(*self.error, strict=True) if record[0]]


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_read_port_serves_all_readers_in_order(stall):
    bursts = {reader: [burst((reader + 1) << 20 | n << 12, 1 + (n + reader) % 16)
                       for n in range(40)] for reader in Reader}
    port = Port(bursts, stall=stall).run(300)
    for reader in Reader:
        issued = [(address, beats) for who, address, beats, _ in port.issued if who == reader]
        wanted = [(item["address"], item["beats"]) for item in bursts[reader]]
        assert issued[:40] == wanted[:len(issued)]
        addresses = [address + 8 * n for address, beats in wanted for n in range(beats)]
        got = port.beats[reader].items[:len(addresses)]
        assert got == addresses[:len(got)]
    assert port.issued and not port.records


def test_read_port_issues_one_burst_per_cycle():
    port = Port({Reader.ROW: [burst(64 * n, 1) for n in range(64)]}).run(60)
    cycles = [cycle for *_, cycle in port.issued]
    assert cycles[0] <= 4 and cycles == list(range(cycles[0], cycles[0] + len(cycles)))


def test_read_port_prefers_the_smaller_number():
    wanting = (Reader.COUNT, Reader.ROW, Reader.INDEX, Reader.OLD_ROW)
    port = Port({reader: [burst(0, 1)] for reader in wanting}).run(40)
    # Every other cycle brings an index, the others what comes first of the rows.
    assert [reader for reader, *_ in port.issued[3:33]] == [Reader.INDEX, Reader.OLD_ROW] * 15


PAGE = 1 << 12
WINDOW = [{"base": 5, "limit": 6, "read": 1, "write": 0},
          {"base": 9, "limit": 9, "read": 0, "write": 1},
          {"base": 12, "limit": 11, "read": 1, "write": 1},
          {"base": (1 << 52) - 1, "limit": (1 << 52) - 1, "read": 1, "write": 1}]


@pytest.mark.parametrize("address", [5 * PAGE, 6 * PAGE + 4088, (1 << 64) - 4096, (1 << 64) - 8])
def test_read_port_reads_inside_windows(address):
    port = Port({Reader.ROW: [burst(address, 1)]}, windows=WINDOW).run(20)
    assert port.issued[0][1] == address and not port.records


@pytest.mark.parametrize("address", [0, 5 * PAGE - 8, 7 * PAGE, 9 * PAGE, 11 * PAGE, 12 * PAGE,
                                     (1 << 64) - 4096 - 8])
def test_read_port_refuses_outside_windows(address):
    """One record; neither that burst nor anything behind it is issued."""
    good = burst(5 * PAGE, 1)
    port = Port({Reader.INDEX: [good, burst(address, 2, 77), good]}, windows=WINDOW).run(40)
    assert port.records == [(ErrorCode.WINDOW_READ, 77, address, Reader.INDEX)]
    assert [issued[1] for issued in port.issued] == [5 * PAGE]


def test_read_port_drops_a_fetch_outside_windows_and_goes_on():
    """A descriptor is fetched while others work: they must not be stopped."""
    port = Port({Reader.DESCRIPTOR: [burst(0, 1)], Reader.ROW: [burst(5 * PAGE, 1)]},
                windows=WINDOW)
    # The fetch is asked for again and again.
    port.run(30)
    assert sum(port.fetch_missed) > 5 and len(port.issued) > 5 and not port.records


def test_read_port_reports_a_bad_response():
    """Position: beats that this reader had received, from `restart` on."""
    bursts = {Reader.OLD_ROW: [burst(n << 12, 4) for n in range(3)],
              Reader.ROW: [burst(n << 16, 2) for n in range(8)]}
    bad = {(2 << 12) + 16}
    port = Port(bursts, resp=lambda address: 3 if address in bad else 0)
    port.run(60)
    assert port.records[0] == (ErrorCode.READ_RESPONSE, 10, 3, Reader.OLD_ROW)


def test_read_port_counts_from_restart():
    port = Port({Reader.ROW: [burst(n << 12, 1) for n in range(1000)]}, restart_until=40,
                resp=lambda address: 2 if address == 60 << 12 else 0).run(100)
    (code, position, value, limit), = port.records
    before = [cycle for cycle, item in zip(port.beats[Reader.ROW].cycles,
                                           port.beats[Reader.ROW].items, strict=True)
              if 40 <= cycle and item < 60 << 12]
    assert (code, value, limit) == (ErrorCode.READ_RESPONSE, 2, Reader.ROW)
    assert abs(position - len(before)) <= 1


def test_read_port_hands_a_bad_fetch_to_the_sequencer():
    port = Port({Reader.DESCRIPTOR: [burst(0, 16)]},
                resp=lambda address: 2 if address == 24 else 0).run(40)
    assert 2 in port.fetch_resp and not port.records


def test_read_port_treats_exclusive_okay_as_okay():
    port = Port({Reader.ROW: [burst(0, 1)]}, resp=lambda address: 1).run(20)
    assert port.beats[Reader.ROW].items and not port.records


@pytest.mark.parametrize("ready", [1, 0.2])
def test_read_port_halts_and_becomes_idle(ready):
    """What was valid on AR is still issued, every beat comes, then it stays idle."""
    port = Port({Reader.ROW: [burst(n << 12, 16) for n in range(8)]}, stall=(1, ready), halt_at=20,
                latency=30).run(600)
    beats = sum(beats for _, _, beats, _ in port.issued)
    assert len(port.beats[Reader.ROW].items) == beats
    assert port.idle[-1] and not port.outstanding[-1]
    # Idle was low from the first AR until the last beat had been handed on.
    last = port.beats[Reader.ROW].cycles[-1]
    first = port.issued[0][3]
    assert not any(port.idle[first:last + 1])
    assert sum(cycle > 20 for *_, cycle in port.issued) <= 1


def test_read_port_counts_as_many_bursts_as_the_largest_buffers_ask_for():
    """4096 + 4096 + 3 * 1024 bursts of one beat, and a fetch, may be outstanding at once."""
    config = EngineConfig(
        name="largest", data_width=64, dim_max=16, row_buffer_beats=4096, old_buffer_beats=4096,
        array_buffer_beats=1024)
    bench = StreamBench(ReadPort(config), limit=20_000)
    bench.source(bench.dut.bursts[Reader.ROW], [burst(0, 1)], repeat=True)

    async def always(ctx):
        ctx.set(bench.dut.windows[0], EVERYWHERE[0])
        ctx.set(bench.dut.bus.arready, 1)
    bench.process(always)
    idle = bench.watch(bench.dut.idle)
    bench.idle(4096 * 2 + 3 * 1024 + 1)
    bench.run()
    assert not any(idle[5:])
