"""The folder of pictures: a sheet for each look, one for each of its images, and strips of what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bigrun.directory import replace_file
from bigrun_pictures.colours import painted
from bigrun_pictures.detail import draw_detail
from bigrun_pictures.kept import Kept, KeptLook
from bigrun_pictures.overview import SMALL, draw_overview, sample_tiles
from bigrun_pictures.strip import draw_strip

if TYPE_CHECKING:
    from bigrun.evaluation.images import FixedImages
    from bigrun_pictures.colours import Painted
    from bigrun_pictures.config import MapsConfig
    from bigrun_pictures.gather import Look

__all__ = ["Album"]


class Album:
    """
    step_N.png           all images at step N
    sample-K/step_N.png  one of them: every height and head, and the networks beside each other
    strip-K.png          one of them over time
    kept/                what strips are made of
    """

    def __init__(self, folder: Path, config: MapsConfig) -> None:
        self.folder = folder
        self.config = config
        self.kept = Kept(folder)

    @property
    def problems(self) -> list[str]:
        """What of the folder could not be read, and was left out."""
        return [f"{text}: it is left out of the strips" for text in self.kept.unreadable]

    def draw(self, look: Look) -> dict[str, Path]:
        """The sheets of a look alone; the pictures by the names of their series."""
        return self._draw_sheets(look, painted(look, {}))

    def add(self, look: Look, images: FixedImages) -> dict[str, Path]:
        """Draw a look of those that are kept, and the strips that end with it."""
        key = json.dumps([images.indices, images.side_px, look.blocks, list(self.config.patch), self.config.channel])
        before = [old for old in self.kept.looks(key) if old.step < look.step]
        colours = painted(look, before[-1].scores if before else {})
        tiles = {
            sample.position: torch.from_numpy(np.stack(sample_tiles(sample, colours, SMALL))) for sample in look.samples
        }
        self.kept.save(KeptLook(look.step, tiles, colours.scores, facts_of(look, key)))
        pictures = self._draw_sheets(look, colours)
        self.kept.thin(self.config.keep)
        return pictures | self._draw_strips(key)

    def go_back_to(self, step: int) -> None:
        """Forget the looks of steps that are still to be taken."""
        if max(self.kept.steps(), default=0) > step:
            self.kept.drop_after(step)
            for path in self.folder.glob("strip-*.png"):
                path.unlink(missing_ok=True)
            if left := self.kept.looks():
                self._draw_strips(left[-1].facts["key"])

    def _draw_sheets(self, look: Look, colours: Painted) -> dict[str, Path]:
        pictures = {"overview": self._write(f"step_{look.step:09d}.png", draw_overview(look, colours))}
        for sample in look.samples:
            name = f"sample-{sample.position}"
            pictures[name] = self._write(f"{name}/step_{look.step:09d}.png", draw_detail(look, colours, sample))
        return pictures

    def _draw_strips(self, key: str) -> dict[str, Path]:
        looks, pictures = self.kept.looks(key), {}
        for position in looks[-1].tiles:
            columns = [(look.step, look.tiles[position]) for look in looks if position in look.tiles]
            name = looks[-1].facts["names"].get(str(position), "")
            pictures[f"strip-{position}"] = self._write(
                f"strip-{position}.png", draw_strip(columns, f"{position}  {name}")
            )
        return pictures

    def _write(self, name: str, contents: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        replace_file(path, contents)
        return path


def facts_of(look: Look, key: str) -> dict[str, Any]:
    """What of a look is numbers and words."""
    return {
        "key": key,
        "names": {str(sample.position): sample.name for sample in look.samples},
        "missing": look.missing,
        "blocks": look.blocks,
        "depth": look.depth,
        "entropies": look.entropies(),
        "prefix_shares": look.prefix_shares(),
        "differences": look.differences(),
    }
