"""First values (T16 of the recipe)."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bigrun.model.block import LayerScale, RmsNorm
from bigrun.model.heads import ProjectionHead
from bigrun.model.initialise import initialise
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model

TINY = Model(width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=2, layerscale=0.5)

models = st.fixed_dictionaries(
    {
        "ffn": st.sampled_from(["mlp", "swiglu"]),
        "norm": st.sampled_from(["layernorm", "layernormbf16", "rmsnorm"]),
        "layerscale": st.sampled_from([None, 1e-5, 1.0]),
        "storage_tokens": st.integers(0, 3),
        "rope_base": st.just(None),
        "rope_period_range": st.just((1.0, 50.0)),
    }
    | dict.fromkeys(
        [
            "qkv_bias", "mask_k_bias", "proj_bias", "ffn_bias", "untie_cls_and_patch_norms",
            "untie_global_and_local_cls_norm",
        ],
        st.booleans(),
    )
).map(lambda options: attrs.evolve(TINY, **options))  # fmt: skip


def fill_with_nan(network: nn.Module) -> None:
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        tensor.data.fill_(float("nan"))


def assert_all_set(network: nn.Module) -> None:
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        assert tensor.isfinite().all(), name


@settings(deadline=None, max_examples=25)
@given(model=models)
def test_t16_no_nan_remains_after_a_nan_fill(model: Model) -> None:
    network = nn.ModuleDict(
        {
            "backbone": VisionTransformer(model),
            "head": ProjectionHead(32, 16, 8, 20),
            "one_layer": ProjectionHead(32, 16, 8, 20, layers=1),
        }
    )
    fill_with_nan(network)
    initialise(network)  # of the whole, which reaches the backbone's own tokens
    assert_all_set(network)


@settings(deadline=None, max_examples=10)
@given(model=models)
def test_t16_a_network_that_was_built_without_storage_gets_first_values(model: Model) -> None:
    with torch.device("meta"):
        network = VisionTransformer(model)
    network.to_empty(device="cpu")
    fill_with_nan(network)  # what empty storage may hold
    torch.manual_seed(0)
    initialise(network)
    direct = VisionTransformer(model)
    torch.manual_seed(0)
    initialise(direct)
    assert all(torch.equal(direct.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_t16_first_values() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(attrs.evolve(TINY, width=256, heads=4, ffn_hidden=512, storage_tokens=4))
    assert not network.mask_token.any()
    for token in (network.cls_token, network.storage_tokens):
        assert token.std().item() == pytest.approx(0.02, rel=0.2)
    bound = 1 / math.sqrt(3 * 8 * 8)
    for tensor in (network.patch_embed.proj.weight, network.patch_embed.proj.bias):
        assert 0.9 * bound < tensor.abs().max() <= bound
        assert abs(tensor.mean()) < 5 * bound / math.sqrt(3 * tensor.numel())
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(module.weight.mean()) < 5 * 0.02 / math.sqrt(module.weight.numel())
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
        if isinstance(module, LayerScale):
            assert (module.gamma == 0.5).all()
    for block in network.blocks:
        assert block.attn.qkv.bias_mask.tolist() == [1.0] * 256 + [0.0] * 256 + [1.0] * 256


def test_t16_rms_norm_begins_at_one() -> None:
    norm = RmsNorm(8)
    initialise(norm)
    assert norm.weight.tolist() == [1.0] * 8


def test_t16_the_head_has_prototypes_of_std_0_02() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(64, 128, 64, 1000)
    assert head.last_layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in head.mlp:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()


def test_t16_the_first_loss_is_the_logarithm_of_the_prototypes() -> None:
    """Student logits have a standard deviation of 0.02, so the loss is above ln K by half the variance of
    logit / 0.1, about 0.02, for targets that are balanced over images."""
    torch.manual_seed(0)
    backbone, head = VisionTransformer(TINY), ProjectionHead(32, 128, 64, 4096)
    logits = head(backbone(torch.randn(16, 3, 32, 32)).cls)
    balanced = (logits - logits.mean(0)).detach()
    targets = (balanced.roll(1, 0) / 0.04).softmax(-1)
    loss = F.cross_entropy(logits / 0.1, targets).item()
    assert math.log(4096) < loss < math.log(4096) + 0.05


def test_a_module_that_nobody_sets_is_refused() -> None:
    with pytest.raises(TypeError, match="BatchNorm1d has tensors and no method initialise"):
        initialise(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_a_module_may_set_its_own_tensors() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.factor = nn.Parameter(torch.empty(3))

        def initialise(self) -> None:
            nn.init.constant_(self.factor, 7.0)

    module = Scale()
    fill_with_nan(module)
    initialise(module)
    assert module.factor.tolist() == [7.0] * 3
    assert_all_set(module)
