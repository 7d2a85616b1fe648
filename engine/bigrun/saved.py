"""saved.json: the step whose checkpoint was published last, beside the folder of checkpoints, which may be gone.

It is moved, is not copied with the rest, or is on a disk that is not mounted.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from bigrun.checkpoint.facts import read_facts
from bigrun.checkpoint.layout import CHECKPOINTS
from bigrun.directory import replace_file
from bigrun.errors import CheckpointError, RunDirectoryError

__all__ = ["SAVED", "check_not_lost", "note_saved"]

SAVED = "saved.json"


def note_saved(directory: Path, step: int) -> None:
    """Write it down; on a disk that refuses, the older note says enough."""
    with contextlib.suppress(RunDirectoryError):
        replace_file(directory / SAVED, json.dumps({"step": step}).encode() + b"\n")


def check_not_lost(directory: Path) -> None:
    """Before a run begins at step 0 in a directory without checkpoints.

    Raises:
        RunDirectoryError: there have been some.
    """
    path = directory / SAVED
    if not path.exists():
        return
    try:
        step = read_facts(path)["step"]
    except (CheckpointError, TypeError, KeyError):
        step = "?"
    raise RunDirectoryError(
        f"{directory / CHECKPOINTS}: there is no checkpoint, but that of step {step} was saved there (see {SAVED}): "
        f"put the folder back, or mount its disk, to continue the run; start beside it with --fresh; or remove {path} "
        "to begin at step 0 here"
    )
