"""``tcast emit``: write the Verilog of an engine, with its manifest, C header and reference."""

import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from ..hw.config import PRESETS, EngineConfig
from .console import (
    Json,
    fail,
    out,
    parse_settings,
    print_json,
    print_table,
    progress,
    refused,
)

__all__ = ["field_doc", "register"]

_FIELDS = tuple(field.name for field in fields(EngineConfig))


def field_doc(name):
    """Return the meaning and range of a configuration field, from the class's docstring."""
    entry = re.search(rf"^    {name} : (\w+)\n((?:        .*\n)+)", EngineConfig.__doc__, re.M)
    return " ".join(entry[2].split())


def register(app):
    """Add the command."""

    @app.command()
    def emit(
        preset: Annotated[str, typer.Option(
            help=f"Configuration to start from: {', '.join(PRESETS)}.")] = "",
        settings: Annotated[list[str] | None, typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a field of it; may be repeated.")] = None,
        output: Annotated[Path | None, typer.Option(
            "--output", "-o", metavar="DIR", help="Directory to write to.")] = None,
        list_presets: Annotated[bool, typer.Option(
            "--list-presets", help="Show the presets and end.")] = False,
        explain: Annotated[str, typer.Option(
            metavar="FIELD", help="Say what a field means, show its presets and end.")] = "",
        as_json: Json = False,
    ):
        """Write NAME.v, NAME.json, NAME.h and NAME.md."""
        if list_presets:
            _list_presets(as_json)
        elif explain:
            _explain(explain, as_json)
        elif not preset:
            fail(f"--preset must name one of {', '.join(PRESETS)}")
        elif output is None:
            fail("-o must name the directory to write to")
        else:
            with refused(ValueError, TypeError):
                config = replace(EngineConfig.preset(preset),
                                 **parse_settings(settings or (), _FIELDS))
            _emit(config, output, as_json)


def _emit(config, directory, as_json):
    try:
        from ..gen.emit import emit
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != "amaranth":
            raise
        fail("emit needs Amaranth: pip install 'tcast[sim]'")
    with progress() as bar:
        bar.add_task(f"generating {config.name}", total=None)
        with refused(OSError):
            paths = emit(config, directory)
    files = [{"path": str(path), "bytes": path.stat().st_size,
              "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths]
    if as_json:
        print_json({"name": config.name, "config": config.as_dict(), "config_hash": config.hash,
                    "files": files})
    else:
        print_table(("file", ">bytes", "SHA-256"),
                    [(file["path"], f"{file['bytes']:,}", file["sha256"][:16]) for file in files],
                    title=f"{config.name}, configuration hash {config.hash:#010x}")


def _list_presets(as_json):
    if as_json:
        print_json({name: config.as_dict() for name, config in PRESETS.items()})
        return
    print_table(("field", *(f">{name}" for name in PRESETS)),
                [(field, *(getattr(config, field) for config in PRESETS.values()))
                 for field in _FIELDS])


def _explain(field, as_json):
    if field not in _FIELDS:
        fail(f"--explain must name one of {', '.join(_FIELDS)}, not {field!r}")
    values = {name: getattr(config, field) for name, config in PRESETS.items()}
    default = getattr(EngineConfig(), field)
    if as_json:
        print_json({"field": field, "doc": field_doc(field), "default": default,
                    "presets": values})
        return
    out.print(f"{field}: {field_doc(field)}")
    out.print(f"Default {default}; " + ", ".join(f"{name} {value}"
                                                 for name, value in values.items()) + ".")
