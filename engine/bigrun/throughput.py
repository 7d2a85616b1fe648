"""Throughput: steps, images and operations since the last line of the log, over the time that they took."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.compute import Compute

__all__ = ["TIMINGS", "Throughput"]

TIMINGS = (
    "steps_per_second",
    "images_per_second",
    "data_wait_fraction",
    "model_tflops_per_second",
    "mfu_fraction",
    "mfu_of_measured_fraction",
)
"""Names of what `flush` gives; the last three where they are known."""


class Throughput:
    """What was done, and in how long. A skipped step has done nothing; its time counts."""

    def __init__(self, images_per_step: int) -> None:
        """
        Args:
            images_per_step: of all processes and micro-batches, each image once, however many crops are made of it.
        """
        self.images_per_step = images_per_step
        self.compute: Compute | None = None
        """What a step computes; None where nobody knows, or nobody has asked yet."""
        self._steps = 0
        self._flops = self._step_flops = 0.0
        self._since = perf_counter()
        self._waited_seconds = 0.0

    def begin_step(self, step: int) -> None:
        """A step begins that will compute what the configuration says; `add_flops` is for what comes on top."""
        self._step_flops = 0.0 if self.compute is None else self.images_per_step * self.compute.flops(step)

    def add_flops(self, flops: float) -> None:
        """Count operations of the step being taken, on all processes."""
        self._step_flops += flops

    def waited(self, seconds: float) -> None:
        """Count time in which the step waited for data."""
        self._waited_seconds += seconds

    def commit(self) -> None:
        """The step has changed the network: it counts."""
        self._steps += 1
        self._flops += self._step_flops
        self._step_flops = 0.0

    def flush(self) -> dict[str, float]:
        """Rates over the wall time since the last flush: see docs/reference/metrics.md."""
        now = perf_counter()
        elapsed = max(now - self._since, 1e-9)
        rates = {
            "steps_per_second": self._steps / elapsed,
            "images_per_second": self._steps * self.images_per_step / elapsed,
            "data_wait_fraction": self._waited_seconds / elapsed,
        }
        if self.compute is not None:
            rates |= self.compute.rates(self._flops / elapsed)
        self._steps, self._flops = 0, 0.0
        self._since, self._waited_seconds = now, 0.0
        return rates

    def restart_clock(self) -> None:
        """Begin measuring time now."""
        self._since, self._waited_seconds = perf_counter(), 0.0
