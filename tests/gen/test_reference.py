"""The Markdown reference is complete, and docs/registers.md is up to date."""

from pathlib import Path

from tcast.gen.reference import reference
from tcast.hw import descriptor, registers

DOCS = Path(__file__).parents[2] / "docs" / "registers.md"


def test_docs_are_up_to_date():
    assert DOCS.read_text(encoding="utf-8") == reference(), \
        "run: python -m tcast.gen.reference > docs/registers.md"


def test_everything_is_in_it(tiny):
    for text in (reference(), reference(tiny)):
        for register in registers.REGISTERS:
            if not register.name.startswith("counter_"):
                assert f"| 0x{register.offset:03X} | `{register.name}` |" in text
        for name, doc in registers.COUNTERS + registers.CAST_COUNTERS:
            assert f"| `{name}` | {doc} |" in text
        for code, doc in registers.ERROR_DOC.items():
            assert f"| {int(code)} | `{code.name}` | {doc.what} | {doc.position} |" in text
        for field in descriptor.FIELDS:
            assert f"| `{field.name}` | {field.doc}" in text


def test_tables_are_rectangular(tiny):
    tables, width = 0, None
    for line in reference(tiny).splitlines():
        if line.startswith("|"):
            cells = line.replace(r"\|", "").count("|")
            tables += width is None
            assert width in (None, cells), line
            width = cells
        else:
            width = None
    assert tables == 9


def test_a_configuration_shows_its_values(tiny):
    assert f"0x{tiny.hash:X}" in reference(tiny)
    assert f"0x{tiny.hash:X}" not in reference()
    assert "| data_width | 64 |" in reference(tiny)
