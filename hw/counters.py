"""PerformanceCounters: where the cycles went."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .core import events_layout
from .registers import CAST_COUNTERS, COUNTERS

__all__ = ["COUNTER_WIDTH", "PerformanceCounters", "cast_events_layout"]

#: Bits that count; the registers show 64. At 250 MHz they last an hour.
COUNTER_WIDTH = 40


def cast_events_layout():
    """Return the conditions of CAST_COUNTERS, each of one cycle."""
    return data.StructLayout({name: 1 for name, _ in CAST_COUNTERS})


class PerformanceCounters(wiring.Component):
    """Count the events of registers.COUNTERS and CAST_COUNTERS; the conditions stand there.

    Parameters
    ----------
    cast : bool
        There is a cast unit.

    Members
    -------
    events : In(events_layout())
        Conditions inside the core.
    rvalid, arvalid, arready, awvalid, awready, wvalid, wready : In(1)
        The bus.
    cast_events : In(cast_events_layout())
        Conditions of the cast unit, where there is one.
    clear : In(1)
        Set all to 0.
    <name of the counter> : Out(COUNTER_WIDTH)

    Timing: a counter shows an event three cycles later, one of the cast unit two.
    Reset: all 0.   Errors: none; they wrap.
    """

    BUS = ("rvalid", "arvalid", "arready", "awvalid", "awready", "wvalid", "wready")

    def __init__(self, *, cast=False):
        self.cast = cast
        super().__init__({
            "events": In(events_layout()),
            **{name: In(1) for name in self.BUS},
            **({"cast_events": In(cast_events_layout())} if cast else {}),
            "clear": In(1),
            **{name: Out(COUNTER_WIDTH)
               for name, _ in COUNTERS + (CAST_COUNTERS if cast else ())},
        })

    def elaborate(self, platform):
        """One register for what happens, one for what that means, one for each count."""
        m = Module()
        events = Signal(events_layout(), name="events_seen")
        bus = {name: Signal(name=f"{name}_seen") for name in self.BUS}
        m.d.sync += [events.eq(self.events), *(seen.eq(getattr(self, name))
                                               for name, seen in bus.items())]

        # The read channel's cycle belongs to the first of these that holds.
        causes = {
            "read_useful": bus["rvalid"],
            "read_memory": events.outstanding,
            "read_address": bus["arvalid"],
            "read_credit": events.wants_credit,
            "read_index": events.wants_index,
            "read_offset": events.wants_segment,
            "read_drain": events.in_flight & ~events.walking,
            "read_overhead": Const(1),
        }
        conditions = {"cycles": events.busy}
        earlier = Const(0)
        for name, cause in causes.items():
            conditions[name] = events.busy & cause & ~earlier
            earlier = earlier | cause
        conditions |= {
            "r_beats": bus["rvalid"],
            "row_beats": events.row_beat,
            "w_beats": bus["wvalid"] & bus["wready"],
            "w_stall": bus["wvalid"] & ~bus["wready"],
            "read_bursts": bus["arvalid"] & bus["arready"],
            "write_bursts": bus["awvalid"] & bus["awready"],
            "rows": events.row,
            "segments": events.segment,
            "descriptors": events.descriptor,
        }
        if self.cast:
            conditions |= {name: self.cast_events[name] for name, _ in CAST_COUNTERS}
        useful = Signal()
        started_work = Signal()
        m.d.sync += [
            useful.eq(events.useful_beat),
            started_work.eq(started_work | events.in_flight),
        ]
        seen = {}
        for name, condition in conditions.items():
            seen[name] = Signal(name=f"seen_{name}")
            m.d.sync += seen[name].eq(condition)
            counter = getattr(self, name)
            m.d.sync += counter.eq(counter + seen[name])

        # Steady state: a clock that starts with the first row, read at every beat. The core tells
        # of a row's beat one cycle after it was on the bus, so the bus is looked at as late.
        started = Signal()
        clock = Signal(COUNTER_WIDTH)
        moved = Signal()
        written = Signal()
        moving = seen["r_beats"] | seen["w_beats"]
        m.d.sync += [moved.eq(moving), written.eq(seen["w_beats"])]
        with m.If(seen["row_beats"] | started):
            m.d.sync += [
                started.eq(1),
                clock.eq(clock + 1),
                self.steady_r_beats.eq(self.steady_r_beats + useful),
                self.steady_w_beats.eq(self.steady_w_beats + written),
            ]
            with m.If(moved):
                m.d.sync += self.steady_cycles.eq(clock + 1)

        # The same from the first descriptor's start, which is seen with the bus.
        work_clock = Signal(COUNTER_WIDTH)
        with m.If(started_work):
            m.d.sync += work_clock.eq(work_clock + 1)
            with m.If(moving):
                m.d.sync += self.work_cycles.eq(work_clock + 1)

        with m.If(self.clear):
            m.d.sync += [getattr(self, name).eq(0) for name in (
                *conditions, "steady_cycles", "steady_r_beats", "steady_w_beats", "work_cycles")]
            m.d.sync += [started.eq(0), clock.eq(0), started_work.eq(0), work_clock.eq(0)]
        return m
