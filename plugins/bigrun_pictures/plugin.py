"""attention-maps: what the teacher looks at, and what its patches know, as a picture of some images of the data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.options import at_least, between

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run

__all__ = ["AttentionMaps", "MapsConfig"]


@attrs.frozen
class MapsConfig:
    """Which images are drawn, how large and how often."""

    images: int = option(4, check=between(1, 32), help="Images, evenly spread over the data set.")
    side_px: int = option(384, check=at_least(16), help="Side to which the middle square of an image is resized.")
    channel: int | None = option(
        None, check=at_least(0), help="Channel that is shown as the image; absent: all three as colours, or the first."
    )
    every_steps: int | None = option(
        None,
        check=at_least(1),
        help="Steps between two pictures, the first before step 1; absent: one at the end of the run.",
    )


class AttentionMaps:
    """Draws, for some images, the attention of the teacher's class token and the first principal components of its
    patch features; files in `attention-maps/` of the run directory."""

    Config = MapsConfig
    observer = True

    def __init__(self, config: MapsConfig) -> None:
        self.config = config

    @hookimpl
    def on_start(self, run: Run) -> None:
        if self.config.every_steps is not None and run.step == 0:
            self._draw(run)

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        every = self.config.every_steps
        if every is not None and step % every == 0:
            self._draw(run)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        path = self._draw(run)
        if path is not None:
            run.event("attention-maps", f"attention and patch features   {path}", path=str(path))

    def _draw(self, run: Run) -> Path | None:
        """The picture of this step; None when none of the images can be read, and on all processes but one."""
        from bigrun_pictures.attention import look
        from bigrun_pictures.draw import draw

        if not run.is_main:
            return None
        found = self._images(run)
        if found is None:
            return None
        images, crops, titles = found
        with run.objective.evaluation() as backbone:
            features, attention = look(backbone, crops.to(run.device))
        channel = self.config.channel
        shown = (
            images if channel is None and images.shape[1] == 3 else images[:, [min(channel or 0, images.shape[1] - 1)]]
        )
        path = run.path_for("attention-maps") / f"step_{run.step:09d}.png"
        about = f"Images; attention of the class token; principal components of the patch features. Step {run.step}"
        draw(shown, attention.mean(1).cpu(), features.patches.float().cpu(), titles, about, path)
        return path

    def _images(self, run: Run) -> tuple[Tensor, Tensor, list[str]] | None:
        """Middle squares (n, C, s, s) in [0, 1] in the tone's typical values, the same normalised, and their names."""
        from bigrun_pictures.squares import middle_squares

        return middle_squares(run, self.config.images, self.config.side_px)
