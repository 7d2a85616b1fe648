"""The objective: what is a target, what is a term, and that accumulation changes nothing (E1-E3, E6 of the recipe)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from bigrun.data.dataset import Batch
from bigrun.objective.dino import DinoObjective, DinoOutputs
from bigrun.objective.losses import koleo_loss
from bigrun.optimizer import apply_to_optimizer, build_adamw
from bigrun.rules import EngineConfig
from bigrun.schedules import Schedules
from bigrun.sections import Data, Masking, Model, Objective, Optimizer, RunSection, Views
from bigrun.testing.forker import start_together

MODEL = Model(
    width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=1, layerscale=None,
    drop_path_fraction=0.0, rope_rescale_factor=None,
)  # fmt: skip
SECTION = Objective(head_hidden=32, head_bottleneck=16, prototypes=64, ibot_prototypes=48, koleo_group=4)
DINO_ALONE = attrs.evolve(SECTION, ibot_weight=0.0, koleo_weight=0.0)
VIEWS = Views(global_size_px=32, local_size_px=16, local_crops=2)
PARTS = ("dino_global", "dino_local", "ibot", "koleo")


def build(
    section: Objective = SECTION, views: Views = VIEWS, momentum: float = 0.9, images: int = 16, seed: int = 0
) -> DinoObjective:
    torch.manual_seed(0)
    schedules = Schedules()
    constants = {
        "student_temperature": 0.1,
        "teacher_temperature": 0.05,
        "teacher_momentum": momentum,
        "local_weight": section.local_weight,
        "learning_rate": 1e-3,
        "last_layer_learning_rate": 1e-3,
        "weight_decay": 1e-3,
    }
    for name, value in constants.items():
        schedules.add(name, lambda step, value=value: value)  # type: ignore[misc]
    schedules.apply(1)
    config = EngineConfig(
        run=RunSection(seed=seed), model=MODEL, objective=section, views=views, data=Data(effective_batch=images)
    )
    return DinoObjective(config, schedules).train()


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


def forward(objective: DinoObjective, whole: Batch, step: int = 1) -> DinoOutputs:
    objective.prepare(step, [whole])
    outputs: DinoOutputs = objective(whole, 0)
    return outputs


def gradients(
    objective: DinoObjective, window: Sequence[Batch], only: Sequence[str] = PARTS, step: int = 1
) -> tuple[dict[str, float], Tensor]:
    """Mean loss terms and the gradient of some of them, as the loop adds them up."""
    objective.zero_grad()
    objective.prepare(step, window)
    terms: dict[str, float] = {}
    for micro, part in enumerate(window):
        parts = objective.loss_terms(objective(part, micro))
        total = torch.stack([value for name, value in parts.items() if name in only]).sum()
        (total / len(window)).backward()  # type: ignore[no-untyped-call]
        for name, value in parts.items():
            terms[name] = terms.get(name, 0.0) + value.item() / len(window)
    return terms, gradient_of(objective)


def gradient_of(objective: DinoObjective) -> Tensor:
    return torch.cat([p.grad.flatten() for p in objective.student.parameters() if p.grad is not None])


def logits(objective: DinoObjective, rows: Tensor) -> Tensor:
    return rows @ objective.student.dino_head.weight().mT


@pytest.mark.parametrize("only", [("dino_global", "dino_local"), ("ibot",), ("koleo",), PARTS], ids="+".join)
@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("centring", ["sinkhorn", "softmax"])
def test_e1_micro_batches_are_one_batch(only: tuple[str, ...], parts: int, centring: Any) -> None:
    objective, whole = build(attrs.evolve(SECTION, centring=centring)), batch(16)
    terms, gradient = gradients(objective, [whole], only)
    accumulated_terms, accumulated = gradients(objective, split(whole, parts), only)
    assert set(terms) == set(PARTS)
    assert accumulated_terms == pytest.approx(terms, abs=2e-6)
    assert gradient.norm() > 1e-3
    assert (accumulated - gradient).norm() / gradient.norm() < 1e-5


def test_e1_a_queue_changes_nothing_of_that() -> None:
    def train(parts: int) -> tuple[dict[str, float], Tensor]:
        objective = build(attrs.evolve(SECTION, queue_steps=2))
        for step in (1, 2, 3):
            result = gradients(objective, split(batch(16, seed=step), parts), step=step)
            objective.update_teacher()
        return result

    (terms, gradient), (accumulated_terms, accumulated) = train(1), train(4)
    assert accumulated_terms == pytest.approx(terms, abs=2e-6)
    assert (accumulated - gradient).norm() / gradient.norm() < 1e-5
    without = build()
    for step in (1, 2, 3):
        plain, _ = gradients(without, [batch(16, seed=step)], step=step)
        without.update_teacher()
    assert abs(plain["dino_global"] - terms["dino_global"]) > 1e-4


def test_e3_balancing_each_micro_batch_alone_is_something_else() -> None:
    whole = batch(16)
    micro = attrs.evolve(SECTION, sinkhorn_scope="micro")
    for only in (("dino_global", "dino_local"), ("ibot",)):
        _, effective = gradients(build(), split(whole, 4), only)
        _, alone = gradients(build(micro), split(whole, 4), only)
        assert (alone - effective).norm() / effective.norm() > 1e-2, only
        _, one = gradients(build(micro), [whole], only)
        _, whole_effective = gradients(build(), [whole], only)
        assert (
            one - whole_effective
        ).norm() / effective.norm() < 1e-5  # of a single micro-batch there is no other scope


def test_e2_student_and_teacher_follow_the_same_path_after_three_steps() -> None:
    def train(parts: int) -> dict[str, Tensor]:
        objective = build()
        optimizer = build_adamw(objective.parameter_groups(Optimizer()), Optimizer())
        for group in optimizer.param_groups:
            group["eps"] = 1e-3  # plain Adam turns the rounding of near-zero gradients into whole steps
        apply_to_optimizer(optimizer, objective.schedules)
        for step in range(3):
            gradients(objective, split(batch(16, seed=step), parts), step=step)
            optimizer.step()
            objective.update_teacher()
        return {k: v.clone() for k, v in objective.state_dict().items()}

    once, accumulated = train(1), train(4)
    start = build().state_dict()
    for name, tensor in once.items():
        assert torch.allclose(accumulated[name], tensor, atol=1e-5), name
    for name in ("dino_head", "ibot_head"):
        key = f"teacher.{name}.last_layer.weight"
        assert not torch.equal(once[key], start[key])


USE = ("marginal_entropy_fraction", "prototypes_used_fraction")


def use_of_prototypes(objective: DinoObjective, window: Sequence[Batch]) -> dict[str, float]:
    """Of the prepared step, as the numbers of its last micro-batch have it."""
    found = objective.statistics(objective(window[-1], len(window) - 1))
    return {name: found[name].item() for name in USE}


def one_rank(folder: Path, rank: int) -> int:
    """One of two processes with half of the images each, in one micro-batch and in two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    found = []
    for parts in (1, 2):
        objective, window = build(), split(split(batch(16), 2)[rank], parts)
        objective.share_step(dist.group.WORLD)
        terms, gradient = gradients(objective, window)
        dist.all_reduce(gradient)
        found.append((terms, gradient / 2, use_of_prototypes(objective, window)))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    return 0


def test_e6_two_processes_with_one_and_two_micro_batches_each_are_one_batch(tmp_path: Path) -> None:
    assert start_together("test_dino:one_rank", tmp_path, [os.environ] * 2, timeout_seconds=120) == [0, 0]
    objective, whole = build(), [batch(16)]
    terms, gradient = gradients(objective, whole)
    for results in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True):
        for name, value in terms.items():
            assert sum(found[name] for found, *_ in results) / 2 == pytest.approx(value, abs=2e-6), name
        for _, found, use in results:
            assert (found - gradient).norm() / gradient.norm() < 1e-5
            assert use == pytest.approx(use_of_prototypes(objective, whole), rel=1e-5)


def test_t16_the_loss_starts_at_ln_k() -> None:
    """Each DINO term at its share of ln K, and iBOT at the masked crops' share."""
    terms, _ = gradients(build(), [batch(16)])
    # Student and teacher start as equals and the images differ, so it is a little below ln K rather than above.
    assert abs(terms["dino_global"] + terms["dino_local"] - math.log(64)) < 0.05
    assert abs(terms["ibot"] - 0.5 * math.log(48)) < 0.05


def test_terms_are_weighted_by_their_share_of_pairs() -> None:
    objective, whole = build(), batch(8)
    outputs = forward(objective, whole)
    t = outputs.taught.classes.rows(slice(None))  # (2, 8, 64)
    logp_global = (logits(objective, outputs.global_rows) / 0.1).log_softmax(-1)
    assert outputs.local_rows is not None
    logp_local = (logits(objective, outputs.local_rows) / 0.1).log_softmax(-1)
    cross = [-(t[b] * logp_global[a]).sum(-1).mean() for a, b in ((0, 1), (1, 0))]
    local = [-(t[b] * logp_local[a]).sum(-1).mean() for a in range(2) for b in range(2)]
    terms = objective.loss_terms(outputs)
    assert terms["dino_global"].item() == pytest.approx((sum(cross) / 6).item(), rel=1e-5)  # 2 of 6 pairs
    assert terms["dino_local"].item() == pytest.approx((sum(local) / 6).item(), rel=1e-5)
    objective.schedules.now["local_weight"] = 0.5
    objective.section = attrs.evolve(SECTION, dino_weight=3.0, ibot_weight=2.0, koleo_weight=0.2)
    weighed = objective.loss_terms(outputs)
    assert weighed["dino_local"].item() == pytest.approx((sum(local) / 4).item(), rel=1e-5)
    for name, factor in (("dino_global", 3), ("ibot", 2), ("koleo", 2)):
        assert weighed[name].item() == pytest.approx(factor * terms[name].item(), rel=1e-5), name


def test_koleo_is_the_sum_over_global_crops_of_class_tokens_before_the_head() -> None:
    objective = build()
    outputs = forward(objective, batch(8))
    first, second = outputs.global_features.cls.chunk(2)
    expected = 0.1 * (koleo_loss(first, 4) + koleo_loss(second, 4))
    torch.testing.assert_close(objective.loss_terms(outputs)["koleo"], expected)


def test_t10_ibot_compares_masked_patches_alone() -> None:
    """By hand: the student's masked forward, the teacher's unmasked one, positions and weights from the masks."""
    objective, whole = build(), batch(8)
    outputs = forward(objective, whole)
    masks = outputs.masks
    assert masks is not None
    assert int((masks.sum(1) > 0).sum()) == 8  # half of 16 crops
    student = objective.student.backbone.forward_list([whole.global_crops, whole.local_crops], [masks, None])[0]
    assert objective.student.ibot_head is not None
    rows = objective.student.ibot_head(student.patches[masks])
    taught = outputs.taught.patches
    assert taught is not None
    t = taught.rows(slice(None))[0]  # (M, 48)
    assert objective.teacher.ibot_head is not None
    patches = objective.teacher.backbone(whole.global_crops).patches[masks]
    torch.testing.assert_close(taught.bottlenecks[0], objective.teacher.ibot_head.bottleneck(patches))
    ce = -(t * (rows / 0.1).log_softmax(-1)).sum(-1)
    owner = masks.nonzero()[:, 0]
    expected = (ce / masks.sum(1)[owner]).sum() / len(masks)
    torch.testing.assert_close(objective.loss_terms(outputs)["ibot"], expected)
    mass = t.sum(0)  # M rows over 48 prototypes
    assert mass.max() / mass.min() < 2


def test_masks_follow_the_seed_and_the_step_and_not_the_split() -> None:
    whole = batch(16)

    def masks(step: int, parts: int, seed: int = 0) -> Tensor:
        objective = build(seed=seed)
        objective.prepare(step, split(whole, parts))
        found = [taught.masks.patches.view(2, -1, 16) for taught in objective.window if taught.masks is not None]
        return torch.cat(found, dim=1)

    assert torch.equal(masks(1, 1), masks(1, 4))
    assert not torch.equal(masks(1, 1), masks(2, 1))
    assert not torch.equal(masks(1, 1), masks(1, 1, seed=1))


def test_without_masks_the_ibot_loss_is_zero_and_its_head_has_a_gradient() -> None:
    objective = build()
    objective.masking = Masking(crop_fraction=0.0)
    terms, _ = gradients(objective, [batch(8)])
    assert terms["ibot"] == 0
    assert objective.student.ibot_head is not None
    assert all(p.grad is not None and not p.grad.any() for p in objective.student.ibot_head.parameters())


@pytest.mark.parametrize("part", ["ibot", "koleo"])
def test_a_part_of_weight_zero_is_not_there(part: str) -> None:
    objective = build(attrs.evolve(SECTION, **{f"{part}_weight": 0.0}))
    outputs = forward(objective, batch(8))
    assert set(objective.loss_terms(outputs)) == set(PARTS) - {part}
    if part == "ibot":
        assert outputs.masks is None
        assert objective.student.ibot_head is None
        assert set(objective.trained_modules()) == {"backbone", "dino_head"}


def test_the_teachers_patches_are_kept_on_demand() -> None:
    objective, whole = build(), batch(8)
    assert forward(objective, whole).teacher_patches is None
    objective.keep_teacher_patches = True
    patches = forward(objective, whole).teacher_patches
    assert patches is not None
    assert torch.equal(patches, objective.teacher.backbone(whole.global_crops).patches)


@pytest.mark.parametrize("keep", [False, True])
def test_of_the_teachers_features_only_bottlenecks_outlive_their_micro_batch(keep: bool) -> None:
    """Patches are what is large; they are kept of all micro-batches where they are asked for."""
    objective = build()
    objective.keep_teacher_patches = keep
    seen: list[tuple[StorageWeakRef, ...]] = []
    before: list[int] = []

    def alive() -> int:
        return sum(not all(ref.expired() for ref in refs) for refs in seen)

    def remember(module: Any, inputs: Any, out: Any) -> None:
        tensors = (out.cls, out.storage, out.patches, out.prenorm)
        seen.append(tuple(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors))

    objective.teacher.backbone.register_forward_pre_hook(lambda module, inputs: before.append(alive()))
    objective.teacher.backbone.register_forward_hook(remember)
    objective.prepare(1, split(batch(16), 4))
    assert len(seen) == 4
    if keep:
        assert alive() == 4
    else:
        assert max(before) <= 1
        assert alive() == 0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_queue_holds_the_class_rows_of_so_many_steps(steps: int) -> None:
    objective = build(attrs.evolve(SECTION, queue_steps=steps), images=8)
    assert objective.state_dict()["centring.classes.queue"].shape == (steps * 2 * 8, 16)
    assert "centring.patches.queue" not in objective.state_dict()
    queued = []
    for step in range(1, 5):
        objective.prepare(step, split(batch(8, seed=step), 2))
        queued.insert(0, torch.cat([taught.classes.bottlenecks.flatten(0, 1) for taught in objective.window]))
        objective.update_teacher()
    assert torch.equal(objective.state_dict()["centring.classes.queue"], torch.cat(queued[:steps]))


@pytest.mark.parametrize("centring", ["sinkhorn", "softmax"])
def test_a_step_in_bf16_is_near_one_in_fp32(centring: Any) -> None:
    def train(enabled: bool) -> tuple[dict[str, float], Tensor, DinoObjective]:
        objective = build(attrs.evolve(SECTION, centring=centring))
        for step in (1, 2):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                terms, gradient = gradients(objective, split(batch(16, seed=step), 2), step=step)
            objective.update_teacher()
        return terms, gradient, objective

    (terms, gradient, exact), (low_terms, low_gradient, low) = train(False), train(True)
    assert low_terms == pytest.approx(terms, rel=0.02, abs=2e-3)
    assert low_terms != terms
    assert (low_gradient - gradient).norm() / gradient.norm() < 0.2
    for taught, expected in zip(low.window, exact.window, strict=True):
        for found, other in ((taught.classes, expected.classes), (taught.patches, expected.patches)):
            assert found is not None
            assert other is not None
            assert found.bias.dtype == torch.float32
            torch.testing.assert_close(found.bias, other.bias, rtol=0.02, atol=0.05)
    for name, value in low.centring.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact.centring.state_dict()[name], rtol=0.02, atol=2e-3)


def test_targets_are_balanced_rows_of_the_teacher_without_gradient() -> None:
    objective, whole = build(), batch(16)
    targets = forward(objective, whole).taught.classes.rows(slice(None))
    assert targets.shape == (2, 16, 64)
    assert targets.dtype == torch.float32
    assert not targets.requires_grad
    assert torch.allclose(targets.sum(-1), torch.ones(2, 16), atol=1e-5)
    mass = targets.sum((0, 1))  # 32 rows over 64 prototypes
    assert mass.min() > 0.3
    assert mass.max() < 0.7


def test_without_local_crops_the_global_term_is_the_whole_dino_loss() -> None:
    views = attrs.evolve(VIEWS, local_crops=0)
    objective, whole = build(views=views), batch(8, views)
    outputs = forward(objective, whole)
    assert outputs.local_features is None
    assert set(objective.loss_terms(outputs)) == {"dino_global", "ibot", "koleo"}
    torch.testing.assert_close(
        objective.loss_terms(outputs)["dino_global"],
        F.cross_entropy(
            logits(objective, outputs.global_rows).flatten(0, 1) / 0.1,
            outputs.taught.classes.rows(slice(None)).flip(0).flatten(0, 1),
        ),
    )


def test_t17_the_teacher_sees_no_local_crop_no_gradient_and_no_training_mode() -> None:
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
def test_t17_the_teacher_moves_by_its_momentum(momentum: float, share: float) -> None:
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
    outputs = forward(objective, same)
    targets = outputs.taught.classes.rows(slice(None))
    # Sinkhorn-Knopp of identical rows is exactly uniform: the wall at ln K.
    assert torch.allclose(targets, torch.full_like(targets, 1 / 64), atol=1e-6)
    statistics = objective.statistics(outputs)
    assert statistics["target_entropy_fraction"].item() == pytest.approx(1.0, abs=1e-5)
    assert 0 <= statistics["student_divergence"].item() < 0.05
