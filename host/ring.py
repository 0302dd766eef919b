"""Ring: the driver's end of a descriptor ring."""

import numpy as np

from ..hw.descriptor import DESCRIPTOR_BYTES, pack

__all__ = ["Ring"]


class Ring:
    """The ring of one unit in memory, and what of a submission has gone through it.

    A submission that does not fit goes in pieces: the next one follows when the last has completed.

    Parameters
    ----------
    prefix : str
        Of the ring's registers.
    layout : sequence of Field
        Of its descriptors.
    size_log2 : int
        Log2 of its slots.

    Attributes
    ----------
    memory : uint8 [slots, 128]
        The ring.
    tail : int
        Slot behind the last descriptor handed over.
    completed : int
        Descriptors completed since the last reset, modulo 2**32.
    descriptors : list of dict
        Field values of the submission.
    interrupts : bool
        Whether the last piece ends with an interrupt; every other one does.
    """

    def __init__(self, prefix, layout, size_log2):
        self.prefix = prefix
        self.layout = layout
        self.memory = np.zeros((1 << size_log2, DESCRIPTOR_BYTES), np.uint8)
        self.reset(0)

    def reset(self, head):
        """Forget everything; the engine's ring is empty, its oldest slot is ``head``."""
        self.tail = self._first = head
        self.completed = 0
        self.descriptors, self.interrupts = [], True
        self._done = self._piece = 0

    def start(self, descriptors, interrupts=True):
        """Take a submission."""
        self.descriptors, self.interrupts = descriptors, interrupts
        self._done = self._piece = 0

    @property
    def more(self):
        """Whether descriptors wait to be handed over."""
        return self._done + self._piece < len(self.descriptors)

    @property
    def asks(self):
        """Whether the piece that was handed over ends with an interrupt."""
        return bool(self._piece) and (self.more or self.interrupts)

    def fill(self):
        """Write the next piece into the ring; the tail moves behind it."""
        # One slot stays free: head equal to tail means empty.
        slots = len(self.memory)
        piece = self.descriptors[self._done:self._done + slots - 1]
        self._first, self._piece = self.tail, len(piece)
        for number, values in enumerate(piece):
            last = number == len(piece) - 1
            data = pack(values | ({"interrupt": 1} if last and self.asks else {}), self.layout)
            self.memory[(self._first + number) % slots] = np.frombuffer(data, np.uint8)
        self.tail = (self._first + len(piece)) % slots

    def finish(self):
        """Note that the piece has completed; again is harmless."""
        self.completed = (self.completed + self._piece) % 2**32
        self._done += self._piece
        self._piece = 0

    def number_of(self, slot):
        """Return the number in the submission of the descriptor in ``slot``."""
        return self._done + (slot - self._first) % len(self.memory)
