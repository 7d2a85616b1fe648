"""What was found: in lines for people, as JSON, as CSV, and as tables for a preset. Torch-free."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from bigrun.directory import replace_file
from bigrun.planner.sizes import human_gib
from bigrun.tuner.trial import PHASES, Settings
from bigrun.tuner.tune import Row, Tuning
from bigrun.tuner.verdict import bound_by

__all__ = ["command_words", "conclusion", "row_line", "to_json", "write"]


def row_line(row: Row) -> str:
    """One trial."""
    outcome, settings = row.outcome, row.settings.line()
    known = (" (again)" if row.round == 2 else "") + (" (known)" if row.is_remembered else "")
    if outcome.images_per_second is None:
        return f"trial        {settings}: {outcome.status}: {outcome.message}{known}"
    times = " ".join(f"{phase} {outcome.milliseconds.get(phase, 0.0):.3g}" for phase in PHASES)
    memory = "n/a" if outcome.peak_memory_bytes is None else human_gib(outcome.peak_memory_bytes)
    return (
        f"trial        {settings}: {outcome.images_per_second:.4g} images/s, {memory}; ms an image: {times}; "
        f"{bound_by(outcome)}-bound{known}"
    )


def conclusion(found: Tuning, directory: Path) -> Iterator[str]:
    """What follows from all trials."""
    yield f"device       {found.device.line()}"
    yield from (f"note         {note}" for note in found.notes)
    if found.best is None:
        yield "verdict      no trial has succeeded: see the messages above"
        return
    outcome = found.best.outcome
    yield (
        f"measured     {outcome.steps} steps of {outcome.trial_batch} images, after a warm-up of "
        f"{outcome.warm_up_steps}; the run has {found.effective_batch} in each step, which is taken into account"
    )
    yield f"verdict      {found.verdict}"
    own = "; that is the preset as it is" if found.best.settings == found.start else ""
    yield f"fastest      {found.best.settings.line()}: {outcome.images_per_second:.4g} images/s{own}"
    yield f"use it       {command_words(found, found.best.settings)}"
    yield f"or copy      {directory / 'tuned.toml'} into the preset"


def command_words(found: Tuning, settings: Settings) -> str:
    """What to add to `bigrun run PRESET`."""
    plugins, sets = found.recipe.plugins(settings), found.recipe.sets(settings)
    return shlex.join(
        [word for name in plugins for word in ("--plugin", name)] + [w for s in sets for w in ("--set", s)]
    )


def row_facts(row: Row) -> dict[str, Any]:
    outcome = row.outcome.as_facts()
    milliseconds = outcome.pop("milliseconds")
    return {
        **attrs.asdict(row.settings),
        "round": row.round,
        **outcome,
        **{f"{phase}_ms": milliseconds.get(phase) for phase in PHASES},
        "bound_by": bound_by(row.outcome),
    }


def to_json(found: Tuning) -> dict[str, Any]:
    """Everything; times are those of one image, `null` is what is not known."""
    best = found.best
    return {
        "source": found.recipe.document.source,
        "device": found.device.as_facts(),
        "images": found.images,
        "effective_batch": found.effective_batch,
        "effort": attrs.asdict(found.effort),
        "notes": list(found.notes),
        "trials": [row_facts(row) for row in found.rows],
        "best": None if best is None else row_facts(best),
        "tables": None if best is None else found.recipe.tables(best.settings),
        "words": None if best is None else command_words(found, best.settings),
        "verdict": found.verdict,
    }


def to_csv(found: Tuning) -> str:
    """One line for each trial."""
    rows = [row_facts(row) for row in found.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_toml(found: Tuning, best: Row) -> str:
    """The settings alone, as tables of a preset, with what they are in comments."""
    about = (
        f"{found.recipe.document.source} on {found.device.line()}",
        f"{best.outcome.images_per_second:.4g} images/s; {found.verdict}",
        "Copy these options into the tables of your preset, or add to `bigrun run`:",
        command_words(found, best.settings),
    )
    comments = "".join(f"# {' '.join(line.split())}\n" for line in about)
    return f"{comments}\n{tomli_w.dumps(found.recipe.tables(best.settings))}"


def write(found: Tuning, directory: Path) -> None:
    """Write FILES; `tuned.toml` only if there is something to recommend.

    Raises:
        UsageError: they cannot be written.
    """
    texts = {"trials.json": json.dumps(to_json(found), indent=1) + "\n", "trials.csv": to_csv(found)}
    if found.best is not None:
        texts["tuned.toml"] = to_toml(found, found.best)
    for name, text in texts.items():
        replace_file(directory / name, text.encode())
