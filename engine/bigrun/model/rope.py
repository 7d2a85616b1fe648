"""Axial rotary position embedding: patches are rotated by angles of their row and column (arXiv 2104.09864;
2508.10104, section 3). Nothing is learned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bigrun.sections import Model

__all__ = ["Rope", "RopeTable", "patch_coordinates", "rope_table", "rotate"]

# sin and cos, each (N, d) float32; rows of tokens that are no patches have sin 0 and cos 1.
RopeTable = tuple[Tensor, Tensor]


class Rope(nn.Module):
    """The tables of an image's tokens, with the augmentations of training.

    One draw of shift, jitter and rescale is shared by all images of a call; there is none in eval mode, so the
    teacher always sees the grid as it is.
    """

    periods: Tensor  # (d/4,) float32, saved with the weights

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("periods", torch.empty(model.width // model.heads // 4, dtype=torch.float32))

    def initialise(self) -> None:
        """base^(i/q), or from the shortest to the longest period in equal ratios; i = 0 .. q-1 and q = d/4."""
        count = len(self.periods)
        steps = torch.arange(count, dtype=torch.float32, device=self.periods.device)
        if self.model.rope_base is not None:
            self.periods.copy_(self.model.rope_base ** (steps / count))
        else:
            assert self.model.rope_period_range is not None
            low, high = self.model.rope_period_range
            self.periods.copy_(low * (high / low) ** (steps / max(count - 1, 1)))

    def forward(self, grid: tuple[int, int], prefix: int) -> RopeTable:
        """The table of `prefix` tokens without a place, then Hp*Wp patches in row-major order."""
        coordinates = patch_coordinates(grid, self.model.rope_coordinates, self.periods.device)
        if self.training:
            coordinates = self._augment(coordinates)
        sin, cos = rope_table(coordinates, self.periods)  # (P, d)
        return nn.functional.pad(sin, (0, 0, prefix, 0)), nn.functional.pad(cos, (0, 0, prefix, 0), value=1.0)

    def _augment(self, coordinates: Tensor) -> Tensor:
        """Shift and jitter each axis, rescale both by one factor; factors are log-uniform."""
        model = self.model
        draws = torch.rand(5, device=coordinates.device) * 2 - 1  # in [-1, 1)
        if model.rope_shift is not None:
            coordinates = coordinates + draws[0:2] * model.rope_shift
        if model.rope_jitter_factor is not None:
            coordinates = coordinates * (draws[2:4] * math.log(model.rope_jitter_factor)).exp()
        if model.rope_rescale_factor is not None:
            coordinates = coordinates * (draws[4] * math.log(model.rope_rescale_factor)).exp()
        return coordinates


def patch_coordinates(grid: tuple[int, int], divide_by: str, device: torch.device | None = None) -> Tensor:
    """(Hp*Wp, 2) float32: row and column of each patch's centre, in [-1, 1] along the side divided by.

    Args:
        grid: Hp, Wp.
        divide_by: `separate` (each axis by its own side), `max` or `min` (both by the longer or shorter side).
    """
    height, width = grid
    sides = {"separate": (height, width), "max": (max(grid),) * 2, "min": (min(grid),) * 2}[divide_by]
    rows, columns = (
        (torch.arange(count, dtype=torch.float32, device=device) + 0.5) / side * 2 - 1
        for count, side in zip(grid, sides, strict=True)
    )
    return torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)], dim=-1).view(-1, 2)


def rope_table(coordinates: Tensor, periods: Tensor) -> RopeTable:
    """sin and cos (P, d) of coordinates (P, 2): d/4 angles 2 pi y / period, d/4 of x, and both again."""
    angles = 2 * math.pi * coordinates[:, :, None] / periods  # (P, 2, d/4)
    angles = angles.flatten(1).repeat(1, 2)
    return angles.sin(), angles.cos()


def rotate(tokens: Tensor, table: RopeTable) -> Tensor:
    """Rotate the pairs (i, i + d/2) of queries or keys (n, h, N, d) by their token's angles, in fp32."""
    sin, cos = table
    t = tokens.float()
    first, second = t.chunk(2, dim=-1)
    return (t * cos + torch.cat([-second, first], dim=-1) * sin).to(tokens.dtype)
