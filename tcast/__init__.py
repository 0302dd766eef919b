"""tcast: a generator of a tensor gather-scatter engine, with its golden model and host path."""

__version__ = "0.1.0"
