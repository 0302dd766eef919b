"""PyTorch: ``tcast.torch.EmbeddingBag``, a drop-in for ``torch.nn.EmbeddingBag``.

Importing this module imports PyTorch; nothing else in tcast does before it is used.
"""

from .host.torch_module import EmbeddingBag, InputError, InputTypeError

__all__ = ["EmbeddingBag", "InputError", "InputTypeError"]
