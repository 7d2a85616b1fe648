"""The moving average that makes a teacher of a student (arXiv 1703.01780; 2104.14294, section 3.1)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

__all__ = ["ema_update", "frozen_copy"]

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """An equal module of its own storage, in eval mode and without gradients."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for every parameter, in place.

    Both are fp32: with momentum 0.999 a bf16 teacher (8 bits of mantissa) would lose every change below 2^-9 of
    its value. Buffers are constants and stay as they were copied.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
