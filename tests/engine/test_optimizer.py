"""The optimizer's parameter groups, what is frozen and what decays, and clipping per sub-module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from bigrun import hookimpl
from bigrun.model.vit import VisionTransformer
from bigrun.optimizer import apply_to_optimizer, build_adamw, parameter_groups
from bigrun.run import Run
from bigrun.schedules import Schedule, Schedules
from bigrun.sections import Model, Optimizer
from bigrun.testing.runner import Runner

SECTION = Optimizer(layer_decay=0.9, patch_embed_lr_factor=0.2)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(16, 8)
        self.last_layer = nn.Linear(8, 4, bias=False)


def backbone(**options: Any) -> VisionTransformer:
    """Two blocks with everything that has a name of its own."""
    chosen: dict[str, Any] = {
        "width": 16, "depth": 2, "heads": 2, "ffn_hidden": 16, "storage_tokens": 1, "layerscale": 0.1,
        "untie_cls_and_patch_norms": True, "untie_global_and_local_cls_norm": True,
    }  # fmt: skip
    with torch.device("meta"):
        return VisionTransformer(Model(**{**chosen, **options}))


def by_name(modules: dict[str, nn.Module], groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The group of every parameter, by its name in `modules`."""
    home = {id(p): group for group in groups for p in group["params"]}
    return {f"{part}.{name}": home[id(p)] for part, module in modules.items() for name, p in module.named_parameters()}


def parameters(groups: list[dict[str, Any]]) -> Iterator[nn.Parameter]:
    return (p for group in groups for p in group["params"])


@pytest.mark.parametrize(
    ("depth", "decay", "embeddings", "patch_embed"), [(40, 0.98, 0.437, 0.0874), (24, 0.9, 0.0718, 0.0144)]
)
def test_t18_layer_decay_of_published_networks(depth: int, decay: float, embeddings: float, patch_embed: float) -> None:
    modules: dict[str, nn.Module] = {"backbone": backbone(depth=depth)}
    section = Optimizer(layer_decay=decay, patch_embed_lr_factor=0.2)
    groups = by_name(modules, parameter_groups(modules, depth, section))
    factors = {name: group["lr_factor"] for name, group in groups.items()}
    for name in ("cls_token", "storage_tokens", "mask_token"):
        assert factors[f"backbone.{name}"] == pytest.approx(embeddings, rel=2e-3)
    assert factors["backbone.patch_embed.proj.weight"] == pytest.approx(patch_embed, rel=4e-3)
    assert factors["backbone.patch_embed.proj.bias"] == factors["backbone.patch_embed.proj.weight"]
    for i in (0, 1, depth - 1):
        assert factors[f"backbone.blocks.{i}.attn.qkv.weight"] == pytest.approx(decay ** (depth - i))
    assert {factors[f"backbone.{name}.weight"] for name in ("norm", "cls_norm", "local_cls_norm")} == {1.0}


def test_t18_what_has_no_weight_decay() -> None:
    """Names that end with bias, or contain norm or gamma; tokens and the patch embedding decay."""
    modules: dict[str, nn.Module] = {"backbone": backbone(), "head": Head()}
    groups = by_name(modules, parameter_groups(modules, 2, SECTION))
    kept = {name for name, group in groups.items() if group["weight_decay_factor"] == 0}
    assert kept == {n for n in groups if n.endswith("bias") or "norm" in n or "gamma" in n}
    assert {"backbone.norm.weight", "backbone.blocks.0.ls1.gamma", "backbone.blocks.1.norm2.bias"} <= kept
    for name in ("cls_token", "storage_tokens", "mask_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        assert groups[f"backbone.{name}"]["weight_decay_factor"] == 1


def test_t18_the_prototypes_of_every_head_are_the_last_layer() -> None:
    modules: dict[str, nn.Module] = {"backbone": backbone(), "dino_head": Head(), "ibot_head": Head()}
    groups = by_name(modules, parameter_groups(modules, 2, SECTION))
    last = {name for name, group in groups.items() if group["last_layer"]}
    assert last == {"dino_head.last_layer.weight", "ibot_head.last_layer.weight"}
    assert groups["dino_head.last_layer.weight"]["lr_factor"] == 1


def test_every_parameter_is_in_one_group_and_equal_groups_are_one() -> None:
    modules: dict[str, nn.Module] = {"backbone": backbone(depth=4), "head": Head()}
    groups = parameter_groups(modules, 4, SECTION)
    everything = [p for module in modules.values() for p in module.parameters()]
    assert sorted(map(id, parameters(groups))) == sorted(map(id, everything))
    keys = [(group["lr_factor"], group["weight_decay_factor"], group["last_layer"]) for group in groups]
    assert len(keys) == len(set(keys))


def test_a_parameter_that_two_heads_share_is_optimized_once() -> None:
    one, other = Head(), Head()
    other.last_layer = one.last_layer
    groups = parameter_groups({"one": one, "other": other}, 2, SECTION)
    assert len({id(p) for p in parameters(groups)}) == len(list(parameters(groups))) == 5


class Wrapped(nn.Module):
    def __init__(self, prefix: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(prefix, module)


@pytest.mark.parametrize("prefix", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"])
def test_wrappers_do_not_change_the_groups(prefix: str) -> None:
    plain, wrapped = backbone(), backbone()
    for i, block in enumerate(wrapped.blocks):
        wrapped.blocks[i] = Wrapped(prefix, block)
    modules: dict[str, nn.Module] = {"backbone": Wrapped(prefix, wrapped)}
    found = by_name(modules, parameter_groups(modules, 2, SECTION))
    expected = by_name({"backbone": plain}, parameter_groups({"backbone": plain}, 2, SECTION))
    shorter = {name.replace(f".{prefix}", ""): group for name, group in found.items()}
    assert shorter.keys() == expected.keys()
    for name, group in expected.items():
        for key in ("lr_factor", "weight_decay_factor", "last_layer"):
            assert shorter[name][key] == group[key], name


def scheduled(learning_rate: float, last_layer: float, decay: float) -> Schedules:
    schedules = Schedules()
    values = {"learning_rate": learning_rate, "last_layer_learning_rate": last_layer, "weight_decay": decay}
    for name, value in values.items():
        schedules.add(name, Schedule(value, value, value, 0, None))
    schedules.apply(1)
    return schedules


def test_the_optimizer_is_a_fused_adamw_that_changes_nothing_before_it_has_a_schedule() -> None:
    head = Head()
    optimizer = build_adamw(parameter_groups({"head": head}, 2, SECTION), Optimizer(betas=(0.9, 0.99)))
    before = nn.utils.parameters_to_vector(p.detach().clone() for p in head.parameters())
    for p in head.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(nn.utils.parameters_to_vector(p.detach() for p in head.parameters()), before)
    for group in optimizer.param_groups:
        assert (group["fused"], group["betas"], group["eps"]) == (True, (0.9, 0.99), 1e-8)


def test_every_group_gets_the_values_of_the_step_times_its_factors() -> None:
    head = Head()
    optimizer = build_adamw(parameter_groups({"head": head}, 2, SECTION), Optimizer())
    apply_to_optimizer(optimizer, scheduled(0.5, 0.25, 0.04))
    found = {
        name: (group["lr"], group["weight_decay"])
        for name, group in by_name({"head": head}, optimizer.param_groups).items()
    }
    assert found == {
        "head.mlp.weight": (0.5, 0.04),
        "head.mlp.bias": (0.5, 0.0),
        "head.last_layer.weight": (0.25, 0.04),
    }


def test_t18_a_frozen_last_layer_keeps_its_weights_and_does_not_decay_while_its_moments_move() -> None:
    head = Head()
    optimizer = build_adamw(parameter_groups({"head": head}, 2, SECTION), Optimizer())
    weight, other = head.last_layer.weight.detach().clone(), head.mlp.weight.detach().clone()
    for _ in range(3):
        for p in head.parameters():
            p.grad = torch.ones_like(p)
        apply_to_optimizer(optimizer, scheduled(0.1, 0.0, 0.5))
        optimizer.step()
    assert torch.equal(head.last_layer.weight, weight)
    assert not torch.equal(head.mlp.weight, other)
    assert float(optimizer.state[head.last_layer.weight]["exp_avg"].abs().min()) > 0


def test_a_step_is_that_of_adamw_with_decoupled_decay() -> None:
    """After one step every moment is that of its gradient: w <- w - lr d w - lr g / (|g| + eps)."""
    torch.manual_seed(0)
    head = Head()
    optimizer = build_adamw(parameter_groups({"head": head}, 2, SECTION), Optimizer())
    apply_to_optimizer(optimizer, scheduled(0.1, 0.1, 0.04))
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    for p in head.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for name, p in head.named_parameters():
        assert p.grad is not None
        decay = 0.0 if name.endswith("bias") else 0.04
        expected = before[name] * (1 - 0.1 * decay) - 0.1 * p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_each_sub_module_is_clipped_on_its_own_after_accumulation(bigrunner: Runner) -> None:
    """A norm below the limit is left, one above becomes the limit; the norms that are logged are those before."""
    clipped: list[dict[str, float]] = []

    class Watch:
        @hookimpl
        def before_update(self, run: Run) -> None:
            clipped.append({
                name: float(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))
                for name, module in run.objective.trained_modules().items()
            })  # fmt: skip

    free = bigrunner.run(steps=1, accumulate=2, optimizer={"clip_norm": False, "warmup_steps": 0})
    norms = {k.removeprefix("grad_norm/"): v for k, v in free.metrics[0].items() if k.startswith("grad_norm/")}
    limit = (min(norms.values()) + max(norms.values())) / 2
    result = bigrunner.run(steps=1, accumulate=2, companions=[Watch()], optimizer={"clip_norm": limit})
    result.assert_finished()
    (after,) = clipped
    assert after.keys() == norms.keys()
    for name, norm in norms.items():
        assert result.metrics[0][f"grad_norm/{name}"] == pytest.approx(norm, rel=1e-5)
        assert after[name] == pytest.approx(min(norm, limit), rel=1e-5), name
