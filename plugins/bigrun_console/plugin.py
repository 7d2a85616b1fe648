"""console: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from bigrun import hookimpl

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["Console", "describe", "format_seconds"]


class Console:
    """Step, loss, learning rate, steps/s, samples/s and ETA. Events appear above the bar."""

    observer = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._progress: Any = None
        self._task: Any = None
        self._started = (0.0, 0)

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._started = (time.monotonic(), run.step)
        stream = self._stream or sys.stdout
        if not run.is_main or not stream.isatty():
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            console=RichConsole(file=stream),
        )
        self._task = self._progress.add_task("waiting for the first step", total=run.max_steps, completed=run.step)
        self._progress.start()

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        text = describe(metrics, self.eta_seconds(run))
        if self._progress is not None:
            self._progress.update(self._task, description=text)
        elif run.is_main:
            of = f"/{run.max_steps}" if run.max_steps else ""
            print(f"step {step}{of}  {text}", file=self._stream or sys.stdout, flush=True)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        line = f"{event.level}: {event.message}" if event.level != "info" else event.message
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        elif run.is_main:
            print(line, file=self._stream or sys.stdout, flush=True)

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def eta_seconds(self, run: Run) -> float | None:
        """Time left at the mean speed since the start of this process; None for a run without end."""
        since, first = self._started
        if run.max_steps is None or run.step == first:
            return None
        return (time.monotonic() - since) / (run.step - first) * (run.max_steps - run.step)


def describe(metrics: Mapping[str, float], eta_seconds: float | None) -> str:
    """The line behind the step number."""
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.4f}")
    if "learning_rate" in metrics:
        parts.append(f"lr {metrics['learning_rate']:.2e}")
    parts.append(f"{metrics['steps_per_second']:.2f} steps/s")
    parts.append(f"{metrics['images_per_second']:.0f} samples/s")
    if eta_seconds is not None:
        parts.append(f"ETA {format_seconds(eta_seconds)}")
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """`2d 03:04:05` or `00:04:05`."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock
