"""[masking]: which patches the student does not see."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bigrun.options import between, option

__all__ = ["Masking"]


@attrs.frozen
class Masking:
    """Blocks of patches that are hidden from the student, for the iBOT loss [spec 3]. Without that loss, none are."""

    crop_fraction: float = option(0.5, check=between(0.01, 1), help="Share of a step's global crops that are masked.")
    ratio: tuple[float, float] = option(
        (0.1, 0.5), help="Smallest and largest share of a masked crop's patches; the crops of a step climb it evenly."
    )
    min_block_patches: int = option(4, check=between(1, 2**20), help="Smallest area of a block.")
    block_aspect: float = option(
        0.3, check=between(0.01, 1), help="Height over width of a block is drawn from this to its inverse, log-uniform."
    )
    shift: bool = option(False, help="Move each mask by a random circular shift.")

    def problems(self) -> Iterator[tuple[str, str]]:
        low, high = self.ratio
        if not 0 <= low < high <= 1:
            yield "ratio", f"expected [low, high] with 0 <= low < high <= 1, got [{low}, {high}]"
