"""attention-maps: what the teacher looks at, and what its patches know, of the same images through the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun_pictures.config import MapsConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bigrun.evaluation.images import FixedImages
    from bigrun.run import Run
    from bigrun_pictures.gather import Look

__all__ = ["AttentionMaps", "MapsConfig"]

NAME = "attention-maps"
SHEET = "sample-"
"""Sheets of single images stay in the folder: whoever is told of a picture keeps a copy of it for ever, and these are
the most of what a look draws."""


class AttentionMaps:
    """Draws attention, patch features and their similarities for some images of the validation part; files in
    `attention-maps/` of the run directory. Every process looks, since a network may be spread over several of them; the
    main one draws."""

    Config = MapsConfig
    observer = True

    def __init__(self, config: MapsConfig) -> None:
        self.config = config
        self._images: FixedImages | None = None
        self._looked_at: int | None = None
        self._told: set[str] = set()

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.is_main:
            from bigrun_pictures.album import Album

            Album(run.path_for(NAME), self.config).go_back_to(run.step)
        if run.step == 0:
            self._look(run)

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if step % (self.config.every_steps or run.config.run.checkpoint_every_steps) == 0:
            for name, value in self._look(run).items():
                run.metrics.record(name, value)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if self._looked_at != run.step:
            self._look(run)
        if run.is_main and (path := run.path_for(NAME) / f"step_{run.step:09d}.png").exists():
            run.event(NAME, f"attention and patch features   {path}", path=str(path))

    @hookimpl
    def measurements(self, run: Run) -> Mapping[str, float]:
        return self._look(run, is_series=False)

    @hookimpl(optionalhook=True)
    def health_section(self, run: Run) -> dict[str, Any] | None:
        """For a health report, if there is one: `title`, `status`, `lines`, `pictures`."""
        from bigrun_pictures.health import section

        return section(run.path_for(NAME), run.directory)

    def _look(self, run: Run, *, is_series: bool = True) -> dict[str, float]:
        """Look, and on the main process draw; the look's numbers, none where no image can be read.

        is_series: whether it is one of the looks of a run, which are kept and make the strips.
        """
        from bigrun.evaluation.images import FixedImages
        from bigrun_pictures.gather import gathered

        if self._images is None:
            side = self.config.side(run.config.model.patch_size_px)
            self._images = FixedImages.spread(run, self.config.images, side)
        look = gathered(run, self._images, self.config)
        self._looked_at = run.step
        if look is not None and not look.is_finite:
            self._tell(run, [f"the teacher's features are not finite at step {run.step}: nothing is drawn"])
            return {}
        if run.is_main:
            self._draw(run, look, self._images, is_series=is_series)
        return {} if look is None else look.metrics()

    def _draw(self, run: Run, look: Look | None, images: FixedImages, *, is_series: bool) -> None:
        from bigrun_pictures.album import Album
        from bigrun_pictures.gather import name_of

        album = Album(run.path_for(NAME), self.config)
        missing = [i for i in images.indices if i in images.missing]
        pictures: Mapping[str, Path] = {}
        if look is not None:
            pictures = album.add(look, images) if is_series else album.draw(look)
        said = [f"{name_of(images, i)} cannot be read{images.where(i)}: it is not in the pictures" for i in missing]
        self._tell(run, said)
        self._tell(run, album.problems)
        for name, path in pictures.items():
            if not name.startswith(SHEET):
                run.picture(f"{NAME}/{name}", path)

    def _tell(self, run: Run, sentences: list[str]) -> None:
        """Each once."""
        for sentence in sentences:
            if sentence not in self._told:
                self._told.add(sentence)
                run.event(NAME, sentence, "warning")
