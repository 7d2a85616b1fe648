"""Axial rotary position embedding: patches are rotated by angles of their row and column (arXiv 2104.09864;
2508.10104, section 3). Nothing is learned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bigrun.sections import Model

__all__ = ["Rope", "RopeTable", "patch_coordinates", "rope_table", "rotate"]

# sin and cos, each (N, d); rows of tokens that are no patches have sin 0 and cos 1.
RopeTable = tuple[Tensor, Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Rope(nn.Module):
    """The tables of several grids of patches, with the augmentations of training.

    A draw of shift, jitter and rescale is shared by all images of a grid; there is none in eval mode, so the teacher
    always sees the grid as it is.
    """

    periods: Tensor  # (d/4,) float32, saved with the weights

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.dtype = DTYPES[model.rope_dtype]
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move with the network, but stay in float32 when it is cast: rounded periods are other positions."""
        periods = self.periods
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.periods.dtype != torch.float32:
            self.periods = periods.to(self.periods.device)
        return self

    def forward(self, grids: Sequence[tuple[int, int]], prefix: int, blocks: int) -> list[list[RopeTable]]:
        """For each block the tables of all grids: `prefix` tokens without a place, then Hp*Wp patches, row-major."""
        draws = self._draws(blocks, len(grids))
        tables = []
        for number, grid in enumerate(grids):
            coordinates = patch_coordinates(grid, self.model.rope_coordinates, self.periods.device, self.dtype)
            if draws is not None:
                coordinates = self._augment(coordinates, draws[:, number])  # (blocks or 1, P, 2)
            sin, cos = rope_table(coordinates, self.periods.to(self.dtype))
            sin = nn.functional.pad(sin, (0, 0, prefix, 0)).expand(blocks, -1, -1)  # (blocks, N, d)
            cos = nn.functional.pad(cos, (0, 0, prefix, 0), value=1.0).expand(blocks, -1, -1)
            tables.append(list(zip(sin.unbind(0), cos.unbind(0), strict=True)))
        return [list(of_block) for of_block in zip(*tables, strict=True)]

    def _draws(self, blocks: int, grids: int) -> Tensor | None:
        """(blocks, grids, 5) in [-1, 1), or (1, grids, 5) where blocks share them; None without augmentation."""
        if not self.training or not self.model.rope_augmented:
            return None
        count = blocks if self.model.rope_per_block else 1
        return torch.rand(count, grids, 5, device=self.periods.device) * 2 - 1

    def _augment(self, coordinates: Tensor, draws: Tensor) -> Tensor:
        """Coordinates (P, 2) for each of the draws (k, 5): (k, P, 2).

        Shift and jitter each axis, then rescale both by one factor; factors are log-uniform.
        """
        model = self.model
        draws = draws.to(coordinates.dtype)[:, None]  # (k, 1, 5)
        coordinates = coordinates.expand(len(draws), -1, -1)
        if model.rope_shift is not None:
            coordinates = coordinates + draws[..., 0:2] * model.rope_shift
        if model.rope_jitter_factor is not None:
            coordinates = coordinates * (draws[..., 2:4] * math.log(model.rope_jitter_factor)).exp()
        if model.rope_rescale_factor is not None:
            coordinates = coordinates * (draws[..., 4:5] * math.log(model.rope_rescale_factor)).exp()
        return coordinates


def patch_coordinates(
    grid: tuple[int, int], divide_by: str, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(Hp*Wp, 2): row and column of each patch's centre, in [-1, 1] along the side divided by.

    Args:
        grid: Hp, Wp.
        divide_by: `separate` (each axis by its own side), `max` or `min` (both by the longer or shorter side).
    """
    height, width = grid
    sides = {"separate": (height, width), "max": (max(grid),) * 2, "min": (min(grid),) * 2}[divide_by]
    rows, columns = (
        (torch.arange(count, dtype=dtype, device=device) + 0.5) / side * 2 - 1
        for count, side in zip(grid, sides, strict=True)
    )
    return torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)], dim=-1).view(-1, 2)


def rope_table(coordinates: Tensor, periods: Tensor) -> RopeTable:
    """sin and cos (..., P, d) of coordinates (..., P, 2): d/4 angles 2 pi y / period, d/4 of x, and both again."""
    angles = (2 * math.pi * coordinates[..., None] / periods).flatten(-2)  # (..., P, d/2)
    sin, cos = angles.sin(), angles.cos()
    return torch.cat([sin, sin], dim=-1), torch.cat([cos, cos], dim=-1)


def rotate(tokens: Tensor, table: RopeTable) -> Tensor:
    """Rotate the pairs (i, i + d/2) of queries or keys (..., N, d) by their token's angles, in the table's dtype."""
    sin, cos = table
    t = tokens.to(sin.dtype)
    half = t.shape[-1] // 2
    rotated = t * cos
    rotated[..., :half].addcmul_(t[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(t[..., :half], sin[..., half:])
    return rotated.to(tokens.dtype)
