"""FLOPs of a step: what torch counts of the real networks, in every form that a step may have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bigrun.compute import pass_flops
from bigrun.model.vit import VisionTransformer
from bigrun.planner.flops import forward_flops, pair_flops, step_flops
from bigrun.sections import Model, Views

VIEWS = Views(global_size_px=32, local_size_px=16, local_crops=3)
IMAGES = 2


def model(ffn: Any = "mlp", **more: Any) -> Model:
    return Model(width=48, depth=3, heads=3, ffn=ffn, ffn_hidden=128, patch_size_px=8, **more)


def counted_step(section: Model, *, learns: bool = True) -> float:
    """Operations of an image that torch counts: student both ways on all crops, teacher on the global ones."""
    student, teacher = VisionTransformer(section).train(), VisionTransformer(section).eval()
    student.requires_grad_(learns)
    near, far = torch.zeros(2 * IMAGES, 3, 32, 32), torch.zeros(3 * IMAGES, 3, 16, 16)
    # The counter does not know the fused kernel of attention on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            teacher(near)
        features = student.forward_list([near, far])
        if learns:
            torch.stack([f.patches.sum() + f.cls.sum() for f in features]).sum().backward()
    return counter.get_total_flops() / IMAGES


def embeddings(section: Model) -> float:
    """Of an image's crops: the gradients of pixels, which nobody computes."""
    per_patch = 2 * section.in_channels * section.patch_size_px**2 * section.width
    return per_patch * (2 * 16 + 3 * 4)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_a_step_has_as_many_operations_as_torch_counts(ffn: Any) -> None:
    section = model(ffn, drop_path_fraction=0.0)
    assert counted_step(section) == step_flops(section, VIEWS) - embeddings(section)


def test_a_frozen_student_goes_forward_alone() -> None:
    section = model(drop_path_fraction=0.0)
    assert counted_step(section, learns=False) == pair_flops(section, VIEWS, (32, 16), learns=False)


def test_what_stochastic_depth_leaves_out_does_not_count() -> None:
    """Half of 4 and of 6 crops: 2 and 3, without a rest that a draw would round."""
    section = model(drop_path_fraction=0.5)
    expected = step_flops(section, VIEWS, kept_fraction=0.5) - embeddings(section)
    assert counted_step(section) == expected < 0.7 * step_flops(section, VIEWS)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("side_px", [16, 40])
def test_a_backbone_tells_what_the_configuration_says(ffn: Any, side_px: int) -> None:
    section = model(ffn)
    with torch.device("meta"):
        backbone = VisionTransformer(section)
    assert pass_flops(backbone, 5, 3, side_px, side_px) == 5 * forward_flops(section, side_px)
