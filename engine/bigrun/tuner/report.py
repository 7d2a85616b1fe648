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
from bigrun.tuner.trials import Row
from bigrun.tuner.tune import Tuning
from bigrun.tuner.verdict import bound_by

__all__ = ["command_words", "conclusion", "row_line", "to_json", "write"]

NOISY = 0.05
"""Trials that differ by more hide what most settings gain."""


def line(name: str, text: str) -> str:
    return f"{name:<12} {text}"


def row_line(row: Row) -> str:
    """One trial."""
    outcome, settings = row.outcome, row.settings.line()
    kind = "whole batch" if row.is_whole else "trial"
    known = f"{f' (trial {row.round})' if row.round > 1 else ''}{' (known)' if row.is_remembered else ''}"
    if outcome.images_per_second is None:
        return line(kind, f"{settings}: {outcome.status}: {outcome.message}{known}")
    times = " ".join(f"{phase} {outcome.milliseconds.get(phase, 0.0):.3g}" for phase in PHASES)
    memory = "n/a" if outcome.peak_memory_bytes is None else human_gib(outcome.peak_memory_bytes)
    speed = f"{outcome.images_per_second:.4g} images/s, {memory}"
    return line(kind, f"{settings}: {speed}; ms an image: {times}; {bound_by(outcome)}-bound{known}")


def conclusion(found: Tuning, directory: Path) -> Iterator[str]:
    """What follows from all trials."""
    if found.best is None:
        yield line("verdict", "no trial has succeeded: see the messages above")
        return
    outcome = found.best.outcome
    yield line(
        "measured",
        f"{outcome.steps} steps of {outcome.trial_batch} images, after a warm-up of {outcome.warm_up_steps}; the run "
        f"has {found.effective_batch} in each step, which is taken into account",
    )
    if found.spread is not None:
        unseen = ": smaller gains may be missed; more --seconds, or a machine that is idle, helps"
        busy = unseen if found.spread > NOISY else ""
        yield line("noise", f"trials of the same settings differed by up to {found.spread:.1%}{busy}")
    if found.whole is not None:
        memory = found.whole.outcome.peak_memory_bytes
        room = "" if memory is None else f", {human_gib(memory)}"
        yield line("whole batch", f"a step of {found.effective_batch} images has room{room}")
    yield line("verdict", f"{found.verdict}")
    yield line("fastest", f"{found.best.settings.line()}: {found.images_per_second:.4g} images/s{beside(found)}")
    yield line("use it", f"--with {shlex.quote(str(directory / 'tuned.toml'))}")
    yield line("or", command_words(found, found.best.settings))


def beside(found: Tuning) -> str:
    """How the best settings compare to those of the preset."""
    if found.best is not None and found.best.settings == found.start:
        return "; that is the preset as it is"
    return "" if found.gain is None else f"; {found.gain:.2f} times as fast as the preset as it is"


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
        "is_whole": row.is_whole,
        **outcome,
        **{f"{phase}_ms": milliseconds.get(phase) for phase in PHASES},
        "bound_by": bound_by(row.outcome),
    }


def to_json(found: Tuning) -> dict[str, Any]:
    """Everything; times are those of one image, `null` is what is not known."""
    best = found.best
    return {
        "source": found.recipe.document.source,
        "device": found.machine.device.as_facts(),
        "threads": found.machine.threads,
        "images": found.machine.images,
        "effective_batch": found.effective_batch,
        "effort": attrs.asdict(found.effort),
        "notes": list(found.notes),
        "trials": [row_facts(row) for row in found.rows],
        "best": None if best is None else row_facts(best),
        "images_per_second": found.images_per_second,
        "flops_per_image": found.flops_per_image,
        "gain": found.gain,
        "spread": found.spread,
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
        f"{found.recipe.document.source} on {found.machine.device.line()}",
        f"{found.images_per_second:.4g} images/s; {found.verdict}",
        "Give this file to `bigrun run` by --with, copy it into your preset, or add to the command:",
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
