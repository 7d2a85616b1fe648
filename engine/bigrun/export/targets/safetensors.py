"""Weights under the public DINOv3 names, with the model's options: for bigrun, and for whoever reads safetensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from bigrun.export.target import Extractor, Target, encode_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bigrun.export.source import Source

__all__ = ["Safetensors", "own_files"]


def own_files(source: Source) -> dict[str, bytes]:
    """`backbone.safetensors`, complete, and `config.json` with the table [model] and what the input is."""
    views = source.views
    config = {
        "model": attrs.asdict(source.model),
        "input": {"size_px": source.size, "mean": list(views.mean), "std": list(views.std)},
    }
    return {
        "backbone.safetensors": encode_weights(source.weights),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }


class Safetensors(Target):
    """bigrun's own form, and that of the public DINOv3 code."""

    name = "safetensors"
    package = "bigrun"

    def files(self, source: Source) -> dict[str, bytes]:
        return own_files(source)

    def usage(self, source: Source) -> str:
        return """\
import json
import torch
from pathlib import Path
from safetensors.torch import load_file
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model

model = Model(**json.loads(Path("config.json").read_text())["model"])
backbone = VisionTransformer(model).eval()
backbone.load_state_dict(load_file("backbone.safetensors"))
with torch.no_grad():
    features = backbone(images)
cls, patches = features.cls, features.patches"""

    def notes(self, source: Source) -> str:
        return (
            "The tensors have the names of the public DINOv3 weights, all of them: what only pre-training needs "
            "(`mask_token`, `local_cls_norm`) too, so that training can go on from here."
        )

    def load(self, folder: Path) -> Extractor:
        from safetensors.torch import load_file

        from bigrun.model.vit import VisionTransformer
        from bigrun.sections import Model

        options = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]
        backbone = VisionTransformer(Model(**options)).eval()
        backbone.load_state_dict(load_file(folder / "backbone.safetensors"))

        def extract(crops: Tensor) -> tuple[Tensor, Tensor]:
            features = backbone(crops)
            return features.cls, features.patches

        return extract
