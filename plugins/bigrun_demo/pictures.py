"""The pictures of the learning report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Shown", "draw_loss", "draw_patch_features", "first_components", "shown_photos"]

SHOWN = ("astronaut", "chelsea", "coffee", "china")
SIDE_PX = 256


def draw_loss(losses: Sequence[tuple[int, float]], path: Path) -> None:
    """The loss over optimizer steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([step for step, _ in losses], [loss for _, loss in losses])
    axes.set(xlabel="optimizer step", ylabel="loss", title="Loss")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def first_components(features: Tensor) -> Tensor:
    """The first three principal components of rows (n, D), each stretched to [0, 1]: (n, 3)."""
    centred = features.float() - features.float().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ directions[:3].T
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
    stretched: Tensor = (projected - low) / (high - low).clamp(min=1e-9)
    return stretched.clamp(0, 1)


@attrs.frozen(eq=False)
class Shown:
    """A photograph, and what the teacher makes of it."""

    name: str
    pixels: Tensor  # (3, s, s) in [0, 1]
    patches: Tensor  # (P, D) on the CPU
    grid: tuple[int, int]


def shown_photos(run: Run, photos: dict[str, Tensor]) -> list[Shown]:
    """Show some photographs to the teacher."""
    views = run.config.views
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (views.mean, views.std))
    side = SIDE_PX // run.config.model.patch_size_px * run.config.model.patch_size_px
    found = []
    for name in (name for name in SHOWN if name in photos):
        square = centre_square(photos[name].float() / 255)
        x = F.interpolate(square[None], (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        with run.objective.evaluation() as backbone:
            features = backbone(((x - mean) / std).to(run.device))
        found.append(Shown(name, x[0], features.patches[0].cpu(), features.grid))
    return found


def draw_patch_features(photos: Sequence[Shown], step: int, path: Path) -> None:
    """Photographs above, their patch features as colours below: alike patches have like colours."""
    figure = Figure(figsize=(3 * len(photos), 6.4), layout="constrained")
    axes = figure.subplots(2, len(photos), squeeze=False)
    for column, photo in enumerate(photos):
        axes[0, column].imshow(photo.pixels.permute(1, 2, 0).numpy())
        axes[1, column].imshow(first_components(photo.patches).view(*photo.grid, 3).numpy())
        axes[0, column].set_title(photo.name)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.suptitle(f"Photographs, and the first three principal components of their patch features, step {step}")
    figure.savefig(path, dpi=110)


def centre_square(image: Tensor) -> Tensor:
    """The central square of an image (C, H, W)."""
    _, height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]
