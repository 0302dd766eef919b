"""The manifest: everything a script wants to know about an emitted engine, as JSON."""

import json
from dataclasses import asdict

from ..hw import descriptor, registers
from .verilog import engine_signature, signature_ports, tool_versions

__all__ = ["manifest", "manifest_text"]

#: Version of the manifest's own layout; the number rises when a key changes its meaning.
FORMAT = 1


def manifest(config):
    """Return the manifest of ``config`` as a dict of JSON types.

    Parameters
    ----------
    config : EngineConfig
        What the engine is generated from.

    Returns
    -------
    dict
        ``format``, ``name``, ``config``, ``config_hash``, ``derived``, ``ports`` (name, direction,
        width), ``registers`` (offset, reset value, fields), ``counters`` (name to the offset of
        its low half), ``descriptor`` (size, fields by bit position), ``errors``, ``readers``,
        ``tools``.
    """
    by_name = registers.by_name()
    constants = registers.constant_values(config)
    return {
        "format": FORMAT,
        "name": config.name,
        "config": config.as_dict(),
        "config_hash": config.hash,
        "derived": config.derived.as_dict(),
        "ports": [asdict(port) for port in signature_ports(engine_signature(config))],
        "register_map_version": list(registers.VERSION),
        "registers": [
            {"name": register.name, "offset": register.offset, "doc": register.doc,
             "reset": constants.get(register.name, register.reset),
             "fields": [_field(field, access=field.access, reset=field.reset, fixed=field.fixed)
                        for field in register.fields]}
            for register in registers.REGISTERS],
        "counters": {name: by_name[f"counter_{name}_lo"].offset
                     for name, _ in registers.COUNTERS + registers.CAST_COUNTERS},
        "descriptor": {"bytes": descriptor.DESCRIPTOR_BYTES,
                       "fields": [_field(field) for field in descriptor.FIELDS]},
        "cast_descriptor": {"bytes": descriptor.DESCRIPTOR_BYTES,
                            "fields": [_field(field) for field in descriptor.CAST_FIELDS]},
        "errors": [{"code": int(code), "name": code.name, **asdict(doc)}
                   for code, doc in registers.ERROR_DOC.items()],
        "readers": {reader.name: int(reader) for reader in registers.Reader},
        "cast_readers": {reader.name: int(reader) for reader in registers.CastReader},
        "tools": tool_versions(),
    }


def manifest_text(config):
    """Return :func:`manifest` as JSON text."""
    return json.dumps(manifest(config), indent=2, ensure_ascii=False) + "\n"


def _field(field, **more):
    values = {} if field.enum is None else {
        "values": {member.name: int(member) for member in field.enum}}
    return {"name": field.name, "lsb": field.lsb, "width": field.width, "doc": field.doc,
            **values, **more}
