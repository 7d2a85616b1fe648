"""The default suite runs in two processes (pytest-xdist): torch takes one thread in each, and in whatever they start.
Two with two threads each on two cores were ten times slower."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


SLOW = "test_two_processes_are_one"
"""Of the contracts of built-in plugins; tests/plugins/test_several_processes.py has most of them in one run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname == SLOW:
            item.add_marker(pytest.mark.slow)
