"""metrics-log: `metrics.jsonl` for numbers, `events.jsonl` for everything else, in the run directory."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl
from bigrun.events import Event, Level

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["MetricsLog"]


class MetricsLog:
    """One JSON object per line, flushed at once. A resumed run cuts metric rows after its checkpoint, so that no
    step stands in the file twice; events are history and stay. Besides the run's events, its story has a row for
    every start (with the header), checkpoint and end."""

    observer = True

    def __init__(self) -> None:
        self._metrics: IO[str] | None = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        if not run.is_main:
            return
        path = run.directory / "metrics.jsonl"
        cut_after(path, run.step)
        self._metrics = path.open("a", encoding="utf-8")
        self._tell(run, "started", f"started after step {run.step}", header=run.header)

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
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        times = run.saver.times
        seconds = {} if times is None else {k: round(v, 4) for k, v in attrs.asdict(times).items()}
        self._tell(run, "checkpoint", f"saved the checkpoint of step {step}", path=str(path), **seconds)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if run.finished:
            self._tell(run, "finished", f"finished at step {run.step}")
        else:
            self._tell(run, "stopped", f"stopped after step {run.step}: {run.stop_reason}", reason=run.stop_reason)

    @hookimpl
    def on_error(self, run: Run, error: BaseException) -> None:
        if self._metrics is not None:  # earlier, the directory may not be this run's
            text = "".join(traceback.format_exception(error))
            self._tell(run, "error", str(error), "error", type=type(error).__name__, traceback=text)

    def _tell(self, run: Run, kind: str, message: str, level: Level = "info", **facts: Any) -> None:
        """Write an event of this plugin's own: the others know from their hooks."""
        self.on_event(run, Event(kind, message, run.step, level, facts))

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def as_json(row: Mapping[str, Any]) -> str:
    """One strict JSON line; a number that is not finite becomes a string, since JSON has none."""
    return json.dumps(finite(row), allow_nan=False, default=str)


def finite(value: Any) -> Any:
    """The value with every float that is not finite, at any depth, as a string."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
