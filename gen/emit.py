"""Everything a user takes away of one engine, written together or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from .header import header
from .manifest import manifest_text
from .reference import reference
from .verilog import emit_verilog

__all__ = ["emit"]


def emit(config, directory):
    """Write the files of ``config`` and return their paths.

    They are ``NAME.v``, ``NAME.json`` (manifest), ``NAME.h`` (C header) and ``NAME.md``
    (reference), NAME being ``config.name``. Files of these names are replaced; nothing is touched
    where generating or writing fails.

    Parameters
    ----------
    config : EngineConfig
        What to generate.
    directory : path-like
        Where; made if it does not exist, with its parents.

    Raises
    ------
    OSError
        The directory cannot be made or written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # Beside their destination, so that the renames stay inside one file system. Made before the
    # slow part, so that an unwritable directory is refused at once.
    staging = Path(tempfile.mkdtemp(prefix=".tcast-", dir=directory))
    try:
        texts = {
            ".v": emit_verilog(config),
            ".json": manifest_text(config),
            ".h": header(config),
            ".md": reference(config),
        }
        names = [f"{config.name}{suffix}" for suffix in texts]
        for name, text in zip(names, texts.values(), strict=True):
            (staging / name).write_text(text, encoding="utf-8", newline="\n")
        for name in names:
            os.replace(staging / name, directory / name)
    finally:
        shutil.rmtree(staging)
    return [directory / name for name in names]
