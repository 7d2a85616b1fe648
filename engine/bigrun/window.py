"""The window of a step: its micro-batches, awaited and made into views."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bigrun.errors import DataError

if TYPE_CHECKING:
    from bigrun.data.dataset import Batch, Samples
    from bigrun.run import Run

__all__ = ["next_window"]


def next_window(run: Run) -> list[Batch]:
    """The micro-batches of the step being taken: decoded images are awaited, then become views on the device."""
    run.activity, run.samples = "data", []
    window = [run.views(next_samples(run), run.device, run.step + 1) for _ in range(run.accumulate)]
    run.bad_images.record(run)
    run.activity = "step"
    return window


def next_samples(run: Run) -> Samples:
    """Raises: DataError when too many images cannot be used, or none can."""
    start = time.perf_counter()
    samples = next(run.loader, None)
    if samples is None:
        raise DataError("the loader has ended: what build_loader returns must deliver for ever")
    run.metrics.waited(time.perf_counter() - start)
    run.bad_images.meet(run, samples.faults)
    run.samples.append(samples)
    run.images_taken += len(samples.indices) * run.strategy.world_size
    return samples
