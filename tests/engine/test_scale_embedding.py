"""A network that is told the size of pixels: nothing at first, nothing at evaluation, and it learns from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bigrun.errors import UsageError
from bigrun.export.source import read_source
from bigrun.model.scale import ScaleEmbedding, folded_scale
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.testing.runner import Runner, SyntheticImages

TINY = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "ffn_hidden": 64,
    "patch_size_px": 8,
    "storage_tokens": 1,
    "layerscale": 0.1,
}


def told_network() -> VisionTransformer:
    """With an embedding that has learned something."""
    torch.manual_seed(0)
    network = VisionTransformer(Model(**TINY, scale_embedding=True)).eval()
    embedding = network.scale_embed
    assert embedding is not None
    torch.nn.init.normal_(embedding.gamma)
    torch.nn.init.normal_(embedding.unknown_token)
    return network


@torch.no_grad()
def test_at_first_it_is_the_network_without() -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(Model(**TINY)).eval()
    told = VisionTransformer(Model(**TINY, scale_embedding=True)).eval()
    missing = told.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.partition(".")[0] for name in missing} == {"scale_embed"}
    crops = torch.randn(3, 3, 16, 24)
    features = told(crops, spacing_mm=torch.rand(3, 3) + 0.1)
    assert torch.equal(features.cls, plain(crops).cls)
    assert torch.equal(features.patches, plain(crops).patches)


@torch.no_grad()
def test_it_is_told_the_logarithm_and_what_is_unknown_is_one_thing() -> None:
    network, crops = told_network(), torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1)
    spacing = torch.tensor([[0.5, 0.5, 1.0], [0.7, 0.7, 5.0], [torch.nan, 0.5, 1.0], [0.5, 0.5, 0.0]])
    cls = network(crops, spacing_mm=spacing).cls
    untold = network(crops).cls
    assert (cls[0] - cls[1]).abs().max() > 1e-3
    assert torch.allclose(cls[2:], untold[2:])
    assert (cls[0] - untold[0]).abs().max() > 1e-3
    embedding = network.scale_embed
    assert embedding is not None
    twice = embedding(2 * spacing[:2], 2) - embedding(spacing[:2], 2)
    hidden = embedding.fc1(spacing[:2].log() + np.log(2))
    expected = embedding.gamma * embedding.fc2(torch.nn.functional.gelu(hidden)) - embedding(spacing[:2], 2)
    assert torch.allclose(twice, expected, atol=1e-5)


def test_in_training_three_in_ten_are_not_told() -> None:
    embedding = ScaleEmbedding(Model(width=64))
    torch.manual_seed(0)
    for parameter in embedding.parameters():
        torch.nn.init.normal_(parameter)
    vectors = embedding(torch.ones(4000, 3), 4000)
    untold = (vectors == embedding.unknown_token).all(dim=1).float().mean()
    assert untold == pytest.approx(0.3, abs=0.03)
    assert len(vectors.unique(dim=0)) == 2
    vectors.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in embedding.parameters())


@torch.no_grad()
def test_the_vector_goes_to_class_and_patch_tokens_and_masks() -> None:
    network, crops = told_network(), torch.randn(2, 3, 16, 16)
    mask = torch.tensor([[True, False, False, True]] * 2)
    spacing = torch.tensor([[0.5, 0.5, 1.0], [0.7, 0.7, 5.0]])
    tokens = [network._embed([crops], [mask], [s])[0].view(2, 6, -1) for s in (spacing, None)]
    assert network.scale_embed is not None
    shift = network.scale_embed(spacing, 2) - network.scale_embed.unknown_token
    difference = tokens[0] - tokens[1]
    assert torch.allclose(difference[:, [0, 2, 3, 4, 5]], shift[:, None].expand(-1, 5, -1), atol=1e-5)
    assert torch.equal(difference[:, 1], torch.zeros(2, 32))  # the storage token


@torch.no_grad()
def test_folded_weights_give_the_same_features() -> None:
    network, crops = told_network(), torch.randn(2, 3, 24, 16)
    plain = VisionTransformer(Model(**TINY)).eval()
    plain.load_state_dict(folded_scale(network.state_dict()))
    mask = torch.tensor([[True, False, True, False, False, True]] * 2)
    for chosen in (None, mask):
        ours, theirs = network(crops, chosen), plain(crops, chosen)
        assert torch.allclose(ours.cls, theirs.cls, atol=1e-5)
        assert torch.allclose(ours.patches, theirs.patches, atol=1e-5)
        assert torch.allclose(ours.storage, theirs.storage, atol=1e-5)
    state = plain.state_dict()
    assert folded_scale(state).keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in folded_scale(state).items())


class Measured(SyntheticImages):
    def spacing_mm(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.stack([0.5 + indices % 3, 0.5 + indices % 3, np.full(len(indices), 5)], axis=1).astype(np.float32)


def test_a_run_learns_it_and_exports_without_it(bigrunner: Runner) -> None:
    options: dict[str, Any] = {"steps": 3, "dataset": Measured(), "model": {"scale_embedding": True}}
    result = bigrunner.run(**options)
    result.assert_finished()
    learned = [name for name in result.parameters if ".scale_embed." in name and name.startswith("student")]
    assert len(learned) == 6
    for name in ("gamma", "unknown_token"):
        assert result.parameters[f"student.backbone.scale_embed.{name}"].abs().max() > 0
    resumed = bigrunner.resume(result, at_step=1)
    assert resumed.losses == result.losses
    plain = bigrunner.run(**{**options, "model": {}})
    assert plain.losses[0] == pytest.approx(result.losses[0], abs=0.3)
    assert plain.losses != result.losses

    assert result.run is not None
    source = read_source(result.run.checkpoints.path(3))
    assert not source.model.scale_embedding
    crops = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with result.run.objective.evaluation() as backbone:
        expected = backbone(crops)
    exported = source.backbone()(crops)
    assert torch.allclose(exported.cls, expected.cls, atol=1e-5)
    assert torch.allclose(exported.patches, expected.patches, atol=1e-5)


def test_a_data_set_without_spacing_is_refused(bigrunner: Runner) -> None:
    result = bigrunner.run(model={"scale_embedding": True})
    assert isinstance(result.error, UsageError)
    assert "model.scale_embedding: the data set (SyntheticImages) knows no spacing" in str(result.error)
    assert not result.directory.exists()
