"""The unit tests find the faults that tests/planted_faults.py plants."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "planted_faults", Path(__file__).parent.parent / "planted_faults.py")
planted_faults = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(planted_faults)


@pytest.mark.long
@pytest.mark.parametrize("fault", planted_faults.FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_found(fault):
    assert fault.run()


def test_planted_faults_change_the_code():
    """Each text to be changed is there, once."""
    for fault in planted_faults.FAULTS:
        text = (planted_faults.ROOT / "hw" / fault.file).read_text()
        assert text.count(fault.old) == 1, fault.name
        assert fault.new != fault.old
