"""[init]: what a run starts from."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from bigrun.options import at_least, not_blank, option

__all__ = ["Init"]


def _of_the_file(default: Any, *, help: str, **more: Any) -> Any:
    """An option about the file; without one it is dead."""
    return option(
        default, effective=lambda init: init.path is not None, otherwise="init.path is absent", help=help, **more
    )


@attrs.frozen
class Init:
    """Weights that student and teacher start from, when the run starts; a resumed run does not need the file
    [spec 1.14].
    """

    path: str | None = option(
        None,
        check=not_blank(),
        fixed=True,
        help="File of a backbone's weights (safetensors, or torch without code) or directory of a checkpoint of "
        "bigrun's; absent: random.",
    )
    layout: Literal["auto", "dinov3", "dinov2", "timm", "transformers", "transformers-dinov2"] = _of_the_file(
        "auto", fixed=True, help="Whose names the file's tensors have; auto recognises them. dinov3 is bigrun's own."
    )
    heads: bool = _of_the_file(
        False, fixed=True, help="Start from the projection heads of the checkpoint as well; a checkpoint of bigrun's."
    )
    allow_partial: bool = _of_the_file(
        False, fixed=True, help="Start although something does not fit; what is missing stays random."
    )
    resample_patch_embedding: bool = _of_the_file(
        False, fixed=True, help="Fit a patch embedding for another patch size to model.patch_size_px."
    )
    freeze_backbone_steps: int | None = _of_the_file(
        None,
        check=at_least(0),
        rule="freeze-backbone",
        help="Steps at the start in which the heads learn and the backbone does not.",
    )
