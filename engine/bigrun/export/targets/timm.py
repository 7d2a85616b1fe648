"""A folder for timm: `timm.create_model("local-dir:FOLDER", pretrained=True)`, class `Eva`."""

from __future__ import annotations

import importlib
import json
import math
from typing import TYPE_CHECKING, Any

from bigrun.export.target import Extractor, Target, encode_weights, translate
from bigrun.export.targets.foreign import foreign_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from bigrun.export.source import Source
    from bigrun.sections import Model

__all__ = ["SHAPES", "Timm", "architecture", "model_arguments", "ratio"]

# (width, depth, heads, ffn, hidden width) of the shapes to which timm gave a name.
SHAPES = {
    (384, 12, 6, "mlp", 1536): "small",
    (384, 12, 6, "swiglu", 1536): "small_plus",
    (768, 12, 12, "mlp", 3072): "base",
    (1024, 24, 16, "mlp", 4096): "large",
    (1280, 32, 20, "swiglu", 5120): "huge_plus",
    (4096, 40, 32, "swiglu", 8192): "7b",
}
WITHOUT_QKV_BIAS_ONLY = "7b"


class Timm(Target):
    """Any shape: the architecture is a name of timm's, its arguments are all written out."""

    name = "timm"
    package = "timm"

    def obstacles(self, model: Model) -> Iterator[str]:
        yield from foreign_options(model)
        if model.qkv_bias and not model.mask_k_bias:
            yield "model.mask_k_bias = false"

    def files(self, source: Source) -> dict[str, bytes]:
        weights = translate("timm", source, proj_bias=True, ffn_bias=True, layerscale=source.model.layerscale or 1.0)
        config = {
            "architecture": architecture(source.model),
            "num_classes": 0,
            "num_features": source.model.width,
            "global_pool": "token",
            "model_args": model_arguments(source.model, source.size),
            "pretrained_cfg": pretrained_config(source),
        }
        return {
            "model.safetensors": encode_weights(weights),
            "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        }

    def usage(self, source: Source) -> str:
        return f"""\
import timm
import torch

model = timm.create_model("local-dir:.", pretrained=True).eval()
with torch.no_grad():
    tokens = model.forward_features(images)
cls, patches = tokens[:, 0], tokens[:, {1 + source.model.storage_tokens}:]"""

    def notes(self, source: Source) -> str:
        return (
            "`pretrained=True` is what reads the weights. `model(images)` gives the class token; the mean of the "
            'patches is timm\'s own default, and `global_pool="avg"` brings it back. The architecture is '
            f"`{architecture(source.model)}` with the arguments in `config.json`; timm 1.0.20 is the first that has "
            "it. What only pre-training needs (the mask token, the norm of local crops, augmented positions) is not "
            "here."
        )

    def load(self, folder: Path) -> Extractor:
        model = importlib.import_module("timm").create_model(f"local-dir:{folder}", pretrained=True).eval()

        def extract(crops: Tensor) -> tuple[Tensor, Tensor]:
            tokens = model.forward_features(crops)  # (n, N, D)
            return tokens[:, 0], tokens[:, model.num_prefix_tokens :]

        return extract


def architecture(model: Model) -> str:
    """The entry point that timm builds it from. Its eps of the norms is fixed; all else is an argument."""
    if model.norm == "layernorm":  # eps 1e-6: the class's own default, which this entry point leaves alone
        return "eva_giant_patch14_224"
    shape = (model.width, model.depth, model.heads, model.ffn, model.ffn_hidden)
    name = SHAPES.get(shape, "base")
    bias = "_qkvb" if model.qkv_bias and name != WITHOUT_QKV_BIAS_ONLY else ""
    return f"vit_{name}_patch16_dinov3{bias}"


def model_arguments(model: Model, size_px: int) -> dict[str, Any]:
    """Every argument of `Eva` that the features depend on."""
    return {
        "img_size": size_px,
        "patch_size": model.patch_size_px,
        "in_chans": model.in_channels,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": ratio(model.ffn_hidden, model.width),
        "swiglu_mlp": model.ffn == "swiglu",
        "swiglu_align_to": 1 if model.ffn == "swiglu" else 0,  # 1: gate and value are two layers, nothing is rounded
        "qkv_bias": model.qkv_bias,
        "init_values": model.layerscale or 1.0,
        "class_token": True,
        "num_reg_tokens": model.storage_tokens,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": model.rope_base,
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "global_pool": "token",
        "dynamic_img_size": True,
    }


def ratio(hidden: int, width: int) -> float:
    """A float whose product with the width is not below the hidden width: timm takes the integer part."""
    quotient = hidden / width
    return quotient if int(width * quotient) == hidden else math.nextafter(quotient, math.inf)


def pretrained_config(source: Source) -> dict[str, Any]:
    """What timm's transforms are made from."""
    return {
        "tag": "bigrun",
        "custom_load": False,
        "input_size": [source.model.in_channels, source.size, source.size],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(source.views.mean),
        "std": list(source.views.std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
