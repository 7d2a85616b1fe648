"""What is compared with: real timm and transformers on real photographs.

Both want torchvision, whose wheels have a compiled part for one build of torch; beside another build (a CPU build of
the same version, say) that part does not load, and importing the rest fails because it describes operators that do
not exist. Nothing here calls one, so it is enough to declare them.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network
from bigrun.sections import Init, Model
from bigrun.weights.coverage import Coverage
from bigrun.weights.start import fit_file

OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
LIMIT = 1e-4  # of the largest difference over the largest feature, in fp32


@functools.cache
def declare_operators() -> torch.library.Library | None:
    """torchvision's operators, by name only, unless it has them itself. Kept, for they live as long as the result."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor x) -> Tensor")
        return library
    return None


def peer(name: str) -> Any:
    """An imported library."""
    declare_operators()
    return importlib.import_module(name)


@functools.cache
def photos(height: int, width: int) -> Tensor:
    """Two photographs of scikit-image, (2, 3, height, width), normalised as the public weights want it."""
    from skimage import data

    pictures = [
        Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC) for p in (data.astronaut(), data.coffee())
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / std


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> None:
    """Values of the size that trained weights have, for every parameter: a LayerScale of 1e-5 would hide the blocks,
    and biases of 0 would hide that they are somebody else's."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        draws = torch.randn(parameter.shape, generator=generator)
        is_factor = ("norm" in name and name.endswith("weight")) or "gamma" in name or "lambda" in name
        parameter.copy_(1 + 0.2 * draws if is_factor else 0.04 * draws if parameter.ndim > 1 else 0.2 * draws)


def ours_from_file(path: Path, model: Model, **init: Any) -> tuple[VisionTransformer, Coverage]:
    """Our network with the file's weights, in eval mode, and what became of its tensors."""
    network = Network()
    network.backbone = VisionTransformer(model)
    fitted = fit_file(Init(path=str(path), **init), network, model)
    network.load_state_dict(fitted.tensors, strict=False)
    return network.backbone.eval(), fitted.coverage


def relative_difference(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference over the largest feature."""
    assert theirs.shape == ours.shape
    return float((theirs - ours).abs().max() / theirs.abs().max())
