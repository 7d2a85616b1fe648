"""Series of samples, made up: what a sensor would say every ten seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bigrun_telemetry.board import Board, Change
from bigrun_telemetry.flags import Finding, judge
from bigrun_telemetry.history import History
from bigrun_telemetry.sample import Sample

__all__ = ["Watched", "series", "watch"]

EVERY_SECONDS = 10
HEALTHY: dict[str, Any] = {
    "step": 1,
    "activity": "step",
    "standstill_seconds": 0.0,
    "step_p50_ms": 500.0,
    "gpu_temperature_celsius": 72.0,
    "gpu_slowdown_celsius": 90.0,
    "gpu_clock_mhz": 2500.0,
    "gpu_busy_fraction": 0.98,
    "gpu_throttle": (),
    "gpu_memory_used_bytes": 90,
    "gpu_memory_total_bytes": 100,
    "images_per_second_5min": 100.0,
    "images_per_second_run_median": 100.0,
    "speed_fraction": 1.0,
    "kinds_of_steps": 1,
    "data_wait_fraction": 0.01,
    "data_wait_usual_fraction": 0.01,
    "torch_alloc_retries": 0,
    "swap_in_bytes": 0,
    "host_memory_total_bytes": 100,
    "host_memory_available_bytes": 50,
    "process_rss_bytes": 10**9,
    "workers_rss_bytes": 10**9,
}


def series(minutes: float, start_minutes: float = 0.0, **fields: Any) -> Iterator[Sample]:
    """Samples of a healthy run on an RTX 4090, but for `fields`: values, or functions of the time in minutes."""
    for tick in range(round(start_minutes * 6), round((start_minutes + minutes) * 6)):
        now: dict[str, Any] = {name: at(value, tick / 6) for name, value in (HEALTHY | fields).items()}
        yield Sample(elapsed_seconds=float(tick * EVERY_SECONDS), **now)


def at(value: Any | Callable[[float], Any], minutes: float) -> Any:
    return value(minutes) if callable(value) else value


class Watched:
    """What a judge found in a series."""

    def __init__(self) -> None:
        self.history, self.board = History(), Board()
        self.changes: list[tuple[float, Change]] = []
        """(minutes, change)."""

    def add(self, sample: Sample, judge: Callable[[History], list[Finding]]) -> None:
        self.history.add(sample)
        seconds = sample.elapsed_seconds or 0.0
        changes = self.board.update(judge(self.history), seconds)
        self.changes += [(seconds / 60, change) for change in changes]

    def of(self, flag: str) -> list[tuple[float, str, str]]:
        """(minutes, state, level) of every change of a flag."""
        return [(m, c.state, c.finding.level) for m, c in self.changes if c.finding.flag == flag]

    def message(self, flag: str) -> str:
        """What was first said of it."""
        return next(c.finding.message for _, c in self.changes if c.finding.flag == flag)

    @property
    def flags(self) -> set[str]:
        """All that were ever up."""
        return {change.finding.flag for _, change in self.changes}


def watch(*parts: Iterable[Sample], vendor: str | None = "nvidia", **options: Any) -> Watched:
    """Judge one series after the other; `options` as for `judge`."""
    watched = Watched()
    for part in parts:
        for sample in part:
            watched.add(sample, lambda history: judge(history, vendor, **options))
    return watched
