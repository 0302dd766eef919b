"""tcast: a generator of a tensor gather-scatter engine, with its golden model and host path.

The names below are imported when they are first used, so that ``import tcast`` needs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "BackendUnavailable": ".host.backend",
    "Casting": ".golden",
    "EngineConfig": ".hw.config",
    "RowwiseAdagrad": ".golden",
    "SGD": ".golden",
    "TableStep": ".host.table_step",
    "backends": ".api",
    "mean_weights": ".golden",
    "open": ".api",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__():
    return sorted(set(globals()) | set(_HOME))
