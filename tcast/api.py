"""``tcast.open`` and ``tcast.backends``: one entry to every backend."""

from importlib import import_module

__all__ = ["backends", "open"]

_SIM_EXTRA = "the simulator comes with `pip install tcast[sim]`"


def _open_golden(config):
    from .host.golden_backend import GoldenDevice
    return GoldenDevice()


def _open_cpu(config, **options):
    from .host.cpu import CpuDevice
    return CpuDevice(**options)


def _open_cupy(config):
    from .host.cupy_backend import CupyDevice
    return CupyDevice()


def _open_sim(config, *, latency=64, backpressure=0.0, seed=0, **options):
    from .host.backend import BackendUnavailable
    try:
        from .sim.device import open_sim
    except ImportError as error:
        raise BackendUnavailable(f"{error}; {_SIM_EXTRA}") from error
    return open_sim(config, latency=latency, backpressure=backpressure, seed=seed, **options)


_OPENERS = {"golden": _open_golden, "cpu": _open_cpu, "cupy": _open_cupy, "sim": _open_sim}


def open(backend, config=None, **options):
    """Open a backend and return its device, a context manager.

    Parameters
    ----------
    backend : str
        "golden" (the golden model, which defines every result), "cpu" (NumPy on all cores), "cupy"
        (an NVIDIA GPU), or "sim" (the engine's Verilog, simulated by Verilator).
    config : EngineConfig or None
        The engine to simulate; None is the default configuration. The backends without an engine
        check it and use nothing of it: their results do not depend on one.
    **options
        cpu: ``threads``. sim: ``latency`` (the memory's read latency in engine cycles),
        ``backpressure`` (the probability per cycle that each memory channel withholds its
        handshake), ``dram`` (timing of a DRAM channel behind that latency: "ddr4-2400" or
        "hbm2-pc"), ``seed``, and those of ``tcast.sim.device.open_sim``. An option that the
        backend does not have raises TypeError.

    Returns
    -------
    tcast.host.backend.Device

    Raises
    ------
    tcast.BackendUnavailable
        The backend cannot run here; the message says why.
    """
    from .hw.config import EngineConfig
    if backend not in _OPENERS:
        raise ValueError(f"backend must be one of {', '.join(_OPENERS)}, not {backend!r}")
    if config is None:
        config = EngineConfig()
    elif not isinstance(config, EngineConfig):
        raise TypeError(f"config must be an EngineConfig, not {type(config).__name__}")
    return _OPENERS[backend](config, **options)


def _reason_cupy():
    from .host.backend import BackendUnavailable
    from .host.cupy_backend import load_cupy
    try:
        load_cupy()
    except BackendUnavailable as error:
        return str(error)
    return ""


def _reason_sim():
    from .host.build_cache import BuildError
    try:
        import_module("amaranth")
        runner = import_module(".sim.runner", __package__)
    except ImportError as error:
        return f"{error}; {_SIM_EXTRA}"
    try:
        runner.find_tools()
    except BuildError as error:
        return str(error)
    return ""


def backends():
    """Return what could be opened here, without opening it.

    Returns
    -------
    dict of str to str
        For each backend the reason why it is not available; empty where it is.
    """
    reasons = {"cupy": _reason_cupy, "sim": _reason_sim}
    return {name: reasons[name]() if name in reasons else "" for name in _OPENERS}
