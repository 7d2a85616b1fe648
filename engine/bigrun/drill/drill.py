"""`bigrun drill PRESET`: prove on the user's own machine and disk that a run cannot be lost."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.config import Document
from bigrun.drill.child import Child, DrillError
from bigrun.drill.preset import EVERY, full_size, small
from bigrun.drill.scenarios import CONTROL, NAN, Drill, Outcome, scenarios
from bigrun.errors import ExitCode, UsageError
from bigrun.listing import table

__all__ = ["Report", "drill"]

LOSSES = {"kill -9": 2 * EVERY - 1, "kill -9 in a save": 2 * EVERY - 1, "damaged checkpoint": EVERY}
"""Steps that may have to be taken again: an interval and, of a kill, the one whose save was under way; none of a run
that was asked to stop."""
FORGIVEN = 100.0
"""Where two straight runs differ, a continued one may differ so many times as much: chaos, not a fault."""


@attrs.frozen
class Report:
    """What came of a drill."""

    outcomes: list[Outcome]
    checkpoints: list[str]
    """What checkpoints cost, a line for each size."""
    folder: Path

    @property
    def passed(self) -> bool:
        return all(outcome.problem is None for outcome in self.outcomes)

    def lines(self) -> Iterator[str]:
        """The table, what checkpoints cost, and the result."""
        yield table(("fault", "what was done", "steps again", "equal", "seconds"), map(row, self.outcomes))
        yield ""
        yield from self.checkpoints
        failed = [outcome for outcome in self.outcomes if outcome.problem is not None]
        for outcome in failed:
            yield f"FAILED {outcome.name}: {outcome.problem}"
        if failed:
            yield f"the runs are in {self.folder}: each has its preset (.toml) and its output (.log)"
        else:
            yield "nothing was lost: every run went on and ended where the straight run did"


def row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.problem is not None:
        equal = "FAILED"
    elif outcome.difference is None:
        equal = "not meant to be"
    else:
        equal = "bit for bit" if outcome.difference == 0 else f"within {outcome.difference:.2g}"
    return outcome.name, outcome.done, str(outcome.lost_steps), equal, f"{outcome.seconds:.1f}"


def drill(
    document: Document,
    parent: Path,
    *,
    seed: int = 0,
    cycles: int = 3,
    with_full_size: bool = True,
    keep: bool = False,
    has_objective: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Do everything that `scenarios` has to a small run of the preset, in a folder that is removed when all is well.

    Args:
        parent: where the folder is made: on the disk that the run will use.
        cycles: kills of a kind.
        with_full_size: also save the state of the preset's own network.
        keep: the folder stays in any case.
        has_objective: see `preset.small`.
        say: hears a line when something begins.

    Raises:
        UsageError: the preset cannot be run here, as without images.
        DrillError: its straight run has failed.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="drill-", dir=parent))
    except OSError as error:
        raise UsageError(f"--dir {parent}: no folder can be made there ({error.strerror}): choose another") from None
    arena = Drill(folder, small(document, has_objective=has_objective), seed, cycles)
    outcomes: list[Outcome] = []
    say("a straight run ...")
    try:
        arena.run_straight()
    except DrillError as error:  # what cannot run cannot be harmed
        shutil.rmtree(folder)
        raise (UsageError if error.code == ExitCode.USAGE else DrillError)(f"the straight run: {error}") from None
    for name, play in scenarios():
        say(f"{name} ...")
        outcomes.append(one(arena, name, play, outcomes))
    costs = [cost("small network", arena.straight)]
    if with_full_size:
        say("full size ...")
        outcome, line = save_full_size(folder, document)
        outcomes.append(outcome)
        costs += line
    report = Report(outcomes, costs, folder)
    if report.passed and not keep:
        shutil.rmtree(folder)
    return report


def one(arena: Drill, name: str, play: Callable[[Drill], tuple[str, Child]], before: list[Outcome]) -> Outcome:
    began = time.monotonic()
    try:
        done, child = play(arena)
        difference = None if name == NAN else arena.difference(child)
        lost, problem = lost_steps(child), None
        if difference and name != CONTROL and not is_chaos(difference, before):
            problem = f"its last state differs from the straight run's by up to {difference:.3g}"
        if lost > LOSSES.get(name, 0):
            problem = f"{lost} steps had to be taken again, more than {LOSSES.get(name, 0)}"
    except DrillError as error:
        return Outcome(name, "", 0, None, time.monotonic() - began, str(error))
    return Outcome(name, done, lost, difference, time.monotonic() - began, problem)


def is_chaos(difference: float, before: list[Outcome]) -> bool:
    """Whether a difference is of the size that two straight runs have on this device."""
    control = next((o.difference for o in before if o.name == CONTROL), None)
    return control is not None and difference <= FORGIVEN * control


def lost_steps(child: Child) -> int:
    """The most steps that one start had to take again."""
    steps = child.steps_taken()
    return max((before - after + 1 for before, after in itertools.pairwise(steps)), default=0)


def cost(name: str, child: Child) -> str:
    """What the checkpoints of a run have cost."""
    rows = [row for row in child.progress() if "total_seconds" in row]
    size = sum(path.stat().st_size for path in child.last_path.iterdir())
    stall, total = (max(row[key] for row in rows) for key in ("stall_seconds", "total_seconds"))
    return f"checkpoint   {name}: {human_bytes(size)}, training stood still for {stall:.3f} s of {total:.3f} s"


def save_full_size(folder: Path, document: Document) -> tuple[Outcome, list[str]]:
    """Three steps of the preset's own network, each with a checkpoint."""
    began, child = time.monotonic(), Child(folder / "full", full_size(document))
    done, costs, problem = "3 steps of the preset's own network, a checkpoint each", [], None
    try:
        child.start()
        child.finish()
        costs = [cost("full size", child)]
    except DrillError as error:
        problem = str(error)
    return Outcome("full size", done, 0, None, time.monotonic() - began, problem), costs
