"""How fast this process is by itself.

The steps of all processes take equally long: who is slow shows in how long it works before it waits for the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import torch

__all__ = ["Pace", "Spell"]


@attrs.frozen
class Spell:
    """Means over the steps since the one before, in seconds."""

    steps: int
    step_seconds: float
    own_seconds: float
    """Without waiting for others and for images: what the process has computed before others had to have it, and its
    hooks."""
    data_seconds: float
    """It waited for images."""


class Pace:
    """Of each step its time, without what is done together with other processes: there nobody can tell work from
    waiting. What is between two steps, such as a save of the main process, does not count."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._depth = 0
        self._together = 0.0
        self._data = 0.0
        self._spell = [0.0, 0.0, 0.0]
        self._steps = 0
        self._on_device: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._begun_on_device: torch.cuda.Event | None = None

    def begin_step(self) -> None:
        """A step begins; one that has not ended is forgotten."""
        self._began, self._together, self._data = time.perf_counter(), 0.0, 0.0
        self._begun_on_device = None

    def waited(self, seconds: float) -> None:
        """The step has waited for images."""
        self._data += seconds

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What other processes take part in."""
        began = time.perf_counter()
        self._depth += 1
        was_on_device = self._pause()
        try:
            yield
        finally:
            if was_on_device:
                self._resume()
            self._depth -= 1
            if self._depth == 0:
                self._together += time.perf_counter() - began

    @property
    def is_together(self) -> bool:
        """Whether it is in something that other processes take part in."""
        return self._depth > 0

    @contextlib.contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """What this process computes by itself. A GPU is asked how long it took: the host only hands it over."""
        if device.type != "cuda":
            yield
            return
        with self.together():
            self._resume()
            yield
            self._pause()

    def _resume(self) -> None:
        self._begun_on_device = recorded_event()

    def _pause(self) -> bool:
        """Whether the device was computing for this process by itself, until now."""
        begin, self._begun_on_device = self._begun_on_device, None
        if begin is not None:
            self._on_device.append((begin, recorded_event()))
        return begin is not None

    def end_step(self) -> None:
        """It is over."""
        if self._began is None:
            return
        whole = time.perf_counter() - self._began
        own = max(whole - self._together - self._data, 0.0)
        self._spell = [sum(pair) for pair in zip(self._spell, (whole, own, self._data), strict=True)]
        self._steps, self._began = self._steps + 1, None

    def take(self) -> Spell:
        """The steps since this was asked last; waits for the device."""
        steps, (whole, own, data) = self._steps, self._spell
        for begin, end in self._on_device:
            end.synchronize()
            own += begin.elapsed_time(end) / 1000
        self._steps, self._spell, self._on_device = 0, [0.0, 0.0, 0.0], []
        count = max(steps, 1)
        return Spell(steps, whole / count, own / count, data / count)


def recorded_event() -> torch.cuda.Event:
    """What the device passes when it has done all that it was given until now."""
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
