"""How fast this process is by itself.

The steps of all processes take equally long: who is slow shows in how long it works before it waits for the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    import torch

    Stamp: TypeAlias = float | torch.cuda.Event

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
    waiting, but for what is said to be the process's own. What is between two steps, such as a save of the main
    process, does not count."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._entered = 0.0
        self._together = 0.0
        self._data = 0.0
        self._spell = [0.0, 0.0, 0.0]
        self._steps = 0
        self._depths: list[int] = []
        """Of each thing that is done together, within another one: how often its own work has begun and is not over."""
        self._device: torch.device | None = None
        self._begun: Stamp | None = None
        self._own: list[tuple[Stamp, Stamp]] = []

    def __reduce__(self) -> tuple[type[Pace], tuple[()]]:
        """A copy of a network that is followed counts for nobody."""
        return Pace, ()

    def begin_step(self) -> None:
        """A step begins; one that has not ended is forgotten."""
        self._began, self._together, self._data = time.perf_counter(), 0.0, 0.0
        self._begun, self._own = None, []

    def waited(self, seconds: float) -> None:
        """The step has waited for images."""
        self._data += seconds

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What other processes take part in."""
        depth = len(self._depths)
        self.enter()
        try:
            yield
        finally:
            del self._depths[depth + 1 :]  # of what an error has ended
            self.leave()

    def enter(self) -> None:
        """From here on others take part."""
        if not self._depths:
            self._entered = time.perf_counter()
        self._pause()
        self._depths.append(0)

    def leave(self) -> None:
        """Until here: as before `enter`."""
        self._pause()
        self._depths.pop()
        if not self._depths:
            self._together += time.perf_counter() - self._entered
        elif self._depths[-1]:
            self._resume()

    @property
    def is_together(self) -> bool:
        """Whether it is in something that other processes take part in, and not at its own work there. Any thread may
        ask."""
        return self._depths[-1:] == [0]

    @contextlib.contextmanager
    def own(self, device: torch.device) -> Iterator[None]:
        """What this process computes by itself."""
        self.begin_own(device)
        try:
            yield
        finally:
            self.end_own()

    def begin_own(self, device: torch.device) -> None:
        """From here on this process computes by itself, on this device: a GPU is asked how long it took, for the host
        only hands it over. Outside of what is done together all is its own."""
        self._device = device
        if self._depths:
            self._depths[-1] += 1
            if self._depths[-1] == 1:
                self._resume()

    def end_own(self) -> None:
        """Until here."""
        if self._depths and self._depths[-1]:
            self._depths[-1] -= 1
            if not self._depths[-1]:
                self._pause()

    def _resume(self) -> None:
        self._begun = self._stamp()

    def _pause(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            self._own.append((begun, self._stamp()))

    def _stamp(self) -> Stamp:
        """What the device passes when it has done all that it was given until now; of a CPU the time."""
        if self._device is None or self._device.type != "cuda":
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def end_step(self) -> None:
        """It is over; the device has done what was given to it before the step's agreement."""
        if self._began is None:
            return
        whole = time.perf_counter() - self._began
        own = max(whole - self._together - self._data, 0.0) + sum(seconds_between(*pair) for pair in self._own)
        self._spell = [sum(pair) for pair in zip(self._spell, (whole, own, self._data), strict=True)]
        self._steps, self._began, self._own = self._steps + 1, None, []

    def take(self) -> Spell:
        """The steps since this was asked last."""
        steps, count, (whole, own, data) = self._steps, max(self._steps, 1), self._spell
        self._steps, self._spell = 0, [0.0, 0.0, 0.0]
        return Spell(steps, whole / count, own / count, data / count)


def seconds_between(begin: Any, end: Any) -> float:
    """Of two stamps of one device; waits for one that is not so far."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
