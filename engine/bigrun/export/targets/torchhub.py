"""A folder for torch.hub that needs torch and nothing else."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING

from bigrun.export.target import Extractor, Target
from bigrun.export.targets.safetensors import own_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bigrun.export.source import Source

__all__ = ["TorchHub"]


class TorchHub(Target):
    """The files of `safetensors`, and the network in one file of Python."""

    name = "torchhub"
    package = "torch"

    def files(self, source: Source) -> dict[str, bytes]:
        network = importlib.resources.files("bigrun.export") / "hubconf.py"
        return own_files(source) | {"hubconf.py": network.read_bytes()}

    def usage(self, source: Source) -> str:
        return """\
import torch

backbone = torch.hub.load(".", "backbone", source="local")
with torch.no_grad():
    features = backbone.forward_features(images)
cls, patches = features["x_norm_clstoken"], features["x_norm_patchtokens"]"""

    def notes(self, source: Source) -> str:
        return (
            "`hubconf.py` is the whole network; torch is all it needs. `backbone(images)` gives the class token alone."
        )

    def load(self, folder: Path) -> Extractor:
        import torch

        backbone = torch.hub.load(str(folder), "backbone", source="local")  # type: ignore[no-untyped-call]

        def extract(crops: Tensor) -> tuple[Tensor, Tensor]:
            features = backbone.forward_features(crops)
            return features["x_norm_clstoken"], features["x_norm_patchtokens"]

        return extract
