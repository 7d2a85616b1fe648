"""How far a run has come that writes no log, as its checkpoints tell."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bigrun.checkpoint.facts import read_facts
from bigrun.checkpoint.layout import CHECKPOINTS, holds_checkpoint, parse_step
from bigrun.errors import CheckpointError
from bigrun.record.pace import whole
from bigrun.saved import SAVED

__all__ = ["newest_saved"]


def newest_saved(directory: Path) -> int | None:
    """The step of the newest checkpoint; where the folder of them is gone, of that which was published last. None where
    there was none."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        paths = [path for path in (directory / CHECKPOINTS).iterdir() if holds_checkpoint(path)]
        found = [step for path in paths if (step := parse_step(path.name)) is not None]
    if found:
        return max(found)
    with contextlib.suppress(CheckpointError):
        facts = read_facts(directory / SAVED)
        return whole(facts.get("step")) if isinstance(facts, dict) else None
    return None
