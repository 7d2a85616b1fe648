"""Named sizes of the backbone [spec 1.11]. Torch-free: `bigrun explain` and `bigrun check` read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bigrun.values import did_you_mean, show

if TYPE_CHECKING:
    from bigrun.sections import Model

__all__ = ["ARCHITECTURES", "architecture_warnings", "from_architecture", "known_architecture", "swiglu_hidden"]


def swiglu_hidden(width: int, ratio: float, multiple: int = 8) -> int:
    """Hidden width of a SwiGLU layer as large as an MLP of `ratio` times the width: two thirds of it, rounded up to a
    multiple (arXiv 2002.05202, section 3).
    """
    size = int(int(width * ratio) * 2 / 3)
    return -(-size // multiple) * multiple


def _mlp(width: int, depth: int, heads: int, hidden: int) -> dict[str, Any]:
    return {"width": width, "depth": depth, "heads": heads, "ffn": "mlp", "ffn_hidden": hidden}


def _swiglu(width: int, depth: int, heads: int, ratio: int, multiple: int = 8) -> dict[str, Any]:
    hidden = swiglu_hidden(width, ratio, multiple)
    return {"width": width, "depth": depth, "heads": heads, "ffn": "swiglu", "ffn_hidden": hidden}


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "vit_test": _mlp(64, 2, 2, 256),
    "vit_tiny": _mlp(192, 12, 3, 768),
    "vit_small": _mlp(384, 12, 6, 1536),
    "vit_small_plus": _swiglu(384, 12, 6, ratio=6),
    "vit_base": _mlp(768, 12, 12, 3072),
    "vit_large": _mlp(1024, 24, 16, 4096),
    "vit_large_plus": _swiglu(1024, 24, 16, ratio=6),
    "vit_so400m": _mlp(1152, 27, 18, 4352),  # not SigLIP's, which has 16 heads and 4304
    "vit_huge2": _mlp(1280, 32, 20, 5120),
    "vit_huge_plus": _swiglu(1280, 32, 20, ratio=6),
    "vit_giant": _swiglu(1536, 40, 24, ratio=4),  # DINOv2's g: heads of 64, all sizes multiples of 128
    "vit_giant_mlp": _mlp(1536, 40, 24, 6144),
    "vit_g_classic": _mlp(1408, 40, 16, 6144),  # arXiv 2106.04560
    "vit_7b": _swiglu(4096, 40, 32, ratio=3, multiple=64)
    | {"qkv_bias": False, "untie_global_and_local_cls_norm": True},
}
"""Options of `[model]` by name. What an architecture does not set keeps its default."""


def known_architecture(name: str) -> str | None:
    """One of the named architectures."""
    if name in ARCHITECTURES:
        return None
    return f"unknown architecture {name!r}{did_you_mean(name, ARCHITECTURES)}; known: {', '.join(ARCHITECTURES)}"


def from_architecture(table: Any) -> dict[str, Any]:
    """The options that the architecture named in a `[model]` table sets and the table does not."""
    name = table.get("architecture") if isinstance(table, Mapping) else None
    options = ARCHITECTURES.get(name, {}) if isinstance(name, str) else {}
    return {option: value for option, value in options.items() if option not in table}


def architecture_warnings(model: Model) -> Iterator[str]:
    """Where a network is not what its architecture's name says."""
    for option, value in ARCHITECTURES.get(model.architecture or "", {}).items():
        if (mine := getattr(model, option)) != value:
            yield f"model.{option} = {show(mine)} is set, and wins over the {show(value)} of {model.architecture}"
