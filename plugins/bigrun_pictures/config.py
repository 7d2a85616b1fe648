"""The options of attention-maps: what is looked at, when, and how many looks are kept."""

from __future__ import annotations

import attrs

from bigrun import option
from bigrun.options import at_least, between

__all__ = ["MapsConfig"]

PATCHES = 28
"""To a side: 224 pixels with patches of 8, 448 with patches of 16."""


def fractions_of_depth(heights: tuple[float, ...]) -> str | None:
    """1 to 8 different fractions above 0, up to 1"""
    if 1 <= len(heights) <= 8 and len(set(heights)) == len(heights) and all(0 < h <= 1 for h in heights):
        return None
    return f"expected 1 to 8 different fractions above 0, up to 1, got {list(heights)}"


def place(patch: tuple[float, float]) -> str | None:
    """[x, y], each 0 to 1"""
    return None if all(0 <= v <= 1 for v in patch) else f"expected [x, y], each 0 to 1, got {list(patch)}"


@attrs.frozen
class MapsConfig:
    """Which images are looked at, with what, how often, and how much of it is kept."""

    images: int = option(
        4, check=between(1, 32), help="Images, evenly spread over the validation part, or without one over the data."
    )
    side_px: int | None = option(
        None, check=at_least(16), help="Side to which the middle square of an image is resized; absent: 28 patches."
    )
    channel: int | None = option(
        None,
        check=at_least(0),
        help="Channel that is shown as the image; absent: three channels as colours, or where the data set has a "
        "window of its own, as CT has, the middle one.",
    )
    every_steps: int | None = option(
        None,
        check=at_least(1),
        help="Steps between two looks, beside those before step 1 and at the end; absent: "
        "run.checkpoint_every_steps, so that each look has its checkpoint.",
    )
    heights: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0),
        check=fractions_of_depth,
        help="Blocks that are looked at, as fractions of the depth; 1 is the last.",
    )
    patch: tuple[float, float] = option(
        (0.5, 0.5), check=place, help="Place [x, y] of the patch that all others are compared with: [0, 0] is top left."
    )
    keep: int = option(
        12, check=between(4, 100), help="Looks that are kept and make the strip: the first, the newest, and between "
        "them evenly spread ones.",
    )  # fmt: skip

    def side(self, patch_px: int) -> int:
        """In pixels."""
        return self.side_px or PATCHES * patch_px

    def blocks(self, depth: int) -> list[int]:
        """The blocks that are looked at, counted from 1, each once."""
        return sorted({max(round(height * depth), 1) for height in self.heights})
