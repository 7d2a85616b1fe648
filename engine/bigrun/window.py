"""The window of a step: its micro-batches, awaited and made into views."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from bigrun.errors import DataError

if TYPE_CHECKING:
    from bigrun.data.dataset import Batch, Samples
    from bigrun.run import Run

__all__ = ["next_window"]

T = TypeVar("T")


def next_window(run: Run) -> list[Batch]:
    """The micro-batches of the step being taken: decoded images are awaited, then become views on the device."""
    run.activity, run.samples = "data", []
    window = on_all(run, lambda: [made(run) for _ in range(run.accumulate)])
    run.bad_images.record(run)
    run.activity = "step"
    return window


def made(run: Run) -> Batch:
    if run.peers.size > 1:
        run.bad_images.check(run)  # others may have met some
    return run.views(next_samples(run), run.device, run.step + 1)


def on_all(run: Run, work: Callable[[], T]) -> T:
    """Do what may fail on one process, in which case all end before the step."""
    failure: DataError | None = None
    try:
        result = work()
    except DataError as error:
        failure = error
    if run.peers.any(failure is not None):
        told = run.peers.gathered(None if failure is None else str(failure))
        first, text = next((rank, text) for rank, text in enumerate(told) if text is not None)
        is_said = run.peers.rank != first and str(failure) == text
        if failure is None:
            failure = DataError(f"{run.peers.name(first)} of the run has no images for step {run.step + 1}: {text}")
        run.exchange(run)  # the log and the checkpoint have what led to it
        run.peers.agree_to_end(failure, quiet=is_said or run.peers.rank not in (0, first))
        raise failure
    return result


def next_samples(run: Run) -> Samples:
    """Raises: DataError when too many images cannot be used, or none can."""
    start = time.perf_counter()
    samples = next(run.loader, None)
    if samples is None:
        raise DataError("the loader has ended: what build_loader returns must deliver for ever")
    run.metrics.waited(waited := time.perf_counter() - start)
    run.peers.pace.waited(waited)
    run.bad_images.meet(run, samples.faults)
    run.samples.append(samples)
    run.images_taken += len(samples.indices) * run.strategy.world_size
    return samples
