"""Options of bigrun's backbone that the models of timm and of transformers have no place for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigrun.sections import Model

__all__ = ["foreign_options"]


def foreign_options(model: Model) -> Iterator[str]:
    """Each as `model.option = value`."""
    if model.norm == "rmsnorm":
        yield "model.norm = 'rmsnorm'"
    if model.untie_cls_and_patch_norms:
        yield "model.untie_cls_and_patch_norms = true"
    if model.rope_base is None:
        yield "model.rope_period_range (instead of rope_base)"
    if model.rope_coordinates != "separate":
        yield f"model.rope_coordinates = '{model.rope_coordinates}'"
    if model.rope_dtype != "fp32":
        yield f"model.rope_dtype = '{model.rope_dtype}'"
