"""The default suite runs in two processes (pytest-xdist): torch takes one thread in each, and in whatever they start.
Two with two threads each on two cores were ten times slower."""

import gc
import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONG = ("third_party_checks", "tests", "docs", "faults", "benchmarks")
"""Folders of tests that start processes, build or install."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end. Python's garbage collector need not look at it: with 800,000 objects it took
    half of the time of collecting, and a third of that of short runs."""
    import hypothesis  # noqa: F401 - pytest's plugin does it at the end, and it asks the collector who refers to what

    gc.disable()
    try:
        return (yield)
    finally:
        keep()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests that take long come first: at the end one would be waited for alone. (xdist's own order is by
    the number of tests.)"""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """So does what the tests of a file have imported."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        keep()
    return result


def keep() -> None:
    """Let the garbage collector pass over everything that is there."""
    gc.collect()
    gc.freeze()
