"""Delay: a shift register, to keep a value beside a pipeline."""

from amaranth.hdl import Signal

__all__ = ["delay"]


def delay(m, value, cycles, name):
    """Return ``value`` as it was ``cycles`` cycles ago, from registers without reset.

    ``value`` may be a view; the result has the same shape.
    """
    shape = value.shape()
    for n in range(cycles):
        stage = Signal(shape, name=f"{name}_{n}", reset_less=True)
        m.d.sync += stage.eq(value)
        value = stage
    return value
