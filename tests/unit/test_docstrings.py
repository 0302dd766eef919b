"""Every component says what it is: members, timing, reset."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import replace

import pytest
from amaranth.lib import wiring
from stream_bench import SMALL

from tcast import hw
from tcast.hw.array_bursts import ArrayBursts
from tcast.hw.burst_reader import BurstReader
from tcast.hw.cast.array_writer import ArrayWriter
from tcast.hw.cast.bins import Bins
from tcast.hw.cast.burst_merge import BurstMerge
from tcast.hw.cast.list_reader import ListReader
from tcast.hw.cast.tally import Tally
from tcast.hw.counters import PerformanceCounters
from tcast.hw.engine import Engine
from tcast.hw.fp import Adder, Multiplier
from tcast.hw.queue import Queue
from tcast.hw.reducer import Combiner
from tcast.hw.register_slice import RegisterSlice
from tcast.hw.registers import ErrorCode
from tcast.hw.rows import RowAddresser

#: How to make those that take something else than a configuration.
SPECIAL = {
    "Adder": lambda: Adder(3),
    "Multiplier": lambda: Multiplier(3),
    "Queue": lambda: Queue(8, 4),
    "Combiner": lambda: Combiner(SMALL, 0),
    "RowAddresser": lambda: RowAddresser(SMALL, ErrorCode.INDEX_RANGE),
    "BurstReader": lambda: BurstReader(SMALL, 64),
    "RegisterSlice": lambda: RegisterSlice(8),
    "ArrayBursts": lambda: ArrayBursts(SMALL, 4),
    "ArrayWriter": lambda: ArrayWriter(SMALL, 1, 4),
    "Bins": lambda: Bins(SMALL, 2),
    "BurstMerge": lambda: BurstMerge(SMALL, 3),
    "ListReader": lambda: ListReader(SMALL, 2),
    "Tally": lambda: Tally(8, 4),
    # Whose members of the cast unit are there only with one.
    "PerformanceCounters": lambda: PerformanceCounters(cast=True),
    "Engine": lambda: Engine(replace(SMALL, cast_port=2)),
}


def components():
    """Return every public component class of tcast.hw by name."""
    found = {}
    for info in pkgutil.walk_packages(hw.__path__, "tcast.hw."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, wiring.Component):
                found[name] = value
    return found


COMPONENTS = components()


def make(name):
    if name in SPECIAL:
        return SPECIAL[name]()
    takes = inspect.signature(COMPONENTS[name].__init__).parameters
    return COMPONENTS[name](SMALL) if "config" in takes else COMPONENTS[name]()


def test_there_are_components():
    assert {"Engine", "Core", "Reducer", "Queue", "Adder", "RegisterBank"} <= COMPONENTS.keys()


@pytest.mark.parametrize("name", COMPONENTS)
def test_docstring_has_all_parts(name):
    doc = inspect.getdoc(COMPONENTS[name])
    for part in ("Members", "Timing", "Reset"):
        assert re.search(rf"\b{part}\b", doc), f"{name} does not say {part}"


def documented(name):
    """Return the names at the left of the colons in the part Members."""
    doc = inspect.getdoc(COMPONENTS[name])
    part = re.split(r"\n(?=Timing|Reset|Errors|Resources|Contract|Parameters)",
                    doc[doc.index("Members"):])[0]
    names = []
    for match in re.finditer(r"^(\w[\w, ]*?) ?:", part, re.MULTILINE):
        names += re.split(r", *", match[1])
    return names


@pytest.mark.parametrize("name", COMPONENTS)
def test_documented_members_are_members(name):
    names = documented(name)
    members = set(make(name).signature.members)
    assert names, f"{name} documents no member"
    # `bus` stands for all members of a bus that the part names by their prefix.
    assert set(names) <= members, f"{name} documents {set(names) - members}"
