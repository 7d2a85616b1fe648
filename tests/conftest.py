"""The default suite runs in two processes (pytest-xdist): torch takes one thread in each, and in whatever they start.
Two with two threads each on two cores were ten times slower."""

import gc
import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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
