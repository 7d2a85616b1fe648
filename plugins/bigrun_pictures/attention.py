"""What the class token attends to, and what the patches are, at several heights in one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import Tensor, nn

from bigrun.evaluation.undisturbed import undisturbed

if TYPE_CHECKING:
    from bigrun.model.attention import Attention
    from bigrun.model.block import Block
    from bigrun.model.groups import Qkv
    from bigrun.model.vit import VisionTransformer

__all__ = ["Seen", "look"]


@attrs.frozen(eq=False)
class Seen:
    """What a network makes of n images, block by block of those that were asked for."""

    attention: list[Tensor]  # each (n, h, N) fp32: of the class token to all tokens; each head's sum is 1
    patches: list[Tensor]  # each (n, P, D) fp32, behind the final norm
    grid: tuple[int, int]  # Hp, Wp


def look(backbone: VisionTransformer, crops: Tensor, blocks: Sequence[int], spacing_mm: Tensor | None = None) -> Seen:
    """
    The weights are computed here from the rotated queries and keys, whatever kernel mixes the values: fused ones return
    none. Only the class token's row is, h x N numbers an image and block.

    Args:
        crops: (n, C, H, W).
        blocks: counted from 1, ascending.
        spacing_mm: (n, 3), for a network with a scale embedding.
    """
    weights, tokens = list[Tensor](), list[Tensor]()
    with undisturbed(backbone), contextlib.ExitStack() as stack:
        for number in blocks:
            block = cast("Block", backbone.blocks[number - 1])
            stack.enter_context(watched_kernel(block.attn, weights.append))
            stack.enter_context(watched_output(block, tokens.append))
        features = backbone(crops, spacing_mm=spacing_mm)
        shape = (len(crops), -1, features.patches.shape[-1])
        patches = [backbone.norm(x.view(shape)[:, backbone.prefix :]).float() for x in tokens]
    return Seen(weights, patches, features.grid)


@contextlib.contextmanager
def watched_kernel(attention: Attention, tell: Callable[[Tensor], Any]) -> Iterator[None]:
    """Tells the class token's weights (n, h, N) of the first group of crops."""
    kernel = attention.kernel
    attention.kernel = partial(tell_weights, kernel, tell)
    try:
        yield
    finally:
        attention.kernel = kernel


def tell_weights(
    kernel: Callable[[Sequence[Qkv]], list[Tensor]], tell: Callable[[Tensor], Any], groups: Sequence[Qkv]
) -> list[Tensor]:
    q, k, _ = groups[0]  # (n, h, N, d)
    with torch.autocast(q.device.type, enabled=False):
        logits = q[:, :, :1].float() @ k.float().mT * q.shape[-1] ** -0.5  # (n, h, 1, N)
        tell(torch.softmax(logits, dim=-1)[:, :, 0])
    return kernel(groups)


@contextlib.contextmanager
def watched_output(block: Block, tell: Callable[[Tensor], Any]) -> Iterator[None]:
    """Tells the tokens (T, D) behind a block."""

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
        tell(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
