"""demo-photos: real photographs to train on, cut into tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.options import at_least

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.run import Run

__all__ = ["DemoConfig", "DemoPhotos"]


@attrs.frozen
class DemoConfig:
    """How the photographs are cut."""

    tile_px: int = option(160, check=at_least(16), help="Side of a tile.")
    stride_px: int = option(64, check=at_least(1), help="Distance from one tile to the next.")


class DemoPhotos:
    """Brings the photographs of the scikit-image and scikit-learn wheels (extra `demo`)."""

    Config = DemoConfig

    def __init__(self, config: DemoConfig) -> None:
        self.config = config

    @hookimpl
    def build_dataset(self, run: Run) -> Dataset:
        from bigrun_demo.photos import PhotoTiles, load_photos

        return PhotoTiles(load_photos(), self.config.tile_px, self.config.stride_px)
