"""Images that a tiny network learns to tell apart in a few hundred steps, and some that nobody can."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["OneImage", "Stripes"]


class Stripes:
    """64 images of 64 px: stripes of two colours, whose direction, width and colours are functions of the index."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        """(3, 64, 64) uint8."""
        generator = np.random.default_rng(index)
        angle, waves = generator.uniform(0, np.pi), generator.uniform(2, 8)
        y, x = np.mgrid[0:64, 0:64] / 64
        stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
        first, second = generator.uniform(0, 1, (2, 3, 1, 1))
        return torch.from_numpy((((first + second) + (first - second) * stripes) / 2 * 255).astype(np.uint8))


class OneImage(Stripes):
    """64 times the same image, without structure."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3, 64, 64), 128, dtype=torch.uint8)
