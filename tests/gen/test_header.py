"""The C header compiles in C and C++, and a C program packs what Python packs."""

import random
import re
import shutil
import subprocess

import pytest

from tcast.gen.header import header
from tcast.hw import descriptor, registers
from tcast.hw.config import EngineConfig

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
COMPILERS = [("gcc", "-std=c99"), ("gcc", "-std=c11"), ("g++", "-std=c++11"),
             ("g++", "-std=c++20")]


def compiled(tmp_path, config, source, compiler, standard):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "engine.h").write_text(header(config))
    path = tmp_path / ("main.cpp" if compiler == "g++" else "main.c")
    path.write_text(source)
    return subprocess.run([compiler, standard, *STRICT, path.name, "-o", "main"], cwd=tmp_path,
                          capture_output=True, text=True)


@pytest.mark.parametrize("struct, layout", [
    ("descriptor", descriptor.FIELDS), ("cast_descriptor", descriptor.CAST_FIELDS)])
@pytest.mark.parametrize("compiler, standard", COMPILERS)
def test_descriptor_of_c_is_that_of_python(tmp_path, tiny, compiler, standard, struct, layout):
    seed = 11
    print(f"SEED={seed}")
    source = random.Random(seed)
    values = {field.name: source.getrandbits(field.width) for field in layout}
    text = header(tiny)
    lines = []
    for field in layout:
        value = values[field.name]
        name = f"TCAST_{struct.upper()}_{field.name.upper()}"
        if f"{name}_SHIFT" in text:
            member = "dim" if field.name == "dim" else "flags"
            lines.append(f"d.{member} |= ((uint32_t){value:#x}u << {name}_SHIFT) & {name}_MASK;")
        else:
            lines.append(f"d.{field.name} = UINT64_C({value:#x});" if field.width == 64 else
                         f"d.{field.name} = {value:#x}u;")
    program = "\n".join([
        "#include <stdio.h>", "#include <string.h>", '#include "engine.h"', '#include "engine.h"',
        "int main(void) {", f"struct tcast_{struct} d;", "memset(&d, 0, sizeof d);", *lines,
        "return fwrite(&d, sizeof d, 1, stdout) != 1; }", ""])
    built = compiled(tmp_path, tiny, program, compiler, standard)
    assert built.returncode == 0, built.stderr
    data = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    assert data == descriptor.pack(values, layout)


@pytest.mark.parametrize("compiler, standard", COMPILERS[:1] + COMPILERS[2:3])
def test_registers_and_errors(tmp_path, tiny, compiler, standard):
    checks = [f"TCAST_{register.name.upper()} == {register.offset}"
              for register in registers.REGISTERS]
    checks += [f"TCAST_ERROR_CODE_{code.name} == {int(code)}" for code in registers.ErrorCode]
    checks += [f"TCAST_{name.upper()}_VALUE == {value}u"
               for name, value in registers.constant_values(tiny).items()]
    checks += [f"TCAST_CONFIG_{key.upper()} == {value}u" for key, value in tiny.as_dict().items()
               if key != "name"]
    for register in registers.REGISTERS:
        for field in register.fields:
            if field.name != "value":
                name = f"TCAST_{register.name.upper()}_{field.name.upper()}"
                checks += [f"{name}_MASK == {field.mask}u", f"{name}_SHIFT == {field.lsb}"]
    checks = [f"if (!({check})) return {n % 100 + 1};" for n, check in enumerate(checks)]
    prints = [f"puts(tcast_error_string({code}));" for code in range(len(registers.ErrorCode) + 1)]
    program = "\n".join(["#include <stdio.h>", '#include "engine.h"', "int main(void) {",
                         *checks, *prints, "return 0; }", ""])
    built = compiled(tmp_path, tiny, program, compiler, standard)
    assert built.returncode == 0, built.stderr
    text = subprocess.run([tmp_path / "main"], capture_output=True, check=True, text=True).stdout
    assert text.splitlines() == [doc.what for doc in registers.ERROR_DOC.values()] + \
        ["Unknown error."]


def test_a_wrong_layout_does_not_compile(tmp_path, tiny):
    """The static assertions are alive, also in C99."""
    text = header(tiny)
    for standard in ("-std=c99", "-std=c11"):
        broken = re.sub(r"uint32_t n_lookups;", "uint64_t n_lookups;", text)
        assert broken != text
        built = compiled(tmp_path, tiny, broken + "int main(void) { return 0; }\n", "gcc", standard)
        assert built.returncode != 0 and "tcast_descriptor" in built.stderr


def test_two_engines_in_one_translation_unit_are_refused(tmp_path, tiny):
    (tmp_path / "other.h").write_text(header(EngineConfig.preset("ddr512")))
    built = compiled(tmp_path, tiny, '#include "engine.h"\n#include "other.h"\n', "gcc", "-std=c99")
    assert built.returncode != 0 and "another engine" in built.stderr
