"""Cosimulation: passes of a training step on an engine, compared with the golden model to the bit.

Three devices do everything: the engine (the RTL under Verilator), the functional model of the
engine behind the same driver, and the golden model's plain functions. Results must have the same
bits on all three, and after every pass the whole memory that the engine can reach must hold the
same bytes as the functional model's, guards included.
"""

import time
from dataclasses import dataclass, field

from .equality import ImageIo, MismatchError, same_bits, same_image
from .golden.machine import Machine
from .host.backend import BackendUnavailable
from .host.build_cache import BuildError
from .host.driver import EngineDevice
from .host.golden_backend import GoldenDevice
from .hw import descriptor, registers
from .sim.simulation import Simulation

__all__ = ["CAUSES", "OPERATIONS", "CheckedDevice", "Comparison", "Operation", "limit_of",
           "open_comparison", "step", "utilisation"]

#: How an engine can fail at what the golden model can do: the driver's EngineError and
#: EngineTimeout, the checkers' ProtocolError, a reset that does not end.
FAILURES = (RuntimeError, TimeoutError)

#: What a step does to each table, in order.
OPERATIONS = ("forward", "expand", "coalesce", "baseline scatter update", "casted gather-reduce",
              "scatter update", "fused backward")

#: Counters of cycles in which the read channel moved no beat, and what each cause is in words.
CAUSES = {
    "read_memory": "waiting for the memory",
    "read_address": "the memory not taking addresses",
    "read_credit": "buffers full behind the read channel (reducer or writer)",
    "read_index": "waiting for indices or weights",
    "read_offset": "waiting for offsets",
    "read_drain": "finishing the writes",
    "read_overhead": "descriptor fetch and pipeline fill",
}


@dataclass
class Operation:
    """One kind of pass, summed over the tables it ran on.

    Attributes
    ----------
    name : str
        One of OPERATIONS.
    passes : int
        How often it ran.
    image_bytes, guard_bytes : int
        Bytes of memory compared, and how many of them were guards.
    seconds : float
        Wall time of the engine.
    counters : dict of str to int
        Sums of the engine's counters.
    mismatches : list of str
        What differed; empty if nothing did.
    """

    name: str
    passes: int = 0
    image_bytes: int = 0
    guard_bytes: int = 0
    seconds: float = 0.0
    counters: dict = field(default_factory=dict)
    mismatches: list = field(default_factory=list)

    @property
    def equal(self):
        """Whether every pass was equal to golden to the bit, and at least one ran."""
        return self.passes > 0 and not self.mismatches

    def as_dict(self):
        """Return the operation as plain JSON types."""
        return {
            "operation": self.name, "equal": self.equal, "passes": self.passes,
            "image_bytes": self.image_bytes, "guard_bytes": self.guard_bytes,
            "seconds": round(self.seconds, 6), "utilisation": utilisation(self.counters),
            "limited_by": limit_of(self.counters), "counters": self.counters,
            "mismatches": self.mismatches,
        }


def utilisation(counters):
    """Return the share of cycles with a read beat, or None where nothing was counted."""
    cycles = counters.get("cycles", 0)
    return round(counters["read_useful"] / cycles, 6) if cycles else None


def limit_of(counters):
    """Return in words what kept a pass from being faster."""
    cycles = counters.get("cycles", 0)
    if not cycles:
        return "nothing was counted"
    read = counters["read_useful"] / cycles
    write = (counters["w_beats"] + counters["w_stall"]) / cycles
    if read >= 0.9:
        return f"the read channel, with a beat in {read:.1%} of the cycles"
    if write >= 0.9:
        return f"the write channel, in use in {write:.1%} of the cycles"
    cause = max(CAUSES, key=lambda name: counters[name])
    return f"{CAUSES[cause]}, {counters[cause] / cycles:.1%} of the cycles"


class Comparison:
    """An engine, the functional model and the golden functions, doing the same.

    Parameters
    ----------
    io : EngineIo
        The engine.
    config : EngineConfig
        What it was generated from.
    placement : str
        Where arrays appear to the engine: "aligned" or "scattered".
    seed : int
        Chooses addresses with "scattered".

    Attributes
    ----------
    engine, machine : EngineDevice
        The engine, and the functional model, each behind the driver.
    golden : GoldenDevice
        The golden model's functions.
    """

    def __init__(self, io, config, *, placement="aligned", seed=0):
        options = {"placement": placement, "seed": seed}
        self.engine = EngineDevice(ImageIo(io), config, **options)
        model = Machine(config, registers, descriptor)
        self.machine = EngineDevice(ImageIo(model), config, **options)
        self.golden = GoldenDevice()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Release the engine."""
        self.machine.close()
        self.engine.close()

    def run(self, operation, what, function, weight=None):
        """Run ``function(device, weight)`` on all three and compare; return golden's result.

        Parameters
        ----------
        operation : Operation
            Takes the counters, and the mismatch if there is one.
        what : str
            Name of the result, for the message.
        function : callable
            Takes a device and a copy of ``weight``; its result, or that copy if ``weight`` is
            given, is compared.
        weight : numpy.ndarray or None
            What the function updates in place.
        """
        def result(device):
            own = None if weight is None else weight.copy()
            out = function(device, own)
            return out if weight is None else own

        expected = result(self.golden)
        functional = result(self.machine)
        operation.passes += 1
        begin = time.perf_counter()
        try:
            got = result(self.engine)
        except FAILURES as error:
            operation.mismatches.append(f"{what}: {error}")
            # The driver has reset the engine: its ring starts anew, and so must the other.
            self.machine.reset()
            return expected
        operation.seconds += time.perf_counter() - begin
        for name, count in self.engine.counters().items():
            operation.counters[name] = operation.counters.get(name, 0) + count
        try:
            same_bits(f"{what}, functional model", functional, expected)
            same_bits(what, got, expected)
            operation.image_bytes += same_image(what, self.engine.io, self.machine.io)
            operation.guard_bytes += self.engine.io.guard_bytes
        except MismatchError as error:
            operation.mismatches.append(str(error))
        return expected


class CheckedDevice:
    """The engine as a device for training: what does not equal golden to the bit is an exception.

    Only what :func:`tcast.training.train` needs. Casting is done on the host.

    Parameters
    ----------
    comparison : Comparison
        The devices.

    Attributes
    ----------
    operations : dict of str to Operation
        ``forward`` and ``fused backward``, summed over the calls.
    """

    def __init__(self, comparison):
        self.comparison = comparison
        self.operations = {name: Operation(name) for name in ("forward", "fused backward")}

    def _run(self, name, what, function, weight=None):
        operation = self.operations[name]
        result = self.comparison.run(operation, f"{name}, {what}", function, weight)
        if operation.mismatches:
            raise MismatchError(operation.mismatches[-1])
        return result

    def embedding_bag(self, weight, indices, offsets):
        """Return the pooled rows, float32 [B, D]."""
        return self._run("forward", "out",
                         lambda device, _: device.embedding_bag(weight, indices, offsets))

    def cast(self, indices, offsets, num_rows):
        """Return the Casting of a batch."""
        return self.comparison.golden.cast(indices, offsets, num_rows)

    def backward_update(self, weight, grad_out, casting, optimizer):
        """Update ``weight`` in place."""
        weight[...] = self._run(
            "fused backward", "weight",
            lambda device, own: device.backward_update(own, grad_out, casting, optimizer), weight)

    def counters(self):
        """Return the engine's counters of the last call."""
        return self.comparison.engine.counters()


def open_comparison(config, *, latency=64, backpressure=0.0, seed=0, placement="aligned",
                    waves=None, **options):
    """Build (once) and start the simulated engine of ``config``; return its Comparison.

    Parameters
    ----------
    config : EngineConfig
        The engine.
    latency : int
        Read latency of the memory in engine cycles.
    backpressure : float
        Probability per cycle that a channel of the memory withholds its handshake.
    seed : int
        Seed of the memory, and of the addresses with placement "scattered".
    placement : str
        As Comparison.
    waves : path or None
        File for waveforms.
    **options
        Further options of the simulation, such as ``dram``.

    Raises
    ------
    BackendUnavailable
        Something that the simulation is built with is missing; the message says what.
    """
    try:
        io = Simulation(config, latency=latency, backpressure=backpressure, seed=seed,
                        waves=waves, **options)
    except (BuildError, ModuleNotFoundError) as error:
        raise BackendUnavailable(f"{error}; simulation comes with pip install 'tcast[sim]'") \
            from error
    return Comparison(io, config, placement=placement, seed=seed)


def step(comparison, item, optimizer, operations, on_operation=lambda name: None):
    """Do everything a training step does to one table, in all three ways, and compare it.

    Parameters
    ----------
    comparison : Comparison
        The devices.
    item : TableInput
        The table and its batch.
    optimizer : SGD
        The update.
    operations : dict of str to Operation
        Takes what happened; keys are OPERATIONS.
    on_operation : callable
        Called with the name of each operation when it has ended.
    """
    casting = comparison.golden.cast(item.indices, item.offsets, len(item.weight))

    def run(name, what, function, weight=None):
        result = comparison.run(operations[name], f"{item.name}, {name}, {what}", function, weight)
        on_operation(name)
        return result

    def update(grads):
        return lambda device, weight: device.scatter_update(weight, casting.rows, grads, optimizer)

    run("forward", "out",
        lambda device, _: device.embedding_bag(item.weight, item.indices, item.offsets))
    expanded = run("expand", "expanded",
                   lambda device, _: device.expand(item.grad_out, item.offsets))
    coalesced = run("coalesce", "grads", lambda device, _: device.coalesce(expanded, casting))
    run("baseline scatter update", "weight", update(coalesced), item.weight)
    grads = run("casted gather-reduce", "grads",
                lambda device, _: device.casted_gather_reduce(item.grad_out, casting))
    run("scatter update", "weight", update(grads), item.weight)
    run("fused backward", "weight",
        lambda device, weight: device.backward_update(weight, item.grad_out, casting, optimizer),
        item.weight)
