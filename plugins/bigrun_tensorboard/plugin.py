"""tensorboard: every metric as a TensorBoard scalar, every event as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes to `tensorboard/` in the run directory; `tensorboard --logdir RUN` shows it. Points that an earlier
    process wrote beyond the checkpoint are purged, so that curves have no double lines."""

    observer = True

    def __init__(self) -> None:
        self._writer: Any = None
        self._early: list[Event] = []

    @hookimpl
    def on_start(self, run: Run) -> None:
        if not run.is_main:
            return
        from tensorboardX import SummaryWriter

        folder = run.path_for("tensorboard")
        started_before = len(list(folder.iterdir()))
        self._writer = SummaryWriter(
            str(folder),
            purge_step=run.step + 1,  # also at step 0: a run killed before its first checkpoint begins again there
            filename_suffix=f".{started_before:04d}",  # or two starts within a second would share a file
        )
        for event in self._early:
            self._add(event)
        self._early.clear()

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        if self._writer is not None:
            self._add(event)
        else:
            self._early.append(event)

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, event: Event) -> None:
        self._writer.add_text(event.kind, event.message, event.step)
