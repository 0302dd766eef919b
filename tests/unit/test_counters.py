"""PerformanceCounters: one known event at a time."""

import pytest
from stream_bench import StreamBench

from tcast.hw.counters import PerformanceCounters
from tcast.hw.registers import COUNTERS

NAMES = [name for name, _ in COUNTERS]
EVENTS = ["busy", "outstanding", "wants_credit", "wants_index", "wants_segment", "walking",
          "in_flight", "row_beat", "useful_beat", "row", "segment", "descriptor"]


def count(cycles, clear_at=None):
    """Return the counters after ``cycles``, a list of sets of signals that are high."""
    bench = StreamBench(PerformanceCounters())
    result = {}

    async def drive(ctx):
        dut = bench.dut
        for n, high in enumerate([*cycles, set(), set(), set(), set()]):
            for name in EVENTS:
                ctx.set(getattr(dut.events, name), name in high)
            for name in PerformanceCounters.BUS:
                ctx.set(getattr(dut, name), name in high)
            ctx.set(dut.clear, n == clear_at)
            await ctx.tick()

    async def look(ctx):
        for _ in range(len(cycles) + 4):
            await ctx.tick()
        _, _, *values = await ctx.tick().sample(*(getattr(bench.dut, name) for name in NAMES))
        result.update(zip(NAMES, values, strict=True))
    bench.process(drive)
    bench.process(look)
    bench.run()
    return result


#: What the read channel's cycle counts as: the first whose condition holds.
CAUSES = [
    ("read_useful", {"rvalid"}),
    ("read_memory", {"outstanding"}),
    ("read_address", {"arvalid"}),
    ("read_credit", {"wants_credit"}),
    ("read_index", {"wants_index"}),
    ("read_offset", {"wants_segment"}),
    ("read_drain", {"in_flight"}),
    ("read_overhead", set()),
]


@pytest.mark.parametrize("n", range(len(CAUSES)))
def test_each_cause_hides_those_behind_it(n):
    name, high = CAUSES[n]
    behind = set().union(*(signals for _, signals in CAUSES[n:]))
    values = count([{"busy"} | behind] * 5 + [behind] * 3 + [{"busy"} | high] * 2)
    assert values["cycles"] == 7
    assert {cause: values[cause] for cause, _ in CAUSES} == {
        cause: 7 * (cause == name) for cause, _ in CAUSES}


def test_drain_is_not_while_lookups_are_walked():
    values = count([{"busy", "in_flight", "walking"}] * 3 + [{"busy", "in_flight"}] * 2)
    assert (values["read_overhead"], values["read_drain"]) == (3, 2)


@pytest.mark.parametrize(("name", "high", "low"), [
    ("r_beats", {"rvalid"}, {"arvalid"}),
    ("row_beats", {"row_beat"}, {"rvalid"}),
    ("w_beats", {"wvalid", "wready"}, {"wready"}),
    ("w_stall", {"wvalid"}, {"wvalid", "wready"}),
    ("read_bursts", {"arvalid", "arready"}, {"arvalid"}),
    ("write_bursts", {"awvalid", "awready"}, {"awready"}),
    ("rows", {"row"}, {"row_beat"}),
    ("segments", {"segment"}, {"wants_segment"}),
    ("descriptors", {"descriptor"}, {"in_flight"}),
])
def test_each_event_counts(name, high, low):
    assert count([high, low, high, set(), high])[name] == 3


def test_steady_state_lasts_from_the_first_row_to_the_last_beat():
    """The core sees a row's beat one cycle after the bus does; both ends are counted."""
    fill = [{"rvalid"}] * 4  # arrays
    # First row on the bus in cycle 0, the last beat in cycle 9.
    for last in ({"rvalid"}, {"wvalid", "wready"}):
        cycles = [{"rvalid"}, {"row_beat"}] * 2 + [set()] * 5 + [last, set(), set()]
        if last == {"rvalid"}:
            cycles[10] = {"row_beat"}
        assert count(fill + cycles)["steady_cycles"] == 10
    assert count(fill)["steady_cycles"] == 0
    assert count([*fill, {"rvalid"}, {"row_beat"}])["steady_cycles"] == 1


def test_beats_of_the_steady_state_are_those_from_the_first_row_on():
    """Of four R beats behind the first row two are useful: one array's, one row's."""
    fill = [{"rvalid"}, {"rvalid", "useful_beat"}, {"useful_beat"}, {"wvalid", "wready"}]
    row, array, descriptor = {"row_beat", "useful_beat"}, {"useful_beat"}, set()
    values = count([*fill, {"rvalid"}, row | {"wvalid", "wready"}, {"rvalid"}, array, {"rvalid"},
                    descriptor, {"rvalid"}, row])
    assert (values["steady_r_beats"], values["steady_w_beats"]) == (3, 1)
    assert values["steady_cycles"] == 7
    assert count(fill)["steady_r_beats"] == count(fill)["steady_w_beats"] == 0


def test_work_lasts_from_the_first_descriptor_to_the_last_beat():
    for last in ({"rvalid"}, {"wvalid", "wready"}):
        cycles = [{"rvalid"}] * 3 + [{"in_flight"}] * 5 + [last] + [{"in_flight"}] * 4
        assert count(cycles)["work_cycles"] == 6
    assert count([{"rvalid"}] * 3 + [{"in_flight"}] * 5)["work_cycles"] == 0


def test_clear_sets_all_to_zero():
    everything = set(EVENTS) | set(PerformanceCounters.BUS)
    assert all(count([everything] * 4 + [everything - {"wready"}] * 4)[name] for name in (
        "cycles", "rows", "w_beats", "w_stall", "steady_cycles", "steady_r_beats",
        "steady_w_beats", "work_cycles"))
    assert not any(count([everything] * 8, clear_at=10).values())
