"""The picture: images, attention and patch features below each other."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["draw", "first_components"]


def first_components(features: Tensor) -> Tensor:
    """The first three principal components of rows (n, D), each stretched to [0, 1]: (n, 3)."""
    centred = features.double() - features.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    # A direction and its opposite are the same component: the largest coefficient is positive.
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    projected = centred @ (directions * signs)[:3].T
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
    stretched: Tensor = (projected - low) / (high - low).clamp(min=1e-9)
    return stretched.clamp(0, 1).float()


def draw(images: Tensor, attention: Tensor, features: Tensor, titles: list[str], about: str, path: Path) -> None:
    """
    Args:
        images: (n, 3 or 1, H, W) in [0, 1].
        attention: (n, Hp, Wp).
        features: (n, P, D), P = Hp * Wp; colours are those of all images together, so that they mean the same in each.
    """
    count, (rows, columns) = len(images), attention.shape[1:]
    colours = first_components(features.flatten(0, 1)).view(count, rows, columns, 3)
    figure = Figure(figsize=(3 * count, 9.6), layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    heat = F.interpolate(attention[:, None], images.shape[2:], mode="bilinear")[:, 0]
    for k in range(count):
        picture = images[k].permute(1, 2, 0).numpy()
        for row in (0, 1):
            axes[row, k].imshow(picture, cmap="gray", vmin=0, vmax=1)
        # Twice the mean at least: attention to everything alike is half as bright as can be, and not all light.
        high = max(float(heat[k].quantile(0.995)), 2 * float(heat[k].mean()))
        axes[1, k].imshow(heat[k].numpy(), cmap="inferno", vmin=0, vmax=high, alpha=0.6)
        axes[2, k].imshow(colours[k].numpy())
        axes[0, k].set_title(titles[k], fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.suptitle(about)
    figure.savefig(path, dpi=110)
