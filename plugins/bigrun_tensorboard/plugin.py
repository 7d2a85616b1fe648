"""tensorboard: every metric as a TensorBoard scalar, every event as text, every picture as an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
        self._early_pictures: list[tuple[int, str, Path]] = []

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
        for picture in self._early_pictures:
            self._add_picture(run, *picture)
        self._early_pictures.clear()

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        if not run.is_main:  # nobody would ever write what is kept there
            return
        if self._writer is not None:
            self._add(event)
        else:
            self._early.append(event)

    @hookimpl
    def on_picture(self, run: Run, step: int, name: str, path: Path) -> None:
        if not run.is_main:
            return
        if self._writer is not None:
            self._add_picture(run, step, name, path)
        else:
            self._early_pictures.append((step, name, path))

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, event: Event) -> None:
        self._writer.add_text(event.kind, event.message, event.step)

    def _add_picture(self, run: Run, step: int, name: str, path: Path) -> None:
        """One that cannot be read, or that its plugin has replaced meanwhile, costs no more than itself."""
        import numpy as np
        from PIL import Image

        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            run.event("tensorboard", f"the picture {name} cannot be read and is not shown: {error}", "warning")
            return
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()
