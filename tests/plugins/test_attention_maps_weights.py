"""attention-maps: the weights that the network uses, several blocks in one pass, and a network left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.evaluation.undisturbed import undisturbed
from bigrun.model.groups import Qkv
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun_pictures.attention import look

CROPS = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def network(**options: Any) -> VisionTransformer:
    """With weights of a size that attention is not even everywhere."""
    tiny: dict[str, Any] = {"width": 32, "depth": 3, "heads": 2, "ffn_hidden": 64, "patch_size_px": 8}
    torch.manual_seed(0)
    backbone = VisionTransformer(Model(**{**tiny, "storage_tokens": 3, "layerscale": 0.5, **options}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


@pytest.mark.parametrize("blocks", [[3], [1, 3], [1, 2, 3]])
def test_the_weights_are_those_that_the_class_token_is_made_with(blocks: list[int]) -> None:
    backbone = network()
    seen: list[tuple[Tensor, Tensor]] = []

    def remembering(groups: Sequence[Qkv]) -> list[Tensor]:
        """A fused kernel of a plugin: it gives values and no weights."""
        out = [F.scaled_dot_product_attention(*group) for group in groups]
        seen.append((groups[0][2], out[0]))
        return out

    for block in backbone.blocks:
        block.attn.kernel = remembering  # type: ignore[union-attr]
    found = look(backbone, CROPS, blocks)
    assert len(seen) == 3, "one forward pass"
    assert found.grid == (3, 4)
    for weights, number in zip(found.attention, blocks, strict=True):
        values, mixed = seen[number - 1]
        assert weights.shape == (2, 2, 16)
        assert weights.dtype is torch.float32
        assert torch.allclose(torch.einsum("nhp,nhpd->nhd", weights, values), mixed[:, :, 0], atol=1e-5)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 2), atol=1e-5)
        assert weights.max() > 1.5 / 16
    assert all(block.attn.kernel is remembering for block in backbone.blocks)  # type: ignore[union-attr]


def test_patches_are_those_of_the_same_blocks_behind_the_final_norm() -> None:
    backbone = network(untie_cls_and_patch_norms=True)
    found = look(backbone, CROPS, [1, 3])
    expected = backbone.intermediate(CROPS, [0, 2])
    assert torch.equal(found.patches[0], expected[0].patches)
    assert torch.equal(found.patches[1], expected[1].patches)
    assert torch.equal(found.patches[1], backbone(CROPS).patches)


def test_spacing_reaches_the_network() -> None:
    backbone = network(scale_embedding=True)
    near, far = (look(backbone, CROPS, [3], torch.full((2, 3), spacing)) for spacing in (0.5, 5.0))
    told = backbone(CROPS, spacing_mm=torch.full((2, 3), 0.5))
    assert torch.equal(near.patches[0], told.patches)
    assert not torch.allclose(near.patches[0], far.patches[0], atol=1e-3)


def test_in_bf16_the_softmax_is_in_fp32() -> None:
    backbone = network()
    exact = look(backbone, CROPS, [1])
    with torch.autocast("cpu", torch.bfloat16):
        found = look(backbone, CROPS, [1])
    assert found.attention[0].dtype is found.patches[0].dtype is torch.float32
    assert torch.allclose(found.attention[0].sum(-1), torch.ones(2, 2), atol=1e-6)
    assert torch.allclose(found.attention[0], exact.attention[0], atol=0.05)


def test_what_was_compiled_is_not_called_and_stays() -> None:
    """torch.compile has put its own function into the block; it knows nothing of ours."""
    backbone, expected = network(), look(network(), CROPS, [1, 3])

    def compiled(*arguments: Any) -> Tensor:
        raise AssertionError("called")

    for block in backbone.blocks:
        block._compiled_call_impl = compiled  # type: ignore[assignment]
    found = look(backbone, CROPS, [1, 3])
    assert all(map(torch.equal, found.attention, expected.attention))
    assert all(block._compiled_call_impl is compiled for block in backbone.blocks)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of itself while it compiles
def test_blocks_that_torch_has_compiled_are_seen_too() -> None:
    backbone, expected = network(), look(network(), CROPS, [1, 3])
    for block in backbone.blocks:
        block.compile(dynamic=False, backend="eager")
    with torch.no_grad():
        backbone(CROPS)
    found = look(backbone, CROPS, [1, 3])
    assert all(map(torch.equal, found.attention, expected.attention))
    assert all(map(torch.equal, found.patches, expected.patches))
    assert len(backbone.blocks[0]._forward_hooks) == 0


def test_every_module_is_afterwards_in_its_mode_also_after_an_error() -> None:
    backbone = network()
    backbone.train()
    backbone.blocks[1].eval()
    modes = [module.training for module in backbone.modules()]
    kernels = [block.attn.kernel for block in backbone.blocks]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="multiples of 8"):
        look(backbone, CROPS[..., :30], [1, 2])
    with undisturbed(backbone):
        assert not any(module.training for module in backbone.modules())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert [module.training for module in backbone.modules()] == modes
    assert [block.attn.kernel for block in backbone.blocks] == kernels  # type: ignore[union-attr]
    assert not any(block._forward_hooks for block in backbone.blocks)


def test_nothing_is_drawn_at_random_and_no_gradient_is_kept() -> None:
    backbone = network(drop_path_fraction=0.5)
    backbone.train()
    state = torch.get_rng_state()
    first, again = look(backbone, CROPS, [3]), look(backbone, CROPS, [3])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.patches[0], again.patches[0])
    assert not first.patches[0].requires_grad
