"""A checkpoint to look at while its run may remove it: then the newest one that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bigrun.checkpoint.layout import holds_checkpoint
from bigrun.errors import BigrunError, DamagedCheckpointError
from bigrun.evaluation.visit import Visit
from bigrun.export.source import find_checkpoint
from bigrun.markers import hookimpl
from bigrun.refusals import reading

if TYPE_CHECKING:
    from bigrun.events import Event

__all__ = ["ATTEMPTS", "Warnings", "with_checkpoint"]

ATTEMPTS = 3
"""Checkpoints of a running job that are tried, one after the other, when it removes them meanwhile."""

T = TypeVar("T")


class Warnings:
    """A companion that says what is wrong while a checkpoint is looked at."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.level != "info":
            self.say(f"{event.level:<12} {event.message}")


def with_checkpoint(path: Path, say: Callable[[str], None], look: Callable[[Visit], T]) -> T:
    """What `look` makes of a checkpoint, or of the newest verified one of a run directory.

    Raises:
        UsageError: `path` is neither, or cannot be read.
        DamagedCheckpointError: it is damaged, or its run has removed it.
        BigrunError: `look` has raised it, and the checkpoint is still there.
    """
    with reading(path):
        is_run = not holds_checkpoint(path.resolve())
    for attempt in range(1, ATTEMPTS + 1):
        checkpoint = find_checkpoint(path, say)
        try:
            return look(Visit.of(checkpoint, is_verified=is_run))
        except BigrunError as error:
            if holds_checkpoint(checkpoint):
                raise
            if not is_run or attempt == ATTEMPTS:
                text = f"{checkpoint}: its run has removed it meanwhile ({error})"
                raise DamagedCheckpointError(text) from error
            say(f"gone         {checkpoint}: its run has removed it meanwhile; taking the newest that is there now")
    raise AssertionError
