"""switched-off.json: observers that have failed in the middle of what all processes do together, and have ended the run
by that. The next start of several processes goes on without them: a supervisor, or a scheduler that requeues, would
otherwise start a run again that ends at the same place each time."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint.facts import read_facts
from bigrun.directory import replace_file
from bigrun.errors import BigrunError, CheckpointError, RunDirectoryError
from bigrun.plugins import Failure

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["SWITCHED_OFF", "announce_switched_off", "switch_off", "switched_off"]

SWITCHED_OFF = "switched-off.json"


def switch_off(run: Run, failure: Failure) -> str:
    """For the next start; returns in words what that does."""
    noted = [*switched_off(run.directory).values(), failure]
    facts = run.config.redactor().value({"observers": [attrs.asdict(each) for each in noted]})
    try:
        replace_file(run.directory / SWITCHED_OFF, json.dumps(facts, indent=2).encode() + b"\n")
    except (OSError, RunDirectoryError) as error:
        return f"do without it (--no-plugin {failure.plugin}), for it could not be noted ({error})"
    path = run.directory / SWITCHED_OFF
    return f"the next start in several processes goes on without it, for {path} names it, with its traceback"


def switched_off(directory: Path, observers: Collection[str] | None = None) -> dict[str, Failure]:
    """What is noted of these observers, by name; of all if None. A note that cannot be read says nothing."""
    found, _ = read_note(directory)
    return {name: failure for name, failure in found.items() if observers is None or name in observers}


def read_note(directory: Path) -> tuple[dict[str, Failure], str | None]:
    """What is noted, and why that is not known."""
    path = directory / SWITCHED_OFF
    if not path.exists():
        return {}, None
    try:
        facts: Any = read_facts(path)
        failures = [Failure(**each) for each in facts["observers"]]
    except (CheckpointError, RunDirectoryError, KeyError, TypeError) as error:
        return {}, str(error) if isinstance(error, BigrunError) else f"{path}: is not what bigrun writes"
    return {each.plugin: each for each in failures}, None


def announce_switched_off(run: Run) -> None:
    """Say who stays switched off, why, and how that is undone."""
    found, problem = read_note(run.directory)
    if problem is not None:
        run.event("switched-off", f"nobody is switched off from the start: {problem}", "warning")
    for name, failure in found.items():
        if name in run.plugins.failures:
            run.event(
                "switched-off",
                f"observer {name} stays switched off: it failed in {failure.hook} at step {failure.step} in the middle "
                f"of what all processes do together: {failure.error}; to try it again delete "
                f"{run.directory / SWITCHED_OFF}",
                "warning",
                plugin=name,
                hook=failure.hook,
                failed_at_step=failure.step,
            )
