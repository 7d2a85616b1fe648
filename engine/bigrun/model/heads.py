"""The projection head between a token and its prototypes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.initialise import initialise

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """Three linear layers with GELU to a bottleneck on the unit sphere, then one weight row per prototype
    (arXiv 2104.14294, appendix C; the last layer is not weight-normalised).

    The two halves are separate because a bottleneck is small (e numbers a row) and its logits are large (K).
    """

    def __init__(
        self, width: int, hidden: int, bottleneck: int, prototypes: int, *, normalise_prototypes: bool = False
    ) -> None:
        """`normalise_prototypes`: rows of the last layer count by their direction only, so logits are cosines."""
        super().__init__()
        self.normalise_prototypes = normalise_prototypes
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)
        initialise(self)

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """(n, D) -> (n, e) float32; rows have length 1."""
        return F.normalize(self.mlp(tokens).float(), dim=-1, eps=1e-12)

    def prototypes(self, bottlenecks: Tensor) -> Tensor:
        """(n, e) -> logits (n, K) in the compute dtype."""
        weight = self.last_layer.weight  # (K, e)
        return F.linear(bottlenecks, F.normalize(weight, dim=-1) if self.normalise_prototypes else weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, D) -> logits (n, K)."""
        return self.prototypes(self.bottleneck(tokens))
