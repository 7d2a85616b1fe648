"""The backbone of a vision transformer trained with bigrun, in one file that needs torch and nothing else.

    import torch
    backbone = torch.hub.load(".", "backbone", source="local")  # "." is the folder of this file
    classes = backbone(images)                                  # (n, C, H, W) -> (n, D)
    tokens = backbone.forward_features(images)                  # and the patches: (n, P, D)

The sides of the images are multiples of the patch size; README.md says how their values are normalised. For
inference and fine-tuning: what only pre-training needs (the mask token, stochastic depth, augmented positions) is
not here. Written by bigrun, Apache-2.0; the weights belong to whoever trained them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["backbone"]

dependencies = ["torch"]

FOLDER = Path(__file__).parent
TRAINING_ONLY = ("mask_token", "local_cls_norm.")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone(pretrained: bool = True) -> Backbone:
    """The network in eval mode, with the weights beside this file or, without `pretrained`, with new ones."""
    network = Backbone(json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["model"])
    weights = read_safetensors(FOLDER / "backbone.safetensors")
    if pretrained:
        network.load(weights)
    else:
        network.rope_embed.periods.copy_(weights["rope_embed.periods"])
    return network.eval()


class Backbone(nn.Module):
    """Names of parameters and buffers are those of the public DINOv3 weights."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        """`model`: the table [model] of bigrun's configuration."""
        super().__init__()
        width, patch = model["width"], model["patch_size_px"]
        self.prefix = 1 + model["storage_tokens"]
        self.patch_size = patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(model["in_channels"], width, patch, stride=patch)})
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.storage_tokens = nn.Parameter(0.02 * torch.randn(1, model["storage_tokens"], width))
        self.rope_embed = Rope(width // model["heads"], model["rope_coordinates"], DTYPES[model["rope_dtype"]])
        self.blocks = nn.ModuleList(Block(model) for _ in range(model["depth"]))
        self.norm = build_norm(model)
        self.cls_norm = build_norm(model) if model["untie_cls_and_patch_norms"] else None

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of a pre-training run."""
        weights = {name: value for name, value in weights.items() if not name.startswith(TRAINING_ONLY)}
        for name in [name for name in weights if name.endswith(".bias_mask")]:  # holds the keys' bias at zero
            bias = name.removesuffix("_mask")
            weights[bias] = weights[bias] * weights.pop(name)
        self.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        """The class token: (n, C, H, W) -> (n, D)."""
        return self.forward_features(images)["x_norm_clstoken"]

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        """All tokens behind the final norm: class (n, D), storage (n, R, D), patches (n, P, D) row by row; and before
        it, all in this order (n, 1+R+P, D).
        """
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError(f"expected sides that are multiples of {self.patch_size}, got {tuple(images.shape)}")
        embedded = self.patch_embed["proj"](images)  # (n, D, Hp, Wp)
        n, _, height, width = embedded.shape
        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(n, -1, -1)
        x = torch.cat([prefix, embedded.flatten(2).mT], dim=1)  # (n, N, D)
        sin, cos = self.rope_embed(height, width)
        for block in self.blocks:
            x = block(x, sin, cos)
        first, patches = x[:, : self.prefix], self.norm(x[:, self.prefix :])
        first = self.norm(first) if self.cls_norm is None else self.cls_norm(first)
        return {
            "x_norm_clstoken": first[:, 0],
            "x_storage_tokens": first[:, 1:],
            "x_norm_patchtokens": patches,
            "x_prenorm": x,
        }


class Rope(nn.Module):
    """Angles of the patches' rows and columns (arXiv 2104.09864; 2508.10104, section 3)."""

    periods: Tensor

    def __init__(self, head_width: int, divide_by: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.divide_by = divide_by
        self.dtype = dtype
        self.register_buffer("periods", torch.ones(head_width // 4))

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """sin and cos (P, d) in the dtype of training."""
        long, short = max(height, width), min(height, width)
        sides = {"separate": (height, width), "max": (long, long), "min": (short, short)}[self.divide_by]
        centres = [
            (torch.arange(count, dtype=self.dtype, device=self.periods.device) + 0.5) / side * 2 - 1
            for count, side in zip((height, width), sides, strict=True)
        ]
        places = torch.cartesian_prod(*centres)  # (P, 2)
        angles = (2 * math.pi * places[:, :, None] / self.periods.to(self.dtype)).flatten(1).repeat(1, 2)
        return angles.sin(), angles.cos()


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)) (arXiv 2010.11929)."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm1, self.norm2 = build_norm(model), build_norm(model)
        self.attn = Attention(model)
        self.mlp = FEED_FORWARD[model["ffn"]](model["width"], model["ffn_hidden"], model["ffn_bias"])
        self.ls1, self.ls2 = (
            nn.Identity() if model["layerscale"] is None else LayerScale(model["width"], model["layerscale"])
            for _ in range(2)
        )

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """(n, N, D) -> (n, N, D)."""
        x = x + self.ls1(self.attn(self.norm1(x), sin, cos))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention (arXiv 1706.03762); the last P tokens, the patches, are rotated by their angles."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = model["heads"]
        self.qkv = nn.Linear(model["width"], 3 * model["width"], bias=model["qkv_bias"])
        self.proj = nn.Linear(model["width"], model["width"], bias=model["proj_bias"])

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """(n, N, D) -> (n, N, D)."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, sin, cos), rotate(k, sin, cos), v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


def rotate(tokens: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the last P of the tokens (n, h, N, d); all are rounded to the dtype of sin."""
    rounded = tokens.to(sin.dtype)
    prefix, patches = rounded[:, :, : -len(sin)], rounded[:, :, -len(sin) :]
    a, b = patches.chunk(2, dim=-1)
    turned = torch.addcmul(patches * cos, torch.cat([-b, a], dim=-1), sin)
    return torch.cat([prefix, turned], dim=2).to(tokens.dtype)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden, bias), nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class SwiGlu(nn.Module):
    """w3(silu(w1 x) * w2 x) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, hidden, bias), nn.Linear(width, hidden, bias)
        self.w3 = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))  # type: ignore[no-any-return]


FEED_FORWARD = {"mlp": Mlp, "swiglu": SwiGlu}


class LayerScale(nn.Module):
    """A factor per channel (arXiv 2103.17239)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) * weight (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight


def build_norm(model: Mapping[str, Any]) -> nn.Module:
    if model["norm"] == "rmsnorm":
        return RmsNorm(model["width"])
    return nn.LayerNorm(model["width"], eps=1e-5 if model["norm"] == "layernormbf16" else 1e-6)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file: the length of the header, the header in JSON, the numbers."""
    raw = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    start = 8 + int.from_bytes(bytes(raw[:8].tolist()), "little")
    header = json.loads(bytes(raw[8:start].tolist()))
    header.pop("__metadata__", None)
    return {
        name: raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view(torch.float32)
        .view(entry["shape"])
        for name, entry in header.items()
    }
