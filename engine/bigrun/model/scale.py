"""What a network may be told of the size of things: the spacing of a view's pixels, in millimetres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from bigrun.sections import Model

__all__ = ["ScaleEmbedding", "folded_scale"]

UNTOLD = 0.3  # share of the views in training that are not told
PREFIX = "scale_embed."


class ScaleEmbedding(nn.Module):
    """A vector for each view, added to its class and patch tokens: of log(mm), or a learned one where it is not known.

    Linear(3, max(D/4, 16)), GELU, Linear(D), times a factor per channel that begins at 0: at first nothing is told.
    Without a norm behind it, which would make any small number large. In training 30 % of the views are not told, so
    that the network is good without, as it is used.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        hidden = max(model.width // 4, 16)
        self.fc1 = nn.Linear(3, hidden)
        self.fc2 = nn.Linear(hidden, model.width)
        self.gamma = nn.Parameter(torch.empty(model.width))
        self.unknown_token = nn.Parameter(torch.empty(model.width))

    def initialise(self) -> None:
        """Set the factor and the vector of views that are not told to 0; the layers have their own rule."""
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.unknown_token)

    def forward(self, spacing: Tensor | None, views: int) -> Tensor:
        """(n, D) for n views with spacing (n, 3) in mm, NaN where it is unknown; None: none of them is told."""
        if spacing is None:
            spacing = self.gamma.new_full((views, 3), torch.nan)
        logs = spacing.float().log()
        told = logs.isfinite().all(dim=1, keepdim=True)  # (n, 1)
        if self.training:
            told = told & (torch.rand(views, 1, device=logs.device) >= UNTOLD)
        vectors = self.gamma * self.fc2(F.gelu(self.fc1(torch.where(told, logs, 0))))
        return torch.where(told, vectors, self.unknown_token)


def folded_scale(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a backbone that is never told a spacing, without the embedding: the same features.

    What all views then get is added to the class token, the mask token and the bias of the patch embedding.
    """
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}
    if len(rest) < len(weights):
        unknown = weights[f"{PREFIX}unknown_token"]
        for name in ("cls_token", "mask_token", "patch_embed.proj.bias"):
            rest[name] = rest[name] + unknown
    return rest
