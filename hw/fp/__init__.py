"""Binary32 arithmetic units: free-running pipelines whose number of stages is a parameter."""

from .adder import Adder
from .multiplier import Multiplier

__all__ = ["Adder", "Multiplier"]
