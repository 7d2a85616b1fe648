"""Candidates for the Gram teacher, from the step at which one is kept to the choice of the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.branch import BRANCH
from bigrun.errors import CheckpointError
from bigrun_gram.candidates import Candidate, best, comparable, score_table, undominated
from bigrun_gram.config import TABLE
from bigrun_gram.scores import dense_score, label_free_scores, recorded
from bigrun_gram.shelf import Shelf, halves

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun_gram.state import State
    from bigrun_gram.teacher import GramTeacher

__all__ = ["add_candidate", "adopt_candidates", "say_other_scores", "shelf_of", "take_best"]

FOLDERS = ("gram-anchoring", "candidates")


def shelf_of(run: Run) -> Shelf:
    """Where the files of this run's candidates are."""
    name, folder = FOLDERS
    return Shelf(run.path_for(name) / folder)


def add_candidate(run: Run, state: State, step: int, *, has_learned: bool, choose_by: str | None) -> None:
    """Score the teacher of this step and keep it; one that cannot be kept is an event. All processes show the images to
    it; the numbers, and the file, are those of the main one.

    Args:
        choose_by: a metric that somebody records in this step, instead of what the hook `dense_score` says.
    """
    state.candidate_step = step
    with run.objective.evaluation() as backbone:
        scores = label_free_scores(run, backbone)
        dense = dense_score(run, backbone) if choose_by is None else None

    tensors = halves(backbone, keep=run.is_main)

    def kept() -> dict[str, Any] | None:
        score = dense if choose_by is None else recorded(run, choose_by)
        if scores is None:
            run.event("gram-candidate", f"no candidate of step {step}: its features are not finite", "warning")
            return None
        try:
            sha256 = shelf_of(run).put(step, tensors)
        except CheckpointError as error:
            run.event("gram-candidate", f"no candidate of step {step}: {error}", "warning")
            return None
        return attrs.asdict(Candidate(step, *scores, score, sha256, has_learned, choose_by))

    if (known := run.peers.by_main(kept)) is None:
        return
    candidate = Candidate(**known)
    everyone = [*state.candidates, candidate]
    left = {c.step for c in undominated(comparable(everyone, choose_by))}
    state.candidates = [c for c in everyone if c.step in left]
    message = f"candidate for the Gram teacher:\n{score_table([candidate])}"
    facts = {k: v for k, v in known.items() if k not in ("step", "sha256")}
    run.event("gram-candidate", message, **facts)


def adopt_candidates(run: Run, state: State) -> None:
    """In a run that has branched off: copy the candidates' files that it has not yet from the run it comes from.

    One that is not there any more is found missing at the choice.
    """
    record = run.directory / BRANCH
    if run.is_main and record.is_file():
        origin = Path(json.loads(record.read_text(encoding="utf-8"))["path"]).parent.parent
        shelf_of(run).adopt(Shelf(origin.joinpath(*FOLDERS)), {candidate.step for candidate in state.candidates})


def say_other_scores(run: Run, state: State, choose_by: str | None) -> None:
    """An event where candidates of before a change of `choose_by` have a score that does not count any more."""
    others = [c for c in state.candidates if c.dense_score is not None and c.scored_by != choose_by]
    if others:
        was = ", ".join(sorted({c.scored_by or "the hook dense_score" for c in others}))
        run.event(
            "gram-candidate",
            f"candidates of steps {', '.join(str(c.step) for c in others)} were scored by {was}, and not by "
            f"{choose_by or 'the hook dense_score'}: their scores do not count, and the choice among them is made "
            "without labels",
            "warning",
            scored_by=was,
        )


def take_best(run: Run, state: State, teacher: GramTeacher, *, choose_by: str | None) -> None:
    """Make the best candidate the Gram teacher; one whose file is not as it was written is passed over, an event. The
    main process chooses.

    Raises:
        CheckpointError: there is none.
    """
    everyone = comparable(state.candidates, choose_by)
    step = run.peers.by_main(lambda: best_readable(run, everyone))
    sha256 = next(candidate.sha256 for candidate in everyone if candidate.step == step)
    teacher.take(run, shelf_of(run).get(step, sha256), str(shelf_of(run).path(step)))
    state.taken_at_step = step
    message = f"Gram teacher: step {step} is the best of the candidates\n{score_table(everyone)}"
    run.event("gram-teacher", message, refreshes=state.refreshes, chosen=step)


def best_readable(run: Run, candidates: Sequence[Candidate]) -> int:
    """The step of the best one whose file can be read. Raises CheckpointError: there is none."""
    remaining = list(candidates)
    while remaining:
        candidate = best(remaining)
        try:
            shelf_of(run).get(candidate.step, candidate.sha256)
        except CheckpointError as error:
            run.event("gram-candidate", f"the candidate of step {candidate.step} is passed over: {error}", "error")
            remaining.remove(candidate)
            continue
        return candidate.step
    why = "the file of every candidate is missing or damaged" if candidates else "there is no candidate"
    raise CheckpointError(
        f"{TABLE}: no Gram teacher for step {run.step + 1}: {why}; continue with mode = 'ckpt' and a checkpoint, "
        "with a later start_step, or with mode = 'off'"
    )
