"""The vision transformer (arXiv 2010.11929) of the DINOv3 recipe: rotary positions, storage tokens, no class head."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.block import Block, build_norm, kept_crops
from bigrun.model.groups import Group
from bigrun.model.initialise import initialise
from bigrun.model.rope import Rope
from bigrun.model.scale import ScaleEmbedding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bigrun.model.activation_checkpointing import ActivationCheckpointing
    from bigrun.model.rope import RopeTable
    from bigrun.sections import Model

__all__ = ["Features", "PatchEmbedding", "VisionTransformer"]


def draw_on_host() -> float:
    """Uniform in [0, 1), by torch's generator of the CPU: nobody waits for a device."""
    return float(torch.rand((), device="cpu"))


@attrs.frozen(eq=False)
class Features:
    """What the backbone says about n crops of one size. All but `prenorm` are behind the final norm."""

    cls: Tensor  # (n, D)
    storage: Tensor  # (n, R, D)
    patches: Tensor  # (n, P, D), row-major
    prenorm: Tensor  # (n, 1+R+P, D): class token, storage tokens, patches
    grid: tuple[int, int]  # Hp, Wp with P = Hp * Wp

    def maps(self) -> Tensor:
        """The patches as feature maps: (n, D, Hp, Wp)."""
        return self.patches.mT.reshape(len(self.patches), -1, *self.grid)


class PatchEmbedding(nn.Module):
    """Patches of p x p pixels to tokens: a convolution by its weights, a matrix product by what is computed.

    That takes 0.65 to 0.95 of the convolution's time on two cores of a CPU, and needs neither cuDNN nor MIOpen, which
    has failed at it on gfx1151 (ROCm/rocm-libraries issue 4070).
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.proj = nn.Conv2d(model.in_channels, model.width, model.patch_size_px, stride=model.patch_size_px)

    def forward(self, crops: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D, Hp, Wp). Raises ValueError when the crops do not divide into patches."""
        channels, patch = self.proj.in_channels, self.proj.stride[0]
        if crops.ndim != 4 or crops.shape[1] != channels or crops.shape[2] % patch or crops.shape[3] % patch:
            raise ValueError(
                f"expected crops (n, {channels}, H, W) with sides that are multiples of {patch}, "
                f"got {tuple(crops.shape)}"
            )
        n, _, height, width = crops.shape
        patches = crops.view(n, channels, height // patch, patch, width // patch, patch)
        flat = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (n, Hp, Wp, C*p*p)
        return F.linear(flat, self.proj.weight.flatten(1), self.proj.bias).permute(0, 3, 1, 2)


class VisionTransformer(nn.Module):
    """Names of parameters and buffers are those of the public DINOv3 weights."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.prefix = 1 + model.storage_tokens
        self.drop_path_fraction = model.drop_path_fraction
        self.draw: Callable[[], float] = draw_on_host
        self.patch_embed = PatchEmbedding(model)
        self.cls_token = nn.Parameter(torch.empty(1, 1, model.width))
        self.storage_tokens = nn.Parameter(torch.empty(1, model.storage_tokens, model.width))
        self.mask_token = nn.Parameter(torch.empty(1, model.width))
        self.scale_embed = ScaleEmbedding(model) if model.scale_embedding else None
        self.rope_embed = Rope(model)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.depth))
        self.norm = build_norm(model)
        self.cls_norm = build_norm(model) if model.untie_cls_and_patch_norms else None
        self.local_cls_norm = build_norm(model) if model.untie_global_and_local_cls_norm else None
        initialise(self)

    def initialise(self) -> None:
        """Set the tokens; every other tensor is a part's."""
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.storage_tokens, std=0.02)
        nn.init.zeros_(self.mask_token)

    def checkpoint_activations(self, mode: ActivationCheckpointing) -> None:
        """Choose for every block what its backward pass computes again."""
        for block in self.blocks:
            cast("Block", block).activation_checkpointing = mode

    def forward(self, crops: Tensor, mask: Tensor | None = None, spacing_mm: Tensor | None = None) -> Features:
        """Features of crops (n, C, H, W); where mask (n, P) is true, a patch is replaced by the mask token.

        spacing_mm: (n, 3), for a network with a scale embedding; any other does not look at it.
        """
        return self.forward_list([crops], [mask], [spacing_mm])[0]

    def forward_list(
        self,
        crops: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        spacing_mm: Sequence[Tensor | None] | None = None,
    ) -> list[Features]:
        """Features of several stacks of crops, each of its own size, in one pass.

        The stacks go through every block together; they meet in no operation but norms and linear layers, so this
        gives the numbers of separate passes. In training the second stack is that of the local crops: with
        `untie_global_and_local_cls_norm` its class and storage tokens have a final norm of their own.

        Args:
            crops: tensors (n_i, C, H_i, W_i).
            masks: for each of them (n_i, P_i) bool, or None.
            spacing_mm: for each of them (n_i, 3), or None.
        """
        nothing = [None] * len(crops)
        x, groups, grids = self._embed(crops, masks or nothing, spacing_mm or nothing)
        kept = self._kept(groups)
        for block, tables in zip(self.blocks, self._tables(grids), strict=True):
            x = block(x, groups, tables, kept)
        return self._read(x, groups, grids)

    def intermediate(self, crops: Tensor, layers: int | Sequence[int], *, norm: bool = True) -> list[Features]:
        """Features behind the last so many blocks, or behind the listed ones (counted from 0), in that order.

        Args:
            crops: (n, C, H, W).
            norm: whether the final norm is applied to them.

        Raises:
            ValueError: there is no such block.
        """
        depth = len(self.blocks)
        wanted = list(range(depth - layers, depth)) if isinstance(layers, int) else list(layers)
        if not wanted or not all(0 <= layer < depth for layer in wanted):
            raise ValueError(f"expected blocks from 0 to {depth - 1}, got {layers}")
        x, groups, grids = self._embed([crops], [None], [None])
        found: dict[int, Features] = {}
        tables, kept = self._tables(grids), self._kept(groups)
        for number, block in enumerate(self.blocks[: max(wanted) + 1]):
            x = block(x, groups, tables[number], kept)
            if number in wanted:
                found[number] = self._read(x, groups, grids, norm=norm)[0]
        return [found[layer] for layer in wanted]

    def _embed(
        self, crops: Sequence[Tensor], masks: Sequence[Tensor | None], spacing_mm: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Group], list[tuple[int, int]]]:
        """All tokens (T, D) one stack after the other, how they are grouped, and the grids of their patches."""
        tokens, groups, grids = [], [], []
        for stack, mask, spacing in zip(crops, masks, spacing_mm, strict=True):
            embedded = self.patch_embed(stack)  # (n, D, Hp, Wp)
            patches = embedded.flatten(2).mT  # (n, P, D)
            cls_token: Tensor = self.cls_token
            if mask is None:
                cls_token = cls_token + 0 * self.mask_token  # a gradient for every parameter, in every step
            else:
                patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
            n = len(patches)
            prefix = torch.cat([cls_token, self.storage_tokens], dim=1).expand(n, -1, -1)
            if self.scale_embed is not None:
                scale = self.scale_embed(spacing, n)[:, None].to(prefix.dtype)  # (n, 1, D)
                prefix = torch.cat([prefix[:, :1] + scale, prefix[:, 1:]], dim=1)
                patches = patches + scale
            sequence = torch.cat([prefix, patches.to(prefix.dtype)], dim=1)  # (n, N, D)
            tokens.append(sequence.flatten(0, 1))
            groups.append(Group(n, sequence.shape[1]))
            grids.append((embedded.shape[2], embedded.shape[3]))
        return torch.cat(tokens), groups, grids

    def _kept(self, groups: Sequence[Group]) -> list[int] | None:
        """Of how many crops of each group every block computes its branches in this pass; None: of all. A
        number on the host, outside of what is compiled."""
        if not self.training or self.drop_path_fraction == 0:
            return None
        draw = self.draw()
        return [kept_crops(group.crops, self.drop_path_fraction, draw) for group in groups]

    def _tables(self, grids: list[tuple[int, int]]) -> list[list[RopeTable]]:
        """For each block the tables of all stacks."""
        return self.rope_embed(grids, self.prefix, len(self.blocks))  # type: ignore[no-any-return]

    def _read(
        self, x: Tensor, groups: list[Group], grids: list[tuple[int, int]], *, norm: bool = True
    ) -> list[Features]:
        features = []
        for number, (part, group, grid) in enumerate(
            zip(torch.split(x, [g.rows for g in groups]), groups, grids, strict=True)
        ):
            tokens = part.view(group.crops, group.tokens, -1)  # (n, N, D)
            first, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
            if norm:
                first, patches = self._prefix_norm(number)(first), self.norm(patches)
            features.append(Features(first[:, 0], first[:, 1:], patches, tokens, grid))
        return features

    def _prefix_norm(self, number: int) -> nn.Module:
        """The final norm of the class and storage tokens of a stack."""
        if self.training and number == 1 and self.local_cls_norm is not None:
            return self.local_cls_norm
        return self.norm if self.cls_norm is None else self.cls_norm
