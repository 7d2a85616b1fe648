"""console: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from bigrun import hookimpl
from bigrun.terminal import printable, tell

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run
    from bigrun_console.bar import Bar

__all__ = ["Console", "describe", "eta_text", "format_seconds", "mfu_text"]


class Console:
    """Step, loss, learning rate, steps/s, samples/s, MFU and ETA. Events appear above the bar."""

    observer = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._bar: Bar | None = None
        self._started = (0.0, 0)

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._started = (time.monotonic(), run.step)
        if run.is_main and self._file.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            from bigrun_console.bar import Bar

            self._bar = Bar(self._file, run.step, run.max_steps)

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if self._bar is not None:
            self._bar.move_to(step)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        rest = f"{mfu_text(metrics)}  {eta_text(self.eta_seconds(run))}".rstrip()
        if self._bar is not None:
            self._bar.show(describe(metrics), rest)
        else:
            of = f"/{run.max_steps}" if run.max_steps else ""
            tell(f"step {step}{of}  {describe(metrics)}  {rest}", self._file)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        line = printable(f"{event.level}: {event.message}" if event.level != "info" else event.message)
        if self._bar is not None:
            self._bar.print_above(line)
        elif run.is_main:
            tell(line, self._file)

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def _file(self) -> TextIO:
        return self._stream or sys.stdout

    def eta_seconds(self, run: Run) -> float | None:
        """Time left at the mean speed since the start of this process; None for a run without end."""
        since, first = self._started
        if run.max_steps is None or run.step == first:
            return None
        return (time.monotonic() - since) / (run.step - first) * (run.max_steps - run.step)


def describe(metrics: Mapping[str, float]) -> str:
    """What was measured, in at most 80 characters."""
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.4f}")
    if "learning_rate" in metrics:
        parts.append(f"lr {metrics['learning_rate']:.2e}")
    parts.append(f"{metrics['steps_per_second']:.2f} steps/s")
    parts.append(f"{metrics['images_per_second']:.0f} samples/s")
    parts.append(f"data wait {metrics['data_wait_fraction']:.0%}")
    return "  ".join(parts)


def mfu_text(metrics: Mapping[str, float]) -> str:
    """`MFU 42%`, `MFU n/a` where the peak is not known; behind it the share of what was measured in matrix products."""
    mfu, of_measured = metrics.get("mfu_fraction"), metrics.get("mfu_of_measured_fraction")
    text = "MFU n/a" if mfu is None else f"MFU {mfu:.0%}"
    return text if of_measured is None else f"{text} ({of_measured:.0%} of GEMM)"


def eta_text(seconds: float | None) -> str:
    """`ETA 00:04:05`; nothing when the end is not known."""
    return "" if seconds is None else f"ETA {format_seconds(seconds)}"


def format_seconds(seconds: float) -> str:
    """`2d 03:04:05` or `00:04:05`."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock
