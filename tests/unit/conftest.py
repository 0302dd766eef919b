"""What all unit tests share."""

import pytest
from stream_bench import SMALL


@pytest.fixture
def small():
    return SMALL


def pytest_collection_modifyitems(items):
    """Components that a test constructs only to look at them are never elaborated."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable"))
