"""`bigrun monitor`: what the plugins measure and draw of any checkpoint, in a directory of its own, read-only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.answers import merged
from bigrun.directory import write_config
from bigrun.evaluation.newest import Warnings, with_checkpoint
from bigrun.evaluation.outcome import MONITOR, outcome_folder, require_outside, require_same
from bigrun.evaluation.visit import Visit, document_of, visited
from bigrun.evaluation.visitors import choose_visitors, way_out
from bigrun.version import __version__

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Monitored", "monitor_checkpoint"]


@attrs.frozen
class Monitored:
    """What was found."""

    folder: Path
    facts: Mapping[str, Any]
    """`monitor.json`; its `files` are relative to the folder."""

    @property
    def has_failed(self) -> bool:
        """Whether an observer did."""
        return bool(self.facts["failures"])


def monitor_checkpoint(
    path: Path,
    out: Path | None = None,
    *,
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Monitored:
    """Open a checkpoint without training, and let the plugins measure and draw.

    Args:
        path: a checkpoint, or a run directory for its newest verified one.
        out: where to; by default `monitor/<run>/step-<n>` below the current directory.
        sets, plugins, no_plugins: overrides of the configuration, as `read_preset` takes them.
        say: told what is done, line by line.

    Raises:
        UsageError: there is nothing to look at or with, or `out` may not be used.
        DamagedCheckpointError: it is damaged, or its run has removed it.
        BigrunError: as a run would before its first step, or a plugin that is no observer failed.
    """

    def open_one(visit: Visit) -> Monitored:
        document = document_of(visit.checkpoint, sets=sets, plugins=plugins, no_plugins=no_plugins)
        chosen = choose_visitors(document, plugins, visit.state["plugins"], say)
        with way_out(chosen):
            return look(visit, chosen, out, say)

    return with_checkpoint(path, say, open_one)


def look(visit: Visit, document: Any, out: Path | None, say: Callable[[str], None]) -> Monitored:
    """Visit one checkpoint with the plugins of a document."""
    out = out or Path("monitor") / visit.run_directory.name / visit.name
    require_outside(out, visit.run_directory)
    require_same(out, identity(visit))
    say(f"checkpoint   {visit.checkpoint}")
    say(f"identity     step {visit.step}, saved {visit.created_utc}, manifest sha256 {visit.manifest_sha256}")
    with outcome_folder(out) as folder:
        with visited(visit, document, folder, {"warnings": Warnings(say)}) as run:
            say(f"device       {run.device} in {run.config.hardware.precision}")
            say(f"plugins      {', '.join(run.plugins.active)}")
            found = merged([answer for answer in run.hook.measurements(run=run) if answer], "measurement")
        write_config(folder, run.config)
        names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        facts = identity(visit) | facts_of(run, found) | {"files": sorted([*names, MONITOR])}
        (folder / MONITOR).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return Monitored(out, facts)


def identity(visit: Visit) -> dict[str, Any]:
    """Which checkpoint it is, exactly."""
    return {
        "checkpoint": str(visit.checkpoint),
        "step": visit.step,
        "manifest_sha256": visit.manifest_sha256,
        "created_utc": visit.created_utc,
    }


def facts_of(run: Run, found: Mapping[str, float]) -> dict[str, Any]:
    """What was measured, by what, with what: JSON, without secrets."""
    redactor = run.config.redactor()
    facts: dict[str, Any] = {
        "bigrun_version": __version__,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": run.facts.line(),
        "precision": run.config.hardware.precision,
        "plugins": run.config.public_tables()["plugins"],
        "measurements": {name: as_json(value) for name, value in found.items()},
        "failures": [
            {"plugin": failure.plugin, "hook": failure.hook, "error": redactor.text(failure.error)}
            for failure in run.plugins.failures.values()
        ],
    }
    return facts


def as_json(value: float) -> float | str:
    """A number, or the name of one that JSON does not have: nan, inf, -inf."""
    return value if isinstance(value, int) or math.isfinite(value) else str(float(value))
