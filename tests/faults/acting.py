"""Something happens before a step, or after it; and what is left of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigrun import hookimpl
from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import parse_step
from bigrun.checkpoint.store import CheckpointStore
from bigrun.testing.runner import RunResult

__all__ = ["Acting", "StopAt", "contents", "events", "only_whole_checkpoints", "same_state"]


class Acting:
    """Does what a test wants before the steps it names; waits before some for what the saver's thread is doing."""

    def __init__(self, actions: Mapping[int, Callable[[], object]], *, wait_before: tuple[int, ...] = ()) -> None:
        self.actions = actions
        self.wait_before = wait_before

    @hookimpl(tryfirst=True)
    def before_step(self, run: Any, step: int) -> None:
        if step in self.wait_before:
            wait_for_the_thread(run)
        if step in self.actions:
            self.actions[step]()


def wait_for_the_thread(run: Any) -> None:
    """Until the save that is going on has ended, however it has; the run does not know yet."""
    pending, deadline = run.saver._pending, time.monotonic() + 60
    while pending is not None and not pending.future.done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class StopAt:
    """Asks the run to stop after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        if step == self.step:
            run.request_stop("test")


def events(result: RunResult, kind: str) -> list[Any]:
    return [event for event in result.events if event.kind == kind]


def only_whole_checkpoints(directory: Path) -> list[int]:
    """The steps of a run's checkpoints, all of which verify; there is nothing else beside them."""
    checkpoints = directory / "checkpoints"
    for path in checkpoints.iterdir():
        assert parse_step(path.name) is not None, f"{path.name} is left"
        assert manifest.verify(path) == []
    return CheckpointStore(checkpoints).steps()


def contents(directory: Path, step: int) -> dict[str, str]:
    """The sha256 of every file of a checkpoint but those that name folders, times and commands."""
    files = manifest.read(CheckpointStore(directory / "checkpoints").path(step)).files
    return {name: record.sha256 for name, record in files.items() if name not in ("config.toml", "provenance.json")}


def same_state(one: RunResult, other: RunResult, step: int) -> bool:
    """Whether two runs have the same checkpoint bit for bit: networks, optimizer, centres, place in the data, metrics
    that wait, plugins' states."""
    return contents(one.directory, step) == contents(other.directory, step)
