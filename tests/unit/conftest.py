"""Configurations small enough for pysim."""

import pytest
from tcast.hw.config import EngineConfig

#: The smallest of everything, so that every limit is met.
SMALL = EngineConfig(
    name="small_engine", data_width=64, dim_max=16, row_buffer_beats=64, old_buffer_beats=64,
    array_buffer_beats=16, write_buffer_beats=64, burst_beats_max=16, writes_outstanding=4,
    add_stages=1, mul_stages=1)


@pytest.fixture
def small():
    return SMALL


def pytest_collection_modifyitems(items):
    """Components that a test constructs only to see them refused are never elaborated."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(
            "ignore::amaranth.hdl.UnusedElaboratable"))
