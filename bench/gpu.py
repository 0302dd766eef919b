"""The GPU backend against golden, against the card's copy rate, and against PyTorch on the card.

Usage: python bench/gpu.py [--quick] [--tune] [--tests] [--output FILE] [--seconds S]

Runs from a plain checkout with NumPy, CuPy and PyTorch alone; without PyTorch the peer is left
out. Results are checked before anything is timed: what is wrong is reported, not timed. A section
that fails is recorded with its traceback, and the rest goes on; the JSON is written after each
section. Times are medians; ``gpu_ms`` is taken by CUDA events around calls that were queued while
the GPU was kept busy, ``event_ms`` and ``wall_ms`` around one call on an idle GPU, host and all.

Bytes, with N lookups in B bags, U distinct rows of D float32 columns, indices of i bytes:

- forward, needed: N·D·4 rows + B·D·4 results + N·i + (B + 1)·i; rows that come twice count twice.
- backward, gathered: N·D·4 gradient rows + 2·U·D·4 table rows + N·i + 2·U·i; row-wise Adagrad
  + 8·U. Gradient rows mostly come from the L2 cache.
- backward, compulsory: the same with B·D·4 for the gradient, each row once.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

import cupy
import numpy as np
import plain_checkout

from tcast import golden
from tcast.golden import SGD, RowwiseAdagrad, trace
from tcast.host.cupy_backend import CupyDevice, _Long
from tcast.host.kernels import Tuning
from tcast.workloads import WORKLOADS

try:
    import torch
except ImportError as error:
    torch, NO_TORCH = None, str(error)
else:
    NO_TORCH = "" if torch.cuda.is_available() else "torch has no CUDA"

SEED = 0
LR, EPS = 0.01, 1e-8
UNIFORM = "uniform"


def say(*words):
    """Print a line of progress at once."""
    print(f"[{time.perf_counter() - START:6.1f} s]", *words, flush=True)


START = time.perf_counter()


class Report:
    """The JSON, written whenever something is added; and the clock that ends the run."""

    def __init__(self, path, seconds):
        self.path, self.end = path, START + seconds
        self.data = {"command": " ".join(["python", "bench/gpu.py", *sys.argv[1:]])}

    def left(self):
        """Return the seconds that are left."""
        return self.end - time.perf_counter()

    def section(self, name, work):
        """Run ``work`` with a dict to fill; record what it raises."""
        say(f"{name} …")
        begin = time.perf_counter()
        entry = self.data[name] = {}
        try:
            work(entry)
        except Exception:
            entry["error"] = traceback.format_exc()
            print(entry["error"], flush=True)
        entry["seconds"] = round(time.perf_counter() - begin, 1)
        self.write()

    def write(self):
        """Write what there is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1, default=float) + "\n")


# measuring

_SPIN = cupy.RawKernel("""
extern "C" __global__ void spin(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {}
}""", "spin")


def spread(times):
    """Return the median and the quartiles of times in ms."""
    ordered = sorted(times)
    return {"ms": median(ordered), "q1": ordered[len(ordered) // 4],
            "q3": ordered[len(ordered) * 3 // 4]}


def gpu_time(call, inner=6, repeats=5):
    """Return ms of GPU time of ``call(i)``, which must not wait for the GPU; see spread()."""
    call(0)
    call(1)
    cupy.cuda.get_current_stream().synchronize()
    cycles, times = 200_000 * inner, []
    while len(times) < repeats:
        events = cupy.cuda.Event(), cupy.cuda.Event()
        _SPIN((1,), (1,), (np.int64(cycles),))
        events[0].record()
        for i in range(inner):
            call(i)
        ahead = not events[0].done  # everything was queued before the first call began
        events[1].record()
        events[1].synchronize()
        if ahead or cycles > 4e9:
            times.append(cupy.cuda.get_elapsed_time(*events) / inner)
        else:
            cycles *= 2
    return {**spread(times), "ahead": ahead}


def alternate(calls, repeats):
    """Return {name: {"wall": …, "event": …}} of calls that alternate, each with i."""
    stream = cupy.cuda.get_current_stream()
    for call in calls.values():
        call(0)
    walls, events = ({name: [] for name in calls} for _ in range(2))
    names = list(calls)
    for i in range(repeats):
        if i and sum(times[0] for times in walls.values()) > 3000:
            break  # too slow to be repeated
        for name in names[i % len(names):] + names[:i % len(names)]:
            pair = cupy.cuda.Event(), cupy.cuda.Event()
            stream.synchronize()
            begin = time.perf_counter()
            pair[0].record()
            calls[name](i)
            pair[1].record()
            pair[1].synchronize()
            walls[name].append(1e3 * (time.perf_counter() - begin))
            events[name].append(cupy.cuda.get_elapsed_time(*pair))
    return {name: {"wall": spread(walls[name]), "event": spread(events[name])} for name in calls}


def normal(*shape):
    """Return float32 normal numbers on the GPU, made in pieces that any generator can count."""
    array, generator = cupy.empty(shape, np.float32), cupy.random.default_rng(SEED)
    flat, piece = array.reshape(-1), 1 << 26
    for begin in range(0, flat.size, piece):
        part = flat[begin:begin + piece]
        part[...] = generator.standard_normal(part.size, dtype=np.float32)
    return array


def copy_rate(quick):
    """Return bytes per second of a device-to-device copy, read and written ones counted."""
    size = (1 << 30) if quick else (4 << 30)
    source, target = cupy.empty(size, np.uint8), cupy.empty(size, np.uint8)
    source.fill(1)
    times = gpu_time(lambda i: target.data.copy_from_device_async(source.data, size), 3, 7)
    return 2 * size / (times["ms"] / 1e3)


# correctness

WEIRD = np.array([
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000,
    0xBF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345,
    0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)


def floats(rng, shape, weird):
    """Return float32 numbers of many magnitudes, a share of them weird."""
    values = (rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 30, shape)).astype(np.float32)
    mask = rng.random(shape) < weird
    values[mask] = rng.choice(WEIRD, int(mask.sum()))
    return values


def same(a, b):
    """Return whether two arrays, or None, are the same bits, every NaN being equal."""
    if a is None or b is None:
        return a is b
    a = cupy.asnumpy(a)
    if a.dtype == np.float32:
        return golden.bits_equal(a, b)
    return a.dtype == b.dtype and np.array_equal(a, b)


def operations(device, seed, dim, index_type, offset_type, rows, bags, longest, weird):
    """Yield (name, whether the GPU's bits are golden's) for every operation on one batch."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, bags)
    lengths[rng.random(bags) < 0.2] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(offset_type)
    n = int(offsets[-1])
    indices = (rows * rng.random(n + 3) ** 3).astype(index_type)
    weight, grad = floats(rng, (rows, dim), weird), floats(rng, (bags, dim), weird)
    factors = floats(rng, n + 3, weird)
    up = cupy.asarray
    w, g, i, o = map(up, (weight, grad, indices, offsets))
    for name, sample, mode in (("sum", None, "sum"), ("mean", None, "mean"),
                               ("weighted", factors, "sum")):
        on_gpu = None if sample is None else up(sample)
        yield f"embedding_bag {name}", same(
            device.embedding_bag(w, i, o, on_gpu, mode),
            golden.embedding_bag(weight, indices, offsets, sample, mode))
        if mode == "mean":
            continue
        casting = golden.cast(indices, offsets, rows, sample)
        own = device.cast(i, o, rows, on_gpu)
        yield f"cast {name}", all(same(value, getattr(casting, field))
                                  for field, value in own.arrays.items())
        plain = golden.Casting(**own.arrays)
        coalesced = golden.casted_gather_reduce(grad, casting)
        yield f"casted_gather_reduce {name}", same(device.casted_gather_reduce(g, own), coalesced)
        expanded = device.expand(g, o)
        yield "expand", same(expanded, golden.expand(grad, offsets))
        yield f"coalesce {name}", same(device.coalesce(expanded, own), coalesced)
        for rule in (SGD(LR), RowwiseAdagrad(LR, EPS)):
            start = None if isinstance(rule, SGD) else np.abs(weight[:, 0])
            table, state = weight.copy(), None if start is None else start.copy()
            golden.backward_update(table, grad, casting, rule, state)
            for what, call in (
                    ("backward_update", partial(device.backward_update, grad_out=g, casting=own)),
                    ("backward_update, plain casting",
                     partial(device.backward_update, grad_out=g, casting=plain)),
                    ("scatter_update", partial(device.scatter_update, rows=own.rows,
                                               grads=up(coalesced)))):
                found, moved = w.copy(), None if start is None else up(start.copy())
                call(found, optimizer=rule, state=moved)
                yield (f"{what} {type(rule).__name__} {name}",
                       same(found, table) and same(moved, state))
    used = indices[:n]
    values = weight[used]
    yield "gather", np.array_equal(cupy.asnumpy(device.gather(w, up(used))).view(np.uint32),
                                   values.view(np.uint32))
    table, found = weight.copy(), w.copy()
    golden.scatter(table, used, values[::-1].copy())
    device.scatter(found, up(used), up(values[::-1].copy()))
    yield "scatter", np.array_equal(cupy.asnumpy(found).view(np.uint32), table.view(np.uint32))


def check(entry, device, quick):
    """Compare every operation with golden on awkward batches, several threads at a time."""
    shapes = [  # rows, bags, longest bag, share of weird numbers
        (1000, 40, 9, 0.05), (7, 40, 40, 1.0), (5, 60, 700, 0.0), (20_000, 2000, 60, 0.01)]
    cases = []
    for dim in (4, 100) if quick else (1, 2, 5, 32, 64, 100, 128, 256, 1024, 1031):
        for number, (rows, bags, longest, weird) in enumerate(shapes):
            if dim > 300 and bags > 100:
                rows, bags = 5000, 200
            index_type, offset_type = ((np.int32, np.int64), (np.int64, np.int32))[
                (number + dim) % 2]
            cases.append((len(cases), dim, index_type, offset_type, rows, bags, longest, weird))
    cases.append((99, 64, np.int64, np.int64, 3, 400, 400, 0.0))  # segments of tens of thousands

    def run(case):
        found = []
        try:
            found.extend(operations(device, *case))
        except Exception:
            found.append((traceback.format_exc(), False))
        return case, found

    failures, passed = [], 0
    with ThreadPoolExecutor(1 if quick else 8) as pool:
        for case, found in pool.map(run, cases):
            passed += sum(good for _, good in found)
            failures += [{"case": [str(x) for x in case], "what": what}
                         for what, good in found if not good]
    entry.update(cases=len(cases), passed=passed, failed=len(failures), failures=failures[:50])
    say(f"bit-identity: {passed} passed, {len(failures)} failed")
    for failure in failures[:5]:
        print(failure["case"], failure["what"], flush=True)


# batches of the timed part

class Sets:
    """Index sets of one batch on the GPU, and their castings; made once for all dims."""

    def __init__(self, device, rows, batch, pooling, distribution, count, index_type=np.int32):
        rng = np.random.default_rng([SEED, batch, pooling])
        n = batch * pooling
        self.rows, self.batch, self.pooling, self.n = rows, batch, pooling, n
        self.index_bytes = np.dtype(index_type).itemsize
        self.host = [(trace.uniform(rng, rows, n) if distribution == UNIFORM else
                      trace.powerlaw(rng, rows, n, distribution)).astype(index_type)
                     for _ in range(count)]
        self.host_offsets = np.arange(0, n + 1, pooling, dtype=index_type)
        self.indices = [cupy.asarray(host) for host in self.host]
        self.offsets = cupy.asarray(self.host_offsets)
        self.castings = [device.cast(indices, self.offsets, rows) for indices in self.indices]
        self.distinct = sum(casting.n_segments for casting in self.castings) / count

    def casting_is_right(self):
        """Return whether the first casting is the one that a stable sort gives."""
        order = np.argsort(self.host[0], kind="stable")
        casting = {name: value if value is None else cupy.asnumpy(value)
                   for name, value in self.castings[0].arrays.items()}
        rows, starts = np.unique(self.host[0][order], return_index=True)
        return (np.array_equal(casting["positions"], order)
                and np.array_equal(casting["bags"], order // self.pooling)
                and np.array_equal(casting["rows"], rows)
                and np.array_equal(casting["segment_offsets"], np.append(starts, self.n)))

    def forward_is_right(self, device, table):
        """Return whether some bags of the first set are golden's."""
        out = device.embedding_bag(table, self.indices[0], self.offsets)
        bags = np.unique(np.random.default_rng(SEED).integers(0, self.batch, 64))
        at = (bags[:, None] * self.pooling + np.arange(self.pooling)).ravel()
        rows = cupy.asnumpy(table[cupy.asarray(self.host[0][at])])
        offsets = np.arange(0, len(at) + 1, self.pooling)
        expected = golden.embedding_bag(rows, np.arange(len(at)), offsets)
        return same(out[cupy.asarray(bags)], expected)

    def backward_is_right(self, device, table, grad, rule, state):
        """Return whether some updated rows, of the longest segments too, are golden's."""
        casting = self.castings[0]
        ends = cupy.asnumpy(casting.segment_offsets)
        lengths = np.diff(ends)
        some = np.random.default_rng(SEED).integers(0, len(lengths), 64)
        shorter = np.flatnonzero(lengths <= 50_000)  # golden takes its time
        longest = shorter[np.argsort(lengths[shorter])[-4:]]
        some = np.unique(np.concatenate([some[lengths[some] <= 50_000], longest]))
        rows = casting.rows[cupy.asarray(some)]
        before, states = cupy.asnumpy(table[rows]), None if state is None else \
            cupy.asnumpy(state[rows])
        device.backward_update(table, grad, casting, rule, state)
        at = np.concatenate([np.arange(ends[s], ends[s + 1]) for s in some])
        offsets = np.append(0, np.cumsum(lengths[some]))
        bags = cupy.asnumpy(casting.bags[cupy.asarray(at)])
        sums = golden.gather_reduce(cupy.asnumpy(grad), bags.astype(np.int64), offsets)
        golden.scatter_update(before, np.arange(len(some)), sums, rule, states)
        return same(table[rows], before) and (
            states is None or same(state[rows], states))


def ours(device, sets, table, grad, rule, state):
    """Return the calls that are timed, by name; each takes the number of a repeat."""
    n_sets = len(sets.indices)
    none_long = _Long(None, 0)

    def forward(i):
        return device.embedding_bag(table, sets.indices[i % n_sets], sets.offsets)

    def forward_kernel(i):  # without the check of the indices
        return device._gathered(table, sets.batch, indices=sets.indices[i % n_sets],
                                offsets=sets.offsets, long=none_long)

    def cast(i):
        return device.cast(sets.indices[i % n_sets], sets.offsets, sets.rows)

    def fused(i):
        device.backward_update(table, grad, sets.castings[i % n_sets], rule, state)

    def backward(i):
        device.backward_update(table, grad, cast(i), rule, state)

    return {"forward": forward, "forward_kernel": forward_kernel, "cast": cast, "fused": fused,
            "backward": backward}


class TorchPeer:
    """torch.nn.functional.embedding_bag(sparse=True) and torch.optim.SGD, on the same memory."""

    def __init__(self, sets, table, grad):
        self.sets = sets
        self.weight = torch.nn.Parameter(torch.as_tensor(table, device="cuda"))
        assert self.weight.data_ptr() == table.data.ptr, "torch has copied the table"
        self.grad = torch.as_tensor(grad, device="cuda")
        self.indices = [torch.as_tensor(array, device="cuda") for array in sets.indices]
        self.offsets = torch.as_tensor(sets.offsets, device="cuda")
        self.optimizer = torch.optim.SGD([self.weight], lr=LR)
        self.out = {}

    def forward(self, i):
        """Pool; keep the graph for backward."""
        number = i % len(self.indices)
        self.out[number] = torch.nn.functional.embedding_bag(
            self.indices[number], self.weight, self.offsets, mode="sum", sparse=True,
            include_last_offset=True)
        return self.out[number]

    def backward(self, i, coalesce=False):
        """Autograd's backward and the step of the optimizer."""
        out = self.out[i % len(self.indices)]
        self.weight.grad = None
        out.backward(self.grad, retain_graph=True)
        if coalesce:
            self.weight.grad = self.weight.grad.coalesce()
        self.optimizer.step()

    def is_right(self):
        """Return the worst errors of forward and of update over the bound of any order."""
        sets, unit = self.sets, 2.0 ** -24
        with torch.no_grad():
            bag = sets.host[0][:sets.pooling]
            rows = cupy.asnumpy(cupy.asarray(self.weight.detach())[cupy.asarray(bag)]).astype(
                np.float64)
            out = self.forward(0)[0].detach().cpu().numpy()
            bound = 2 * sets.pooling * unit * np.abs(rows).sum(axis=0) + 1e-30
            worst = float((np.abs(out - rows.sum(axis=0)) / bound).max())
        casting = sets.castings[0]
        at = int(casting.segment_offsets[1])
        row = int(casting.rows[0])
        gradients = cupy.asnumpy(cupy.asarray(self.grad)[casting.bags[:at]]).astype(np.float64)
        before = self.weight.detach()[row].cpu().numpy().astype(np.float64)
        self.forward(0)
        self.backward(0)
        after = self.weight.detach()[row].cpu().numpy()
        expected = before - LR * gradients.sum(axis=0)
        bound = 4 * (at + 2) * unit * (np.abs(before) + LR * np.abs(gradients).sum(axis=0)) + 1e-30
        return max(worst, float((np.abs(after - expected) / bound).max()))


def bytes_of(sets, dim, adagrad=False):
    """Return the byte counts of the module's docstring."""
    n, b, u, i = sets.n, sets.batch, sets.distinct, sets.index_bytes
    rest = 2 * u * dim * 4 + n * i + 2 * u * i + 8 * u * adagrad
    return {"forward": n * dim * 4 + b * dim * 4 + n * i + (b + 1) * i,
            "gathered": n * dim * 4 + rest, "compulsory": b * dim * 4 + rest}


def cell(device, sets, buffer, state, dim, copy, repeats, peer):
    """Check, then time, one batch with one number of columns; return the figures."""
    table = buffer[:sets.rows * dim].reshape(sets.rows, dim)
    grad = normal(sets.batch, dim)
    result = {"batch": sets.batch, "pooling": sets.pooling, "dim": dim, "lookups": sets.n,
              "distinct_rows": sets.distinct,
              "longest_segment": int(cupy.diff(sets.castings[0].segment_offsets).max())}
    rules = {"sgd": (SGD(LR), None), "adagrad": (RowwiseAdagrad(LR, EPS), state[:sets.rows])}
    right = {"forward": sets.forward_is_right(device, table)}
    for name, (rule, own_state) in rules.items():
        right[name] = sets.backward_is_right(device, table, grad, rule, own_state)
    result["right"] = right
    inner = 20 if sets.n < 500_000 else 4
    if right["forward"]:
        calls = ours(device, sets, table, grad, *rules["sgd"])
        needed = bytes_of(sets, dim)
        time_ = gpu_time(calls["forward_kernel"], inner)
        result["forward"] = {**time_, "bytes": needed["forward"],
                             "share": needed["forward"] / (time_["ms"] / 1e3) / copy}
    for name, rule in rules.items():
        if right[name]:
            needed = bytes_of(sets, dim, name == "adagrad")
            time_ = gpu_time(ours(device, sets, table, grad, *rule)["fused"], inner)
            result[name] = {**time_, **{
                f"{kind}_{what}": value for kind in ("gathered", "compulsory")
                for what, value in (("bytes", needed[kind]),
                                    ("share", needed[kind] / (time_["ms"] / 1e3) / copy))}}
    if not all(right.values()):
        return result
    calls = ours(device, sets, table, grad, *rules["sgd"])
    timed = {"forward": calls["forward"], "cast": calls["cast"], "backward": calls["backward"],
             "backward_adagrad": ours(device, sets, table, grad, *rules["adagrad"])["backward"]}
    if peer:
        other = TorchPeer(sets, table, grad)
        result["torch_error_over_bound"] = other.is_right()
        if result["torch_error_over_bound"] <= 1:
            for i in range(len(sets.indices)):
                other.forward(i)
            timed |= {"torch_forward": other.forward, "torch_backward": other.backward,
                      "torch_backward_coalesced": partial(other.backward, coalesce=True)}
    result["calls"] = alternate(timed, repeats)
    result["cast_ns_per_lookup"] = result["calls"]["cast"]["wall"]["ms"] * 1e6 / sets.n
    if "torch_backward" in result["calls"]:
        for clock in ("wall", "event"):
            ms = {name: times[clock]["ms"] for name, times in result["calls"].items()}
            best = min(ms["torch_backward"], ms["torch_backward_coalesced"])
            result[f"backward_over_torch_{clock}"] = best / ms["backward"]
            result[f"forward_over_torch_{clock}"] = ms["torch_forward"] / ms["forward"]
        del other
        torch.cuda.empty_cache()
    return result


def grid(entry, report, device, quick):
    """Time forward, cast and backward over batches, poolings, dims and distributions."""
    rows = 1_000_000 if quick else 10_000_000
    dims = (64,) if quick else (64, 128, 32, 256)
    copy = report.data["bandwidth"].get("copy_bytes_per_s", math.nan)
    buffer = normal(rows * max(dims))
    state = cupy.zeros(rows, np.float32)
    peer = not NO_TORCH
    entry.update(table_rows=rows, peer=NO_TORCH or "torch")
    cells = entry["cells"] = []
    end = time.perf_counter() + max(20.0, 0.6 * report.left())
    batches = [(2048, 20)] if quick else [
        (65536, 80), (2048, 80), (16384, 20), (2048, 20), (65536, 20), (16384, 80)]
    plans = [(*size, distribution, np.int32)
             for size in batches for distribution in (UNIFORM, 1.05, 1.2)]
    plans.insert(3, (16384, 80, 1.05, np.int64))
    for batch, pooling, distribution, index_type in plans:
        name = f"{distribution}, batch {batch}, pooling {pooling}, {np.dtype(index_type).name}"
        if time.perf_counter() > end:
            entry.setdefault("skipped", []).append(f"{name}: out of time")
            continue
        sets = Sets(device, rows, batch, pooling, distribution,
                    2 if batch * pooling > 2_000_000 else 3, index_type)
        right = sets.casting_is_right()
        for dim in dims:
            if time.perf_counter() > end:
                entry.setdefault("skipped", []).append(f"{name}, D {dim}: out of time")
                continue
            try:
                if not right:
                    raise AssertionError("casting differs from a stable sort's")
                found = cell(device, sets, buffer, state, dim, copy,
                             3 if quick or batch == 65536 else 7, peer)
            except Exception:
                found = {"dim": dim, "batch": batch, "pooling": pooling,
                         "error": traceback.format_exc()}
                print(found["error"], flush=True)
            found |= {"distribution": str(distribution), "index_type": np.dtype(index_type).name}
            cells.append(found)
            say(line(found))
        report.write()
        del sets
    del buffer
    cupy.get_default_memory_pool().free_all_blocks()
    entry["summary"] = summarise(cells)


def line(found):
    """Return a cell in one line."""
    if "error" in found:
        return f"{found['distribution']} failed"
    shares = [f"{found[name]['share' if name == 'forward' else 'gathered_share']:.2f}"
              if name in found else "wrong" for name in ("forward", "sgd", "adagrad")]
    return (f"{found['distribution']:>7} B {found['batch']:5} P {found['pooling']:2} "
            f"D {found['dim']:3}: shares {' '.join(shares)}, over torch "
            f"{found.get('backward_over_torch_wall', math.nan):.1f} wall "
            f"{found.get('backward_over_torch_event', math.nan):.1f} event")


def summarise(cells):
    """Return geometric means and worst cells of shares and ratios."""
    picks = {
        "forward share": lambda c: c["forward"]["share"],
        "sgd gathered share": lambda c: c["sgd"]["gathered_share"],
        "sgd compulsory share": lambda c: c["sgd"]["compulsory_share"],
        "adagrad gathered share": lambda c: c["adagrad"]["gathered_share"],
        "backward over torch, wall": lambda c: c["backward_over_torch_wall"],
        "backward over torch, event": lambda c: c["backward_over_torch_event"],
        "forward over torch, wall": lambda c: c["forward_over_torch_wall"],
        "cast ns per lookup": lambda c: c["cast_ns_per_lookup"],
    }
    result = {}
    for group, keep in {"all": lambda c: True, "uniform": lambda c: c["distribution"] == UNIFORM,
                        "uniform, 1M lookups or more":
                        lambda c: c["distribution"] == UNIFORM and c["lookups"] >= 1e6}.items():
        for name, pick in picks.items():
            values = []
            for found in cells:
                try:
                    values += [pick(found)] if keep(found) else []
                except KeyError:
                    pass
            if values:
                result[f"{name}; {group}"] = {
                    "geometric_mean": geometric_mean(values), "least": min(values),
                    "most": max(values), "cells": len(values)}
    return result


def baseline(entry, device, quick):
    """Time the paper's baseline, tensor casting, and the fused backward on the same batch."""
    rows, dim = 1_000_000 if quick else 4_000_000, 64
    table = normal(rows, dim)
    rule = SGD(LR)
    for distribution in (UNIFORM, 1.05):
        for batch in (2048,) if quick else (2048, 32768):
            sets = Sets(device, rows, batch, 40, distribution, 2)
            grad = normal(batch, dim)

            def cast(i, sets=sets):
                return device.cast(sets.indices[i % 2], sets.offsets, rows)

            def expand_coalesce_scatter(i, sets=sets, grad=grad, cast=cast):
                expanded, casting = device.expand(grad, sets.offsets), cast(i)
                device.scatter_update(table, casting.rows, device.coalesce(expanded, casting),
                                      rule)

            def casted_scatter(i, grad=grad, cast=cast):
                casting = cast(i)
                device.scatter_update(table, casting.rows,
                                      device.casted_gather_reduce(grad, casting), rule)

            def fused(i, grad=grad, cast=cast):
                device.backward_update(table, grad, cast(i), rule)

            start, results = table.copy(), []
            calls = {"baseline": expand_coalesce_scatter, "casted": casted_scatter, "fused": fused}
            for call in calls.values():
                table[...] = start
                call(0)
                results.append(table.copy())
            equal = all(bool((results[0].view(np.uint32) == other.view(np.uint32)).all())
                        for other in results[1:])
            del results, start
            name = f"{distribution}, batch {batch}"
            entry[name] = {"bits_equal": equal}
            if equal:
                entry[name] |= alternate({"cast": cast, **calls}, 5)
                ms = {key: entry[name][key]["wall"]["ms"] for key in calls}
                entry[name]["ratios"] = {key: ms["baseline"] / value for key, value in ms.items()}
                say(name, entry[name]["ratios"])


def overlap(entry, device, quick):
    """Time the forward pass alone, casting alone, and both on two streams."""
    rows = 1_000_000 if quick else 10_000_000
    for dim, batch in ((64, 2048),) if quick else ((128, 65536), (64, 16384)):
        table = normal(rows, dim)
        sets = Sets(device, rows, batch, 80, 1.05, 2)

        def forward(i, table=table, sets=sets):
            return device.embedding_bag(table, sets.indices[i % 2], sets.offsets)

        def cast(i, sets=sets):
            return device.cast(sets.indices[i % 2], sets.offsets, rows)

        def both(i, forward=forward, cast=cast):
            beside = device.stream_beside()
            forward(i)
            with beside:
                cast(i)

        def one_after_the_other(i, forward=forward, cast=cast):
            forward(i)
            cast(i)

        times = alternate({"forward": forward, "cast": cast, "beside": both,
                           "after": one_after_the_other}, 7)
        ms = {name: value["wall"]["ms"] for name, value in times.items()}
        hidden = (ms["after"] - ms["beside"]) / max(ms["after"] - ms["forward"], 1e-9)
        entry[f"D {dim}, batch {batch}"] = {**times, "hidden": hidden,
                                            "beside_over_forward": ms["beside"] / ms["forward"]}
        say(f"D {dim} batch {batch}:", {name: round(value, 3) for name, value in ms.items()})
        del table, sets


def whole_steps(entry, report, device, quick):
    """Time a whole embedding step of the published workloads, ours and PyTorch's."""
    cap = 100_000 if quick else 4_000_000
    entry["rows_capped_at"] = cap
    for name, workload in WORKLOADS.items():
        for distribution in (UNIFORM,) if quick else (UNIFORM, 1.05):
            if report.left() < 15:
                entry[f"{name}, {distribution}"] = "skipped: out of time"
                continue
            batch = 512 if quick else workload.batch
            tables = [(min(table.rows, cap), table.dim, table.pooling)
                      for table in workload.tables]
            dim = tables[0][1]
            weights = [normal(rows, dim) for rows, dim, _ in tables]
            grad = normal(batch, dim)
            sets = [Sets(device, rows, batch, pooling, distribution, 1)
                    for rows, _, pooling in tables]
            rule = SGD(LR)

            def step(i, beside=False, weights=weights, sets=sets, grad=grad, rule=rule):
                stream = device.stream_beside() if beside else None
                for weight, one in zip(weights, sets, strict=True):
                    device.embedding_bag(weight, one.indices[0], one.offsets)
                castings = []
                for one in sets:
                    if beside:
                        with stream:
                            castings.append(device.cast(one.indices[0], one.offsets, one.rows))
                    else:
                        castings.append(device.cast(one.indices[0], one.offsets, one.rows))
                for weight, casting in zip(weights, castings, strict=True):
                    device.backward_update(weight, grad, casting, rule)

            right = all(one.forward_is_right(device, weight) and one.backward_is_right(
                device, weight, grad, rule, None)
                for one, weight in zip(sets, weights, strict=True))
            found = entry[f"{name}, {distribution}"] = {
                "tables": len(tables), "batch": batch, "lookups": sum(one.n for one in sets),
                "right": right}
            if not right:
                continue
            calls = {"tcast": step, "tcast_cast_beside": partial(step, beside=True)}
            if not NO_TORCH:
                peers = [TorchPeer(one, weight, grad)
                         for one, weight in zip(sets, weights, strict=True)]
                optimizer = torch.optim.SGD([peer.weight for peer in peers], lr=LR)

                def torch_step(i, peers=peers, optimizer=optimizer):
                    outs = [peer.forward(0) for peer in peers]
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(outs, [peer.grad for peer in peers])
                    optimizer.step()

                calls["torch"] = torch_step
            found |= alternate(calls, 3)
            ms = {key: found[key]["wall"]["ms"] for key in calls if key in found}
            found["over_torch"] = {key: ms["torch"] / ms[key] for key in ms} \
                if "torch" in ms else None
            say(name, distribution, {key: round(value, 2) for key, value in ms.items()})
            report.write()
            del weights, sets, calls
            if not NO_TORCH:
                del peers, optimizer, torch_step
                torch.cuda.empty_cache()
            del step
            cupy.get_default_memory_pool().free_all_blocks()


def tune(entry, report, quick):
    """Time other sizes of the kernels, and say which is best for what."""
    rows, dims = 4_000_000, (64,) if quick else (64, 128)
    copy = report.data["bandwidth"].get("copy_bytes_per_s", math.nan)
    variants = {"default": {}}
    variants |= {f"min_blocks {n}": {"min_blocks": n} for n in (1, 3, 4)}
    variants |= {f"update_batch {n}": {"update_batch": n} for n in (1, 4, 8)}
    variants |= {f"batch {n}": {"batch": n} for n in (1, 4)}
    variants["update_batch 4, min_blocks 3"] = {"update_batch": 4, "min_blocks": 3}
    variants["update_batch 1, min_blocks 4"] = {"update_batch": 1, "min_blocks": 4}
    variants |= {f"slice {n}, stages 2": {"slice": n, "stages": 2} for n in (8, 16)}
    variants["slice 32, stage_rows 96"] = {"slice": 32, "stages": 3, "stage_rows": 96}
    variants["stages 6, stage_rows 128"] = {"stages": 6, "stage_rows": 128}
    state = cupy.zeros(rows, np.float32)
    buffer = normal(rows * max(dims))
    plain = CupyDevice()
    batches = [(label, Sets(plain, rows, 16384, 80 if label != "pooling 1" else 1,
                            UNIFORM if label != "1.2" else 1.2, 2))
               for label in ("uniform", "1.2", "pooling 1")]
    times = entry["ms"] = {}

    def device_of(variant):
        return CupyDevice(tuning=Tuning().but(**variant))

    devices = {name: device_of(variant) for name, variant in variants.items()}
    for dim in dims:
        table = buffer[:rows * dim].reshape(rows, dim)
        grad = normal(16384, dim)
        for label, sets in batches:
            needed = bytes_of(sets, dim)
            for kind, rule in (("forward", (SGD(LR), None)), ("sgd", (SGD(LR), None)),
                               ("adagrad", (RowwiseAdagrad(LR, EPS), state))):
                key = "forward_kernel" if kind == "forward" else "fused"
                found = times[f"{kind}, {label}, D {dim}"] = {}
                with ThreadPoolExecutor(1 if quick else 8) as pool:  # compile
                    list(pool.map(lambda device, key=key, rule=rule, sets=sets, table=table,
                                  grad=grad: ours(device, sets, table, grad, *rule)[key](0),
                                  devices.values()))
                for name, device in devices.items():
                    if report.left() < 5:
                        return
                    if kind == "forward" and ("update" in name or "slice" in name
                                              or "stages" in name):
                        continue
                    try:
                        found[name] = gpu_time(
                            ours(device, sets, table, grad, *rule)[key], 4, 3)["ms"]
                    except Exception as error:
                        found[name] = None
                        entry.setdefault("errors", {})[name] = repr(error)
                good = {name: ms for name, ms in found.items() if ms}
                best = min(good, key=good.get)
                share = needed["forward" if kind == "forward" else "gathered"] \
                    / (good["default"] / 1e3) / copy
                say(f"{kind}, {label}, D {dim}: default {good['default']:.3f} ms (share "
                    f"{share:.2f}), best {best} {good[best]:.3f} ms")
            report.write()
    totals = {name: geometric_mean([found[name] / found["default"] for found in times.values()
                                    if found.get(name)]) for name in variants}
    entry["over_default"] = totals
    say("time over default, geometric mean:", {n: round(t, 3) for n, t in totals.items()})


def run_tests(entry):
    """Run the backend's own tests on this GPU."""
    code = ("import sys; sys.path.insert(0, 'bench'); import plain_checkout; "
            "import pytest; "
            "sys.exit(pytest.main(['-q', '-x', '-k', 'gpu', '-p', 'no:cacheprovider', "
            "'tests/host/test_host_cupy.py']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=plain_checkout.ROOT,
                          capture_output=True, text=True, check=False, timeout=280)
    text = done.stdout + done.stderr
    entry.update(status=done.returncode, head=text[:3000], tail=text[-1000:])
    print(entry["head"][:2500], flush=True)


def facts(entry):
    """Fill in what the figures depend on."""
    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    runtime = cupy.cuda.runtime
    entry.update(
        device=properties["name"].decode(), multiprocessors=properties["multiProcessorCount"],
        l2_bytes=properties["l2CacheSize"], memory_bytes=properties["totalGlobalMem"],
        driver=runtime.driverGetVersion(), cuda_runtime=runtime.runtimeGetVersion(),
        nvrtc=list(cupy.cuda.nvrtc.getVersion()), cupy=cupy.__version__,
        numpy=np.__version__, python=platform.python_version(),
        torch=torch.__version__ if torch else NO_TORCH)
    try:
        entry["driver_name"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        entry["driver_name"] = f"unknown: {error}"


def main():
    """Run every section that is asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, half a minute")
    parser.add_argument("--tune", action="store_true", help="only try other sizes of the kernels")
    parser.add_argument("--tests", action="store_true", help="run the backend's tests as well")
    parser.add_argument("--seconds", type=float, default=270, help="stop adding after this long")
    parser.add_argument("--output", type=Path,
                        default=plain_checkout.ROOT / "docs" / "results" / "gpu.json")
    options = parser.parse_args()
    report = Report(options.output, options.seconds)
    device = CupyDevice()
    report.section("machine", facts)
    report.section("check", lambda entry: check(entry, device, options.quick or options.tune))
    report.section("bandwidth", lambda entry: entry.update(
        copy_bytes_per_s=copy_rate(options.quick)))
    say(f"copy: {report.data['bandwidth'].get('copy_bytes_per_s', 0) / 1e12:.2f} TB/s")
    cupy.get_default_memory_pool().free_all_blocks()
    if options.tests:
        report.section("tests", run_tests)
    if options.tune:
        report.section("tune", lambda entry: tune(entry, report, options.quick))
    else:
        report.section("baseline", lambda entry: baseline(entry, device, options.quick))
        report.section("overlap", lambda entry: overlap(entry, device, options.quick))
        cupy.get_default_memory_pool().free_all_blocks()
        report.section("grid", lambda entry: grid(entry, report, device, options.quick))
        report.section("whole_steps",
                       lambda entry: whole_steps(entry, report, device, options.quick))
    show(report.data)
    failed = report.data["check"].get("failed", 1)
    errors = [name for name, entry in report.data.items()
              if isinstance(entry, dict) and "error" in entry]
    print(f"errors in: {', '.join(errors) or 'no section'}; {options.output}", flush=True)
    return 1 if failed or errors else 0


def show(data):
    """Print the summary."""
    for name, value in data.get("grid", {}).get("summary", {}).items():
        print(f"{name:55} geometric mean {value['geometric_mean']:8.3f}  least "
              f"{value['least']:8.3f}  most {value['most']:8.3f}  ({value['cells']} cells)")


if __name__ == "__main__":
    sys.exit(main())
