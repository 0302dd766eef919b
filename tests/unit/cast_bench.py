"""Bench of the cast unit in pysim: its ring, the memory of engine_bench, golden's casting."""

from typing import ClassVar

import numpy as np
from engine_bench import KIND, PAGE, EngineBench

from tcast import golden
from tcast.hw import descriptor
from tcast.hw.cast import CastUnit
from tcast.hw.descriptor import CAST_FIELDS
from tcast.hw.windows import PAGE_LOG2


class CastBench(EngineBench):
    """A cast unit, and the memory around it."""

    unit = CastUnit
    strobes = True
    _harnesses: ClassVar[dict] = {}

    def __init__(self, config, seed=0, **options):
        super().__init__(config, seed, **{"limit": 200_000, **options})
        self.cycles = {}        # of each cast: from the first to its completion

    def _quiet(self, ctx):
        ctx.set(self.dut.enable, 0)
        ctx.set(self.dut.halt, 0)
        ctx.set(self.dut.tail, 0)

    def case(self, indices, offsets, num_rows, *, row_kind=np.int32, skip=1, **fields):
        """Place a cast's arrays; return (descriptor, {address: bytes that golden writes there})."""
        n = len(indices)
        n_bags = n if offsets is None else len(offsets) - 1
        bags = np.arange(n + 1) if offsets is None else offsets
        needed = self.config.derived.cast_scratch_bytes(n)
        values = {
            "index_kind": KIND[indices.dtype],
            "offset_kind": KIND[None if offsets is None else offsets.dtype],
            "row_kind": KIND[np.dtype(row_kind)], "n_lookups": n, "n_bags": n_bags,
            "num_rows": num_rows, "scratch_bytes": needed, "interrupt": 1,
            "index_base": self.put(indices, skip=skip * indices.itemsize),
            "offset_base": 0 if offsets is None else self.put(
                offsets, skip=skip * offsets.itemsize),
            "scratch_base": self.space(needed),
        } | {name: self.space(size) for name, size in (
            ("bags_base", 4 * n), ("segments_base", 4 * n + 4),
            ("rows_base", np.dtype(row_kind).itemsize * n), ("count_base", 4))}
        values |= fields
        found = golden.cast(indices, bags.astype(np.int64), num_rows)
        results = {
            "bags_base": found.bags.astype(np.int32),
            "segments_base": found.segment_offsets.astype(np.int32),
            "rows_base": found.rows.astype(row_kind),
            "count_base": np.array([found.n_segments], np.int32),
        }
        return values, {values[name]: array.tobytes() for name, array in results.items()}

    async def start(self, ctx, jobs, *, windows=None, size_log2=3):
        """Open the windows and hand the descriptors over."""
        for n, values in enumerate(jobs):
            self.image.put(self.ring + 128 * n, descriptor.pack(values, CAST_FIELDS))
        for n in range(4):
            base, limit, access = (windows or [(0, (1 << 64) - 1, 3)])[n] \
                if n < len(windows or [0]) else (0, 0, 0)
            window = self.dut.windows[n]
            for name, value in (("base", base >> PAGE_LOG2), ("limit", limit >> PAGE_LOG2),
                                ("read", access & 1), ("write", access >> 1)):
                ctx.set(window[name], value)
        ctx.set(self.dut.ring_base, self.ring)
        ctx.set(self.dut.ring_size_log2, size_log2)
        ctx.set(self.dut.enable, 1)
        ctx.set(self.dut.tail, len(jobs))

    def cast(self, jobs, *, windows=None):
        """Run casts to their end, or to the first error; return its record, or None.

        Nothing but results and scratch may have changed.
        """
        before = None
        record = {}

        async def script(ctx):
            nonlocal before
            await self.start(ctx, [values for values, _ in jobs], windows=windows)
            before = {page: bytes(data) for page, data in self.image.pages.items()}
            first = self.cycle
            done = 0
            names = ("code", "slot", "position", "value", "limit")
            error = self.dut.error
            while done < len(jobs) and not record:
                _, _, completed, valid, *found = await ctx.tick().sample(
                    self.dut.descriptor, error.valid, *(error[name] for name in names))
                if valid:
                    record.update(zip(names, found, strict=True))
                    ctx.set(self.dut.halt, 1)
                elif completed:
                    self.cycles[done] = self.cycle - first
                    done += 1
            idle = False
            while not idle:
                _, _, idle = await ctx.tick().sample(self.dut.idle)
            await ctx.tick().repeat(3)
            if not record:
                assert ctx.get(self.dut.count) == len(jobs)
                assert ctx.get(self.dut.head) == len(jobs)
                assert not ctx.get(self.dut.busy)
        self.run(script)

        if not record:
            for values, results in jobs:
                for address, data in results.items():
                    got = bytes(self.image.array(address, np.uint8, len(data)))
                    assert got == data, self._difference(values, address, got, data)
        self._unchanged(before, jobs)
        self.check_windows([(0, (1 << 64) - 1, 3)] if windows is None else windows)
        return record or None

    def _difference(self, values, address, got, data):
        name = next(name for name, value in values.items() if value == address)
        width = 8 if name == "rows_base" and values["row_kind"] == 2 else 4
        got, data = (np.frombuffer(each, f"<i{width}") for each in (got, data))
        at = np.flatnonzero(got != data)
        return (f"{name}: {len(at)} of {len(data)} differ, first at {at[0]}: "
                f"{got[at[0]]} for {data[at[0]]}, SEED={self.seed}")

    def _unchanged(self, before, jobs):
        """Check that every other byte is as it was."""
        own = {}  # page -> bytes of it that casts may write

        def may_write(address, n_bytes):
            for page in range(address // PAGE, (address + n_bytes - 1) // PAGE + 1):
                first, last = (max(0, min(PAGE, at - page * PAGE))
                               for at in (address, address + n_bytes))
                own.setdefault(page, np.zeros(PAGE, bool))[first:last] = True
        for values, results in jobs:
            may_write(values["scratch_base"], min(1 << 20, self.config.derived.cast_scratch_bytes(
                values["n_lookups"])))
            for address, data in results.items():
                may_write(address, len(data))
        for page, data in self.image.pages.items():
            changed = np.frombuffer(data, np.uint8) != np.frombuffer(before[page], np.uint8)
            changed &= ~own.get(page, np.zeros(PAGE, bool))
            assert not changed.any(), f"page {page << 12:#x} was written, SEED={self.seed}"
