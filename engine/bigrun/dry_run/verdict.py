"""What a dry run comes to: ready, look at this, or not ready. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from bigrun.errors import ExitCode

if TYPE_CHECKING:
    from bigrun.dry_run.rehearse import DryRun

__all__ = ["Verdict", "judge"]

WAIT = 0.1
"""Share of a step that is worth a word when it waits for data."""
LOW_ROOM = 2
"""Checkpoints; a save should find room for two."""


@attrs.frozen
class Verdict:
    """With its reasons."""

    problems: tuple[str, ...]
    """Why the run should not be started."""
    remarks: tuple[str, ...]
    """What to look at first."""

    @property
    def word(self) -> str:
        return "not ready" if self.problems else "look at this" if self.remarks else "ready"

    @property
    def exit_code(self) -> int:
        return int(ExitCode.ERROR if self.problems else ExitCode.FINISHED)


def judge(found: DryRun) -> Verdict:
    """Everything that was seen, weighed."""
    return Verdict(tuple(problems(found)), tuple(dict.fromkeys(remarks(found))))


def problems(found: DryRun) -> Iterator[str]:
    if found.error is not None:
        yield found.error
    trained = found.trained
    if trained is None:
        return
    if trained["steps"] < found.steps:
        yield f"it stopped after step {trained['steps']} of {found.steps}: {trained['stop_reason']}"
    lost = [step for step, row in trained["rows"].items() if not isinstance(row.get("loss"), float)]
    if lost:
        yield f"the loss was not finite, or the step was left out: {', '.join(lost)}"
    if "checkpoint" not in trained:
        yield "no checkpoint was saved"
    comparison, resumed = found.comparison, found.resumed
    if comparison is None or resumed is None:
        return
    if "states" not in resumed:
        before = "" if comparison.steps else ", before a step could be compared"
        yield f"resume: it stopped after step {resumed['steps']}{before}: {resumed['stop_reason']}"
    if (comparison.steps or comparison.parts) and not comparison.is_good(is_gpu=trained["is_gpu"]):
        yield from resume_problems(found)


def resume_problems(found: DryRun) -> Iterator[str]:
    comparison, trained = found.comparison, found.trained
    assert comparison is not None
    assert trained is not None
    text = f"the run that was continued from its checkpoint is another: {difference(found)}"
    lost = (*comparison.parts, *comparison.plugins)
    if lost:
        text += f"; state that was not restored: {', '.join(lost)}"
    elif trained["stateless"]:
        text += f"; plugins that save no state of their own: {', '.join(trained['stateless'])}"
    yield text


def difference(found: DryRun) -> str:
    """In words: which metrics, and how far the losses are apart."""
    comparison = found.comparison
    assert comparison is not None
    if not comparison.steps:
        return "no step was taken from it"
    names = f"{', '.join(comparison.differing)} differ" if comparison.differing else "all losses are the same"
    return f"{names} (loss {show(comparison.resumed_loss)} instead of {show(comparison.loss)})"


def show(value: float | str | None) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def remarks(found: DryRun) -> Iterator[str]:
    yield from found.notes
    trained, comparison = found.trained, found.comparison
    if trained is None:
        yield from found.config.warnings
        return
    yield from (line.split(maxsplit=1)[1] for line in trained["header"] if line.startswith("warning "))
    yield from trained["warnings"]
    yield from (f"observer {name} failed: {error}" for name, error in trained["failures"].items())
    if trained.get("room", LOW_ROOM) < LOW_ROOM:
        yield "the disk has room for one checkpoint, and a save should find room for two"
    if comparison is not None and not comparison.is_exact and comparison.is_good(is_gpu=trained["is_gpu"]):
        yield (
            f"after the resume {difference(found)}: {comparison.apart:.2g} of it, and {comparison.norm_apart:.2g} of "
            "the norm of the gradients, as sums of a GPU may be"
        )
    waits = [timing["data_wait_fraction"] for step, timing in trained["timings"].items() if int(step) > 1]
    if waits and sum(waits) / len(waits) > WAIT:
        yield f"{sum(waits) / len(waits):.0%} of the time waits for images: see data.workers"
