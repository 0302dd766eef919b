"""The same training step by every backend and peer: equality first, then times, bytes, cycles.

All contenders train one set of tables in one block of memory, so that none has better pages than
another. Each is first checked on a part of the batch against the golden model: our backends to the
bit, peers within the bound of :mod:`tcast.host.peers`; then the rows are put back, and a digest of
all tables shows that nothing else was touched. What is wrong is reported and not timed. Timed runs
alternate, in an order that is rotated each time.
"""

import contextlib
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from . import golden
from .equality import MismatchError, same_bits
from .host import peers
from .host.limits import READ_DISTANCES, UPDATE_DISTANCES, Limits

__all__ = ["BACKENDS", "EVICTED_BYTES", "OWN", "PHASES", "Backend", "DeviceLayer", "Result",
           "bytes_needed", "check", "compare", "first_bags", "open_backends", "speed", "spread"]

#: Ours, which give golden's bits.
OWN = ("golden", "cpu", "cupy", "sim")
#: What can be compared, in the order in which it is listed.
BACKENDS = ("golden", "cpu", "cupy", *peers.peer_names(), "sim")
#: What is timed. ``backward`` is cast and update together, ``step`` forward and backward; peers
#: have their cast, or sort, inside backward.
PHASES = ("forward", "cast", "update", "backward", "step")
#: And those of the limits: ``fused`` is ``update`` and ``gradient`` together.
LIMIT_PHASES = ("forward", "update", "gradient", "fused")
#: What is read before each timed group, to push the tables out of the caches.
EVICTED_BYTES = 96 << 20

#: How each of our backends is timed, for the table.
TIMING = {
    "golden": "NumPy, one thread: forward; cast; fused update",
    "cpu": "public API, argument checks included: forward; cast; fused update",
    "cupy": "GPU, arrays on the GPU, synchronised: forward; cast; fused update",
    "sim": "cycles of the engine for forward and fused update, cast by the host",
}


@dataclass
class Result:
    """What one contender did.

    Attributes
    ----------
    name : str
        Backend, peer, or "limit".
    skipped : str
        Why it did not run; empty if it did.
    timing : str
        What was timed, in words.
    equal : bool or None
        Whether every result was golden's, to the bit or (peers) within the bound.
    error_to_bound : float or None
        For peers: the largest error divided by its bound.
    mismatches : list of str
        What differed; then nothing was timed.
    seconds : dict of str to list of float
        Of each repetition, all tables together; keys are of PHASES, or of LIMIT_PHASES.
    cycles : dict of str to int
        ``forward`` and ``update``, for ``simulated_lookups`` lookups; only of an engine.
    """

    name: str
    skipped: str = ""
    timing: str = ""
    equal: bool | None = None
    error_to_bound: float | None = None
    mismatches: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)
    cycles: dict = field(default_factory=dict)
    simulated_lookups: int = 0

    def as_dict(self):
        """Return the result as plain JSON types: medians and quartiles in milliseconds."""
        facts = {"backend": self.name}
        if self.skipped:
            return facts | {"skipped": self.skipped}
        facts |= {"equal": self.equal, "mismatches": self.mismatches, "timing": self.timing}
        if self.error_to_bound is not None:
            facts["error_to_bound"] = self.error_to_bound
        if self.cycles:
            facts |= {"cycles": self.cycles, "simulated_lookups": self.simulated_lookups}
        if self.seconds:
            facts["phases"] = {phase: spread(self.seconds[phase])
                               for phase in dict.fromkeys((*PHASES, *LIMIT_PHASES))
                               if phase in self.seconds}
        return facts


def spread(seconds):
    """Return median and quartiles of times, in milliseconds."""
    low, middle, high = (round(1e3 * float(x), 4) for x in np.percentile(seconds, (25, 50, 75)))
    return {"ms": middle, "low_ms": low, "high_ms": high}


def speed(result, other, phase, other_phase=None):
    """Return how many times faster ``result`` was than ``other``, or None.

    The median of the ratios of runs that followed each other, so that the machine's mood cancels.
    """
    own, theirs = result.seconds.get(phase), other.seconds.get(other_phase or phase)
    if not own or not theirs:
        return None
    return median(b / a for a, b in zip(own, theirs, strict=True))


class DeviceLayer:
    """A layer trained by a device of ours, with the methods of a peer and ``cast`` by itself.

    Parameters
    ----------
    name : str
        Backend.
    device : Device
        What trains.
    tables : Tables
        Trained in place; "cupy" trains a copy on the GPU.
    optimizer : SGD or RowwiseAdagrad
        The rule.
    """

    exact = True

    def __init__(self, name, device, tables, optimizer):
        self.name, self.device, self.optimizer = name, device, optimizer
        self.timing = TIMING[name]
        self.simulated = name == "sim"
        self.shares_memory = name != "cupy"
        self._cupy = None
        if name == "cupy":
            from .host.cupy_backend import load_cupy
            self._cupy = load_cupy()
        self._weights = [self._place(weight) for weight in tables.weights]
        self._states = [self._place(state) for state in tables.states]
        self.cycles = {"forward": 0, "update": 0}

    def _place(self, array):
        return array if self._cupy is None or array is None else self._cupy.asarray(array)

    def _finish(self):
        if self._cupy is not None:
            self._cupy.cuda.get_current_stream().synchronize()

    def prepare(self, batch):
        """Return a batch with its arrays where the device works."""
        return {"batch": [tuple(self._place(array) for array in
                                (item.indices, item.offsets, item.grad_out)) for item in batch]}

    def _count(self, phase):
        if self.simulated:
            self.cycles[phase] += self.device.counters()["cycles"]

    def forward(self, work):
        """Look up and pool."""
        work["out"] = []
        for weight, (indices, offsets, _) in zip(self._weights, work["batch"], strict=True):
            work["out"].append(self.device.embedding_bag(weight, indices, offsets))
            self._count("forward")
        self._finish()

    def cast(self, work):
        """Cast the batch."""
        work["castings"] = [
            self.device.cast(indices, offsets, len(weight))
            for weight, (indices, offsets, _) in zip(self._weights, work["batch"], strict=True)]
        self._finish()

    def update(self, work):
        """Reduce the gradients and update, fused."""
        for weight, state, casting, (_, _, grad_out) in zip(
                self._weights, self._states, work["castings"], work["batch"], strict=True):
            self.device.backward_update(weight, grad_out, casting, self.optimizer, state)
            self._count("update")
        self._finish()

    def pooled(self, work):
        """Return the pooled rows as NumPy arrays."""
        return [_fetched(out) for out in work["out"]]

    def table(self, number):
        """Return (weight, state) of a table, where the device works."""
        return self._weights[number], self._states[number]

    def close(self):
        """Let go of the tables; the device stays open."""
        self._weights = self._states = ()


class Backend:
    """Something that can be compared; it trains any number of layers, one after the other.

    Parameters
    ----------
    name : str
        Of BACKENDS.
    device : Device or None
        One of ours that is open; None for a peer.
    skipped : str
        Why it cannot be used; empty if it can.
    threads : int
        For a peer.
    """

    def __init__(self, name, device=None, skipped="", threads=1):
        self.name, self.device, self.skipped, self.threads = name, device, skipped, threads

    def open(self, tables, optimizer):
        """Return the contender for a layer; BackendUnavailable or ValueError says why not."""
        if self.device is not None:
            return DeviceLayer(self.name, self.device, tables, optimizer)
        return peers.open_peer(self.name, tables, optimizer, threads=self.threads)

    def close(self):
        """Close the device."""
        if self.device is not None:
            self.device.close()


def open_backends(names, config=None, *, threads=1, latency=64, seed=0, verilog=None,
                  on_build=None):
    """Open what can be opened of ``names``.

    Parameters
    ----------
    names : sequence of str
        Of BACKENDS, each at most once.
    config : EngineConfig or None
        The engine that "sim" simulates.
    threads : int
        For "cpu" and for the peers that can be told.
    latency, seed, verilog, on_build
        As the simulation has them.

    Returns
    -------
    list of Backend

    Raises
    ------
    ValueError
        A name that is not in BACKENDS, or one given twice.
    """
    from . import api
    from .host.backend import BackendUnavailable
    from .host.build_cache import BuildError

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
    usable = peers.available()
    opened = []
    for name in names:
        if name not in OWN:
            ok, reason = usable[name]
            opened.append(Backend(name, skipped="" if ok else reason, threads=threads))
            continue
        try:
            opened.append(Backend(name, api.open(name, config=config, **options.get(name, {}))))
        except (BackendUnavailable, BuildError, ModuleNotFoundError) as error:
            opened.append(Backend(name, skipped=str(error)))
    return opened


def first_bags(batch, lookups):
    """Return (batch, lookups) of the first bags of every table, about ``lookups`` of them in all.

    At least one bag of each table; all bags where the whole batch has no more lookups than asked.
    """
    total = sum(len(item.indices) for item in batch)
    if total <= lookups:
        return list(batch), total
    n_bags = len(batch[0].offsets) - 1
    count = max(1, n_bags * lookups // total)
    parts = [peers.TableBatch(item.indices[:item.offsets[count]], item.offsets[:count + 1],
                              item.grad_out[:count]) for item in batch]
    return parts, sum(len(item.indices) for item in parts)


def bytes_needed(tables, batch):
    """Return the bytes that a phase must move at least, a dict of ``forward`` and ``update``.

    Forward reads indices, offsets and every row looked up, and writes the pooled rows. Update reads
    the casting and each row of the gradient once, and reads and writes every distinct row and its
    state.
    """
    forward = update = 0
    for weight, state, item in zip(tables.weights, tables.states, batch, strict=True):
        row = 4 * weight.shape[1]
        index = item.indices.itemsize
        n, bags, unique = len(item.indices), len(item.offsets) - 1, len(np.unique(item.indices))
        forward += n * (row + index) + (bags + 1) * index + bags * row
        update += (n + 2 * unique) * index + bags * row + 2 * unique * row
        if state is not None:
            update += 8 * unique
    return {"forward": forward, "update": update}


def compare(backends, tables, batch, optimizer, *, names=None, repeats=5, warm=False, threads=1,
            check_lookups=300_000, sim_lookups=20_000, on_run=lambda what: None):
    """Train a step of a layer by every backend.

    Parameters
    ----------
    backends : list of Backend
        What :func:`open_backends` returned.
    tables : Tables
        Trained in place.
    batch : list of TableBatch
        The step.
    optimizer : SGD or RowwiseAdagrad
        The rule; with RowwiseAdagrad the tables have states.
    names : list of str or None
        Of the tables, for messages.
    repeats : int
        Timed runs of each contender but the simulated one, after one that warms up.
    warm : bool
        Leave out pushing the tables out of the caches.
    threads : int
        For the limits.
    check_lookups, sim_lookups : int
        About how many lookups are checked, and simulated.
    on_run : callable
        Called with a word before every run.

    Returns
    -------
    (list of Result, Result, str)
        In the order of ``backends``; the limits, with the phases ``forward``, ``update``,
        ``gradient`` and ``fused``, the sum of the latter two; and what measured these.
    """
    from .host.backend import BackendUnavailable

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    names = names or [f"table {number}" for number in range(len(batch))]
    results, runs = [], []
    references = {}
    limits = Limits(tables.weights, threads)
    with contextlib.ExitStack() as stack:
        for backend in backends:
            result = Result(backend.name, skipped=backend.skipped)
            results.append(result)
            if backend.skipped:
                continue
            try:
                contender = backend.open(tables, optimizer)
            except (BackendUnavailable, ValueError) as error:
                result.skipped = str(error)
                continue
            stack.callback(contender.close)
            on_run(f"checking {backend.name}")
            simulated = getattr(contender, "simulated", False)
            count = sim_lookups if simulated else check_lookups
            if count not in references:
                references[count] = Reference(tables, batch, count, optimizer, names)
            check(contender, result, references[count], tables)
            if not result.equal:
                references.clear()  # it may have spoilt what lies in the tables
            if result.equal and not simulated:
                runs.append(_Run(contender, contender.prepare(batch), result))
        limit = Result("limit", timing="reading the rows looked up; reading and writing the "
                       "distinct rows; reading the gradient in the order of the casting",
                       equal=True)
        runs.append(_LimitRun(limits, limits.prepare(batch), limit))
        _time(runs, repeats, warm, on_run)
    return results, limit, limits.source


class Reference:
    """What the golden model makes of a part of the batch, on copies of the rows it touches.

    Parameters
    ----------
    tables : Tables
        Left as they are.
    batch : list of TableBatch
        The step.
    lookups : int
        About how many of its lookups are used.
    optimizer : SGD or RowwiseAdagrad
        The rule.
    names : list of str
        Of the tables, for messages.
    """

    def __init__(self, tables, batch, lookups, optimizer, names):
        batch, self.lookups = first_bags(batch, lookups)
        self.batch = batch
        self.optimizer, self.names = optimizer, names
        self.digest = _digest(tables.flat), _digest(tables.flat_state)
        self.tables = []
        for weight, state, item in zip(tables.weights, tables.states, batch, strict=True):
            rows, indices = np.unique(item.indices, return_inverse=True)
            old, old_state = weight[rows], None if state is None else state[rows]
            offsets = _offsets(item, indices)
            casting = golden.cast(indices, offsets, len(rows))
            out = golden.embedding_bag(old, indices, offsets)
            new, new_state = old.copy(), None if state is None else old_state.copy()
            golden.backward_update(new, item.grad_out, casting, optimizer, new_state)
            self.tables.append((rows, indices, casting, out, (old, old_state), (new, new_state)))

    def bounds(self, number):
        """Return the bounds of a peer's (out, weight[rows], state[rows])."""
        _, indices, casting, _, (old, old_state), _ = self.tables[number]
        item = self.batch[number]
        out = peers.difference_bound(old, indices, _offsets(item, indices))
        if old_state is None:
            return out, peers.update_bound(old, item.grad_out, casting, self.optimizer.lr), None
        return out, *peers.adagrad_bounds(old, old_state, item.grad_out, casting, self.optimizer)


def _offsets(item, indices):
    """Return the offsets of a batch in the type of ``indices``."""
    return item.offsets.astype(indices.dtype)


def _digest(block):
    """Return a number that changes when a bit of the block does; None for None."""
    if block is None:
        return None
    even = block.size // 2 * 2
    return (int(np.bitwise_xor.reduce(block[:even].view(np.uint64))),
            int(np.bitwise_xor.reduce(block[even:].view(np.uint32))))


def _fetched(array):
    """Return a NumPy, CuPy or torch array as a NumPy array."""
    if isinstance(array, np.ndarray):
        return array
    return array.get() if hasattr(array, "get") else array.cpu().numpy()


def _stored(target, rows, values):
    """Write rows of a NumPy, CuPy or torch array."""
    if isinstance(target, np.ndarray):
        target[rows] = values
    elif hasattr(target, "get"):
        import cupy
        target[cupy.asarray(rows)] = cupy.asarray(values)
    else:
        import torch
        target[torch.from_numpy(rows).to(target.device)] = torch.from_numpy(values).to(
            target.device)


def check(contender, result, reference, tables):
    """Run a step of the reference's batch, compare it, and put the rows back.

    Parameters
    ----------
    contender : DeviceLayer, Peer or what has their methods
        One whose attribute ``exact`` is true must give golden's bits, others their bounds.
    result : Result
        Takes what was found.
    reference : Reference
        What is right.
    tables : Tables
        As they were when the reference was made.
    """
    result.timing, result.equal = contender.timing, True
    own = getattr(contender, "exact", False)
    work = contender.prepare(reference.batch)
    try:
        contender.forward(work)
        if hasattr(contender, "cast"):
            contender.cast(work)
            contender.update(work)
        else:
            contender.backward_update(work)
    except (NotImplementedError, TypeError) as error:
        if not own or isinstance(reference.optimizer, golden.SGD):
            raise
        # An engine that has SGD alone refuses another rule before anything is changed.
        result.skipped = f"not offered: {error}"
        return
    if getattr(contender, "simulated", False):
        result.cycles, result.simulated_lookups = dict(contender.cycles), reference.lookups
    pooled = contender.pooled(work)
    for number, name in enumerate(reference.names):
        rows, _, _, out, old, new = reference.tables[number]
        found = [_fetched(array) if array is not None else None
                 for array in _rows(contender.table(number), rows)]
        named = zip(("out", "weight", "state"), (pooled[number], *found), (out, *new),
                    (None,) * 3 if own else reference.bounds(number), strict=True)
        for what, got, expected, bound in named:
            if expected is not None:
                _judge(result, f"{contender.name}, {name}, {what}", got, expected, bound)
        for target, values in zip(contender.table(number), old, strict=True):
            if values is not None and target is not None:
                _stored(target, rows, values)
    if contender.shares_memory:
        digest = _digest(tables.flat), _digest(tables.flat_state)
    else:
        digest = _digests_of_copies(contender, len(reference.names), tables.flat_state)
    if digest != reference.digest:
        result.equal = False
        result.mismatches.append(f"{contender.name}: rows that were not looked up must stay as "
                                 "they are, but some changed")


def _rows(arrays, rows):
    for array in arrays:
        if array is None or isinstance(array, np.ndarray):
            yield None if array is None else array[rows]
        elif hasattr(array, "get"):
            import cupy
            yield array[cupy.asarray(rows)]
        else:
            import torch
            yield array[torch.from_numpy(rows).to(array.device)]


def _digests_of_copies(contender, count, flat_state):
    weights, states = zip(*(contender.table(number) for number in range(count)), strict=True)
    flat = np.concatenate([_fetched(weight).reshape(-1) for weight in weights])
    state = None
    if flat_state is not None:
        state = np.concatenate([_fetched(state) for state in states])
    return _digest(flat), _digest(state)


def _judge(result, what, got, expected, bound):
    """Compare one array, to the bit (no bound) or within the bound."""
    if bound is None:
        try:
            same_bits(what, got, expected)
        except MismatchError as error:
            result.equal = False
            result.mismatches.append(str(error))
        return
    ratio = peers.worst_ratio(got, expected, bound)
    result.error_to_bound = max(result.error_to_bound or 0.0, ratio)
    if ratio > 1:
        result.equal = False
        result.mismatches.append(f"{what}: error must be within its bound, not {ratio:.3g} times "
                                 "it")


class _Run:
    """A contender with its batch; one call is one timed step."""

    def __init__(self, contender, work, result):
        self._contender, self._work, self._result = contender, work, result
        self.name = contender.name

    def __call__(self, evict, keep):
        own, work = self._contender, self._work
        evict()
        begin = time.perf_counter()
        own.forward(work)
        seconds = {"forward": time.perf_counter() - begin}
        evict()
        begin = time.perf_counter()
        if hasattr(own, "cast"):
            own.cast(work)
            middle = time.perf_counter()
            own.update(work)
            end = time.perf_counter()
            seconds |= {"cast": middle - begin, "update": end - middle}
        else:
            own.backward_update(work)
            end = time.perf_counter()
        seconds["backward"] = end - begin
        seconds["step"] = seconds["forward"] + seconds["backward"]
        if keep:
            _keep(self._result, seconds)


class _LimitRun:
    """The limits; the distances that are best in the run that warms up are kept."""

    name = "limit"

    def __init__(self, limits, work, result):
        self._limits, self._work, self._result = limits, work, result
        self._best = None

    def _timed(self, evict, function, distance):
        evict()
        begin = time.perf_counter()
        function(self._work, distance)
        return time.perf_counter() - begin

    def __call__(self, evict, keep):
        functions = {"forward": (self._limits.read, READ_DISTANCES),
                     "update": (self._limits.update, UPDATE_DISTANCES),
                     "gradient": (self._limits.read_gradient, READ_DISTANCES)}
        if self._best is None:
            self._best = {}
            for phase, (function, distances) in functions.items():
                self._timed(evict, function, distances[0])
                rounds = [[self._timed(evict, function, d) for d in distances] for _ in range(3)]
                self._best[phase] = distances[int(np.argmin(np.median(rounds, axis=0)))]
        if keep:
            seconds = {phase: self._timed(evict, function, self._best[phase])
                       for phase, (function, _) in functions.items()}
            seconds["fused"] = seconds["update"] + seconds["gradient"]
            _keep(self._result, seconds)


def _keep(result, seconds):
    for phase, value in seconds.items():
        result.seconds.setdefault(phase, []).append(value)


def _time(runs, repeats, warm, on_run):
    ballast = None if warm else np.ones(EVICTED_BYTES // 4, np.float32)

    def evict():
        if ballast is not None:
            ballast.max()

    for repeat in range(-1, repeats):
        turn = repeat % len(runs)
        for run in runs[turn:] + runs[:turn]:
            on_run(run.name)
            run(evict, repeat >= 0)
