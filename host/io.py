"""EngineIo: the few operations through which the driver reaches an engine, wherever it runs."""

from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["EngineIo"]


@runtime_checkable
class EngineIo(Protocol):
    """What the driver needs of an engine: registers, memory, and the passing of time.

    The functional model (golden), the simulated engine (sim) and a memory-mapped one implement
    it. The driver holds no other way to the engine, so that every one of them proves it.
    """

    def read_register(self, offset: int) -> int:
        """Return the 32-bit register at byte ``offset`` (a multiple of 4)."""

    def write_register(self, offset: int, value: int) -> None:
        """Write the 32-bit ``value`` to the register at byte ``offset`` (a multiple of 4)."""

    def map(self, address: int, array: np.ndarray, writable: bool = True) -> None:
        """Make the bytes of ``array`` the memory at ``address`` until :meth:`unmap`.

        The bytes are not copied: what the engine writes stands in the array. ``array`` is
        C-contiguous and does not overlap what is mapped. The engine reads whole beats, so it may
        read the bytes of a beat that lie around the array; their value does not matter.
        With ``writable`` False an engine that writes there is an error of the engine.
        """

    def unmap(self, address: int) -> None:
        """Take back the memory that :meth:`map` put at ``address``."""

    def wait(self, max_cycles: int) -> bool:
        """Let the engine run until its interrupt is high (True) or ``max_cycles`` passed (False).

        Returns at once where the interrupt is high already.
        """

    def close(self) -> None:
        """Release the engine and everything mapped. Calling it again changes nothing."""
