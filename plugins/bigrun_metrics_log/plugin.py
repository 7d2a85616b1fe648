"""metrics-log: `metrics.jsonl` for numbers, `events.jsonl` for everything else, in the run directory."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl
from bigrun.directory import replace_file
from bigrun.events import Event, Level
from bigrun.links import open_append, read_bytes
from bigrun.logs import CHECKPOINT, ERROR, EVENTS, FINISHED, METRICS, STARTED, STOPPED
from bigrun_metrics_log.lines import Lines

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["MetricsLog"]


class MetricsLog:
    """One JSON object per line, written at once. A resumed run cuts metric rows after its checkpoint, so that no
    step stands in the file twice; events are history and stay. Besides the run's events, its story has a row for
    every start (with the header), checkpoint and end. What a full disk refuses is kept and written later."""

    observer = True

    def __init__(self) -> None:
        self._metrics: Lines | None = None
        self._events: Lines | None = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        if not run.is_main:
            return
        path = run.directory / METRICS
        cut_after(path, run.step)
        self._metrics = Lines(path)
        self._write(run, self._metrics)
        self._tell(run, STARTED, f"started after step {run.step}", header=run.header)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if self._metrics is not None:
            self._write(run, self._metrics, as_json({"step": step, **metrics}))
        if self._events is not None and self._events.trouble:
            self._write(run, self._events)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        if run.is_main and run.directory.is_dir():
            self._events = self._events or Lines(run.directory / EVENTS)
            self._write(run, self._events, as_json(run.config.redactor().value(attrs.asdict(event))))

    @hookimpl
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        times = run.saver.times
        seconds = {} if times is None else {k: round(v, 4) for k, v in attrs.asdict(times).items()}
        self._tell(run, CHECKPOINT, f"saved the checkpoint of step {step}", path=str(path), **seconds)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if run.finished:
            self._tell(run, FINISHED, f"finished at step {run.step}")
        else:
            self._tell(run, STOPPED, f"stopped after step {run.step}: {run.stop_reason}", reason=run.stop_reason)

    @hookimpl
    def on_error(self, run: Run, error: BaseException) -> None:
        if self._metrics is not None:  # earlier, the directory may not be this run's
            text = "".join(traceback.format_exception(error))
            self._tell(run, ERROR, str(error), "error", type=type(error).__name__, traceback=text)

    def _tell(self, run: Run, kind: str, message: str, level: Level = "info", **facts: Any) -> None:
        """Write an event of this plugin's own: the others know from their hooks."""
        self.on_event(run, Event(kind, message, run.step, level, facts))

    def _write(self, run: Run, file: Lines, *lines: str) -> None:
        """Write what waits and these lines; say when the disk begins to refuse them, and when it takes them again."""
        if not file.write(*lines):
            return
        if file.trouble is not None:
            run.event(
                "log-degraded",
                f"{file.path} cannot be written ({file.trouble.strerror}); training goes on, and what should stand "
                "there is kept in memory until it can",
                "error",
            )
        else:
            lost = f"; {file.lost:,} lines were too many to keep, and are lost" if file.lost else ""
            run.event("log-recovered", f"{file.path} is written again, with what was kept meanwhile{lost}", "warning")
            file.lost = 0

    @hookimpl
    def teardown(self, run: Run) -> None:
        files = [file for file in (self._metrics, self._events) if file is not None and file.trouble is not None]
        for file in files:
            self._write(run, file)
            if file.trouble is not None:
                run.event(
                    "log-incomplete",
                    f"{file.path}: the last {file.waiting:,} lines could not be written and are lost "
                    f"({file.trouble.strerror})",
                    "error",
                )
        self._metrics = self._events = None


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
    """Keep the rows up to `step`; a last line that a kill has cut short goes too. A full disk does not matter, unless
    there is noise between the rows: then the file is replaced atomically."""
    if not path.exists():
        return
    text = read_bytes(path)
    kept = b"".join(line + b"\n" for line in text.split(b"\n") if is_row_up_to(step, line))
    if not text.startswith(kept):
        replace_file(path, kept)
    elif text != kept:
        with open_append(path) as file:
            os.ftruncate(file.fileno(), len(kept))


def is_row_up_to(step: int, line: bytes) -> bool:
    """Whether a line is a whole row of a step up to this one: a kill cuts lines short, a bad disk makes them noise."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= step
