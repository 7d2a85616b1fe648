"""Whether a directory is that of a run, and what can be read of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bigrun.checkpoint.facts import read_facts
from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG, EMERGENCY, MANIFEST, is_run
from bigrun.errors import CheckpointError, UsageError
from bigrun.evaluation.outcome import MONITOR
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading

__all__ = ["check_is_run", "is_run_alone", "unreadable_folders"]


def check_is_run(directory: Path) -> None:
    """Refuse a directory without a run, and name the one that was meant.

    Raises:
        UsageError: no run was begun there, it is a checkpoint or what was measured of one, or it may not be entered.
    """
    with reading(directory):
        if is_run_alone(directory):
            return
        if not is_run(directory):
            hint = did_you_mean_path(directory, is_run_alone)
            raise UsageError(
                f"{directory}: no run (there is no {CONFIG}){hint}; expected a run directory, as runs/vit_large"
            )
        raise UsageError(f"{directory}: is {what_else(directory)}")


def is_run_alone(directory: Path) -> bool:
    """Whether a run was begun there: a checkpoint has a configuration as well, and so has what was measured of one.

    Raises:
        OSError: the folder may not be entered.
    """
    return is_run(directory) and not any((directory / name).is_file() for name in (MANIFEST, MONITOR))


def what_else(directory: Path) -> str:
    """What a directory with a configuration is that is no run, and what to give instead."""
    if (directory / MANIFEST).is_file():
        home = run_of(directory)
        if home is None:
            return f"a checkpoint, and no run; `bigrun monitor {directory}` looks at it"
        return f"a checkpoint of the run {home}: give {home} (or `bigrun monitor {directory}`)"
    checkpoint = measured(directory)
    home = None if checkpoint is None else run_of(checkpoint)
    of = "a checkpoint" if checkpoint is None else str(checkpoint)
    advice = "give the run that it is of" if home is None else f"give the run, {home}"
    return f"what `bigrun monitor` wrote of {of}: {advice}"


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in; None for one that was moved out of it."""
    folder = checkpoint if checkpoint.parent.name else checkpoint.absolute()
    home = folder.parent.parent
    return home if folder.parent.name in (CHECKPOINTS, EMERGENCY) and is_run(home) else None


def measured(directory: Path) -> Path | None:
    """The checkpoint that a visit was of; None where it does not say so."""
    try:
        facts = read_facts(directory / MONITOR)
    except CheckpointError:
        return None
    name = facts.get("checkpoint") if isinstance(facts, dict) else None
    return Path(name) if isinstance(name, str) and name else None


def unreadable_folders(directory: Path) -> Iterator[str]:
    """`checkpoints/ cannot be read (Permission denied)` of each folder of checkpoints that is there and refuses."""
    for name in (CHECKPOINTS, EMERGENCY):
        try:
            os.listdir(directory / name)  # noqa: PTH208 - whether it can be
            os.stat(f"{directory / name}/.")  # noqa: PTH116 - pathlib drops the dot: whether it may be entered
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield f"{name}/ cannot be read ({error.strerror or error})"
