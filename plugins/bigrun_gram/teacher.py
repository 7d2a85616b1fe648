"""The Gram teacher: a frozen backbone, where its weights come from, and what it says about a batch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from bigrun.checkpoint.strict import load_strict
from bigrun.errors import UsageError
from bigrun.objective.base import Network
from bigrun.objective.dino import DinoObjective
from bigrun.sections import Init
from bigrun.strategy import is_meta
from bigrun.weights.start import fit_file
from bigrun_gram.loss import resize_tokens

if TYPE_CHECKING:
    from bigrun.data.dataset import Batch
    from bigrun.objective.base import Outputs
    from bigrun.run import Run

__all__ = ["VIEW", "GramTeacher", "keep_moving_patches", "moving_patches"]

M = TypeVar("M", bound=nn.Module)

VIEW = "gram"
"""The extra view with crops of another size than the global ones."""


class GramTeacher(Network):
    """A backbone like the teacher's, without storage until weights are taken."""

    def __init__(self, teacher: Network, *, is_half: bool = False) -> None:
        """`is_half`: the linear layers of its blocks, which have all but a hundredth of the weights, are bf16. Autocast
        rounds just these to bf16 in every forward pass, so that with it nothing is lost."""
        super().__init__()
        self.backbone = without_storage(teacher.backbone)
        self.is_half = is_half
        for layer in (m for m in self.backbone.blocks.modules() if is_half and isinstance(m, nn.Linear)):
            layer.weight.data = layer.weight.data.bfloat16()
            if layer.bias is not None:
                layer.bias.data = layer.bias.data.bfloat16()
        self.eval()

    @property
    def is_there(self) -> bool:
        """Whether it has weights."""
        return not is_meta(self.backbone)

    @torch.no_grad()
    def take(self, run: Run, tensors: Mapping[str, Tensor], where: str) -> None:
        """Copy weights of a backbone, never "scale by zero and add": 0 * NaN stays NaN.

        Raises:
            CheckpointError: naming `where`, the tensors are not this backbone's.
        """
        self._place(run)
        load_strict(self.backbone, tensors, where)

    @torch.no_grad()
    def take_file(self, run: Run, path: str) -> None:
        """Copy weights of a file. Raises UsageError: see `check_file`."""
        tensors = self._read(run, path, meta=False)
        self._place(run)
        constants = dict(run.objective.teacher.backbone.named_buffers())
        lacking = {  # a parameter that a file may lack is one that is zero
            name: constants[name] if name in constants else torch.zeros(own.shape, dtype=own.dtype)
            for name, own in self.backbone.state_dict().items()
            if name not in tensors
        }
        load_strict(self.backbone, {**tensors, **lacking}, path)

    def check_file(self, run: Run, path: str) -> None:
        """Raises: UsageError when there is no such file, or it holds another backbone. Reads names and shapes only."""
        self._read(run, path, meta=True)

    def _read(self, run: Run, path: str, *, meta: bool) -> Mapping[str, Tensor]:
        fitted = fit_file(Init(path=path), self, run.config.model, meta=meta)
        if not fitted.coverage.complete:
            raise UsageError("; ".join([f"{path}: is not this run's backbone", *fitted.coverage.details()]))
        return {name.removeprefix("backbone."): tensor for name, tensor in fitted.tensors.items()}

    def _place(self, run: Run) -> None:
        if not self.is_there:
            run.materialise(self.backbone)
        self.eval().requires_grad_(False)

    def drop(self) -> None:
        """Free its storage; checkpoints hold it no more."""
        self.backbone.to_empty(device="meta")

    @torch.no_grad()
    def patches(self, batch: Batch, grid: tuple[int, int]) -> Tensor:
        """Patch features of the global crops (G*b, P, D) on the student's grid; from larger crops where there are."""
        crops = batch.extra.get(VIEW, batch.global_crops)
        with torch.autocast(crops.device.type, torch.bfloat16) if self.is_half else contextlib.nullcontext():
            features = self.backbone(crops)
        return resize_tokens(features.patches, features.grid, grid)


def keep_moving_patches(run: Run, keep: bool) -> None:
    """Ask the objective to keep what its teacher says of the patches of the next step, for `moving_patches`."""
    if isinstance(run.objective, DinoObjective):
        run.objective.keep_teacher_patches = keep


@torch.no_grad()
def moving_patches(run: Run, batch: Batch, outputs: Outputs) -> Tensor:
    """The teacher's own patch features of the global crops (G*b, P, D); a forward pass only where the objective has not
    kept them."""
    if outputs.teacher_patches is not None:
        return outputs.teacher_patches
    with run.objective.evaluation() as backbone:  # a teacher may be the student, in the mode of training
        patches: Tensor = backbone(batch.global_crops).patches
    return patches


def without_storage(module: M) -> M:
    """A copy whose saved tensors are on the meta device; not a byte is copied of the original's."""
    memo: dict[int, Tensor] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)
