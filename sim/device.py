"""The simulated device: the engine's RTL behind the API of every backend."""

from ..host.backend import BackendUnavailable
from ..host.build_cache import BuildError
from ..host.driver import EngineDevice
from .runner import find_tools
from .simulation import Simulation

__all__ = ["open_sim"]


def open_sim(config, *, latency=64, backpressure=0.0, seed=0, placement="aligned",
             timeout_cycles=None, **options):
    """Open the engine of ``config`` in simulation.

    The first time, this emits the engine's Verilog and compiles it, which takes up to a few
    minutes; later it takes less than a second.

    Parameters
    ----------
    config : EngineConfig
        The engine.
    latency : int
        Latency of the memory in engine cycles, for reads and writes.
    backpressure : float or dict[str, float]
        Probability per cycle that a memory channel withholds its handshake.
    seed : int
        Of all that is random in the memory and in the placement of arrays.
    placement, timeout_cycles
        As in :class:`..host.driver.EngineDevice`.
    **options
        Further options of :class:`.simulation.Simulation`, such as ``dram``.

    Returns
    -------
    EngineDevice
        Its ``io`` is the Simulation.

    Raises
    ------
    BackendUnavailable
        A tool is missing; the message names it and how to get it.
    """
    try:
        find_tools()
    except BuildError as error:
        raise BackendUnavailable(str(error)) from error
    simulation = Simulation(config, latency=latency, backpressure=backpressure, seed=seed,
                            **options)
    try:
        return EngineDevice(simulation, config, placement=placement, seed=seed,
                            timeout_cycles=timeout_cycles)
    except BaseException:
        simulation.close()
        raise
