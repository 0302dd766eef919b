"""WritePort: bursts only with their data, the AW and W rules, completion, errors, halting."""

from collections import deque
from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped
from stream_bench import SMALL, StreamBench
from test_read_port import CLOSED, PAGE

from tcast.hw.queue import Queue
from tcast.hw.registers import N_WINDOWS, ErrorCode
from tcast.hw.write_port import WritePort

EVERYWHERE = [{"base": 0, "limit": (1 << 52) - 1, "read": 0, "write": 1}]
END = {"address": 0, "beats": 0, "position": 0, "end": 1}


def burst(address, beats, position=0):
    return {"address": address, "beats": beats, "position": position, "end": 0}


class Behind(wiring.Component):
    """The write port with the queue in front of it, as the updater has it."""

    def __init__(self, config):
        self.port = WritePort(config)
        self.queue = Queue(config.data_width, config.write_buffer_beats + 1)
        super().__init__({"data": In(stream.Signature(config.data_width))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.port, m.submodules.queue = self.port, self.queue
        connect(m, flipped(self.data), self.queue.i)
        connect(m, self.queue.o, self.port.data)
        m.d.comb += self.port.pushed.eq(self.queue.i.valid & self.queue.i.ready)
        return m


class Port:
    """A WritePort, its data queue, and a memory.

    ``p``: how often data, AW, W and B are willing. ``answer_from``: no B before this cycle.
    """

    def __init__(self, bursts, n_beats, *, windows=EVERYWHERE, p=(1, 1, 1, 1), seed=0, resp=None,
                 halt_at=None, answer_from=0, config=SMALL):
        self.bench = bench = StreamBench(Behind(config), seed=seed)
        port = bench.dut.port
        bench.source(port.bursts, bursts, background=True)
        bench.source(bench.dut.data, range(n_beats), p[0], background=True)
        self.announced, self.memory, self.aw_cycles, self.w_cycles = [], {}, [], []
        self.unanswered_max = 0
        names = ("valid", "code", "position", "value", "limit")
        self.error = [bench.watch(getattr(port.error, name)) for name in names]
        self.done, self.idle = bench.watch(port.descriptor_done), bench.watch(port.idle)
        self.answered = []
        resp = resp or (lambda n: 0)

        async def memory(ctx):
            bus = port.bus
            for n in range(N_WINDOWS):
                ctx.set(port.windows[n], windows[n] if n < len(windows) else CLOSED)
            ready_aw = ready_w = False
            held_aw = held_w = None
            lengths, beats, due = deque(), deque(), deque()
            b = False
            while True:
                _, _, awvalid, awaddr, awlen, wvalid, wdata, wlast, wstrb, bready = \
                    await ctx.tick().sample(bus.awvalid, bus.awaddr, bus.awlen, bus.wvalid,
                                            bus.wdata, bus.wlast, bus.wstrb, bus.bready)
                assert bready and (not wvalid or wstrb == 0xFF)
                now_aw, now_w = (awvalid, awaddr, awlen), (wvalid, wdata, wlast)
                assert held_aw in (None, now_aw), "AW changed while it waited"
                assert held_w in (None, now_w), "W changed while it waited"
                held_aw = now_aw if awvalid and not ready_aw else None
                held_w = now_w if wvalid and not ready_w else None
                if b:
                    self.answered.append(bench.cycle)
                if awvalid and ready_aw:
                    self.announced.append((awaddr, awlen + 1))
                    self.aw_cycles.append(bench.cycle)
                    lengths.append((awaddr, awlen + 1))
                if wvalid and ready_w:
                    beats.append((wdata, wlast))
                    self.w_cycles.append(bench.cycle)
                unanswered = len(self.announced) - len(self.answered)
                self.unanswered_max = max(self.unanswered_max, unanswered)
                while lengths and len(beats) >= lengths[0][1]:
                    address, length = lengths.popleft()
                    for n in range(length):
                        data, last = beats.popleft()
                        assert last == (n == length - 1), "WLAST"
                        self.memory[address + 8 * n] = data
                    due.append(len(self.answered) + len(due))
                b = bool(due) and bench.cycle >= answer_from and bench.random.random() < p[3]
                ctx.set(bus.bvalid, b)
                if b:
                    ctx.set(bus.bresp, resp(due.popleft()))
                ready_aw, ready_w = bench.random.random() < p[1], bench.random.random() < p[2]
                ctx.set(bus.awready, ready_aw)
                ctx.set(bus.wready, ready_w)
                if halt_at is not None and bench.cycle + 1 >= halt_at:
                    ctx.set(port.halt, 1)
        bench.process(memory, background=True)

    def run(self, cycles):
        self.bench.idle(cycles)
        self.bench.run()
        return self

    @property
    def records(self):
        return [record[1:] for record in zip(*self.error, strict=True) if record[0]]


@pytest.mark.parametrize("p", [(1, 1, 1, 1), (0.3, 1, 1, 1), (1, 0.2, 1, 1), (1, 1, 0.3, 1),
                               (1, 1, 1, 0.1), (0.5, 0.5, 0.5, 0.5)], ids=str)
def test_write_port_writes_every_beat_where_it_belongs(p):
    """Bursts of all lengths; done once per descriptor, in order, behind the last answer."""
    lengths = [1, 16, 2, 15, 1, 1, 7, 3]
    bursts, expected, beat = [], {}, 0
    for n, length in enumerate(lengths):
        bursts.append(burst(n << 12, length))
        for at in range(length):
            expected[(n << 12) + 8 * at] = beat
            beat += 1
        if n in (2, 3, 7):
            bursts.append(END)
    port = Port([END, *bursts, END], beat, p=p).run(500)
    assert port.memory == expected
    assert sum(port.done) == 5 and not port.records
    done = [cycle for cycle, pulse in enumerate(port.done) if pulse]
    assert done[1] > port.answered[2] and done[2] > port.answered[3] and done[3] > port.answered[7]
    assert port.idle[-1]


@pytest.mark.parametrize("beats", [1, 2, 16])
def test_write_port_writes_one_beat_per_cycle(beats):
    n = 128 // beats
    config = replace(SMALL, writes_outstanding=16)  # 4 would not cover the way to B and back
    port = Port([burst(n << 12, beats) for n in range(n)], 128, config=config).run(200)
    assert port.w_cycles == list(range(port.w_cycles[0], port.w_cycles[0] + 128))


def test_write_port_waits_for_the_data_of_a_whole_burst():
    """A burst of 16, data every tenth cycle: W never has a gap, AW not long before it."""
    port = Port([burst(0, 16)], 16, p=(0.1, 1, 1, 1)).run(400)
    assert port.w_cycles == list(range(port.w_cycles[0], port.w_cycles[0] + 16))
    assert port.w_cycles[0] - port.aw_cycles[0] <= 4


def test_write_port_keeps_to_the_number_of_unanswered_bursts():
    port = Port([burst(n << 12, 1) for n in range(20)], 20, answer_from=100).run(200)
    assert port.unanswered_max == SMALL.writes_outstanding
    assert len(port.announced) == 20


WINDOW = [{"base": 5, "limit": 6, "read": 0, "write": 1},
          {"base": 9, "limit": 9, "read": 1, "write": 0}]


@pytest.mark.parametrize("address", [0, 5 * PAGE - 8, 7 * PAGE, 9 * PAGE, (1 << 64) - 8])
def test_write_port_refuses_outside_windows(address):
    port = Port([burst(6 * PAGE + 4088, 1), burst(address, 1, 42), burst(5 * PAGE, 1), END], 9,
                windows=WINDOW).run(40)
    assert port.records == [(ErrorCode.WINDOW_WRITE, 42, address, 0)]
    assert port.announced == [(6 * PAGE + 4088, 1)] and not any(port.done)


def test_write_port_reports_a_bad_answer():
    port = Port([burst(n << 12, 2) for n in range(6)], 12,
                resp=lambda n: 2 if n == 4 else 1 if n == 2 else 0).run(60)
    assert port.records == [(ErrorCode.WRITE_RESPONSE, 4, 2, 0)]


@pytest.mark.parametrize("p", [(1, 1, 1, 1), (1, 0.1, 1, 0.2), (1, 1, 0.1, 0.2)], ids=str)
@pytest.mark.parametrize("halt_at", [8, 13, 30])
def test_write_port_halts_between_bursts(p, halt_at):
    """Every burst that was announced is whole, and answered; then it is idle, and stays so."""
    port = Port([burst(n << 12, 16) for n in range(8)], 128, p=p, halt_at=halt_at).run(900)
    assert len(port.memory) == sum(beats for _, beats in port.announced) < 128
    assert len(port.answered) == len(port.announced)
    assert port.idle[-1]
    if port.announced:
        assert not any(port.idle[port.aw_cycles[0]:port.answered[-1]])
    assert sum(cycle > halt_at for cycle in port.aw_cycles) <= 1
