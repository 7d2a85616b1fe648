"""The projection head."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bigrun.model.heads import ProjectionHead


def head(width: int = 12, hidden: int = 20, bottleneck: int = 8, prototypes: int = 30) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(width, hidden, bottleneck, prototypes)


@pytest.mark.parametrize(("i", "m", "e", "k"), [(384, 2048, 256, 8192), (1536, 2048, 256, 16384)])
def test_parameters_are_counted_exactly(i: int, m: int, e: int, k: int) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in ProjectionHead(i, m, e, k).parameters())
    assert count == i * m + m + m * m + m + m * e + e + e * k


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_layers_in_front_of_the_bottleneck_can_be_chosen(layers: int) -> None:
    network = ProjectionHead(12, 20, 8, 30, layers=layers)
    linear = [module for module in network.mlp if isinstance(module, nn.Linear)]
    widths = [12, *[20] * (layers - 1), 8]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(itertools.pairwise(widths))
    assert len(network.mlp) == 2 * layers - 1
    tokens = torch.randn(7, 12)
    if layers == 1:  # without GELU: a linear map, normalised
        assert torch.allclose(network.bottleneck(tokens), F.normalize(linear[0](tokens), dim=-1))
    else:
        inner = F.gelu(linear[0](tokens))
        rest = network.mlp[2:](inner)
        assert torch.allclose(network.bottleneck(tokens), F.normalize(rest, dim=-1))


def test_the_bottleneck_is_on_the_unit_sphere_in_fp32() -> None:
    tokens = torch.randn(7, 12)
    with torch.autocast("cpu", torch.bfloat16):
        z = head().bottleneck(tokens)
    assert z.shape == (7, 8)
    assert z.dtype == torch.float32
    assert torch.allclose(z.norm(dim=1), torch.ones(7), atol=1e-6)


def test_forward_is_the_composition_of_its_halves() -> None:
    network, tokens = head(), torch.randn(7, 12)
    assert torch.equal(network(tokens), network.prototypes(network.bottleneck(tokens)))
    assert network(tokens).shape == (7, 30)
    assert network.last_layer.bias is None


def test_normalised_prototypes_give_cosines() -> None:
    torch.manual_seed(0)
    network = ProjectionHead(12, 20, 8, 30, normalise_prototypes=True)
    tokens = torch.randn(7, 12)
    before = network(tokens)
    assert before.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        network.last_layer.weight *= 5
    assert torch.allclose(network(tokens), before, atol=1e-6)


def test_logits_start_with_the_std_of_the_prototypes() -> None:
    logits = head(64, 128, 64, 5000)(torch.randn(50, 64))
    assert logits.std().item() == pytest.approx(0.02, rel=0.1)
