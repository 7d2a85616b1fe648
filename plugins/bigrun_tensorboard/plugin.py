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
    """Writes to `tensorboard/` in the run directory; `tensorboard --logdir RUN` shows it. After a resume, points
    beyond the checkpoint are purged, so that curves have no double lines."""

    observer = True

    def __init__(self) -> None:
        self._writer: Any = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        from tensorboardX import SummaryWriter

        purge = run.step + 1 if run.resumed_from else None
        self._writer = SummaryWriter(str(run.path_for("tensorboard")), purge_step=purge)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        if self._writer is not None:
            self._writer.add_text(event.kind, event.message, event.step)

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
