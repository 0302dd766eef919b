"""The system of the paper: tables in the host's memory, the MLPs on a GPU.

A step looks up and pools on the CPU, sends the pooled rows over PCIe, runs the MLPs forward and
backward on the GPU, and brings the gradient of the pooled rows back. Then there are three ways:

- ``baseline``: expand the gradient, sort, coalesce, scatter, all on the CPU.
- ``casted``, the paper's: the GPU casts the batch while the CPU does forward; the casting comes
  back over PCIe, and the CPU does a casted gather-reduce and scatters.
- ``fused``: the same with the reduction and the update in one pass, so that the coalesced gradient
  is never written to memory.

Needs NumPy, and for the GPU torch or CuPy. Without a GPU the CPU's phases alone are run: the
castings are then made by the CPU before and not timed, and the gradient is drawn.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np

from .comparison import EVICTED_BYTES, Reference, Result, check, spread
from .host.checked_casting import CheckedCasting
from .host.cpu import CpuDevice

__all__ = ["WAYS", "CupyGpu", "Mlp", "TorchGpu", "Training", "open_gpu", "run"]

WAYS = ("baseline", "casted", "fused")
#: Widths of the layers behind the pooled rows, the top MLP of DLRM's public configurations.
MLP_WIDTHS = (512, 256, 1)


class TorchGpu:
    """A GPU through torch.

    Parameters
    ----------
    place : str
        torch's name of the device.
    """

    def __init__(self, place="cuda"):
        self.torch, self._place = import_module("torch"), place
        self._cuda = place.startswith("cuda")
        # The casting's own stream, behind nothing that the step waits for.
        self._stream = self.torch.cuda.Stream() if self._cuda else None
        self.name = self.torch.cuda.get_device_name() if self._cuda else "torch on the CPU"

    def pinned(self, shape, dtype=np.float32):
        """Return a NumPy array in memory that the GPU can read by itself."""
        array = np.empty(shape, dtype)
        if not self._cuda:
            return array
        return self.torch.from_numpy(array).pin_memory().numpy()

    def upload(self, array):
        """Return a copy on the GPU."""
        return self.torch.from_numpy(array).to(self._place, non_blocking=True)

    def download(self, array, target):
        """Copy an array of the GPU into a pinned NumPy array, and wait for it."""
        self.torch.from_numpy(target).copy_(array, non_blocking=True)
        self.finish()

    def finish(self):
        """Wait for what this thread has asked for."""
        if self._cuda:
            self.torch.cuda.current_stream().synchronize()

    def aside(self):
        """Return a context in which this thread's work goes to a stream of its own."""
        return self.torch.cuda.stream(self._stream)

    def sorted(self, keys):
        """Return the keys in order."""
        return self.torch.sort(keys).values

    def where(self, mask):
        """Return the positions where the mask is true."""
        return self.torch.nonzero(mask).reshape(-1)

    def bags(self, offsets, n):
        """Return the bag of each of ``n`` lookups."""
        lookups = self.torch.arange(n, device=offsets.device, dtype=offsets.dtype)
        return self.torch.searchsorted(offsets, lookups, right=True) - 1

    def narrow(self, array):
        """Return the array as int32, to halve what crosses the bus."""
        return array.to(self.torch.int32)

    def transposed(self, array, *axes):
        """Return the array with its axes in this order, contiguous."""
        return array.permute(*axes).contiguous()

    def exp(self, array):
        """Return e to the array."""
        return self.torch.exp(array)


class CupyGpu:
    """A GPU through CuPy, with the same methods.

    Parameters
    ----------
    cupy : module or None
        None: CuPy itself.
    """

    def __init__(self, cupy=None):
        if cupy is None:
            from .host.cupy_backend import load_cupy
            cupy = load_cupy()
        self.xp = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self.name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def pinned(self, shape, dtype=np.float32):
        """Return a NumPy array in memory that the GPU can read by itself."""
        count = int(np.prod(shape))
        memory = self.xp.cuda.alloc_pinned_memory(max(1, count) * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def upload(self, array):
        """Return a copy on the GPU."""
        return self.xp.asarray(array)

    def download(self, array, target):
        """Copy an array of the GPU into a pinned NumPy array, and wait for it."""
        array.get(out=target)

    def finish(self):
        """Wait for what this thread has asked for."""
        self.xp.cuda.get_current_stream().synchronize()

    def aside(self):
        """Return a context in which this thread's work goes to a stream of its own."""
        return self._stream

    def sorted(self, keys):
        """Return the keys in order."""
        return self.xp.sort(keys)

    def where(self, mask):
        """Return the positions where the mask is true."""
        return self.xp.flatnonzero(mask)

    def bags(self, offsets, n):
        """Return the bag of each of ``n`` lookups."""
        return self.xp.searchsorted(offsets, self.xp.arange(n), side="right") - 1

    def narrow(self, array):
        """Return the array as int32, to halve what crosses the bus."""
        return array.astype(np.int32)

    def transposed(self, array, *axes):
        """Return the array with its axes in this order, contiguous."""
        return self.xp.ascontiguousarray(array.transpose(*axes))

    def exp(self, array):
        """Return e to the array."""
        return self.xp.exp(array)


def open_gpu(library=None):
    """Return (GPU, reason): by ``library`` ("torch" or "cupy"), or by the first that has one."""
    reasons = []
    for name in (library,) if library else ("torch", "cupy"):
        try:
            if name == "cupy":
                return CupyGpu(), ""
            if not import_module("torch").cuda.is_available():
                raise RuntimeError("it finds no GPU that CUDA can use")
            return TorchGpu(), ""
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{name}: {error}")
    return None, "; ".join(reasons)


class Mlp:
    """The layers behind the pooled rows, trained by plain SGD with a logistic loss.

    Three matrices with ReLU between, of MLP_WIDTHS, on the concatenated pooled rows; random labels.

    Parameters
    ----------
    gpu : TorchGpu or CupyGpu
        Where it runs.
    width : int
        Pooled elements of a sample.
    batch : int
        Samples.
    """

    def __init__(self, gpu, width, batch, seed=0):
        rng = np.random.default_rng([seed, 3])
        self._gpu = gpu
        self._layers = []
        for n_in, n_out in zip((width, *MLP_WIDTHS), MLP_WIDTHS, strict=False):
            values = rng.standard_normal((n_in, n_out), dtype=np.float32)
            self._layers.append(gpu.upload(values * np.float32(n_in ** -0.5)))
        self._labels = gpu.upload(rng.integers(0, 2, (batch, 1)).astype(np.float32))

    def step(self, pooled, lr=0.01):
        """Train on pooled rows [B, width]; return their gradient."""
        inputs, last = [pooled], len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            out = inputs[-1] @ layer
            inputs.append(out if number == last else out * (out > 0))
        score = inputs.pop()
        gradient = (1 / (1 + self._gpu.exp(-score)) - self._labels) / len(score)
        for number in range(last, -1, -1):
            layer = self._layers[number]
            below = gradient @ layer.T
            layer -= lr * (inputs[number].T @ gradient)
            # The derivative of the ReLU below; the pooled rows have none.
            gradient = below * (inputs[number] > 0) if number else below
        return gradient


class Training:
    """One way to train the tables of a step.

    It has the methods of a contender of :mod:`.comparison`, which run the CPU's part with the
    batch's own gradient, and :meth:`step`, which runs it all.

    Parameters
    ----------
    way : str
        Of WAYS.
    tables : Tables
        Trained in place; all of one width.
    optimizer : SGD or RowwiseAdagrad
        The rule.
    device : CpuDevice
        What trains.
    gpu : TorchGpu, CupyGpu or None
        The GPU, if there is one.
    """

    exact = shares_memory = True

    def __init__(self, way, tables, optimizer, device, gpu=None):
        self.name = self.way = way
        self.timing = f"CPU-GPU system, {way}"
        self.tables, self.optimizer, self.device, self.gpu = tables, optimizer, device, gpu
        self._worker = ThreadPoolExecutor(1)
        self.seconds = {}

    def close(self):
        """End the thread."""
        self._worker.shutdown()

    def prepare(self, batch):
        """Return a batch with the buffers of a step."""
        n_bags, dims = len(batch[0].offsets) - 1, {dim for _, dim in self.tables.shapes}
        work = {"batch": batch, "grads": [item.grad_out for item in batch], "castings": None}
        if self.gpu is not None:
            if len(dims) > 1:
                raise ValueError(f"tables must have one width for the GPU's MLP, not {dims}")
            shape = len(batch), n_bags, dims.pop()
            work |= {"pooled": self.gpu.pinned(shape), "back": self.gpu.pinned(shape),
                     "mlp": Mlp(self.gpu, shape[0] * shape[2], n_bags),
                     "lookups": [[self._pinned(array.astype(np.int64))
                                  for array in (item.indices, item.offsets)] for item in batch],
                     "casted": [self.gpu.pinned((3, len(item.indices) + 1), np.int32)
                                for item in batch]}
        return work

    def _pinned(self, array):
        own = self.gpu.pinned(array.shape, array.dtype)
        own[...] = array
        return own

    # phases

    def _phase(self, name, begin):
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - begin
        return now

    def forward(self, work):
        """Look up and pool on the CPU."""
        work["out"] = [
            self.device.embedding_bag(weight, item.indices, item.offsets)
            for weight, item in zip(self.tables.weights, work["batch"], strict=True)]

    def _casting(self, number, item, arrays):
        return CheckedCasting(
            *arrays, None, n_bags=len(item.offsets) - 1, num_rows=self.tables.shapes[number][0],
            find_positions=lambda _: self._sort(number, item).positions)

    def cast_on_gpu(self, work):
        """Return the castings of all tables, made on the GPU's second stream."""
        begin = time.perf_counter()
        castings = []
        with self.gpu.aside():
            for number, item in enumerate(work["batch"]):
                parts = self._cast_table(work["lookups"][number], len(item.offsets) - 1,
                                         work["casted"][number])
                castings.append(self._casting(number, item, parts))
        return castings, time.perf_counter() - begin

    def _cast_table(self, lookups, n_bags, target):
        """Cast one table on the GPU; return (bags, segment offsets, rows) in ``target``."""
        gpu, n = self.gpu, len(lookups[0])
        if n == 0:
            empty = np.zeros(0, np.int32)
            return empty, np.zeros(1, np.int32), empty
        indices, offsets = (gpu.upload(array) for array in lookups)
        shift = max(n_bags - 1, 0).bit_length()
        keys = gpu.sorted((indices << shift) | gpu.bags(offsets, n))
        rows = keys >> shift
        starts = gpu.where(rows[1:] != rows[:-1])
        unique = len(starts) + 1
        bags, segments, distinct = target[0, :n], target[1, :unique + 1], target[2, :unique]
        segments[0], segments[unique] = 0, n
        gpu.download(gpu.narrow(keys & ((1 << shift) - 1)), bags)
        if unique > 1:
            gpu.download(gpu.narrow(starts + 1), segments[1:unique])
            gpu.download(gpu.narrow(rows[starts]), distinct[:-1])
        gpu.download(gpu.narrow(rows[-1:]), distinct[unique - 1:])
        return bags, segments, distinct

    def _sort(self, number, item):
        """Return the batch sorted with its positions, as the baseline needs it."""
        # The compiled core's cast leaves positions out; sorting by them at once is the baseline's
        # fair share, instead of casting first and sorting again for the positions.
        core = self.device._core
        sort = getattr(core, "_cast_by_position", None) or core.cast
        return sort(item.indices, item.offsets, self.tables.shapes[number][0], None,
                    self.device.threads)

    def backward_update(self, work):
        """Do the CPU's part of the backward with the gradients in ``work``."""
        if self.way != "baseline" and work["castings"] is None:
            work["castings"] = [
                self.device.cast(item.indices, item.offsets, rows)
                for item, (rows, _) in zip(work["batch"], self.tables.shapes, strict=True)]
        for number, (weight, state, item, grad) in enumerate(zip(
                self.tables.weights, self.tables.states, work["batch"], work["grads"],
                strict=True)):
            now = time.perf_counter()
            if self.way == "fused":
                self.device.backward_update(weight, grad, work["castings"][number],
                                            self.optimizer, state)
                self._phase("CPU: fused update", now)
                continue
            if self.way == "baseline":
                expanded = self.device.expand(grad, item.offsets)
                now = self._phase("CPU: expand", now)
                casting = self._sort(number, item)
                now = self._phase("CPU: sort", now)
                grads = self.device.coalesce(expanded, casting)
                now = self._phase("CPU: coalesce", now)
            else:
                casting = work["castings"][number]
                grads = self.device.casted_gather_reduce(grad, casting)
                now = self._phase("CPU: casted gather-reduce", now)
            self.device.scatter_update(weight, casting.rows, grads, self.optimizer, state)
            self._phase("CPU: scatter", now)

    def step(self, work):
        """Run a step; return the seconds of each phase and of the ``step``.

        What the GPU casts while the CPU is in forward is the phase "GPU: cast (hidden)"; only what
        the CPU then waits for it is part of the step. Without a GPU there is no ``step``, but the
        sum of the CPU's phases, ``CPU``.
        """
        self.seconds = {}
        castings = None
        begin = now = time.perf_counter()
        if self.gpu is not None and self.way != "baseline":
            castings = self._worker.submit(self.cast_on_gpu, work)
        self.forward(work)
        now = self._phase("CPU: forward", now)
        if self.gpu is not None:
            self._mlp(work, now)
        if castings is not None:
            now = time.perf_counter()
            work["castings"], hidden = castings.result()
            self._phase("wait for the casting", now)
        self.backward_update(work)
        seconds = dict(self.seconds)
        if self.gpu is None:
            return seconds | {"CPU": sum(seconds.values())}
        if castings is not None:
            seconds["GPU: cast (hidden)"] = hidden
        return seconds | {"step": time.perf_counter() - begin}

    def _mlp(self, work, now):
        gpu, (tables, bags, dim) = self.gpu, work["pooled"].shape
        for target, out in zip(work["pooled"], work["out"], strict=True):
            target[...] = out
        pooled = gpu.upload(work["pooled"])
        gpu.finish()
        now = self._phase("PCIe: pooled rows", now)
        rows = gpu.transposed(pooled, 1, 0, 2).reshape(bags, tables * dim)
        gradient = work["mlp"].step(rows)
        gradient = gpu.transposed(gradient.reshape(bags, tables, dim), 1, 0, 2)
        gpu.finish()
        now = self._phase("GPU: MLP", now)
        gpu.download(gradient, work["back"])
        work["grads"] = list(work["back"])
        self._phase("PCIe: gradient", now)

    def pooled(self, work):
        """Return the pooled rows of each table."""
        return work["out"]

    def table(self, number):
        """Return (weight, state) of a table."""
        return self.tables.weights[number], self.tables.states[number]


def run(tables, batch, optimizer, *, threads=1, repeats=5, warm=False, gpu=None,
        check_lookups=300_000, on_run=lambda what: None):
    """Train a step in all three ways, alternating.

    Each way's CPU part is first checked against the golden model, to the bit; with a GPU, its
    castings too.

    Parameters
    ----------
    tables : Tables
        Trained in place.
    batch : list of TableBatch
        The step.
    optimizer : SGD or RowwiseAdagrad
        The rule.
    threads : int
        Of the CPU.
    repeats : int
        Timed runs of each way, after one that warms up.
    warm : bool
        Leave out pushing the tables out of the caches before each step.
    gpu : TorchGpu, CupyGpu or None
        The GPU; None runs the CPU's phases alone.
    check_lookups : int
        About how many lookups are checked.
    on_run : callable
        Called with a word before every run.

    Returns
    -------
    dict
        ``equal``, ``mismatches``, ``ways`` (name -> phase -> median and quartiles in ms), and
        ``speed`` (name -> phase -> how many times faster than the baseline).
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    names = [f"table {number}" for number in range(len(batch))]
    times = {way: [] for way in WAYS}
    mismatches = []
    ballast = None if warm else np.ones(EVICTED_BYTES // 4, np.float32)
    with CpuDevice(threads=threads) as device:
        trainings = [Training(way, tables, optimizer, device, gpu) for way in WAYS]
        reference = Reference(tables, batch, check_lookups, optimizer, names)
        for training in trainings:
            on_run(f"checking {training.way}")
            result = Result(training.way)
            check(training, result, reference, tables)
            mismatches += result.mismatches
        if gpu is not None:
            mismatches += _check_castings(trainings[-1], reference)
        works = [training.prepare(batch) for training in trainings]
        for repeat in range(-1, 0 if mismatches else repeats):
            turn = repeat % len(WAYS)
            for number in (*range(turn, len(WAYS)), *range(turn)):
                on_run(WAYS[number])
                if ballast is not None:
                    ballast.max()
                seconds = trainings[number].step(works[number])
                if repeat >= 0:
                    times[WAYS[number]].append(seconds)
        for training in trainings:
            training.close()
    found = {"gpu": None if gpu is None else gpu.name, "core": device.core,
             "equal": not mismatches, "mismatches": mismatches, "ways": {}, "speed": {}}
    if mismatches:
        return found
    whole = "CPU" if gpu is None else "step"
    for way, seconds in times.items():
        found["ways"][way] = {phase: spread([one[phase] for one in seconds])
                              for phase in seconds[0]}
        found["speed"][way] = round(float(np.median(
            [base[whole] / one[whole] for base, one in
             zip(times["baseline"], seconds, strict=True)])), 4)
    return found


def _check_castings(training, reference):
    """Return what differs between the GPU's castings and the golden model's."""
    work = training.prepare(reference.batch)
    castings, _ = training.cast_on_gpu(work)
    found = []
    for number, casting in enumerate(castings):
        rows, _, expected, *_ = reference.tables[number]
        same = (np.array_equal(casting.bags, expected.bags)
                and np.array_equal(casting.segment_offsets, expected.segment_offsets)
                and np.array_equal(casting.rows, rows[expected.rows]))
        if not same:
            found.append(f"table {number}: the GPU's casting must be golden's, but differs")
    return found
