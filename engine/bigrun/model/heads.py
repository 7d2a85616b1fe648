"""The projection head between a token and its prototypes."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.initialise import initialise

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """Linear layers with GELU, three as published, to a bottleneck on the unit sphere, then one weight row per
    prototype (arXiv 2104.14294, appendix C; the last layer is not weight-normalised).

    The two halves are separate because a bottleneck is small (e numbers a row) and its logits are large (K).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        *,
        layers: int = 3,
        normalise_prototypes: bool = False,
    ) -> None:
        """`layers`: linear layers in front of the bottleneck; one has no hidden width. `normalise_prototypes`: rows of
        the last layer count by their direction only, so logits are cosines."""
        super().__init__()
        self.normalise_prototypes = normalise_prototypes
        widths = [width, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
        for ins, outs in itertools.pairwise(widths[1:]):
            parts += [nn.GELU(), nn.Linear(ins, outs)]
        self.mlp = nn.Sequential(*parts)
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)
        initialise(self)

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """(n, D) -> (n, e) float32; rows have length 1."""
        return F.normalize(self.mlp(tokens).float(), dim=-1, eps=1e-12)

    def weight(self) -> Tensor:
        """The prototypes (K, e), of length 1 with `normalise_prototypes`."""
        weight: Tensor = self.last_layer.weight
        return F.normalize(weight, dim=-1) if self.normalise_prototypes else weight

    def prototypes(self, bottlenecks: Tensor) -> Tensor:
        """(n, e) -> logits (n, K) in the compute dtype."""
        return F.linear(bottlenecks, self.weight())

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, D) -> logits (n, K)."""
        return self.prototypes(self.bottleneck(tokens))
