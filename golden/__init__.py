"""Golden model: NumPy definitions of every operation, to the bit."""
