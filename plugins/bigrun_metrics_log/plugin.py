"""metrics-log: `metrics.jsonl` for numbers, `events.jsonl` for everything else, in the run directory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["MetricsLog"]


class MetricsLog:
    """One JSON object per line, flushed at once. A resumed run cuts metric rows after its checkpoint, so that no
    step stands in the file twice; events are history and stay."""

    observer = True

    def __init__(self) -> None:
        self._metrics: IO[str] | None = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        path = run.directory / "metrics.jsonl"
        cut_after(path, run.step)
        self._metrics = path.open("a", encoding="utf-8")

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(as_json({"step": step, **metrics}) + "\n")
            self._metrics.flush()

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        if run.is_main and run.directory.is_dir():
            with (run.directory / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(as_json(attrs.asdict(event)) + "\n")

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def as_json(row: Mapping[str, Any]) -> str:
    """One strict JSON line; a number that is not finite becomes a string, since JSON has none."""
    finite = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False, default=str)


def cut_after(path: Path, step: int) -> None:
    """Keep the rows up to `step`; a last line that a kill has cut short goes too. Replaces the file atomically."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line)
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(beside, path)  # noqa: PTH105 - one atomic rename
