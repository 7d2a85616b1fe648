"""A companion plugin that takes the time of a few steps, by phase, and then ends the run.

    [window]  data, transfer  [before_step]  forward  [loss_terms]  backward  [after_backward]  ...
    ... optimizer  [after_update]  other  [after_step]

A mark is made where a phase ends: on a GPU an event in its stream, since the processor runs ahead of it; on a CPU the
clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bigrun.markers import hookimpl

if TYPE_CHECKING:
    import torch

    from bigrun.data.dataset import Batch, Samples
    from bigrun.objective.base import Outputs
    from bigrun.run import Run

__all__ = ["AwaitedLoader", "Timing"]

ENDS = {
    "window": "other",
    "before_step": "transfer",
    "loss_terms": "forward",
    "after_backward": "backward",
    "after_update": "optimizer",
    "after_step": "other",
}
"""The phase that ends with a mark. The time for which the loader was awaited is taken out of `transfer`."""
MOST_WARM_UP_SECONDS = 30.0
"""Workers that have not been overtaken by then will not be."""


class AwaitedLoader:
    """A loader that tells when it is asked, and how long it was awaited."""

    def __init__(self, loader: Iterator[Samples], asked: Callable[[], None], waited: Callable[[float], None]) -> None:
        self.loader = loader
        self.asked = asked
        self.waited = waited

    def __iter__(self) -> AwaitedLoader:
        return self

    def __next__(self) -> Samples:
        self.asked()
        began = time.perf_counter()
        try:
            return next(self.loader)
        finally:
            self.waited(time.perf_counter() - began)

    def close(self) -> None:
        close = getattr(self.loader, "close", None)
        if close is not None:
            close()


class Timing:
    """Warms up for some steps, takes the time of the next ones, and asks the run to stop."""

    def __init__(self, warm_up_steps: int, steps: int, tell: Callable[[int], None] = lambda step: None) -> None:
        """
        Args:
            warm_up_steps: at least. It goes on until what was decoded beforehand is used up, for half a minute at
                most: until then images come faster than they are decoded.
            steps: to measure.
            tell: hears of every step.
        """
        self.warm_up_steps = warm_up_steps
        self.steps = steps
        self.tell = tell
        self.warmed_up: int | None = None
        """Steps of the warm-up; None as long as it lasts."""
        self.waited_seconds = 0.0
        self._marks: list[tuple[str, Any]] = []
        self._in_window = False
        self._began = time.monotonic()

    @property
    def measured(self) -> int:
        """Steps that were measured."""
        return sum(name == "after_step" for name, _ in self._marks) - 1 if self._marks else 0

    def milliseconds(self) -> dict[str, float]:
        """Of all measured steps together, by phase, with those of waiting as `data`."""
        total: dict[str, float] = {}
        for (_, before), (name, now) in zip(self._marks, self._marks[1:], strict=False):
            phase = ENDS[name]
            total[phase] = total.get(phase, 0.0) + between_ms(before, now)
        # A GPU that is still busy with the step before does not feel all of the wait.
        window = total.get("transfer", 0.0)
        total["data"] = min(1000 * self.waited_seconds, window)
        total["transfer"] = window - total["data"]
        return total

    @hookimpl(trylast=True)
    def on_start(self, run: Run) -> None:
        self._began = time.monotonic()
        run.loader = AwaitedLoader(run.loader, lambda: self._asked(run), self._waited)

    def _asked(self, run: Run) -> None:
        if not self._in_window:
            self._in_window = True
            self._mark(run, "window")

    def _waited(self, seconds: float) -> None:
        if self.warmed_up is not None:
            self.waited_seconds += seconds

    @hookimpl(tryfirst=True)
    def before_step(self, run: Run) -> None:
        self._in_window = False
        self._mark(run, "before_step")

    @hookimpl(trylast=True)
    def loss_terms(self, run: Run, batch: Batch, outputs: Outputs) -> dict[str, torch.Tensor]:
        self._mark(run, "loss_terms")
        return {}

    @hookimpl(tryfirst=True)
    def after_backward(self, run: Run) -> None:
        self._mark(run, "after_backward")

    @hookimpl(tryfirst=True)
    def after_update(self, run: Run) -> None:
        self._mark(run, "after_update")

    @hookimpl(trylast=True)
    def after_step(self, run: Run, step: int) -> None:
        self.tell(step)
        if self.warmed_up is None:
            if self._is_warm(run, step):
                finish(run.device)
                self.warmed_up = step
                self._mark(run, "after_step")
            return
        if self.measured + 1 >= self.steps:
            finish(run.device)
        self._mark(run, "after_step")
        if self.measured >= self.steps:
            run.request_stop("measured")

    def _is_warm(self, run: Run, step: int) -> bool:
        if step < self.warm_up_steps:
            return False
        data = run.config.data
        used_up = step * run.accumulate >= data.workers * data.prefetch
        return used_up or time.monotonic() - self._began > MOST_WARM_UP_SECONDS

    def _mark(self, run: Run, name: str) -> None:
        if self.warmed_up is not None:
            self._marks.append((name, now_on(run.device)))


def now_on(device: torch.device) -> Any:
    """A moment: an event on a GPU, seconds on a CPU."""
    if device.type != "cuda":
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def between_ms(before: Any, now: Any) -> float:
    """Milliseconds between two moments on one device, which has finished."""
    return 1000 * (now - before) if isinstance(now, float) else float(before.elapsed_time(now))


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to do."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
