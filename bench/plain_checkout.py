"""Imported for its effect: ``import tcast`` works from a checkout that is not installed.

The subpackages of tcast are top-level folders here, which an installation maps; see pyproject.toml.
"""

import sys
from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parent.parent

try:
    import tcast.golden
except ModuleNotFoundError:
    sys.modules.pop("tcast", None)
    sys.path.insert(0, str(ROOT))
    import tcast
    tcast.__path__.append(str(ROOT))
