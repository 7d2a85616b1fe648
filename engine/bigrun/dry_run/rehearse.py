"""`bigrun run --dry-run`: plan, train, save, verify and resume, each for real, in a directory that goes away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from bigrun.activation import activate
from bigrun.config import Config, Document
from bigrun.directory import check_directory, choose_directory
from bigrun.dry_run.comparison import Comparison, compare
from bigrun.dry_run.merged import merged
from bigrun.dry_run.places import places
from bigrun.dry_run.scratch import scratch_directory
from bigrun.dry_run.together import ask_together
from bigrun.dry_run.written import Written, look_at_files
from bigrun.errors import ExitCode, UsageError
from bigrun.lock import holder
from bigrun.overrides import override
from bigrun.planner.sharing import Sharing
from bigrun.tuner.child import as_facts
from bigrun.tuner.isolation import Answer, ask

__all__ = ["DryRun", "rehearse"]

CHILD = "bigrun.dry_run.child"


@attrs.frozen
class DryRun:
    """What a dry run has found. Where an error ended it, what comes behind is None."""

    config: Config
    directory: Path
    """Of the run; the dry run was not there."""
    steps: int
    """That were asked for."""
    planned: Mapping[str, Any] | None
    """`bigrun.dry_run.child.plan`; None where nothing could be predicted."""
    trained: Mapping[str, Any] | None = None
    """`Watching.answer`."""
    written: tuple[Written, ...] = ()
    resumed: Mapping[str, Any] | None = None
    comparison: Comparison | None = None
    processes: int = 1
    error: str | None = None
    """What ended it before its time."""
    notes: tuple[str, ...] = ()

    @property
    def strategy(self) -> str:
        """How the processes share the run: single, ddp or fsdp."""
        return Sharing(self.processes).under(self.config.parallel).strategy

    @property
    def usual_seconds(self) -> list[float]:
        """Of the steps behind the first, and without the one that began to save, if there are others."""
        if self.trained is None:
            return []
        saved = self.trained.get("checkpoint", {}).get("step", 0)
        seconds = {int(step): value for step, value in self.trained["seconds"].items()}
        later = {step: value for step, value in seconds.items() if step > 1}
        usual = [value for step, value in later.items() if step != saved + 1]
        return usual or list(later.values()) or list(seconds.values())

    @property
    def step_seconds(self) -> float | None:
        """Of a step in the middle of the usual ones, with its wait for data."""
        return median(self.usual_seconds) if self.usual_seconds else None


def rehearse(
    document: Document,
    run_dir: Path | None,
    steps: int,
    scratch: Path | None = None,
    *,
    fresh: bool = False,
    processes: Callable[[Config], int] = lambda config: 1,
    say: Callable[[str], None] = lambda line: None,
) -> DryRun:
    """Take the first steps of a run; the run directory and what is in it stay as they are.

    Args:
        run_dir: as `bigrun run` takes it.
        steps: as many, or as the run has.
        scratch: where the scratch directory is made; by default beside the run directory, on the same disk.
        processes: how many the run has, all on this machine.
        say: told what is done.

    Raises:
        UsageError, ConfigError: there is nothing to rehearse. What the run itself meets later is in the answer.
    """
    config, _ = activate(document)  # a typo is answered at once
    count = processes(config)
    directory = choose_directory(config, run_dir, fresh=fresh)
    check_directory(directory)
    steps = min(steps, config.run.max_steps or steps)
    if steps < 2:
        raise UsageError("--dry-run: takes two steps at least, with a checkpoint between them, and the run has 1")
    name = directory.absolute().name
    with scratch_directory(scratch or directory.parent, name, say) as home:
        found = DryRun(config, directory, steps, planned=None, notes=tuple(notes_of(directory)), processes=count)
        return take(found, document, home / name, say)


class Children:
    """The processes that do the work."""

    def __init__(self, document: Document, directory: Path, processes: int, say: Callable[[str], None]) -> None:
        self.directory, self.processes, self.say = directory, processes, say
        tables = override(document.tables, ["run.log_every_steps=1"])
        self.document = as_facts(attrs.evolve(document, tables=tables))
        self.steps = 0
        """That they have taken together."""

    def order(self, what: str, **more: Any) -> Answer:
        """Have one do it, from its start to its end."""
        return ask(self._words(what, more), float("inf"), CHILD, partial(self._hear, what))

    def order_all(self, what: str, **more: Any) -> Answer:
        """Have as many do it as the run has, together; what they have answered in one, or the failure of one."""
        if self.processes == 1:
            answers = [self.order(what, **more)]
        else:
            with places(self.processes) as environments:
                answers = ask_together(self._words(what, more), environments, CHILD, partial(self._hear, what))
        if answers[0].status != "ok":
            return answers[0]
        return Answer("ok", merged([answer.facts for answer in answers]))

    def _words(self, what: str, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"what": what, "document": self.document, "directory": str(self.directory), **more}

    def _hear(self, what: str, line: Mapping[str, Any]) -> None:
        self.steps += 1
        self.say(f"{what:<12} step {line['step']}")


def take(found: DryRun, document: Document, directory: Path, say: Callable[[str], None]) -> DryRun:
    """Plan, train and resume, one after the other.

    Raises:
        UsageError: what can be found before the first step: no images.
    """
    children = Children(document, directory, found.processes, say)
    save_at = found.steps // 2
    compare_at = min(save_at + 2, found.steps)
    say("plan         memory, without taking a step")
    answer = children.order("plan", processes=found.processes)
    if answer.status == "ok":
        found = attrs.evolve(found, planned=answer.facts)
    else:
        found = attrs.evolve(found, notes=(*found.notes, f"nothing is predicted: {answer.message}"))
    among = "" if found.processes == 1 else f" in {found.processes} processes"
    say(f"train        {found.steps} steps{among}, with a checkpoint after step {save_at}")
    answer = children.order_all("train", stop_at=found.steps, save_at=save_at, compare_at=compare_at)
    if answer.exit_code == ExitCode.USAGE and not children.steps:
        raise UsageError(answer.message)
    if answer.status != "ok":
        return failed(found, "train", answer)
    found = attrs.evolve(found, trained=answer.facts)
    elapsed, usual = sum(answer.facts["seconds"].values()), found.step_seconds
    if usual is not None:
        every = found.config.run.log_every_steps
        sizes = {int(step): sizes for step, sizes in answer.facts["sizes"].items()}
        found = attrs.evolve(found, written=tuple(look_at_files(directory, sizes, elapsed, usual, every)))
    saved = answer.facts.get("checkpoint")
    if saved is None or answer.facts["steps"] < compare_at:
        return found
    say(f"resume       from the checkpoint of step {save_at}, to step {compare_at}")
    answer = children.order_all("resume", checkpoint=saved["path"], last=compare_at)
    if answer.status != "ok":
        return failed(found, "resume", answer)
    return attrs.evolve(found, resumed=answer.facts, comparison=compare(found.trained or {}, answer.facts))


def failed(found: DryRun, what: str, answer: Answer) -> DryRun:
    notes = tuple(note for note in found.notes if not note.endswith(answer.message))  # the plan met it, too
    return attrs.evolve(found, error=f"{what}: {answer.message}", notes=notes)


def notes_of(directory: Path) -> list[str]:
    """What the run directory is, where it is there."""
    owner = holder(directory)
    if owner is not None:
        return [f"{directory} is in use by {owner}; memory and speed were shared with it"]
    if (directory / "checkpoints").is_dir():
        return [f"{directory} holds a run, which the command continues; the dry run begins at step 1"]
    return []
