"""The engine's own options, one class per TOML table. Torch-free: `bigrun explain` reads it in milliseconds.

Checks of fields against each other stand in the class that owns the fields (`problems`); checks across tables are
in `rules.py`. Numbers in brackets, as in [spec 7.2], name the section of the recipe in docs/explanation/objective.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from bigrun.options import above, at_least, between, interval, option

__all__ = ["Data", "Hardware", "Model", "Objective", "Optimizer", "RunSection", "Teacher", "Views"]


@attrs.frozen
class RunSection:
    """How long the run is and how often it speaks and saves. `step` is an optimizer step everywhere."""

    max_steps: int | None = option(None, check=at_least(1), help="Length of the run; absent: until it is stopped.")
    seed: int = option(
        0, check=between(0, 2**31 - 1), fixed=True, help="Seed of the initialisation, order and every random draw."
    )
    log_every_steps: int = option(10, check=at_least(1), help="Metrics are averaged over and fetched every so many.")
    checkpoint_every_steps: int = option(
        500, check=at_least(1), help="A checkpoint is saved every so many, and at the end."
    )
    halt_after_skips: int = option(
        3, check=at_least(1), help="A run halts when this many steps in a row had to be skipped as non-finite."
    )


@attrs.frozen
class Data:
    """Which images, and how many per step."""

    path: str | None = option(
        None, fixed=True, help="Folder of images, searched recursively; absent when a plugin brings the data set."
    )
    effective_batch: int = option(
        64, check=at_least(1), fixed=True, help="Images per optimizer step, over all micro-batches and processes."
    )
    micro_batch: int | None = option(
        None, check=at_least(1), rule="micro-batch", help="Images per forward pass; divides the effective batch."
    )
    workers: int = option(2, check=at_least(0), help="Processes that decode images; 0 decodes in the main process.")
    prefetch: int = option(
        2,
        check=at_least(1),
        effective=lambda data: data.workers > 0,
        otherwise="data.workers = 0 decodes each batch when it is needed",
        help="Micro-batches that each worker decodes ahead.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        micro = self.micro_batch
        if micro is not None and self.effective_batch % micro:
            yield (
                "micro_batch",
                f"{micro} does not divide effective_batch = {self.effective_batch}; "
                f"the nearest that does is {nearest_divisor(self.effective_batch, micro)}",
            )


def nearest_divisor(total: int, wish: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wish), d))


def _coloured(views: Views) -> bool:
    return views.colour_probability > 0


@attrs.frozen
class Views:
    """Multi-crop augmentation, batched on the training device [spec 2.1]."""

    global_crops: int = option(2, check=at_least(2), fixed=True, help="Large crops per image; the teacher sees these.")
    global_size_px: int = option(224, check=at_least(8), fixed=True, help="Side of a global crop.")
    global_scale: tuple[float, float] = option((0.32, 1.0), check=interval(0, 1), help="Area range of global crops.")
    local_crops: int = option(
        8, check=at_least(0), fixed=True, help="Small crops per image; only the student sees these."
    )
    local_size_px: int = option(
        96,
        check=at_least(8),
        fixed=True,
        effective=lambda views: views.local_crops > 0,
        otherwise="views.local_crops = 0",
        help="Side of a local crop.",
    )
    local_scale: tuple[float, float] = option(
        (0.05, 0.32),
        check=interval(0, 1),
        effective=lambda views: views.local_crops > 0,
        otherwise="views.local_crops = 0",
        help="Area range of local crops.",
    )
    aspect_ratio: tuple[float, float] = option(
        (0.75, 4 / 3), check=interval(0, 100), help="Width over height of a crop before it is resized, log-uniform."
    )
    flip_probability: float = option(0.5, check=between(0, 1), help="Horizontal flip.")
    colour_probability: float = option(0.8, check=between(0, 1), help="Colour jitter of a crop.")
    brightness: float = option(
        0.4,
        check=between(0, 1),
        effective=_coloured,
        otherwise="views.colour_probability = 0",
        help="Brightness factor is drawn from 1 - b to 1 + b.",
    )
    contrast: float = option(
        0.4,
        check=between(0, 1),
        effective=_coloured,
        otherwise="views.colour_probability = 0",
        help="Contrast factor is drawn from 1 - c to 1 + c.",
    )
    saturation: float = option(
        0.2,
        check=between(0, 1),
        effective=_coloured,
        otherwise="views.colour_probability = 0",
        help="Saturation factor is drawn from 1 - s to 1 + s.",
    )
    hue: float = option(
        0.1,
        check=between(0, 0.5),
        effective=_coloured,
        otherwise="views.colour_probability = 0",
        help="Hue shift is drawn from -h to h, in turns of the colour circle.",
    )
    grayscale_probability: float = option(0.2, check=between(0, 1), help="Crop loses its colour.")
    blur_probability: tuple[float, float, float] = option(
        (0.0, 0.9, 0.5),
        help="Gaussian blur of the first global, the other global, and the local crops, as published models had it.",
    )
    blur_sigma: tuple[float, float] = option(
        (0.1, 2.0), check=interval(0, 100), help="Range of the blur's sigma in pixels."
    )
    solarise_probability: float = option(
        0.2, check=between(0, 1), help="Second global crop: values above 0.5 are inverted."
    )
    mean: tuple[float, ...] = option((0.485, 0.456, 0.406), help="Per channel, subtracted from values in [0, 1].")
    std: tuple[float, ...] = option((0.229, 0.224, 0.225), help="Per channel, divides after the mean is subtracted.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not all(0 <= p <= 1 for p in self.blur_probability):
            yield "blur_probability", f"expected three values from 0 to 1, got {list(self.blur_probability)}"
        if any(s <= 0 for s in self.std):
            yield "std", f"expected values above 0, got {list(self.std)}"
        if len(self.mean) != len(self.std):
            yield "mean", f"has {len(self.mean)} channels but views.std has {len(self.std)}"


def _swiglu(model: Model) -> bool:
    return model.ffn == "swiglu"


@attrs.frozen
class Model:
    """The vision transformer [spec 1]."""

    width: int = option(384, check=at_least(4), fixed=True, help="Embedding width D.")
    depth: int = option(12, check=at_least(1), fixed=True, help="Number of blocks L.")
    heads: int = option(6, check=at_least(1), fixed=True, help="Attention heads; 4 * heads divides the width.")
    ffn: Literal["mlp", "swiglu"] = option("mlp", fixed=True, help="Feed-forward layer: MLP with GELU, or SwiGLU.")
    ffn_hidden: int = option(1536, check=at_least(1), fixed=True, help="Hidden width of the feed-forward layer.")
    patch_size_px: int = option(16, check=at_least(1), fixed=True, help="Side of a patch.")
    in_channels: int = option(3, check=at_least(1), fixed=True, help="Channels of the input image.")
    storage_tokens: int = option(4, check=at_least(0), fixed=True, help="Storage (register) tokens R.")
    rope_base: float | None = option(100.0, check=above(1), fixed=True, help="Base of the RoPE periods.")
    rope_period_range: tuple[float, float] | None = option(
        None, check=interval(0, 1e9), fixed=True, help="Shortest and longest RoPE period, instead of rope_base."
    )
    rope_coordinates: Literal["separate", "max", "min"] = option(
        "separate", fixed=True, help="Side by which patch coordinates are divided."
    )
    rope_shift: float | None = option(
        None, check=above(0), help="Training: per-axis shift drawn from -s to s; absent: off."
    )
    rope_jitter_factor: float | None = option(
        None, check=above(1), help="Training: per-axis log-uniform scale from 1/j to j; absent: off."
    )
    rope_rescale_factor: float | None = option(
        2.0, check=above(1), help="Training: log-uniform scale of both axes from 1/r to r; absent: off."
    )
    qkv_bias: bool = option(True, fixed=True, help="Bias of the query, key and value projection.")
    mask_k_bias: bool = option(
        True,
        fixed=True,
        effective=lambda m: m.qkv_bias,
        otherwise="model.qkv_bias = false",
        help="Hold the key's bias at zero (softmax is invariant to it).",
    )
    proj_bias: bool = option(True, fixed=True, help="Bias of the attention's output projection.")
    ffn_bias: bool = option(True, fixed=True, help="Biases of the feed-forward layer.")
    norm: Literal["layernorm", "layernormbf16", "rmsnorm"] = option(
        "layernormbf16", fixed=True, help="LayerNorm with eps 1e-6, with eps 1e-5, or RMSNorm."
    )
    layerscale: float | None = option(
        1e-5, check=above(0), fixed=True, help="Initial LayerScale; 0 is spelled absent: off."
    )
    drop_path_fraction: float = option(
        0.1, check=between(0, 0.99), help="Samples whose residual branch is skipped (student)."
    )
    untie_cls_and_patch_norms: bool = option(False, fixed=True, help="Separate final norms for class and patch tokens.")
    untie_global_and_local_cls_norm: bool = option(
        True, fixed=True, help="Separate final class-token norm for local crops, in training."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.width % (4 * self.heads):
            yield "heads", f"width {self.width} must be a multiple of 4 * heads = {4 * self.heads} (RoPE needs it)"
        if (self.rope_base is None) == (self.rope_period_range is None):
            yield (
                "rope_period_range",
                "set exactly one of rope_base and rope_period_range (rope_base = false turns it off)",
            )


@attrs.frozen
class Objective:
    """DINO on class tokens with Sinkhorn-Knopp targets [spec 4, 5]."""

    head_hidden: int = option(2048, check=at_least(1), fixed=True, help="Hidden width of the projection head.")
    head_bottleneck: int = option(256, check=at_least(1), fixed=True, help="Width of the normalised bottleneck.")
    prototypes: int | None = option(
        None, check=at_least(2), rule="prototypes", fixed=True, help="Prototypes K of the DINO head."
    )
    student_temperature: float = option(0.1, check=above(0), help="Temperature of the student's softmax.")
    teacher_temperature: float = option(0.07, check=above(0), help="Temperature of the teacher after its warm-up.")
    teacher_temperature_start: float = option(
        0.04, check=above(0), help="Temperature of the teacher at the first step."
    )
    teacher_temperature_warmup_steps: int | None = option(
        None, check=at_least(0), rule="teacher-temperature-warmup", help="Linear warm-up of the teacher's temperature."
    )
    sinkhorn_iterations: int = option(3, check=at_least(1), help="Rounds of Sinkhorn-Knopp.")
    sinkhorn_scope: Literal["effective", "micro"] = option(
        "effective", help="Rows that Sinkhorn-Knopp balances: the effective batch, or each micro-batch alone."
    )
    local_weight: float = option(1.0, check=at_least(0), help="Weight of the local crops' share of the DINO loss.")


@attrs.frozen
class Teacher:
    """The teacher is an exponential moving average of the student [spec 7.1]."""

    momentum: float | None = option(
        None, check=between(0, 1), rule="teacher-momentum", help="Momentum at the first step."
    )
    momentum_end: float | None = option(
        None, check=between(0, 1), rule="teacher-momentum-end", help="Momentum at the last step (cosine)."
    )


@attrs.frozen
class Optimizer:
    """AdamW, its parameter groups and its schedules [spec 7.2-7.5]."""

    base_lr: float = option(1e-3, check=above(0), help="Learning rate before the batch-size rule.")
    lr_rule: Literal["sqrt-1024", "linear-256", "none"] = option(
        "sqrt-1024", help="Peak = base_lr * 4 * sqrt(B / 1024), base_lr * B / 256, or base_lr."
    )
    lr_end_fraction: float = option(0.001, check=between(0, 1), help="Final learning rate over the peak (cosine).")
    warmup_steps: int | None = option(
        None, check=at_least(0), rule="warmup", help="Linear warm-up of the learning rate."
    )
    betas: tuple[float, float] = option((0.9, 0.999), help="AdamW moments.")
    weight_decay: float = option(0.04, check=at_least(0), help="Weight decay at the first step.")
    weight_decay_end: float | None = option(
        None, check=at_least(0), help="Weight decay at the last (cosine); absent: constant."
    )
    layer_decay: float = option(
        0.9, check=between(0.01, 1), help="Learning-rate factor from one block to the one below."
    )
    patch_embed_lr_factor: float = option(
        0.2, check=between(0, 1), help="Extra learning-rate factor of the patch embedding."
    )
    freeze_last_layer_steps: int | None = option(
        None, check=at_least(0), rule="freeze-last-layer", help="Steps at the start with frozen prototypes."
    )
    clip_norm: float | None = option(3.0, check=above(0), help="Largest gradient norm of each sub-module; absent: off.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not all(0 <= beta < 1 for beta in self.betas):
            yield "betas", f"expected two values from 0 to below 1, got {list(self.betas)}"


@attrs.frozen
class Hardware:
    """Where and in which precision."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", help="auto takes a GPU (CUDA or ROCm) when torch sees one.")
    precision: Literal["bf16", "fp32"] = option(
        "bf16", help="Type of the forward and backward pass; weights stay fp32."
    )
    threads: int | None = option(None, check=at_least(1), help="CPU threads of torch; absent: torch decides.")
