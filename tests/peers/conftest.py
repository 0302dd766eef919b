"""Where the tensors of a test are: on the CPU, on a stand-in for a GPU, on a GPU.

The stand-in proves the way to a GPU but for the GPU: CPU tensors go the way of CUDA tensors, as
arrays of a type of their own, and every call must come on PyTorch's device and stream.
"""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from torch_cases import reason_without_cuda

from tcast import golden
from tcast.host.golden_backend import GoldenDevice

try:
    import torch

    from tcast.host import torch_module
except ImportError:
    torch = None


class GpuArray(np.ndarray):
    """An array "on the GPU": NumPy's, but of another type."""


class StandInCupy:
    """What the bridge uses of CuPy; keeps whether it is used on the right device and stream."""

    ndarray = GpuArray
    __name__ = "cupy"

    def __init__(self):
        self.entered, self.shared, self.streams = [], [], []
        self.cuda = SimpleNamespace(
            Device=lambda index: self._entering(("device", index)),
            Stream=SimpleNamespace(null=self._entering(("stream", 0))),
            ExternalStream=self._external)

    def _external(self, handle, index):
        warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
        self.streams.append(handle)
        return self._entering(("stream", handle))

    def _entering(self, what):
        class Context:
            def __enter__(_):
                self.entered.append(what)

            def __exit__(_, *exc):
                assert self.entered.pop() == what
        return Context()

    def check_scope(self):
        expected = torch.cuda.current_stream(None).cuda_stream
        assert self.entered == [("device", 0), ("stream", expected)]

    def from_dlpack(self, tensor):
        self.check_scope()
        assert not tensor.requires_grad and tensor.numel()
        self.shared.append(tensor.data_ptr())
        return tensor.numpy().view(GpuArray)

    def empty(self, shape, dtype):
        self.check_scope()
        return np.empty(shape, dtype).view(GpuArray)

    def __getattr__(self, name):
        return getattr(np, name)


class StandInDevice(GoldenDevice):
    """Takes and returns arrays "on the GPU" alone."""

    def __init__(self, cupy):
        for name in ("embedding_bag", "cast", "casted_gather_reduce", "backward_update"):
            setattr(self, name, self._checked(cupy, getattr(super(), name)))

    @staticmethod
    def _checked(cupy, operation):
        def bare(value):
            if isinstance(value, golden.Casting):
                return golden.Casting(**{key: bare(item) for key, item in vars(value).items()})
            if isinstance(value, np.ndarray):
                assert type(value) is GpuArray
                return value.view(np.ndarray)
            return value

        def on_gpu(value):
            if isinstance(value, golden.Casting):
                return golden.Casting(**{key: on_gpu(item) for key, item in vars(value).items()})
            return value.view(GpuArray) if isinstance(value, np.ndarray) else value

        def call(*arguments):
            cupy.check_scope()
            return on_gpu(operation(*map(bare, arguments)))
        return call


@pytest.fixture
def stand_in(monkeypatch):
    """CPU tensors go the way of CUDA tensors, to a stand-in for CuPy."""
    cupy = StandInCupy()
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch_module, "load_cupy", lambda: cupy)
    monkeypatch.setattr(torch_module, "CupyDevice", lambda: StandInDevice(cupy))
    bridge = torch_module._CudaBridge(torch.device("cpu", 0))
    monkeypatch.setattr(torch_module, "_bridge", lambda device: bridge)
    cupy.stream = stream
    return cupy


@pytest.fixture(params=["cpu", "stand_in", "cuda"])
def device(request):
    """The torch device of the tensors."""
    if request.param == "cuda":
        reason = reason_without_cuda()
        if reason:
            pytest.skip(reason)
        return torch.device("cuda", 0)
    if request.param == "stand_in":
        request.getfixturevalue("stand_in")
    return torch.device("cpu")
