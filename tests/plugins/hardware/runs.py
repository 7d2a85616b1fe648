"""A run whose time is told, sampled every ten seconds of it, or more seldom."""

from __future__ import annotations

from typing import Any

from hardware.series import Watched

from bigrun_telemetry.flags import judge
from bigrun_telemetry.progress import Progress
from bigrun_telemetry.sample import Sample

__all__ = ["TICK", "Run"]

TICK = 10.0


class Run:
    """Says what it does to telemetry, and keeps what that makes of it."""

    def __init__(self, tick: float = TICK, link_gbps: float | None = None) -> None:
        self.now, self.images, self.step, self.activity = 1000.0, 0, 1, "step"
        self.progress = Progress(lambda: (self.step, self.activity), tick, clock=lambda: self.now, link_gbps=link_gbps)
        self.tick = tick
        self.sampled = self.now
        self.sample = Sample()
        self.watched = Watched()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.sampled + self.tick <= until:
            self.now = self.sampled = self.sampled + self.tick
            self.sample = Sample(elapsed_seconds=self.now - 1000.0).filled(self.progress.read())
            self.watched.add(self.sample, judge)
        self.now = until

    def steps(self, number: int, seconds: float, images: int = 64, kind: Any = "a", moved_bytes: int = 0) -> None:
        """So many steps of a kind, each with hooks of others that take no time."""
        for _ in range(number):
            self.wait(seconds)
            self.images += images
            self.step += 1
            self.progress.step_ended(self.images, kind, moved_bytes)
            self.look(0.0)

    def hours(self, hours: float, seconds: float, kind: Any = "a") -> None:
        """Steps that take so long each."""
        self.steps(round(hours * 3600 / seconds), seconds, kind=kind)

    def look(self, seconds: float) -> None:
        """Plugins look at the run."""
        self.progress.pause_began()
        self.wait(seconds)
        self.progress.pause_ended()

    @property
    def hour(self) -> float:
        """Since the beginning."""
        return (self.now - 1000.0) / 3600

    @property
    def slow(self) -> list[tuple[float, str, str]]:
        """(hours, state, level) of every change of SLOW."""
        return [(minutes / 60, state, level) for minutes, state, level in self.watched.of("SLOW")]
