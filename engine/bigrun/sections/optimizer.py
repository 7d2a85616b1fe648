"""[optimizer]: AdamW, its groups and its schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from bigrun.options import at_least, between, option, within

__all__ = ["Optimizer"]


@attrs.frozen
class Optimizer:
    """AdamW, its parameter groups and its schedules [spec 7.2-7.5]."""

    base_lr: float = option(1e-3, check=within(0, 1000), help="Learning rate before the batch-size rule.")
    lr_rule: Literal["sqrt-1024", "linear-256", "none"] = option(
        "sqrt-1024", help="Peak = base_lr * 4 * sqrt(B / 1024), base_lr * B / 256, or base_lr."
    )
    lr_end_fraction: float = option(
        0.001,
        check=between(0, 1),
        help="Final learning rate over the peak; with schedule.form = 'v1' over base_lr, which lr_rule does not scale.",
    )
    warmup_steps: int | None = option(
        None, check=at_least(0), rule="warmup", help="Linear warm-up of the learning rate; see warmup_form."
    )
    warmup_form: Literal["linear", "cosine"] = option(
        "linear", help="How the warm-up rises; the published adaptation to high resolution has half a cosine."
    )
    betas: tuple[float, float] = option(
        (0.9, 0.999), help="AdamW averages gradients and their squares over 1 / (1 - beta) steps."
    )
    weight_decay: float = option(0.04, check=between(0, 1000), help="Weight decay at the first step.")
    weight_decay_end: float | None = option(
        None, check=between(0, 1000), help="Weight decay at the last (cosine); absent: constant."
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
    clip_norm: float | None = option(
        3.0, check=within(0, 1e9), help="Largest gradient norm of each sub-module; false: off."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not all(0 <= beta < 1 for beta in self.betas):
            yield "betas", f"expected two values from 0 to below 1, got {list(self.betas)}"
