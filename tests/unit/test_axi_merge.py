"""AxiMerge: bursts of two managers once each, W in the order of AW, answers by ID, turns."""

import random
from collections import deque
from itertools import pairwise

import pytest
from amaranth.sim import Simulator
from stream_bench import CLOCK, SMALL

from tcast.hw.axi_merge import SECOND_READ_ID, AxiMerge

READ_IDS = (range(9), range(4))


class Bench:
    """A merge with two managers that ask for bursts, and a memory that answers them.

    ``p``: how often AR, AW, W of the memory are ready, and R, B valid, in each cycle. ``asks``: how
    often a manager that has something to ask asks.
    """

    def __init__(self, reads, writes, *, p=(1, 1, 1, 1, 1), asks=1, seed=0, w_from=0):
        print(f"SEED={seed}")
        self.rng = random.Random(seed)
        self.dut = AxiMerge(SMALL)
        self.p, self.asks, self.w_from = p, asks, w_from
        #: Per manager the bursts to ask for, and what has come back: (id, address) and (number).
        self.reads = [deque(each) for each in reads]
        self.writes = [deque(each) for each in writes]
        self.expected = sum(map(len, reads)) + sum(map(len, writes))
        self.got = [[], []]
        self.written = [0, 0]
        #: What the memory saw.
        self.ar, self.aw, self.bursts = [], [], []
        self.cycles = {"ar": [], "aw": [], "w": []}

    def run(self):
        simulator = Simulator(self.dut)
        simulator.add_clock(CLOCK)
        simulator.add_testbench(self.memory, background=True)
        for number in range(2):
            simulator.add_testbench(self.manager(number), background=True)
        simulator.add_testbench(self.wait)
        simulator.run()

    async def wait(self, ctx):
        for _ in range(20_000):
            await ctx.tick()
            if sum(map(len, self.got)) + sum(self.written) == self.expected:
                break
        else:
            raise AssertionError("the merge hangs")
        for _ in range(30):
            await ctx.tick()

    def manager(self, number):
        async def process(ctx):
            await self._manage(ctx, number)
        return process

    async def _manage(self, ctx, number):
        bus = (self.dut.first, self.dut.second)[number]
        reads, writes = self.reads[number], self.writes[number]
        data = deque()
        ar = aw = w = None
        ctx.set(bus.rready, 1)
        ctx.set(bus.bready, 1)
        while True:
            if ar is None and reads and self.rng.random() < self.asks:
                ar = reads.popleft()
            if aw is None and writes and self.rng.random() < self.asks:
                aw = writes.popleft()
                address, beats = aw
                data.extend((address + n, n == beats - 1) for n in range(beats))
            if w is None and data:
                w = data.popleft()
            ctx.set(bus.arvalid, ar is not None)
            ctx.set(bus.awvalid, aw is not None)
            ctx.set(bus.wvalid, w is not None)
            if ar:
                ctx.set(bus.arid, ar[0])
                ctx.set(bus.araddr, ar[1])
                ctx.set(bus.arlen, ar[2] - 1)
            if aw:
                ctx.set(bus.awaddr, aw[0])
                ctx.set(bus.awlen, aw[1] - 1)
            if w:
                ctx.set(bus.wdata, w[0])
                ctx.set(bus.wlast, w[1])
                ctx.set(bus.wstrb, 0xF0 | number)
            _, _, arready, awready, wready, rvalid, rid, rdata, rlast, bvalid, bid = \
                await ctx.tick().sample(bus.arready, bus.awready, bus.wready, bus.rvalid, bus.rid,
                                        bus.rdata, bus.rlast, bus.bvalid, bus.bid)
            ar = None if arready else ar
            aw = None if awready else aw
            w = None if wready else w
            if rvalid and rlast:
                self.got[number].append((rid, rdata))
            if bvalid:
                assert bid == 0
                self.written[number] += 1

    async def memory(self, ctx):
        port, rng = self.dut.port, self.rng
        to_read, to_answer = [], []
        # W may come before its AW: whichever of the two is behind completes the burst.
        announced, complete, beats = deque(), deque(), []
        held = {}
        cycle = 0
        while True:
            ready = {name: rng.random() < self.p[n] for n, name in enumerate(("ar", "aw", "w"))}
            ready["w"] &= cycle >= self.w_from
            for name, value in ready.items():
                ctx.set(getattr(port, f"{name}ready"), value)
            r = b = None
            if to_read and rng.random() < self.p[3]:
                r = to_read.pop(rng.randrange(len(to_read)))
                ctx.set(port.rid, r[0])
                ctx.set(port.rdata, r[1])
                ctx.set(port.rlast, 1)
            if to_answer and rng.random() < self.p[4]:
                b = to_answer.pop(rng.randrange(len(to_answer)))
                ctx.set(port.bid, b)
            ctx.set(port.rvalid, r is not None)
            ctx.set(port.bvalid, b is not None)
            names = {"ar": ("arid", "araddr", "arlen"), "aw": ("awid", "awaddr", "awlen"),
                     "w": ("wdata", "wlast", "wstrb")}
            flat = [f"{channel}valid" for channel in names] + [
                name for group in names.values() for name in group]
            _, _, *values = await ctx.tick().sample(*(getattr(port, name) for name in flat))
            seen = dict(zip(flat, values, strict=True))
            for channel, group in names.items():
                if not seen[f"{channel}valid"]:
                    assert channel not in held, f"{channel} went away"
                    continue
                item = tuple(seen[name] for name in group)
                assert held.get(channel, item) == item, f"{channel} changed while it waited"
                held[channel] = item
                if not ready[channel]:
                    continue
                del held[channel]
                self.cycles[channel].append(cycle)
                if channel == "ar":
                    self.ar.append(item)
                    to_read.append(item[:2])
                elif channel == "aw":
                    self.aw.append(item)
                    announced.append(item)
                else:
                    beats.append(item)
                    if item[1]:
                        complete.append(beats)
                        beats = []
            while announced and complete:
                identity, address, length = announced.popleft()
                self.bursts.append((identity, address, complete.popleft()))
                assert len(self.bursts[-1][2]) == length + 1, "WLAST is not at the last beat"
                to_answer.append(identity)
            cycle += 1


def bursts(seed, count, longest=6):
    """Return (reads, writes) of two managers: distinct addresses, manager in their top digit."""
    rng = random.Random(seed)
    reads = [[(rng.choice(READ_IDS[m]), m << 32 | n << 12, rng.randint(1, longest))
              for n in range(count)] for m in range(2)]
    writes = [[(1 << 40 | m << 32 | n << 12, rng.randint(1, longest)) for n in range(count)]
              for m in range(2)]
    return reads, writes


@pytest.mark.parametrize("p", [(1, 1, 1, 1, 1), (0.5, 0.5, 0.5, 0.5, 0.5), (0.9, 0.9, 0.1, 1, 1),
                               (0.2, 0.2, 1, 0.3, 0.3)], ids=str)
@pytest.mark.parametrize("asks", [1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_every_burst_passes_once_with_its_own_data_and_answer(p, asks, seed):
    reads, writes = bursts(seed, 60)
    bench = Bench(reads, writes, p=p, asks=asks, seed=seed)
    bench.run()
    for manager in range(2):
        prefix = SECOND_READ_ID if manager else 0
        mine = [(identity & ~prefix, address, length + 1) for identity, address, length in bench.ar
                if address >> 32 == manager]
        assert mine == reads[manager], "AR in the manager's order, once each"
        assert all((identity & SECOND_READ_ID == SECOND_READ_ID) == bool(manager)
                   for identity, address, _ in bench.ar if address >> 32 == manager)
        assert sorted(bench.got[manager]) == sorted(each[:2] for each in reads[manager])
        expected = [(manager, address, [(address + n, n == beats - 1, 0xF0 | manager)
                                        for n in range(beats)])
                    for address, beats in writes[manager]]
        assert [each for each in bench.bursts if each[0] == manager] == expected
        assert bench.written[manager] == len(writes[manager])


def test_more_bursts_than_writers_that_the_queue_holds():
    """The memory takes addresses long before it takes data."""
    writes = [[(m << 32 | n << 12, 2) for n in range(40)] for m in range(2)]
    bench = Bench([[], []], writes, w_from=300)
    bench.run()
    assert len(bench.aw) == len(bench.bursts) == 80
    assert sum(cycle < 300 for cycle in bench.cycles["aw"]) >= 16


def test_they_take_turns_and_no_cycle_is_lost():
    reads = [[(1, m << 32 | n << 12, 1) for n in range(50)] for m in range(2)]
    writes = [[(m << 32 | n << 12, 1) for n in range(50)] for m in range(2)]
    bench = Bench(reads, writes)
    bench.run()
    for seen in (bench.ar, bench.aw):
        owners = [address >> 32 for _, address, _ in seen]
        assert all(a != b for a, b in pairwise(owners)), "turn by turn where both ask"
    for channel, cycles in bench.cycles.items():
        assert len(cycles) == 100
        assert cycles[-1] - cycles[0] == 99, f"{channel} has an idle cycle"


def test_one_alone_does_not_wait_for_the_other():
    reads, writes = bursts(1, 30, longest=1)
    bench = Bench([[], reads[1]], [[], writes[1]])
    bench.run()
    for cycles in bench.cycles.values():
        assert cycles[-1] - cycles[0] == 29
