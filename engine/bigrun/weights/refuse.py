"""What other projects' networks cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun.weights.qkv import has_key_bias

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["refuse_key_bias", "refuse_norms"]


def refuse_norms(layout: str, model: Model) -> None:
    """Both projects' networks have one final norm, and it is a LayerNorm.

    Raises:
        UsageError: the model has others.
    """
    if model.untie_cls_and_patch_norms:
        raise UsageError(
            f"the layout {layout} cannot hold this backbone: its class token has a final norm of its own "
            "(model.untie_cls_and_patch_norms); choose dinov3"
        )
    if model.norm == "rmsnorm":
        raise UsageError(f"the layout {layout} cannot hold this backbone: model.norm = 'rmsnorm'; choose dinov3")


def refuse_key_bias(layout: str, name: str, bias: Tensor, model: Model) -> None:
    """Raises UsageError: the keys have a bias, and the layout has no place for one."""
    if not model.mask_k_bias and has_key_bias(bias):
        raise UsageError(
            f"the layout {layout} cannot hold this backbone: the keys' part of {name} is not zero "
            "(model.mask_k_bias = false); choose dinov3 or transformers"
        )
