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
from .host.table_step import TableStep
from .hw import descriptor, registers
from .sim.simulation import Simulation

__all__ = ["CAUSES", "OPERATIONS", "TABLE_OPERATIONS", "WHOLE_STEP", "CheckedDevice", "Comparison",
           "Operation", "beats_of", "cycles_of", "limit_of", "open_comparison", "operations_of",
           "step", "utilisation", "whole_step"]

#: How an engine can fail at what the golden model can do: the driver's EngineError and
#: EngineTimeout, the checkers' ProtocolError, a reset that does not end.
FAILURES = (RuntimeError, TimeoutError)

#: What :func:`step` does to each table, in order; the cast only on an engine that casts.
TABLE_OPERATIONS = ("forward", "cast", "expand", "coalesce", "baseline scatter update",
                    "casted gather-reduce", "scatter update", "fused backward")
#: What :func:`whole_step` does to all of them at once.
WHOLE_STEP = "training step"
#: Everything, in order.
OPERATIONS = (*TABLE_OPERATIONS, WHOLE_STEP)

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


def operations_of(config, host_cast=False):
    """Return what can be compared of an engine: a new Operation for each name, in order."""
    names = OPERATIONS
    if host_cast or not config.cast_port:
        names = tuple(name for name in names if name not in ("cast", WHOLE_STEP))
    return {name: Operation(name) for name in names}


def cycles_of(counters):
    """Return the cycles of an operation: of the passes, or where there were none, of the casts."""
    return counters.get("cycles") or counters.get("cast_cycles", 0)


def beats_of(counters):
    """Return the R beats and the W beats of passes and casts together."""
    return tuple(counters.get(name, 0) + counters.get(f"cast_{name}", 0)
                 for name in ("r_beats", "w_beats"))


def utilisation(counters):
    """Return the share of cycles with a read beat, or None where nothing was counted."""
    cycles = cycles_of(counters)
    if not cycles:
        return None
    return round(counters["read_useful" if counters["cycles"] else "cast_r_beats"] / cycles, 6)


def limit_of(counters):
    """Return in words what kept a pass from being faster."""
    if not cycles_of(counters):
        return "nothing was counted"
    cycles = counters["cycles"]
    if not cycles:
        return "the passes of the sort over the pairs"
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
    host_cast : bool
        Cast on the host, whether the engine has a cast unit or not.

    Attributes
    ----------
    engine, machine : EngineDevice
        The engine, and the functional model, each behind the driver.
    golden : GoldenDevice
        The golden model's functions.
    """

    def __init__(self, io, config, *, placement="aligned", seed=0, host_cast=False):
        options = {"placement": placement, "seed": seed, "host_cast": host_cast}
        self.config, self.host_cast = config, host_cast
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

    def run(self, operation, what, function):
        """Run ``function(device)`` on all three and compare; return golden's results.

        Parameters
        ----------
        operation : Operation
            Takes the counters, and the mismatch if there is one.
        what : str
            Where the results belong, for the message.
        function : callable
            Takes a device; returns a dict of name to array, among them its own copies of what it
            updates in place.
        """
        expected = function(self.golden)
        functional = function(self.machine)
        operation.passes += 1
        begin = time.perf_counter()
        try:
            got = function(self.engine)
        except FAILURES as error:
            operation.mismatches.append(f"{what}, {', '.join(expected)}: {error}")
            # The driver has reset the engine: its ring starts anew, and so must the other.
            self.machine.reset()
            return expected
        operation.seconds += time.perf_counter() - begin
        for name, count in self.engine.counters().items():
            operation.counters[name] = operation.counters.get(name, 0) + count
        try:
            for name, wanted in expected.items():
                same_bits(f"{what}, {name}, functional model", functional[name], wanted)
                same_bits(f"{what}, {name}", got[name], wanted)
            operation.image_bytes += same_image(
                f"{what}, {', '.join(expected)}", self.engine.io, self.machine.io,
                self.engine.scratch)
            operation.guard_bytes += self.engine.io.guard_bytes
        except MismatchError as error:
            operation.mismatches.append(str(error))
        return expected


def _forward(weight, indices, offsets):
    """Return the function for Comparison.run that pools rows."""
    return lambda device: {"out": device.embedding_bag(weight, indices, offsets)}


def _cast(indices, offsets, num_rows):
    """Return the function for Comparison.run that casts."""
    def function(device):
        casting = device.cast(indices, offsets, num_rows)
        return {name: getattr(casting, name) for name in ("bags", "segment_offsets", "rows")}
    return function


def _updated(weight, update):
    """Return the function for Comparison.run that does ``update(device, weight)`` to a copy."""
    def function(device):
        own = weight.copy()
        update(device, own)
        return {"weight": own}
    return function


class CheckedDevice:
    """The engine as a device for training: what does not equal golden to the bit is an exception.

    Only what :func:`tcast.training.train` needs.

    Parameters
    ----------
    comparison : Comparison
        The devices.

    Attributes
    ----------
    operations : dict of str to Operation
        ``forward``, ``cast`` where the engine casts, and ``fused backward``, summed over the calls.
    """

    def __init__(self, comparison):
        self.comparison = comparison
        which = operations_of(comparison.config, comparison.host_cast)
        self.operations = {name: which[name] for name in ("forward", "cast", "fused backward")
                           if name in which}

    def _run(self, name, function):
        operation = self.operations[name]
        results = self.comparison.run(operation, name, function)
        if operation.mismatches:
            raise MismatchError(operation.mismatches[-1])
        return results

    def embedding_bag(self, weight, indices, offsets):
        """Return the pooled rows, float32 [B, D]."""
        return self._run("forward", _forward(weight, indices, offsets))["out"]

    def cast(self, indices, offsets, num_rows):
        """Return the Casting of a batch."""
        if "cast" in self.operations:
            self._run("cast", _cast(indices, offsets, num_rows))
        return self.comparison.golden.cast(indices, offsets, num_rows)

    def backward_update(self, weight, grad_out, casting, optimizer):
        """Update ``weight`` in place."""
        weight[...] = self._run("fused backward", _updated(
            weight, lambda device, own: device.backward_update(own, grad_out, casting, optimizer)
        ))["weight"]

    def counters(self):
        """Return the engine's counters of the last call."""
        return self.comparison.engine.counters()


def open_comparison(config, *, latency=64, backpressure=0.0, seed=0, placement="aligned",
                    host_cast=False, waves=None, **options):
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
    host_cast : bool
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
    return Comparison(io, config, placement=placement, seed=seed, host_cast=host_cast)


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
        Takes what happened, see :func:`operations_of`.
    on_operation : callable
        Called with the name of each operation when it has ended.
    """
    casting = comparison.golden.cast(item.indices, item.offsets, len(item.weight))

    def run(name, function):
        result = None
        if name in operations:
            result = comparison.run(operations[name], f"{item.name}, {name}", function)
            on_operation(name)
        return result

    def update(grads):
        return _updated(item.weight, lambda device, weight: device.scatter_update(
            weight, casting.rows, grads, optimizer))

    run("forward", _forward(item.weight, item.indices, item.offsets))
    run("cast", _cast(item.indices, item.offsets, len(item.weight)))
    expanded = run("expand", lambda device: {
        "expanded": device.expand(item.grad_out, item.offsets)})["expanded"]
    coalesced = run("coalesce", lambda device: {
        "grads": device.coalesce(expanded, casting)})["grads"]
    run("baseline scatter update", update(coalesced))
    grads = run("casted gather-reduce", lambda device: {
        "grads": device.casted_gather_reduce(item.grad_out, casting)})["grads"]
    run("scatter update", update(grads))
    run("fused backward", _updated(item.weight, lambda device, weight: device.backward_update(
        weight, item.grad_out, casting, optimizer)))


def whole_step(comparison, items, optimizer, operation):
    """Do the step of all tables in one submission, the casts on the engine, and compare it.

    Parameters
    ----------
    comparison : Comparison
        The devices.
    items : sequence of TableInput
        The tables and their batches.
    optimizer : SGD
        The update.
    operation : Operation
        Takes what happened.
    """
    def function(device):
        layers = [TableStep(item.weight.copy(), item.indices, item.offsets, item.grad_out)
                  for item in items]
        outs = device.training_step(layers, optimizer)
        return {f"{item.name} out": out for item, out in zip(items, outs, strict=True)} | {
            f"{item.name} weight": layer.weight
            for item, layer in zip(items, layers, strict=True)}

    comparison.run(operation, operation.name, function)
