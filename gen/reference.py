"""The reference: registers, descriptor, errors and counters as Markdown."""

from ..hw import descriptor, registers
from ..hw.fields import Access, enum_doc

__all__ = ["reference"]

_ACCESS = {
    Access.R: "read only; a write is answered with SLVERR",
    Access.RW: "read and write",
    Access.W1C: "reads the causes; writing 1 clears them",
    Access.W1S: "writing 1 sets it; only a hardware reset clears it",
    Access.PULSE: "writing 1 starts something; reads as 0",
}

_RULES = """\
All registers are 32 bits wide, at byte offsets from the AXI4-Lite base. 64-bit facts stand in two,
low half first. Bits without a field read as 0, and writes to them are ignored, as are the two
lowest address bits. A byte lane without its write strobe keeps its bits.

An access to an address without a register, a write to a register that is only read, and a write to
a locked window are answered with SLVERR and change nothing.

Fixed bits ignore what is written: the low 7 bits of ring_base and the low 12 bits of a window's
base are always 0, the low 12 bits of a window's limit always 1.
"""


def reference(config=None):
    """Return the reference as Markdown.

    Parameters
    ----------
    config : EngineConfig or None
        Whose identity and capabilities to show; None gives the reference of every engine.
    """
    title = "Registers and descriptor" if config is None else f"{config.name}: reference"
    parts = [f"# {title}", "<!-- Generated from hw/registers.py and hw/descriptor.py by "
             "tcast.gen.reference. Do not edit. -->"]
    if config is not None:
        parts += ["## Configuration", _table(
            ("field", "value"), config.as_dict().items())]
    constants = {} if config is None else registers.constant_values(config)
    parts += [
        "## Registers",
        f"Version {'.'.join(map(str, registers.VERSION))} of the map.",
        _RULES.strip(),
        _table(("access", "meaning"), _ACCESS.items()),
        _table(("offset", "register", "bits", "field", "access", "reset", "meaning"),
               _register_rows(constants)),
        "## Error codes",
        "`error_code` says what stopped the engine; the rest of the record depends on it. The "
        "first error is kept, until a soft reset.",
        _table(("code", "name", "what happened", "error_position", "error_value", "error_limit"),
               [(int(code), f"`{code.name}`", doc.what, doc.position, doc.value, doc.limit)
                for code, doc in registers.ERROR_DOC.items()]),
        "Readers, in the order in which they are served; the number is the AXI ID of their bursts:",
        _table(("ID", "reader"), [(int(r), f"`{r.name}`") for r in registers.Reader]),
        "Readers of the cast unit; on a shared port the AXI ID has bits 3 and 2 set as well:",
        _table(("ID", "cast reader"), [(int(r), f"`{r.name}`") for r in registers.CastReader]),
        "## Counters",
        "64 bits each, at `counter_<name>_lo` and `_hi`; set to 0 by control.clear_counters.",
        _table(("offset", "counter", "counts"),
               [(f"0x{registers.by_name()[f'counter_{name}_lo'].offset:03X}", f"`{name}`", doc)
                for name, doc in registers.COUNTERS + registers.CAST_COUNTERS]),
        "## Descriptor",
        f"{descriptor.DESCRIPTOR_BYTES} bytes in memory, little-endian. Bits without a field must "
        "be 0.",
        _table(("byte", "bits", "field", "meaning"), _descriptor_rows(descriptor.FIELDS)),
        "## Descriptor of a cast",
        "As many bytes, in the cast unit's ring.",
        _table(("byte", "bits", "field", "meaning"), _descriptor_rows(descriptor.CAST_FIELDS)),
    ]
    return "\n\n".join(parts) + "\n"


def _register_rows(constants):
    for register in registers.REGISTERS:
        if register.name.startswith("counter_"):
            continue  # they have their own table
        single = len(register.fields) == 1 and register.fields[0].name == "value"
        if not single:
            yield (f"0x{register.offset:03X}", f"`{register.name}`", "", "", "", "", register.doc)
        for field in register.fields:
            reset = constants.get(register.name, register.reset) >> field.lsb
            reset &= (1 << field.width) - 1
            shown = f"0x{reset:X}" if reset > 9 else str(reset)
            if not constants and register.name in ("config_hash", "capability") and not reset:
                shown = "configuration"
            yield (f"0x{register.offset:03X}" if single else "",
                   f"`{register.name}`" if single else "",
                   _bits(field.lsb, field.width),
                   "" if single else f"`{field.name}`",
                   field.access, shown, _doc(field))


def _descriptor_rows(layout):
    for field in layout:
        byte = field.lsb // 32 * 4
        yield (f"0x{byte:02X}", _bits(field.lsb - 8 * byte, field.width), f"`{field.name}`",
               _doc(field))


def _doc(field):
    return field.doc + (f" Values: {enum_doc(field.enum)}." if field.enum else "")


def _bits(lsb, width):
    return str(lsb) if width == 1 else f"{lsb + width - 1}:{lsb}"


def _table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |"
                     for line in lines)


if __name__ == "__main__":
    print(reference(), end="")
