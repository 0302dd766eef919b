"""CheckedCasting: a Casting that a device made, which need not be checked again."""

from functools import cached_property

import numpy as np

from ..golden import Casting

__all__ = ["CheckedCasting"]


class CheckedCasting(Casting):
    """A Casting that a device made of checked lookups: right by construction.

    Calls that take it trust what it holds, so its arrays must stay as they are; NumPy's are made
    read-only. The positions, which only the baseline's coalesce needs, are found when they are
    first asked for; then the arrays that were cast must still hold what they held.

    Parameters
    ----------
    bags, segment_offsets, rows, weights
        As Casting has them.
    n_bags, num_rows : int
        What its bags and rows are below.
    positions : int [N] or None
        As Casting has them, if they are known.
    find_positions : callable or None
        Returns them, if they are not.
    """

    def __init__(self, bags, segment_offsets, rows, weights, *, n_bags, num_rows,
                 positions=None, find_positions=None):
        super().__init__(bags, segment_offsets, rows, weights, positions)
        own = vars(self)
        own.update(_n_bags=n_bags, _num_rows=num_rows, _find_positions=find_positions)
        if positions is None:
            del own["positions"]  # so that the property below is asked
        for array in (bags, segment_offsets, rows, weights, positions):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    @cached_property
    def positions(self):
        """Lookup number of each entry of ``bags``, int [N]."""
        return self._find_positions(self)

    @property
    def arrays(self):
        """The five arrays by name, as Casting's constructor takes them."""
        return {name: getattr(self, name) for name in Casting.__dataclass_fields__}

    def within(self, *, n_bags=None, n_rows=None, n_expanded=None):
        """Return whether every bag, row and position is below the limits that are given."""
        return ((n_bags is None or self._n_bags <= n_bags)
                and (n_rows is None or self._num_rows <= n_rows)
                and (n_expanded is None or self.n_lookups <= n_expanded))
