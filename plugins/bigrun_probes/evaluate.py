"""A checkpoint's features, asked about. Read-only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import bigrun
from bigrun.evaluation.newest import Warnings, with_checkpoint
from bigrun.evaluation.visit import Visit, document_of, visited
from bigrun.evaluation.visitors import choose_visitors
from bigrun_probes.measure import by_chance, counts
from bigrun_probes.plugin import Probes

if TYPE_CHECKING:
    from bigrun.config import Document
    from bigrun.run import Run

__all__ = ["evaluate"]

PLUGIN = "probes"
SOURCES = ("path", "labels", "labels_file", "masks")
"""Options that say what is asked about: with one of them the checkpoint's own set does not count."""


def evaluate(
    path: Path,
    options: Mapping[str, Any],
    *,
    student: bool = False,
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
    no_plugins: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Open a checkpoint, or the newest verified one of a run, and measure it: facts as JSON.

    Args:
        options: of probes, over those that the checkpoint was saved with.
        student: the student's backbone instead of the teacher's.
        say: told what is wrong meanwhile.

    Raises:
        UsageError: the options, the labels or the data cannot be used.
        CheckpointError: it is damaged, or was removed meanwhile.
        BigrunError: as a run would before its first step.
    """

    def open_one(visit: Visit) -> dict[str, Any]:
        document = asked_document(visit, options, sets=sets, plugins=plugins, no_plugins=no_plugins)
        document = choose_visitors(document, [*plugins, PLUGIN], visit.state["plugins"], lambda line: None)
        return look(visit, document, student=student, say=say)

    return with_checkpoint(path, say, open_one)


def look(visit: Visit, document: Document, *, student: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Visit one checkpoint; what plugins may write there goes to a directory that is removed."""
    with (
        tempfile.TemporaryDirectory(prefix="bigrun-eval-") as scratch,
        visited(visit, document, Path(scratch), {"warnings": Warnings(say)}) as run,
    ):
        probes = run.plugins.active[PLUGIN]
        assert isinstance(probes, Probes)
        network = run.objective.student if student else run.objective.teacher
        values = probes.measure(run, network.backbone.eval())
        return {
            "bigrun_version": bigrun.__version__,
            "checkpoint": str(visit.checkpoint),
            "step": visit.step,
            "manifest_sha256": visit.manifest_sha256,
            "created_utc": visit.created_utc,
            "network": "student" if student else "teacher",
            "device": str(run.device),
            "precision": run.config.hardware.precision,
            "set": {"identity": probes.asked(run).identity, "summary": probes.asked(run).summary},
            "values": {name: beside(run, probes, name, value) for name, value in values.items()},
        }


def asked_document(visit: Visit, options: Mapping[str, Any], **overrides: Sequence[str]) -> Document:
    """The checkpoint's configuration with these options of probes; then the overrides of the command line."""
    document = document_of(visit.checkpoint)
    plugins: Mapping[str, Any] = document.tables.get("plugins", {})
    own = {} if any(name in options for name in SOURCES) else plugins.get(PLUGIN, {})
    tables = {**document.tables, "plugins": {**plugins, PLUGIN: {**own, **options}}}
    written = document.written.difference(f"plugins.{PLUGIN}.{name}" for name in options)
    return attrs.evolve(document, tables=tables, written=written).overridden(**overrides)


def beside(run: Run, probes: Probes, name: str, value: float) -> dict[str, Any]:
    """A value, what it is to be read beside, and of how many it is; what is not known is absent."""
    asked, baselines = probes.asked(run), probes.state.baselines
    if probes.state.identity == asked.identity and baselines is not None:
        begin, pixels = baselines.begin or {}, baselines.raw_pixels
    else:
        begin, pixels = {}, probes.pixels(run)
    found = {
        "value": value,
        "before_step_1": begin.get(name),
        "raw_pixels": pixels.get(name),
        "chance": by_chance(asked, probes.config).get(name),
        "asked": counts(asked, probes.config).get(name),
    }
    return {key: number for key, number in found.items() if number is not None}
