"""EngineConfig: what it refuses, and what follows from it."""

import pytest

from tcast.hw.config import PRESETS, EngineConfig


@pytest.mark.parametrize("field, value, words", [
    ("data_width", 96, "64, 128, 256, 512 or 1024"),
    ("data_width", 512.0, "must be an int"),
    ("dim_max", 48, "a power of two"),
    ("dim_max", 16, "from 32"),
    ("dim_max", 2048, "to 1024"),
    ("row_buffer_beats", 100, "a power of two"),
    ("row_buffer_beats", 64, "from 128"),
    ("array_buffer_beats", 8, "from 16"),
    ("write_buffer_beats", 8192, "to 4096"),
    ("burst_beats_max", 128, "to 64"),
    ("burst_beats_max", 1, "from 2 (a descriptor)"),
    ("writes_outstanding", 2, "from 4"),
    ("add_stages", 7, "1 to 6"),
    ("mul_stages", 0, "1 to 7"),
    ("add_stages", True, "must be an int"),
    ("name", "module", "no keyword"),
    ("name", "größe", "ASCII"),
    ("name", "4x", "Verilog identifier"),
    ("name", "", "Verilog identifier"),
    ("name", 7, "Verilog identifier"),
])
def test_bad_value_is_refused_by_name(field, value, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        EngineConfig(**{field: value})
    assert str(caught.value).startswith(f"{field} must be")
    assert words in str(caught.value)
    assert repr(value) in str(caught.value)


def test_unknown_preset_names_those_that_exist():
    with pytest.raises(ValueError, match="tiny64, ecp5-128, hbm256, ddr512, not 'big'"):
        EngineConfig.preset("big")


def test_hash_tells_hardware_apart_but_not_names():
    hashes = {config.hash for config in PRESETS.values()}
    assert len(hashes) == len(PRESETS)
    assert EngineConfig(name="a").hash == EngineConfig(name="b").hash
    # Drivers in the field compare it: it must not change by accident.
    assert EngineConfig().hash == EngineConfig.preset("ddr512").hash


@pytest.mark.parametrize("name", PRESETS)
def test_derived_numbers(name):
    config = EngineConfig.preset(name)
    derived = config.derived
    assert derived.lanes * 4 == derived.beat_bytes == 1 << derived.beat_bytes_log2
    assert derived.row_beats_max * derived.lanes == config.dim_max
    assert derived.row_beats_max - 1 < 1 << derived.col_width
    assert derived.row_beats_max < 1 << derived.row_beats_width
    assert derived.page_beats * derived.beat_bytes == 4096
    assert derived.array_burst_beats <= config.array_buffer_beats // 4


@pytest.mark.parametrize(("preset", "larger"), [
    ("ddr512", ()), ("ecp5-128", ("old_buffer_beats",))])
def test_presets_are_those_of_a_latency_of_256(preset, larger):
    config = PRESETS[preset]
    sized = EngineConfig.for_latency(256, data_width=config.data_width)
    for name in ("row_buffer_beats", "old_buffer_beats", "array_buffer_beats",
                 "writes_outstanding"):
        if name in larger:
            assert getattr(config, name) > getattr(sized, name)
        else:
            assert getattr(config, name) == getattr(sized, name), name


def test_buffers_grow_with_latency_and_shorter_rows():
    short, long = (EngineConfig.for_latency(n) for n in (20, 500))
    assert short.row_buffer_beats == 128 and long.row_buffer_beats == 1024
    assert short.writes_outstanding == 32 and long.writes_outstanding == 512
    assert EngineConfig.for_latency(500, row_bytes=512).writes_outstanding == 64
    assert EngineConfig.for_latency(20, row_buffer_beats=256).row_buffer_beats == 256
    with pytest.raises(ValueError, match="latency must be an int above 0, not 0"):
        EngineConfig.for_latency(0)


@pytest.mark.parametrize(("cast_port", "expected"), [(0, 0), (1, 1), (2, 1)])
def test_on_one_port_keeps_the_cast_unit(cast_port, expected):
    config = EngineConfig(cast_port=cast_port)
    assert config.on_one_port() == EngineConfig(cast_port=expected)
