"""Cast: one descriptor of an engine's cast unit, with the arrays that it fills."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..hw.descriptor import CAST_LOOKUPS_MAX

__all__ = ["NUM_ROWS_MAX", "Cast", "fits_unit"]

#: Most rows that a descriptor can name, and that rows of int32 can.
NUM_ROWS_MAX, NUM_ROWS_MAX_INT32 = 2**32 - 1, 2**31


def fits_unit(n_lookups, num_rows):
    """Return whether the cast unit can cast that many lookups of that many rows."""
    return n_lookups <= CAST_LOOKUPS_MAX and num_rows <= NUM_ROWS_MAX


@dataclass(frozen=True, kw_only=True, eq=False)
class Cast:
    """One cast for :meth:`EngineDevice.submit`: one descriptor of the cast unit.

    Its results are arrays of their largest size, made here; a :class:`Pass` of the same submission
    can take them as its own, with ``count`` and ``after``.

    Attributes
    ----------
    indices : int32 or int64 [N]
        Row of each lookup.
    offsets : int32 or int64 [B + 1], or None
        Bag b holds lookups ``offsets[b]`` to ``offsets[b + 1] - 1``; the last is N. None: each
        lookup is its own bag, so that ``bags`` is the sort permutation.
    num_rows : int
        Every index must be below it.
    after : int or None
        Start when so many passes of the submission have completed.
    fields : mapping of str to int
        Descriptor fields to set after all others, to provoke errors in tests.
    bags : int32 [N]
        Result: sorted bags.
    segment_offsets : int32 [N + 1]
        Result: U + 1 of them.
    rows : int32 or int64 [N], as indices
        Result: U distinct rows.
    count : uint32 [1]
        Result: U.
    """

    indices: np.ndarray
    offsets: np.ndarray | None
    num_rows: int
    after: int | None = None
    fields: Mapping[str, int] = field(default_factory=dict)
    bags: np.ndarray = field(init=False)
    segment_offsets: np.ndarray = field(init=False)
    rows: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)

    #: Names of the results, and of the descriptor's fields that say where they go.
    RESULTS = (("bags", "bags_base"), ("segment_offsets", "segments_base"), ("rows", "rows_base"),
               ("count", "count_base"))

    def __post_init__(self):
        n = self.indices.size
        for name, size, dtype in (("bags", n, np.int32), ("segment_offsets", n + 1, np.int32),
                                  ("rows", n, self.indices.dtype), ("count", 1, np.uint32)):
            array = np.empty(size, dtype)
            # No result looks like this, so that one that was not written shows.
            array.view(np.uint8)[...] = 0xAA
            object.__setattr__(self, name, array)

    @property
    def n_bags(self):
        """B."""
        return self.indices.size if self.offsets is None else self.offsets.size - 1

    @property
    def rows_below(self):
        """The field num_rows: rows of int32 end at 2**31."""
        return min(self.num_rows,
                   NUM_ROWS_MAX_INT32 if self.rows.dtype == np.int32 else NUM_ROWS_MAX)

    def results(self):
        """Return (bags [N], segment_offsets [U + 1], rows [U]) as they are now."""
        n = int(self.count[0])
        return self.bags, self.segment_offsets[:n + 1], self.rows[:n]
