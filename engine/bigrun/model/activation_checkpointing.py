"""Activation checkpointing: what the backward pass needs is computed again instead of kept (arXiv 1604.06174)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, TypeVarTuple

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

__all__ = ["ActivationCheckpointing", "checkpointed"]

ActivationCheckpointing = Literal["none", "selective", "full"]
Ts = TypeVarTuple("Ts")
T = TypeVar("T")

MATRIX_PRODUCTS = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten.baddbmm.default,
        torch.ops.aten._scaled_mm.default,
    }
)

ATTENTION_WORDS = ("attention", "attn", "flash")
"""In names of operators, such as aten::_scaled_dot_product_cudnn_attention or NAMESPACE::flash_fwd."""


HOOKS = "respect_saved_tensors_hooks"
"""An option of torch from 2.14 on: whether what is kept passes through the hooks of somebody who moves what autograd
saves, as plugins do. Before that it does not."""


def checkpointed(function: Callable[[*Ts], T], mode: Literal["selective", "full"], *args: *Ts) -> T:
    """`function(*args)`; its backward pass runs it again, with the same random draws and the same autocast.

    `full` keeps the arguments only, `selective` also the outputs of matrix products and of attention, which take most
    of the time.
    """
    options = SELECTIVE if mode == "selective" else {}
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=True, **options)  # type: ignore[no-any-return]


def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Attention is every operator named so: torch's flash, memory-efficient, cuDNN and CPU kernels and a plugin's."""
    keep = operator in MATRIX_PRODUCTS or any(word in operator.name() for word in ATTENTION_WORDS)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


SELECTIVE: dict[str, Any] = {"context_fn": functools.partial(create_selective_checkpoint_contexts, policy)} | (
    {HOOKS: False} if HOOKS in inspect.signature(checkpoint).parameters else {}
)
