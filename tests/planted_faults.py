"""Plants one fault at a time in a copy of hw/ and asks the unit tests to find it.

``python tests/planted_faults.py [NAME ...]`` prints a table and exits with 1 if one was not found.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("gen", "golden", "host", "sim")


@dataclass(frozen=True)
class Fault:
    """A change to one file of hw/, and the tests that must fail with it."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    def run(self):
        """Return the test that failed first, or None if none did."""
        text = (ROOT / "hw" / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text to change must be there once in "
                             f"hw/{self.file}, not {text.count(self.old)} times")
        with TemporaryDirectory() as folder:
            package = Path(folder) / "tcast"
            shutil.copytree(ROOT / "tcast", package)
            shutil.copytree(ROOT / "hw", package / "hw")
            for name in FOLDERS:
                (package / name).symlink_to(ROOT / name)
            (package / "hw" / self.file).write_text(text.replace(self.old, self.new))
            file, _, test = self.tests.partition("::")
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
                       str(ROOT / "tests/unit" / file), *(["-k", test] if test else [])]
            # The copy stands in front of the installed package.
            environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(command, env=environment, cwd=folder, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return None
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
        if done.returncode != 1 or not failed:
            raise RuntimeError(f"{self.name}: the tests did not run:\n{done.stdout}")
        return failed[0].removeprefix("FAILED ").partition("::")[2].partition(" - ")[0]


FAULTS = [Fault(*fault) for fault in (
    ("queue: a payload short", "queue.py",
     "full = stored[-1]", "full = stored >= (1 << bits) - 1", "test_queue.py::holds_depth"),
    ("adder: rounds ties up", "fp/adder.py",
     "guard & (sticky | fraction[0])", "guard", "test_reducer.py::latency or edge_length"),
    ("multiplier: rounds down", "fp/multiplier.py",
     "increment = Cat(guard & (sticky | fraction[0]), Const(0, 22), hidden)",
     "increment = Cat(Const(0, 23), hidden)", "test_updater.py::updates_or_copies"),
    ("burst reader: claims a beat too many", "burst_reader.py",
     "credit >= beats", "credit + 1 >= beats",
     "test_burst_reader.py"),
    ("burst reader: a register does not wait for credit", "burst_reader.py",
     "leaves.eq(waits & enough)", "leaves.eq(waits)", "test_burst_reader.py::register"),
    ("array bursts: forget the last beat", "array_bursts.py",
     "+ (first_word - 1)),", "+ (first_word - 2)),", "test_array_reader.py::every_skip"),
    ("array bursts: wrong element in the record", "array_bursts.py",
     "words_log2) - Mux(first, ahead, 0)", "words_log2)", "test_array_reader.py::every_skip"),
    ("array reader: no sign", "array_reader.py",
     "(low[-1] & ~counting).replicate(32)", "Const(0, 32)", "test_array_reader.py::every_skip"),
    ("array reader: a beat of the last element stays", "array_reader.py",
     "reads & (is_last | crosses)", "reads & crosses", "test_array_reader.py::every_skip"),
    ("segment lengths: a negative offset passes", "segments.py",
     "(negative | (~high & less))", "(~high & less)", "test_segments.py::bad"),
    ("segment lengths: compares with what was no offset", "segments.py",
     "Mux(held_valid, low, previous)", "low", "test_segments.py"),
    ("segment lengths: compares with the offset before the last", "segments.py",
     "Mux(held_valid, low, previous)", "previous", "test_segments.py"),
    ("segment walker: `final` one row late", "segments.py",
     "final.eq(remaining < 10)", "final.eq(remaining < 9)", "test_segments.py::walks"),
    ("segment walker: a gap between segments", "segments.py",
     "(none | done)", "none", "test_segments.py::one_cycle"),
    ("row addresser: one row too many", "rows.py",
     ">= job.n_rows", "> job.n_rows", "test_rows.py::bad_number"),
    ("row addresser: a repeated target passes", "rows.py",
     "(newest >= number)", "(newest > number)", "test_rows.py::bad_number"),
    ("row addresser: the base of the next descriptor", "rows.py",
     "base_of_product + product", "job.base[beat_log2:] + product", "test_rows.py::multiplies"),
    ("burst splitter: keeps the old boundary", "rows.py",
     "remaining.eq(remaining - to_boundary)", "remaining.eq(remaining - 1)",
     "test_rows.py::splitter_splits"),
    ("reducer: takes row 8 as it is", "reducer.py",
     "flags.first.eq(tok.first)", "flags.first.eq(tok.first | (tok.leaf == 0))",
     "test_reducer.py::edge_length"),
    ("reducer: pairs with an absent sibling", "reducer.py",
     "sibling > (self.beat.top_leaf >> level)", "sibling > (self.beat.top_leaf >> level) + 1",
     "test_reducer.py::edge_length"),
    ("reducer: the partial at the memory's input is not seen", "reducer.py",
     "delay(m, meet, 1, \"around\")", "delay(m, meet & ~meet, 1, \"around\")",
     "test_reducer.py::edge_length"),
    ("reducer: reserves no room for sums", "reducer.py",
     "has_room = ~tok.last | room", "has_room = ~tok.last | tok.last",
     "test_reducer.py::blocks"),
    ("reducer: one weight late", "reducer.py",
     "weight.eq(tok.weight),", "weight.eq(Mux(col == 0, weight, tok.weight)),",
     "test_reducer.py::weights"),
    ("updater: the old row of the next beat", "updater.py",
     "kept = delay(m, Mux(job.update, self.old.payload, self.sums.payload),\n"
     "                     1 + config.mul_stages, \"kept\")",
     "kept = delay(m, Mux(job.update, self.old.payload, self.sums.payload),\n"
     "                     config.mul_stages, \"kept\")", "test_updater.py::updates_or_copies"),
    ("updater: old rows in a copy", "updater.py",
     "keep = delay(m, ~job.update,", "keep = delay(m, job.update,",
     "test_updater.py::updates_or_copies"),
    ("updater: two rows of a beat", "updater.py",
     "row_follows.eq(following_rows[2])", "row_follows.eq(0)",
     "test_updater.py::updates_or_copies"),
    ("updater: the last row but one", "updater.py",
     "rows_left == 3", "rows_left == 2",
     "test_updater.py::updates_or_copies"),
    ("updater: a job again", "updater.py",
     "                m.d.sync += waits.eq(0)", "                m.d.sync += waits.eq(waits)",
     "test_updater.py::updates_or_copies"),
    ("read port: a row beside an array", "read_port.py",
     "*(~taken & first for first in", "*(first for first in", "test_read_port.py::all_readers"),
    ("read port: AR changes while it waits", "read_port.py",
     "free = ~refused & (~bus.arvalid | bus.arready)", "free = ~refused",
     "test_read_port.py::all_readers"),
    ("read port: idle before the last beat", "read_port.py",
     "outstanding + issued - finished", "outstanding + issued - bus.rvalid",
     "test_read_port.py::halts"),
    ("read port: a beat for another reader", "read_port.py",
     "bus.rvalid & (bus.rid == reader)", "bus.rvalid & (bus.rid == (reader ^ 1))",
     "test_read_port.py"),
    ("read port: issues behind a refused burst", "read_port.py",
     "with m.If(missed):\n            m.d.sync += failed.eq(1)",
     "with m.If(missed):\n            m.d.sync += failed.eq(0)", "test_read_port.py::refuses"),
    ("register slice: forgets what waits", "register_slice.py",
     "self.o.valid.eq(self.i.valid | full | ", "self.o.valid.eq(self.i.valid | ",
     "test_register_slice.py"),
    ("register slice: takes a turn when full", "register_slice.py",
     "put ^ (self.i.valid & self.i.ready)", "put ^ self.i.valid", "test_register_slice.py"),
    ("register slice: passes the second payload by", "register_slice.py",
     "Mux(full, second, arriving)", "arriving", "test_register_slice.py"),
    ("windows: the limit is outside", "windows.py",
     ">= Cat(page, 1))", "> Cat(page, 1))", "test_windows.py"),
    ("write port: announces before its data is here", "write_port.py",
     "here = unclaimed >= chosen.beats", "here = (unclaimed != 0) | (chosen.beats == 0)",
     "test_write_port.py::whole_burst"),
    ("write port: WLAST a beat early", "write_port.py",
     "last.eq(remaining == 2)", "last.eq(remaining <= 3)", "test_write_port.py::writes_every_beat"),
    ("write port: done before the last answer", "write_port.py",
     "[:count_width][-1] == 0", "[:count_width] + 1 != 0",
     "test_write_port.py::writes_every_beat"),
    ("write port: too many bursts unanswered", "write_port.py",
     "inside & ~unanswered[-1]", "inside",
     "test_write_port.py::unanswered"),
    ("fetcher: a descriptor more than there is room for", "fetcher.py",
     "more & ~ahead[-1]", "more & (ahead != depth + 1)", "test_sequencer.py::fetches_ahead"),
    ("fetcher: forgets the wrap of the ring", "fetcher.py",
     "slot.eq((slot + 1) & slot_mask)", "slot.eq(slot + 1)", "test_sequencer.py::wraps"),
    ("sequencer: starts while others work", "sequencer.py",
     "alone, clear = in_flight == 0,", "alone, clear = in_flight != config.descriptors_in_flight,",
     "test_sequencer.py::waits_for_all"),
    ("sequencer: completes when the writes have", "sequencer.py",
     "done.eq(Cat(ahead).all() & ~self.halt)", "done.eq(ahead[0] & ~self.halt)",
     "test_sequencer.py::either_order"),
    ("sequencer: forgets that two have completed", "sequencer.py",
     "(done & (count == 1))", "done", "test_sequencer.py"),
    ("sequencer: a row longer than dim_max", "sequencer.py",
     "fields[\"dim\"] > self.config.dim_max", "fields[\"dim\"] > 2 * self.config.dim_max",
     "test_sequencer.py::refuses"),
    ("sequencer: all that is wrong at once", "sequencer.py",
     "first_bad.eq(Cat(first_of(bad)))", "first_bad.eq(bad)", "test_sequencer.py::refuses"),
    ("sequencer: forgets the wrap of the ring", "sequencer.py",
     "slot.eq((slot + 1) & slot_mask)", "slot.eq(slot + 1)", "test_sequencer.py::wraps"),
    ("counters: the last write is not steady", "counters.py",
     "moving = seen[\"r_beats\"] | seen[\"w_beats\"]", "moving = seen[\"r_beats\"]",
     "test_counters.py::steady"),
    ("engine: a reset does not wait", "engine.py",
     "core_reset.eq(halted & idle & ~core_reset)", "core_reset.eq(halted & ~core_reset)",
     "test_engine.py::waits_for_the_memory"),
    ("core: the slot of no descriptor", "core.py",
     "record.slot.eq(sequencer.head)", "record.slot.eq(sequencer.head + 1)",
     "test_engine.py::bad_write_response"),
    ("sequencer: an early fence of the other ring", "sequencer.py",
     "~(fields[\"waits\"] & behind)", "~(fields[\"waits\"] & behind & 0)",
     "test_sequencer.py::waits_for_the_other"),
    ("sequencer: a number of segments that is too large", "sequencer.py",
     "fields[\"n_segments\"] < counted", "fields[\"n_segments\"] + 1 < counted",
     "test_sequencer.py::too_large"),
    ("merge: an address twice", "axi_merge.py",
     "with m.If(empty):", "with m.If(free):", "test_axi_merge.py::more_bursts"),
    ("merge: data out of turn", "axi_merge.py",
     "writers.i.payload.eq(which)", "writers.i.payload.eq(~which)",
     "test_axi_merge.py::every_burst"),
    ("cast: unstable, two pairs of a word change places", "cast/store.py",
     "Mux(lane, word >> 64, word)", "Mux(lane, word, word >> 64)",
     "test_cast_unit.py::goldens and 128"),
    ("cast: unstable, a bin that comes again at once", "cast/tally.py",
     "passed.eq(valid_2 & (address_1 == address_2))", "passed.eq(0)",
     "test_cast_unit.py::shapes"),
    ("cast: a bin that comes again soon", "cast/tally.py",
     "written & (address_1 == address_3)", "0", "test_cast_unit.py::shapes"),
    ("cast: the last pair is lost", "cast/array_writer.py",
     "| (ending & (fill != 0))", "| (ending & (fill > 1))",
     "test_cast_unit.py::goldens"),
    ("cast: U is one too many", "cast/emitter.py",
     "self.starts.payload.word[0].eq(self.distinct)",
     "self.starts.payload.word[0].eq(self.distinct + 1)", "test_cast_unit.py::shapes"),
    ("cast: a line forgets who else is in it", "cast/bins.py",
     "Mux((out_start >> size_log2) == number, out_start[:size_log2], 0)", "0",
     "test_cast_unit.py::goldens"),
    ("cast: a line that is not full stays", "cast/bins.py",
     "(slot != 0) & (position != start)", "(slot == 0) & (position != start)",
     "test_cast_unit.py::goldens"),
    ("cast: a pass does not wait for the one before", "cast/unit.py",
     "with m.If(write_port.descriptor_done):", "with m.If(1):",
     "test_cast_unit.py::all_is_answered"),
    ("cast: an early fence", "cast/sequencer.py",
     "~(fields[\"waits\"] & behind)", "~(fields[\"waits\"] & behind & 0)",
     "test_cast_unit.py::waits_for"),
    ("cast: one row too many", "cast/unit.py",
     "(seen.item[n] >= job.num_rows)", "(seen.item[n] > job.num_rows)",
     "test_cast_unit.py::bad_index"),
)]


def main(names):
    """Run the named faults, or all; return the exit status."""
    unknown = set(names) - {fault.name for fault in FAULTS}
    if unknown:
        raise ValueError(f"names must be of FAULTS, not {', '.join(sorted(unknown))!r}")
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    missed = 0
    for fault in chosen:
        found = fault.run()
        missed += found is None
        print(f"| {fault.name} | hw/{fault.file} | {found or 'NOT FOUND'} |", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
