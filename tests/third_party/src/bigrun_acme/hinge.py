"""The variance term of VICReg (arXiv 2105.04906, eq. 1 and 2)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["feature_std", "variance_hinge"]

EPSILON = 1e-4  # of the paper: the gradient of a square root at 0 is infinite


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation over images of every feature: (crops, images, D) -> (crops, D), float32."""
    return (features.float().var(dim=1) + EPSILON).sqrt()


def variance_hinge(std: Tensor, target: float) -> Tensor:
    """How far the deviations are below their target, on average; those above it cost nothing. Shape ()."""
    return (target - std).clamp(min=0).mean()
