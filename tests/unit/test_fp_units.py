"""Adder and multiplier against independent soft-floats, at every number of stages."""

import gc
import os
from functools import wraps

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Const, Mux
from fp_bench import Bench
from fp_vectors import (
    CORNERS,
    by_apytypes,
    by_numpy,
    by_softfloat,
    corner_pairs,
    random_pairs,
)

from tcast.hw.fp import Adder, Multiplier

# A component whose constructor refuses its arguments is never elaborated.
pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

SEED = int(os.environ.get("TCAST_SEED", "20210207"))
N_RANDOM = 1 << 22
BATCH = 1 << 17

UNITS = {
    **{("add", stages): Adder(stages) for stages in range(1, 7)},
    **{("sub", stages): Adder(stages, subtract=True) for stages in range(1, 7)},
    **{("mul", stages): Multiplier(stages) for stages in range(1, 8)},
}
ORACLES = (by_apytypes, by_numpy)


@pytest.fixture(scope="module")
def bench():
    return Bench(UNITS)


def mismatches(bench, oracles, a, b, pass_a):
    """Return {unit: [(a, b, pass_a, got, expected)]}, without the units that are right."""
    found = {}
    results = bench(a, b, pass_a)
    for oracle in oracles:
        expected = {operation: oracle(operation, a, b) for operation in ("add", "sub", "mul")}
        for key, got in results.items():
            right = expected[key[0]]
            if key[0] != "mul":
                right = np.where(pass_a, a, right)
            found.setdefault(key, []).extend(
                tuple(f"{int(values[i]):08x}" for values in (a, b, pass_a, got, right))
                for i in np.flatnonzero(got != right))
    return {key: wrong for key, wrong in found.items() if wrong}


def report(found):
    return {key: (len(wrong), wrong[:3]) for key, wrong in found.items()}


def batches(n, seed):
    print(f"TCAST_SEED={seed}")
    rng = np.random.default_rng(seed)
    for start in range(0, n, BATCH):
        size = min(BATCH, n - start)
        yield *random_pairs(rng, size), rng.integers(0, 8, size) == 0


@pytest.mark.parametrize("passing", [False, True])
def test_fp_units_round_all_pairs_of_corners(bench, passing):
    a, b = corner_pairs()
    assert len(a) == len(CORNERS) ** 2 and len(np.unique(CORNERS)) == len(CORNERS) >= 60
    assert not report(mismatches(bench, ORACLES, a, b, np.full(len(a), passing)))


def test_fp_units_round_random_operands(bench):
    for a, b, pass_a in batches(N_RANDOM, SEED):
        assert not report(mismatches(bench, ORACLES, a, b, pass_a))


def test_fp_units_agree_with_softfloat(bench):
    pytest.importorskip("softfloatpy")
    for a, b in (corner_pairs(), random_pairs(np.random.default_rng(SEED), BATCH)):
        assert not report(mismatches(bench, [by_softfloat], a, b, np.zeros(len(a), bool)))


def test_fp_vectors_reach_what_is_rare():
    """Each class of result and operand makes up at least a thousandth of the random vectors."""
    a, b = random_pairs(np.random.default_rng(SEED), BATCH)
    for operation in ("add", "sub", "mul"):
        result = by_apytypes(operation, a, b)
        exponent = result >> 23 & 0xFF
        finite = (a >> 23 & 0xFF < 255) & (b >> 23 & 0xFF < 255)
        with np.errstate(all="ignore"):
            exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[operation](
                *(values.view(np.float32).astype(np.longdouble) for values in (a, b)))
            rounded = result.view(np.float32)
            error = np.abs(exact - rounded.astype(np.longdouble))
            tie = finite & (error == np.spacing(np.abs(rounded)).astype(np.longdouble) / 2)
        classes = {
            "subnormal": (exponent == 0) & (result << 1 != 0),
            "zero": result << 1 == 0,
            "smallest normals": exponent == 1,
            "largest normals": exponent == 254,
            "overflow": finite & (exponent == 255),
            "nan": result == 0x7FC00000,
            "rounded": finite & (error > 0),
            "tie": tie,
        }
        rare = {name: int(hits.sum()) for name, hits in classes.items()
                if hits.sum() < BATCH // 1000}
        assert not rare, operation


@pytest.mark.parametrize("unit", UNITS.values(), ids=map(str, UNITS))
def test_fp_units_latency_is_the_number_of_stages(unit):
    assert unit.latency == unit.stages


@pytest.mark.parametrize("unit, most", [(Adder, 6), (Multiplier, 7)])
@pytest.mark.parametrize("wrong", [0, -1, 8, None, "2"])
def test_fp_units_refuse_other_stages(unit, most, wrong):
    with pytest.raises(ValueError, match=f"stages must be 1 to {most}, not {wrong!r}"):
        unit(wrong)
    gc.collect()


def test_fp_units_verilog_is_reproducible():
    assert verilog.convert(Adder(4)) == verilog.convert(Adder(4))


# Name -> unit, step, and what the step returns wrongly as a function of what it took and returned.
FAULTS = {
    "sum: fraction not compared": (
        Adder, "compare", lambda i, o: {"swap": i["b"][23:31] > i["a"][23:31]}),
    "sum: exponent of a subnormal is 0": (
        Adder, "unpack", lambda i, o: {"b_exponent": i["b"][23:31]}),
    "sum: passed infinity is special": (
        Adder, "limit", lambda i, o: {"special": i["exponent"] == 255}),
    "sum: long distance not limited": (
        Adder, "limit", lambda i, o: {"distance": i["distance"][:5]}),
    "sum: sticky bit dropped": (
        Adder, "align_4", lambda i, o: {"sticky": i["sticky"]}),
    "sum: complement without sticky bit": (
        Adder, "complement", lambda i, o: {"addend": Cat(i["sticky"], o["addend"][1:])}),
    "sum: subnormal normalised": (
        Adder, "survey", lambda i, o: {"free": Const(1, 1)}),
    "sum: subnormal one place short": (
        Adder, "decide", lambda i, o: {"stay": o["hidden"] | ~i["free"]}),
    "sum: overflow keeps its fraction": (
        Adder, "examine", lambda i, o: {"overflow": Const(0, 1)}),
    "sum: exponent of a subnormal sum": (
        Adder, "decide", lambda i, o: {"scaled": i["scaled"]}),
    "sum: tie rounds up": (
        Adder, "settle", lambda i, o: {"sticky": o["guard"]}),
    "sum: tie rounds down": (
        Adder, "settle", lambda i, o: {"guard": o["guard"] & o["sticky"]}),
    "sum: lowest bit not sticky": (
        Adder, "settle", lambda i, o: {"sticky": i["total"][1] | (i["stay"] & i["total"][2])}),
    "sum: infinity minus infinity": (
        Adder, "judge", lambda i, o: {"nan": i["special"] & i["fraction_any"]}),
    "sum: exact zero is negative": (
        Adder, "judge", lambda i, o: {"negative": i["negative"] & ~o["nan"]}),
    "product: exponent of a subnormal is 0": (
        Multiplier, "unpack", lambda i, o: {"exponents": i["a"][23:31] + i["b"][23:31] + 1}),
    "product: sign of NaN": (
        Multiplier, "pack", lambda i, o: {"o": Cat(o["o"][:31], i["negative"])}),
    "product: leading zero missed": (
        Multiplier, "count_1", lambda i, o: {"skip_1": Const(0, 1)}),
    "product: denormalised one place short": (
        Multiplier, "measure", lambda i, o: {"denormalise": (151 - i["exponents"])[:9]}),
    "product: long distance not limited": (
        Multiplier, "scale", lambda i, o: {"distance": i["denormalise"][:6]}),
    "product: exponent of zero": (
        Multiplier, "scale", lambda i, o: {"base": Mux(i["surplus"][-1], 0, i["surplus"][:9])}),
    "product: zero times infinity": (
        Multiplier, "classify", lambda i, o: {"nan": i["nan"]}),
    "product: overflow by one place": (
        Multiplier, "normalise", lambda i, o: {"infinite": i["infinite"]}),
    "product: subnormal normalised": (
        Multiplier, "normalise", lambda i, o: {"stay": o["hidden"]}),
    "product: sticky bit dropped, coarse": (
        Multiplier, "shift_coarse", lambda i, o: {"sticky": Const(0, 1)}),
    "product: sticky bit dropped, fine": (
        Multiplier, "shift_2", lambda i, o: {"sticky": i["sticky"]}),
    "product: sticky bit dropped, last place": (
        Multiplier, "decide", lambda i, o: {"sticky": i["sticky"]}),
    "product: tie rounds up": (
        Multiplier, "decide", lambda i, o: {"sticky": o["guard"]}),
}


def faulty(unit, step, change):
    """Return ``unit`` with the results of one of its steps changed."""
    right = unit.steps[step]

    @wraps(right)
    def wrong(**taken):
        results = right(**taken)
        return results | change(taken, results)

    unit.steps[step] = wrong
    return unit


@pytest.fixture(scope="module")
def faults_found():
    units = {("mul" if unit is Multiplier else "add", name): faulty(unit(1), step, change)
             for name, (unit, step, change) in FAULTS.items()}
    bench, found = Bench(units), set()
    a, b = corner_pairs()
    for operands in ((a, b, np.zeros(len(a), bool)), *batches(BATCH, SEED)):
        found |= {name for _, name in mismatches(bench, [by_apytypes], *operands)}
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_fp_units_planted_fault_is_found(faults_found, name):
    assert name in faults_found
