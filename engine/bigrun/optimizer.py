"""AdamW and its parameter groups: layer-wise learning rates, what decays, what is frozen at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bigrun.schedules import Schedules
    from bigrun.sections import Optimizer

__all__ = ["apply_to_optimizer", "build_adamw", "parameter_groups"]

EMBEDDINGS = ("patch_embed", "cls_token", "storage_tokens", "mask_token", "scale_embed")

# Names that wrappers put into a parameter's path: torch.compile, activation checkpointing, data parallelism.
WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"})


def parameter_groups(modules: Mapping[str, nn.Module], depth: int, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Group the parameters of all modules; each parameter is in exactly one group.

    The learning rate falls towards the pixels (layer-wise decay q, arXiv 2106.08254): of L blocks, block i has the
    factor q^(L-i), the patch embedding and the tokens q^(L+1), final norms and heads 1. Biases, norms and
    LayerScale (gamma) have no weight decay; tokens and the patch embedding have.

    Args:
        modules: parts by name, with parameter names relative to the part (`blocks.0.norm1.weight`).
        depth: blocks L.

    Returns:
        Groups with `params`, and with what `apply_to_optimizer` reads: `lr_factor`, `weight_decay_factor` and
        `last_layer` (prototypes, whose learning rate has a schedule of its own).
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if parameter in seen:  # two heads may share it
                continue
            seen.add(parameter)
            path = [part for part in name.split(".") if part not in WRAPPERS]
            key = (_lr_factor(path, depth, optimizer), _weight_decay_factor(path), "last_layer" in path)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr_factor": lr, "weight_decay_factor": decay, "last_layer": last}
        for (lr, decay, last), parameters in groups.items()
    ]


def _lr_factor(path: Sequence[str], depth: int, optimizer: Optimizer) -> float:
    if path[0] == "blocks":
        return optimizer.layer_decay ** (depth - int(path[1]))
    if path[0] not in EMBEDDINGS:
        return 1.0
    extra = optimizer.patch_embed_lr_factor if path[0] == "patch_embed" else 1.0
    return extra * optimizer.layer_decay ** (depth + 1)


def _weight_decay_factor(path: Sequence[str]) -> float:
    kept = path[-1].endswith("bias") or any("norm" in part or "gamma" in part for part in path)
    return 0.0 if kept else 1.0


def build_adamw(groups: Sequence[dict[str, Any]], optimizer: Optimizer) -> torch.optim.AdamW:
    """AdamW with decoupled decay (arXiv 1711.05101), fused. It changes nothing before `apply_to_optimizer`."""
    return torch.optim.AdamW(list(groups), lr=0.0, betas=optimizer.betas, eps=1e-8, weight_decay=0.0, fused=True)


def apply_to_optimizer(optimizer: torch.optim.Optimizer, schedules: Schedules) -> None:
    """Set every group's `lr` and `weight_decay` to the current step's values times the group's factors."""
    for group in optimizer.param_groups:
        learning_rate = schedules["last_layer_learning_rate" if group["last_layer"] else "learning_rate"]
        group["lr"] = learning_rate * group["lr_factor"]
        group["weight_decay"] = schedules["weight_decay"] * group["weight_decay_factor"]
