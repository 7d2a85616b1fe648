"""How large things are: the size of a pixel in millimetres, of images and of the crops made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["Spacing", "require_spacing", "view_spacing_mm"]


class Spacing(Protocol):
    """The method `spacing_mm` of a data set."""

    def __call__(self, indices: npt.NDArray[np.int64], /) -> npt.NDArray[np.float32] | None:
        """(b, 3): x, y, z in mm, NaN where they are not known; None where the data set knows none at all."""
        ...


def require_spacing(dataset: Dataset) -> None:
    """Raises: UsageError when the data set knows no spacing, and model.scale_embedding is set."""
    spacing: Spacing | None = getattr(dataset, "spacing_mm", None)
    if len(dataset) and (spacing is None or spacing(np.zeros(1, dtype=np.int64)) is None):
        raise UsageError(
            f"model.scale_embedding: the data set ({type(dataset).__name__}) knows no spacing in mm, which the network "
            "is to be told; expected one that does (`spacing_mm`), or scale_embedding = false"
        )


def view_spacing_mm(
    spacing: npt.NDArray[np.float32], boxes: npt.NDArray[np.int64], size_px: int
) -> npt.NDArray[np.float64]:
    """What a pixel of a crop covers: a box of w pixels of sx mm that became s pixels has pixels of sx * w / s mm.

    Args:
        spacing: (b, 3) of the images, x, y, z in mm.
        boxes: (V, b, 4): top, left, height, width in pixels of the images.
        size_px: side s of the crops.

    Returns:
        (V*b, 3), crop-major; z stays, for slices are not resampled.
    """
    height, width = boxes[..., 2], boxes[..., 3]
    stretch = np.stack([width / size_px, height / size_px, np.ones(width.shape)], axis=-1)  # (V, b, 3)
    view: npt.NDArray[np.float64] = (spacing.astype(np.float64) * stretch).reshape(-1, 3)
    return view
