"""[model]: the vision transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from bigrun.architectures import ARCHITECTURES, known_architecture
from bigrun.options import between, interval, option, within

__all__ = ["Model"]


@attrs.frozen
class Model:
    """The vision transformer [spec 1]."""

    architecture: str | None = option(
        None,
        check=known_architecture,
        help="Named size: width, depth, heads, ffn and ffn_hidden that the preset does not set itself; one of "
        f"{', '.join(ARCHITECTURES)}; vit_7b also sets qkv_bias and untie_global_and_local_cls_norm.",
    )
    width: int = option(384, check=between(4, 65536), fixed=True, shapes=True, help="Embedding width D.")
    depth: int = option(12, check=between(1, 1000), fixed=True, shapes=True, help="Number of blocks L.")
    heads: int = option(
        6, check=between(1, 1000), fixed=True, shapes=True, help="Attention heads; 4 * heads divides the width."
    )
    ffn: Literal["mlp", "swiglu"] = option(
        "mlp", fixed=True, shapes=True, help="Feed-forward layer: MLP with GELU, or SwiGLU."
    )
    ffn_hidden: int = option(
        1536, check=between(1, 2**20), fixed=True, shapes=True, help="Hidden width of the feed-forward layer."
    )
    patch_size_px: int = option(16, check=between(1, 1000), fixed=True, shapes=True, help="Side of a patch.")
    in_channels: int = option(3, check=between(1, 1000), fixed=True, shapes=True, help="Channels of the input image.")
    storage_tokens: int = option(
        4, check=between(0, 1000), fixed=True, shapes=True, help="Storage (register) tokens R."
    )
    rope_base: float | None = option(100.0, check=within(1, 1e9), fixed=True, help="Base of the RoPE periods.")
    rope_period_range: tuple[float, float] | None = option(
        None, check=interval(0, 1e9), fixed=True, help="Shortest and longest RoPE period, instead of rope_base."
    )
    rope_coordinates: Literal["separate", "max", "min"] = option(
        "separate", fixed=True, help="Side by which patch coordinates are divided."
    )
    rope_shift: float | None = option(
        None, check=within(0, 1000), help="Training: per-axis shift drawn from -s to s; absent: off."
    )
    rope_jitter_factor: float | None = option(
        None, check=within(1, 1000), help="Training: per-axis log-uniform scale from 1/j to j; absent: off."
    )
    rope_rescale_factor: float | None = option(
        2.0, check=within(1, 1000), help="Training: log-uniform scale of both axes from 1/r to r; false: off."
    )
    rope_per_block: bool = option(
        True,
        effective=lambda m: m.rope_augmented,
        otherwise="shift, jitter and rescale of RoPE are off",
        help="Training: each block draws shift, jitter and rescale anew, as published; false: one draw for all blocks.",
    )
    rope_dtype: Literal["fp32", "bf16"] = option(
        "fp32", fixed=True, help="Type of the RoPE tables; published models were trained with bf16, off by up to 0.03."
    )
    qkv_bias: bool = option(True, fixed=True, shapes=True, help="Bias of the query, key and value projection.")
    mask_k_bias: bool = option(
        True,
        fixed=True,
        shapes=True,
        effective=lambda m: m.qkv_bias,
        otherwise="model.qkv_bias = false",
        help="Hold the key's bias at zero (softmax is invariant to it).",
    )
    proj_bias: bool = option(True, fixed=True, shapes=True, help="Bias of the attention's output projection.")
    ffn_bias: bool = option(True, fixed=True, shapes=True, help="Biases of the feed-forward layer.")
    norm: Literal["layernorm", "layernormbf16", "rmsnorm"] = option(
        "layernormbf16",
        fixed=True,
        shapes=lambda norm: norm == "rmsnorm",
        help="LayerNorm with eps 1e-6, with eps 1e-5, or RMSNorm.",
    )
    layerscale: float | None = option(
        1e-5,
        check=within(0, 1000),
        fixed=True,
        shapes=bool,
        help="Initial LayerScale; false: no LayerScale.",
    )
    drop_path_fraction: float = option(
        0.1, check=between(0, 0.99), help="Samples whose residual branch is skipped (student)."
    )
    untie_cls_and_patch_norms: bool = option(
        False, fixed=True, shapes=True, help="Separate final norms for class and patch tokens."
    )
    untie_global_and_local_cls_norm: bool = option(
        True, fixed=True, shapes=True, help="Separate final class-token norm for local crops, in training."
    )

    scale_embedding: bool = option(
        False,
        fixed=True,
        shapes=True,
        help="The network is told the size of each view's pixels in mm, where the data set knows it [spec 2.5]; "
        "features at evaluation and export are those of a network that is told nothing.",
    )

    @property
    def rope_augmented(self) -> bool:
        """Whether training draws positions anew."""
        return not (self.rope_shift is None and self.rope_jitter_factor is None and self.rope_rescale_factor is None)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.width % (4 * self.heads):
            yield "heads", f"width {self.width} must be a multiple of 4 * heads = {4 * self.heads} (RoPE needs it)"
        if (self.rope_base is None) == (self.rope_period_range is None):
            yield (
                "rope_period_range",
                "set exactly one of rope_base and rope_period_range (rope_base = false turns it off)",
            )
