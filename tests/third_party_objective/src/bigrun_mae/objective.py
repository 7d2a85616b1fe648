"""Masked reconstruction: the student sees some patches of a crop, and a small decoder predicts the pixels of the rest.

Mask tokens and the small decoder are those of SimMIM (arXiv 2111.09886), normalised pixels and the squared error those
of the masked autoencoder (arXiv 2111.06377).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.data.draws import uniforms
from bigrun.model.initialise import initialise
from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network, Objective, Outputs

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.dataset import Batch
    from bigrun.sections import Model

__all__ = ["MaskedNetwork", "MaskedObjective", "MaskedOutputs", "hidden_patches", "normalised", "patch_pixels"]


class MaskedNetwork(Network):
    """A vision transformer, and beside it the decoder from a patch token to the patch's pixels."""

    def __init__(self, model: Model, decoder_hidden: int) -> None:
        super().__init__()
        pixels = model.in_channels * model.patch_size_px**2
        self.backbone = VisionTransformer(model)
        self.decoder = nn.Sequential(
            nn.Linear(model.width, decoder_hidden), nn.GELU(), nn.Linear(decoder_hidden, pixels)
        )
        initialise(self.decoder)


@attrs.frozen(eq=False)
class MaskedOutputs(Outputs):
    """What the decoder says about the M hidden patches of each crop, and what is there."""

    predicted: Tensor  # (G*b, M, C*p*p)
    target: Tensor  # (G*b, M, C*p*p) float32


class MaskedObjective(Objective):
    """One network, student and teacher in one."""

    student: MaskedNetwork
    teacher: MaskedNetwork

    def __init__(self, model: Model, *, seed: int, mask_fraction: float, decoder_hidden: int) -> None:
        super().__init__()
        self.patch_px = model.patch_size_px
        self.seed = seed
        self.mask_fraction = mask_fraction
        self.student = MaskedNetwork(model, decoder_hidden)
        self.teacher = self.student  # no moving average: what is trained is what is used

    def forward(self, batch: Batch, micro: int) -> MaskedOutputs:
        crops = batch.global_crops  # (G*b, C, H, W)
        pixels = patch_pixels(crops, self.patch_px)  # (G*b, P, C*p*p)
        hidden = self.hidden(batch, pixels.shape[1])  # (G*b, M)
        mask = torch.zeros(pixels.shape[:2], dtype=torch.bool, device=crops.device).scatter_(1, hidden, True)
        features = self.student.backbone(crops, mask)
        tokens = torch.take_along_dim(features.patches, hidden[..., None], dim=1)  # (G*b, M, D)
        return MaskedOutputs(
            global_features=features,
            local_features=None,
            masks=mask,
            predicted=self.student.decoder(tokens),
            target=normalised(torch.take_along_dim(pixels, hidden[..., None], dim=1)),
        )

    def hidden(self, batch: Batch, patches: int) -> Tensor:
        """The hidden patches of every global crop (G*b, M), on its device."""
        count = max(min(round(self.mask_fraction * patches), patches - 1), 1)
        crops = len(batch.global_crops) // batch.size
        chosen = hidden_patches(self.seed, batch.epochs.numpy(), batch.indices.numpy(), crops, patches, count)
        return chosen.to(batch.global_crops.device)

    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """`reconstruction`: mean squared error over the hidden pixels. 1 is what a guess of each patch's mean costs."""
        assert isinstance(outputs, MaskedOutputs)
        return {"reconstruction": F.mse_loss(outputs.predicted.float(), outputs.target)}

    @torch.no_grad()
    def statistics(self, outputs: Outputs) -> dict[str, Tensor]:
        """`explained_fraction`: share of the hidden pixels' variance that is predicted; 0 without any learning."""
        assert isinstance(outputs, MaskedOutputs)
        error = (outputs.predicted.float() - outputs.target).square().mean()
        return {"explained_fraction": 1 - error / outputs.target.square().mean()}


def patch_pixels(crops: Tensor, patch_px: int) -> Tensor:
    """Crops (n, C, H, W) as rows of pixels (n, P, C*p*p), in the order of the backbone's patch tokens."""
    return F.unfold(crops, patch_px, stride=patch_px).mT


def normalised(pixels: Tensor) -> Tensor:
    """Patches (..., C*p*p) with mean 0 and variance 1 each (arXiv 2111.06377, section 3).

    What is left to predict is structure: the brightness of a patch can be copied from its neighbours.
    """
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()


def hidden_patches(
    seed: int, epochs: npt.ArrayLike, indices: npt.ArrayLike, crops: int, patches: int, count: int
) -> Tensor:
    """Which `count` of the P patches are hidden from the student: (crops*b, count) int64 on the CPU, crop-major.

    A function of seed, epoch, image and crop, the same in whatever micro-batch; `epochs` and `indices` are (b,).
    """
    draws = uniforms(seed, "masked-reconstruction", epochs, indices, np.arange(crops)[:, None], count=patches)
    return torch.from_numpy(draws.argsort(axis=-1)[..., :count].reshape(-1, count))
