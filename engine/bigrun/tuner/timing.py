"""A companion plugin that takes the time of a few steps, by phase, and then ends the run.

    [window]  data, transfer  [before_step]  forward  [backward]  backward  [after_backward]  ...
    ... optimizer  [after_update]  other  [after_step]

A mark is made where a phase ends: on a GPU an event in its stream, since the processor runs ahead of it; on a CPU the
clock. No hook stands between the losses and the backward pass: the strategy is listened to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.markers import hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bigrun.data.dataset import Samples
    from bigrun.run import Run

__all__ = ["AwaitedLoader", "Length", "Timing", "decoded_per_second"]

ENDS = {
    "window": "other",
    "before_step": "transfer",
    "backward": "forward",
    "after_backward": "backward",
    "after_update": "optimizer",
    "after_step": "other",
}
"""The phase that ends with a mark. The time for which the loader was awaited is taken out of `transfer`."""
DECODING_SECONDS = 1.0
"""At least, in which decoded images are counted."""
MOST_DECODING_SECONDS = 20.0
"""Decoding that takes longer is what the steps have waited for already."""


@attrs.frozen
class Length:
    """How long a trial is. It is over when both steps and seconds are reached."""

    warm_up_steps: int = 2
    """At least: the warm-up goes on until so much is used up as was decoded beforehand."""
    steps: int = 10
    seconds: float = 0.0
    patience_seconds: float = 30.0
    """For what was decoded beforehand to be used up."""


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

    def __init__(self, length: Length, tell: Callable[[int], None] = lambda step: None) -> None:
        """`tell` hears of every step."""
        self.length = length
        self.tell = tell
        self.warmed_up: int | None = None
        """Steps of the warm-up; None as long as it lasts."""
        self.measured = 0
        """Steps."""
        self.waited_seconds = 0.0
        self._marks: list[tuple[str, Any]] = []
        self._in_window = self._in_backward = False
        self._began = time.monotonic()

    def milliseconds(self) -> dict[str, float]:
        """Of all measured steps together, by phase, with those of waiting as `data`; waits for a GPU to be done."""
        finish(self._device)
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
        self._began, self._device = time.monotonic(), run.device
        run.loader = AwaitedLoader(run.loader, lambda: self._asked(run), self._waited)
        backward = run.strategy.backward

        def heard(loss: Tensor, *, keep_graph: bool = False) -> None:
            if not self._in_backward:
                self._in_backward = True
                self._mark(run, "backward")
            backward(loss, keep_graph=keep_graph)

        run.strategy.backward = heard  # type: ignore[method-assign]

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

    @hookimpl(tryfirst=True)
    def after_backward(self, run: Run) -> None:
        self._in_backward = False
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
                self.warmed_up, self._began = step, time.monotonic()
                self._mark(run, "after_step")
            return
        self.measured += 1
        is_long = time.monotonic() - self._began >= self.length.seconds
        self._mark(run, "after_step")
        if is_long and self.measured >= self.length.steps:
            run.request_stop("measured")

    def _is_warm(self, run: Run, step: int) -> bool:
        if step < self.length.warm_up_steps:
            return False
        data = run.config.data
        used_up = step * run.accumulate >= data.workers * data.prefetch
        return used_up or time.monotonic() - self._began >= self.length.patience_seconds

    def _mark(self, run: Run, name: str) -> None:
        if self.warmed_up is not None:
            self._marks.append((name, now_on(run.device)))


def decoded_per_second(loader: Iterator[Samples], micro_batch: int, under_way: int) -> float:
    """Images that a loader delivers to somebody who only takes them.

    Args:
        under_way: micro-batches that may have been decoded before the first is taken; they do not count.
    """
    moments, least = [time.perf_counter()], 2 * under_way + 1
    while moments[-1] - moments[0] < MOST_DECODING_SECONDS:
        next(loader)
        moments.append(time.perf_counter())
        if len(moments) > least and moments[-1] - moments[under_way] >= DECODING_SECONDS:
            break
    first = min(under_way, (len(moments) - 1) // 2)
    return micro_batch * (len(moments) - 1 - first) / max(moments[-1] - moments[first], 1e-9)


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
