"""The same training step on every backend: equality, times, cycles.

A step is a forward pass and a backward pass with update; backward includes what prepares it from
the indices (casting, or a peer's own sorting). Backends that share the contract must give golden's
bits. PyTorch and FBGEMM sum in other orders, so they must agree within the bound of
:mod:`tcast.host.peers`, and only the time inside the library counts, not the conversion of arrays.
"""

import importlib
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from .equality import MismatchError, same_bits
from .golden import SGD
from .host.golden_backend import GoldenDevice

__all__ = ["BACKENDS", "Result", "compare", "open_backends"]

#: What can be compared, in the order in which it is listed.
BACKENDS = ("golden", "cpu", "cupy", "torch", "fbgemm", "sim")

#: How each backend's time is taken, for the table.
TIMING = {
    "golden": "NumPy, one thread",
    "cpu": "NumPy on the threads given",
    "cupy": "GPU, arrays on the GPU, synchronised",
    "torch": "inside PyTorch: forward; backward + coalesce + SGD.step, sparse gradients",
    "fbgemm": "inside FBGEMM: forward; backward with fused exact SGD",
    "sim": "cycles of the engine; simulated once, no time",
}


@dataclass
class Result:
    """What one backend did.

    Attributes
    ----------
    name : str
        Backend.
    skipped : str
        Why it did not run; empty if it did.
    equal : bool or None
        Whether every result was golden's, to the bit or (peers) within the bound.
    error_to_bound : float or None
        For peers: the largest error divided by its bound.
    mismatches : list of str
        What differed.
    forward, backward : list of float
        Seconds of each repetition, all tables together.
    cycles : dict of str to int
        ``forward`` and ``backward``; only where the backend counts them.
    """

    name: str
    skipped: str = ""
    equal: bool | None = None
    error_to_bound: float | None = None
    mismatches: list = field(default_factory=list)
    forward: list = field(default_factory=list)
    backward: list = field(default_factory=list)
    cycles: dict = field(default_factory=dict)

    def as_dict(self, base=None):
        """Return the result as plain JSON types; ratios are to the Result ``base``."""
        facts = {"backend": self.name}
        if self.skipped:
            return facts | {"skipped": self.skipped}
        facts |= {"equal": self.equal, "mismatches": self.mismatches, "timing": TIMING[self.name]}
        if self.error_to_bound is not None:
            facts["error_to_bound"] = self.error_to_bound
        if self.cycles:
            facts["cycles"] = self.cycles
        if self.forward:
            facts["forward_ms"] = round(1e3 * median(self.forward), 4)
            facts["backward_ms"] = round(1e3 * median(self.backward), 4)
            if base is not None and base.forward:
                # Ratios of runs that followed each other, so that the machine's mood cancels.
                facts["ratio_to_" + base.name] = round(median(
                    (f + b) / (bf + bb) for f, b, bf, bb in
                    zip(self.forward, self.backward, base.forward, base.backward, strict=True)), 4)
        return facts


class _Backend:
    """A backend in the comparison: how it is run and how its time is taken."""

    def __init__(self, name, device):
        self.name, self.device = name, device
        self.simulated = name == "sim"
        self.peer = name in ("torch", "fbgemm")
        self._cupy = None
        if name == "cupy":
            from .host.cupy_backend import load_cupy
            self._cupy = load_cupy()

    def place(self, array):
        """Return the array where this backend works on it."""
        return array if self._cupy is None else self._cupy.asarray(array)

    def fetch(self, array):
        """Return a result as a NumPy array."""
        return array if self._cupy is None else self._cupy.asnumpy(array)

    def timed(self, function, *phases):
        """Call ``function``; return its result and seconds (a peer's: of those phases)."""
        begin = time.perf_counter()
        result = function()
        if self._cupy is not None:
            self._cupy.cuda.get_current_stream().synchronize()
        seconds = time.perf_counter() - begin
        if self.peer:
            seconds = sum(self.device.seconds.get(phase, 0.0) for phase in phases)
        return result, seconds


def open_backends(names, config, *, threads=1, latency=64, seed=0, verilog=None, on_build=None):
    """Open what can be opened of ``names``.

    Parameters
    ----------
    names : sequence of str
        Of BACKENDS, each at most once.
    config : EngineConfig
        The engine that "sim" simulates.
    threads : int
        For "cpu" and for the peers. More than one makes PyTorch's threads wait for each other in
        busy loops, which on a machine with other work costs far more than the work itself.
    latency, seed, verilog, on_build
        As the simulation has them.

    Returns
    -------
    list of (str, device or None, str)
        Name, device, and why there is none.

    Raises
    ------
    ValueError
        A name that is not in BACKENDS, or one given twice.
    """
    from . import api
    from .host.backend import BackendUnavailable
    from .host.build_cache import BuildError
    from .host.peers import open_peer

    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"backends must be named once each, not {','.join(names)!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads!r}")
    options = {"cpu": {"threads": threads},
               "sim": {"latency": latency, "seed": seed, "verilog": verilog,
                       "on_build": on_build}}
    opened = []
    for name in names:
        try:
            if name in ("torch", "fbgemm"):
                device = open_peer(name)
                importlib.import_module("torch").set_num_threads(threads)
            else:
                device = api.open(name, config=config, **options.get(name, {}))
            opened.append((name, device, ""))
        except (BackendUnavailable, BuildError, ModuleNotFoundError) as error:
            opened.append((name, None, str(error)))
    return opened


def compare(opened, tables, lr, *, repeats=5, on_run=lambda what: None):
    """Run a training step of every table on every backend.

    Parameters
    ----------
    opened : list
        What :func:`open_backends` returned.
    tables : iterable of TableInput
        The step.
    lr : float
        Learning rate.
    repeats : int
        Runs of each backend but the simulated one; they alternate, in rotated order.
    on_run : callable
        Called with a word before every run.

    Returns
    -------
    list of Result
        In the order of ``opened``.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    results = {name: Result(name, skipped=reason) for name, _, reason in opened}
    backends = [_Backend(name, device) for name, device, _ in opened if device is not None]
    for backend in backends:
        result = results[backend.name]
        result.equal = True
        if not backend.simulated:
            result.forward, result.backward = [0.0] * repeats, [0.0] * repeats
    optimizer = SGD(lr)
    for item in tables:
        _compare_table(backends, results, item, optimizer, repeats, on_run)
    return list(results.values())


def _compare_table(backends, results, item, optimizer, repeats, on_run):
    golden = GoldenDevice()
    out = golden.embedding_bag(item.weight, item.indices, item.offsets)
    casting = golden.cast(item.indices, item.offsets, len(item.weight))
    updated = item.weight.copy()
    golden.backward_update(updated, item.grad_out, casting, optimizer)
    weights = {backend.name: backend.place(item.weight.copy()) for backend in backends}
    for repeat in range(repeats):
        turn = repeat % len(backends)
        for backend in backends[turn:] + backends[:turn]:
            if backend.simulated and repeat:
                continue
            on_run(f"{item.name}, {backend.name}")
            result = results[backend.name]
            weight = weights[backend.name]
            try:
                got = _run(backend, result, item, weight, optimizer, repeat)
            except NotImplementedError as error:
                result.skipped = f"not offered: {error}"
                continue
            if not repeat:
                _check(backend, result, item, casting, optimizer, (got, backend.fetch(weight)),
                       (out, updated))


def _run(backend, result, item, weight, optimizer, repeat):
    """Run the step once; return the pooled rows. ``weight`` is updated."""
    device = backend.device
    indices, offsets, grad_out = (backend.place(array) for array in
                                  (item.indices, item.offsets, item.grad_out))
    out, forward = backend.timed(lambda: device.embedding_bag(weight, indices, offsets), "forward")
    counters = {"forward": device.counters().get("cycles")}
    if backend.peer:
        # A peer takes the batch out of our Casting and sorts it itself, in the time it is given.
        casting = device.cast(indices, offsets, len(item.weight))
        _, backward = backend.timed(
            lambda: device.backward_update(weight, grad_out, casting, optimizer),
            "backward", "coalesce", "update", "backward+update")
    else:
        _, backward = backend.timed(lambda: device.backward_update(
            weight, grad_out, device.cast(indices, offsets, len(item.weight)), optimizer))
    counters["backward"] = device.counters().get("cycles")
    if backend.simulated:
        for name, cycles in counters.items():
            result.cycles[name] = result.cycles.get(name, 0) + cycles
    else:
        result.forward[repeat] += forward
        result.backward[repeat] += backward
    return backend.fetch(out)


def _check(backend, result, item, casting, optimizer, got, expected):
    """Compare the pooled rows and the table with golden's."""
    if not backend.peer:
        try:
            for what, found, wanted in zip(("out", "weight"), got, expected, strict=True):
                same_bits(f"{backend.name}, {item.name}, {what}", found, wanted)
        except MismatchError as error:
            result.equal = False
            result.mismatches.append(str(error))
        return
    from .host.peers import difference_bound, update_bound, worst_ratio

    rows = casting.rows
    ratios = {
        "out": worst_ratio(got[0], expected[0],
                           difference_bound(item.weight, item.indices, item.offsets)),
        "weight": worst_ratio(got[1][rows], expected[1][rows],
                              update_bound(item.weight, item.grad_out, casting, optimizer.lr)),
    }
    untouched = np.ones(len(item.weight), bool)
    untouched[rows] = False
    if not np.array_equal(got[1][untouched].view(np.uint32),
                          item.weight[untouched].view(np.uint32)):
        ratios["rows that were not looked up"] = float("inf")
    for what, ratio in ratios.items():
        result.error_to_bound = max(result.error_to_bound or 0.0, ratio)
        if ratio > 1:
            result.equal = False
            result.mismatches.append(f"{backend.name}, {item.name}, {what}: error must be within "
                                     f"its bound, not {ratio:.3g} times it")
