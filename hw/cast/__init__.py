"""The cast unit: tensor casting in hardware."""

from .unit import CastUnit

__all__ = ["CastUnit"]
