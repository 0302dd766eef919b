"""Marks of the tests."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; run by `make test-long`")
