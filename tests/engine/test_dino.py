"""The DINO objective: what is a target, what is a term, and that accumulation changes nothing (E1-E5 of the recipe)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from bigrun.data.dataset import Batch
from bigrun.objective.dino import DinoObjective
from bigrun.optimizer import apply_to_optimizer, build_adamw
from bigrun.schedules import Schedule, Schedules
from bigrun.sections import Model, Objective, Optimizer, Views

MODEL = Model(
    width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=1, layerscale=None,
    drop_path_fraction=0.0, rope_rescale_factor=None,
)  # fmt: skip
SECTION = Objective(head_hidden=32, head_bottleneck=16, prototypes=64)
VIEWS = Views(global_size_px=32, local_size_px=16, local_crops=2)


def build(section: Objective = SECTION, views: Views = VIEWS, momentum: float = 0.9) -> DinoObjective:
    torch.manual_seed(0)
    schedules = Schedules()
    constants = {"student_temperature": 0.1, "teacher_temperature": 0.05, "teacher_momentum": momentum}
    for name, value in constants.items():
        schedules.add(name, Schedule(value, value, value, 0, None))
    for name in ("learning_rate", "last_layer_learning_rate", "weight_decay"):
        schedules.add(name, Schedule(1e-3, 1e-3, 1e-3, 0, None))
    schedules.apply(1)
    return DinoObjective(MODEL, section, views, schedules).train()


def batch(images: int, views: Views = VIEWS, seed: int = 0) -> Batch:
    """Images that differ much, so that the teacher's rows do."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(images, 3, 1, 1, generator=generator)
    crops = {
        size: torch.cat([base + 0.5 * torch.randn(images, 3, size, size, generator=generator) for _ in range(count)])
        for size, count in ((32, views.global_crops), (16, views.local_crops))
        if count
    }
    none = torch.zeros(images, dtype=torch.int64)
    return Batch(crops[32], crops.get(16), {}, none, none)


def split(whole: Batch, parts: int, views: Views = VIEWS) -> list[Batch]:
    """The same images in micro-batches."""

    def pieces(crops: Tensor, count: int) -> list[Tensor]:
        by_crop = crops.view(count, parts, -1, *crops.shape[1:])
        return [by_crop[:, part].flatten(0, 1) for part in range(parts)]

    large = pieces(whole.global_crops, views.global_crops)
    assert whole.local_crops is not None
    small = pieces(whole.local_crops, views.local_crops)
    indices = whole.indices.chunk(parts)
    return [Batch(a, b, {}, i, i) for a, b, i in zip(large, small, indices, strict=True)]


def gradients(objective: DinoObjective, window: Sequence[Batch]) -> tuple[dict[str, float], Tensor]:
    """Mean loss terms and the gradient of a window, as the loop adds them up."""
    objective.zero_grad()
    objective.prepare(window)
    terms: dict[str, float] = {}
    for micro, part in enumerate(window):
        parts = objective.loss_terms(objective(part, micro))
        (sum(parts.values()) / len(window)).backward()  # type: ignore[union-attr]
        for name, value in parts.items():
            terms[name] = terms.get(name, 0.0) + value.item() / len(window)
    return terms, torch.cat([p.grad.flatten() for p in objective.student.parameters() if p.grad is not None])


def test_four_micro_batches_are_one_batch() -> None:
    objective, whole = build(), batch(16)
    terms, gradient = gradients(objective, [whole])
    accumulated_terms, accumulated = gradients(objective, split(whole, 4))
    assert accumulated_terms == pytest.approx(terms, abs=1e-5)
    assert (accumulated - gradient).norm() / gradient.norm() < 1e-5


def test_balancing_each_micro_batch_alone_is_something_else() -> None:
    whole = batch(16)
    micro = attrs.evolve(SECTION, sinkhorn_scope="micro")
    _, effective = gradients(build(), split(whole, 4))
    _, alone = gradients(build(micro), split(whole, 4))
    assert (alone - effective).norm() / effective.norm() > 0.05
    _, one = gradients(build(micro), [whole])
    assert (one - effective).norm() / effective.norm() < 1e-5  # of a single micro-batch there is no other scope


def test_student_and_teacher_follow_the_same_path_after_three_steps() -> None:
    def train(parts: int) -> dict[str, Tensor]:
        objective = build()
        optimizer = build_adamw(objective.parameter_groups(Optimizer()), Optimizer())
        for group in optimizer.param_groups:
            group["eps"] = 1e-3  # plain Adam turns the rounding of near-zero gradients into whole steps
        apply_to_optimizer(optimizer, objective.schedules)
        for step in range(3):
            gradients(objective, split(batch(16, seed=step), parts))
            optimizer.step()
            objective.update_teacher()
        return {k: v.clone() for k, v in objective.state_dict().items()}

    once, accumulated = train(1), train(4)
    start = build().state_dict()
    for name, tensor in once.items():
        assert torch.allclose(accumulated[name], tensor, atol=1e-5), name
    assert not torch.equal(once["teacher.dino_head.last_layer.weight"], start["teacher.dino_head.last_layer.weight"])


def test_the_loss_starts_at_ln_k() -> None:
    terms, _ = gradients(build(), [batch(16)])
    # Student and teacher start as equals and the images differ, so it is a little below ln K rather than above.
    assert abs(sum(terms.values()) - math.log(64)) < 0.05


def test_terms_are_weighted_by_their_share_of_pairs() -> None:
    objective, whole = build(), batch(8)
    objective.prepare([whole])
    outputs = objective(whole, 0)
    t = outputs.targets  # (2, 8, 64)
    logp_global = (outputs.global_logits.float() / 0.1).log_softmax(-1)
    assert outputs.local_logits is not None
    logp_local = (outputs.local_logits.float() / 0.1).log_softmax(-1)
    cross = [-(t[b] * logp_global[a]).sum(-1).mean() for a, b in ((0, 1), (1, 0))]
    local = [-(t[b] * logp_local[a]).sum(-1).mean() for a in range(2) for b in range(2)]
    terms = objective.loss_terms(outputs)
    assert terms["dino_global"].item() == pytest.approx((sum(cross) / 6).item(), rel=1e-5)  # 2 of 6 pairs
    assert terms["dino_local"].item() == pytest.approx((sum(local) / 6).item(), rel=1e-5)
    objective.section = attrs.evolve(SECTION, local_weight=0.5)
    assert objective.loss_terms(outputs)["dino_local"].item() == pytest.approx((sum(local) / 12).item(), rel=1e-5)


def test_targets_are_balanced_rows_of_the_teacher_without_gradient() -> None:
    objective, whole = build(), batch(16)
    objective.prepare([whole])
    targets = objective(whole, 0).targets
    assert targets.shape == (2, 16, 64)
    assert targets.dtype == torch.float32
    assert not targets.requires_grad
    assert torch.allclose(targets.sum(-1), torch.ones(2, 16), atol=1e-5)
    mass = targets.sum((0, 1))  # 32 rows over 64 prototypes
    assert mass.min() > 0.3
    assert mass.max() < 0.7


def test_without_local_crops_only_the_global_term_is_left() -> None:
    views = attrs.evolve(VIEWS, local_crops=0)
    objective, whole = build(views=views), batch(8, views)
    objective.prepare([whole])
    outputs = objective(whole, 0)
    assert outputs.local_features is None
    assert set(objective.loss_terms(outputs)) == {"dino_global"}


def test_the_teacher_sees_no_local_crop_no_gradient_and_no_training_mode() -> None:
    objective, whole = build(), batch(4)
    seen: list[Any] = []
    objective.teacher.backbone.patch_embed.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].shape))
    gradients(objective, [whole])
    assert seen == [(8, 3, 32, 32)]
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    assert not any(m.training for m in objective.teacher.modules())
    trained = {id(p) for group in objective.parameter_groups(Optimizer()) for p in group["params"]}
    assert trained == {id(p) for p in objective.student.parameters()}


@pytest.mark.parametrize(("momentum", "share"), [(1.0, 0.0), (0.0, 1.0), (0.75, 0.25)])
def test_the_teacher_moves_by_its_momentum(momentum: float, share: float) -> None:
    objective = build(momentum=momentum)
    with torch.no_grad():
        for parameter in objective.student.parameters():
            parameter += 1.0
    before = {k: v.clone() for k, v in objective.teacher.named_parameters()}
    objective.update_teacher()
    for name, parameter in objective.teacher.named_parameters():
        assert torch.allclose(parameter - before[name], torch.full_like(parameter, share), atol=1e-5), name


def test_statistics_tell_an_undecided_teacher() -> None:
    objective, whole = build(), batch(8)
    same = Batch(torch.zeros_like(whole.global_crops), whole.local_crops, {}, whole.indices, whole.epochs)
    objective.prepare([same])
    outputs = objective(same, 0)
    # Sinkhorn-Knopp of identical rows is exactly uniform: the wall at ln K.
    assert torch.allclose(outputs.targets, torch.full_like(outputs.targets, 1 / 64), atol=1e-6)
    statistics = objective.statistics(outputs)
    assert statistics["target_entropy_fraction"].item() == pytest.approx(1.0, abs=1e-5)
    assert 0 <= statistics["student_divergence"].item() < 0.05
