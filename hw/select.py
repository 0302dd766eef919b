"""One-hot selection: an AND-OR, which takes half the area of a chain of multiplexers."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Value

__all__ = ["first_of", "select"]


def first_of(requests):
    """Return the one-hot vector of the first of ``requests`` that is set, as a list of bits."""
    grants, taken = [], Const(0)
    for request in requests:
        grants.append(request & ~taken)
        taken = taken | request
    return grants


def select(grants, values):
    """Return, as bits, the one of ``values`` whose grant is set; 0 where none is.

    The values must have the same width; views are taken as their bits.
    """
    values = [Value.cast(value) for value in values]
    if len({len(value) for value in values}) != 1:
        raise ValueError(f"values must have one width, not {[len(value) for value in values]!r}")
    return reduce(or_, (value & Cat(grant).replicate(len(value))
                        for grant, value in zip(grants, values, strict=True)))
