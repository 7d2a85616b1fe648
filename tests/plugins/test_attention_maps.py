"""attention-maps: the weights that the network uses, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image
from torch import Tensor

from bigrun.model.groups import Qkv
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_pictures.attention import look
from bigrun_pictures.draw import first_components
from bigrun_pictures.squares import middle_squares

SMALL = {"images": 2, "side_px": 32}
SMALLEST = {"images": 1, "side_px": 16}


class TestContract(PluginContract):
    plugin = "attention-maps"
    config = SMALLEST


def test_the_weights_are_those_that_the_class_token_is_made_with() -> None:
    model = Model(width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=3)
    torch.manual_seed(0)
    backbone = VisionTransformer(model).eval()
    attention = backbone.blocks[-1].attn
    seen: list[tuple[Tensor, Tensor]] = []
    kernel = attention.kernel

    def remembering(groups: Sequence[Qkv]) -> list[Tensor]:
        out = kernel(groups)
        seen.append((groups[0][2], out[0]))
        return out

    attention.kernel = remembering
    crops = torch.randn(2, 3, 24, 32)
    features, weights = look(backbone, crops)
    ((values, mixed),) = seen
    assert weights.shape == (2, 2, 3, 4)
    assert attention.kernel is remembering
    assert torch.equal(features.cls, backbone(crops).cls)
    flat = weights.flatten(2)
    rest = mixed[:, :, 0] - torch.einsum("nhp,nhpd->nhd", flat, values[:, :, 4:])
    prefix = torch.linalg.lstsq(values[:, :, :4].mT, rest[..., None]).solution[..., 0]  # of class and storage tokens
    assert torch.allclose(torch.einsum("nhp,nhpd->nhd", prefix, values[:, :, :4]), rest, atol=1e-5)
    assert torch.allclose(prefix.sum(-1) + flat.sum(-1), torch.ones(2, 2), atol=1e-3)
    assert (flat > 0).all()


def test_the_components_do_not_depend_on_the_sign_of_a_direction() -> None:
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9)
    colours = first_components(features)
    assert colours.shape == (200, 3)
    assert torch.allclose(first_components(features.flip(0)).flip(0), colours, atol=1e-4)
    assert (colours.min(), colours.max()) == (0, 1)


def pictures(result: RunResult) -> list[Path]:
    return sorted((result.directory / "attention-maps").iterdir())


@pytest.mark.parametrize(("every", "expected"), [(None, [3]), (2, [0, 2, 3])])
def test_a_picture_at_the_end_and_as_often_as_asked(bigrunner: Runner, every: int | None, expected: list[int]) -> None:
    config = SMALL | ({"every_steps": every} if every else {})
    result = bigrunner.run("attention-maps", config=config)
    result.assert_finished()
    assert [path.name for path in pictures(result)] == [f"step_{step:09d}.png" for step in expected]
    with Image.open(pictures(result)[-1]) as picture:
        assert picture.size == (660, 1056)
        assert picture.convert("L").getextrema()[0] < 100
    (event,) = [event for event in result.events if event.kind == "attention-maps"]
    assert event.facts == {"path": str(pictures(result)[-1])}


class Broken(SyntheticImages):
    bad: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Tensor:
        from bigrun.errors import DataError

        if index in self.bad:
            raise DataError("broken")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_read_is_left_out(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1, dataset=Broken(12))
    assert result.run is not None
    result.run.dataset.bad = (4,)  # type: ignore[attr-defined]
    shown = middle_squares(result.run, 4, 37)
    assert shown is not None
    images, crops, names = shown
    assert images.shape == crops.shape == (3, 3, 32, 32)
    assert names == ["image 1", "image 7", "image 10"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (result.run.config.views.mean, result.run.config.views.std))
    assert torch.allclose((images - mean) / std, crops, atol=1e-5)
    result.run.dataset.bad = tuple(range(12))  # type: ignore[attr-defined]
    assert middle_squares(result.run, 4, 37) is None


class Named(SyntheticImages):
    def describe(self, index: int) -> str:
        return f"/data/scan-{index // 6}/000.png"


def test_a_file_is_shown_with_its_folder(bigrunner: Runner) -> None:
    """000.png alone would be both chest CTs."""
    result = bigrunner.run(steps=1, dataset=Named(12))
    assert result.run is not None
    shown = middle_squares(result.run, 2, 32)
    assert shown is not None
    assert shown[2] == ["scan-0/000.png", "scan-1/000.png"]


def test_one_channel_is_grey(bigrunner: Runner) -> None:
    class Grey(SyntheticImages):
        def __getitem__(self, index: int) -> Tensor:
            return super().__getitem__(index)[:1]

    views = {"mean": [0.5], "std": [0.25], "colour_probability": 0.0, "grayscale_probability": 0.0,
             "global_size_px": 32, "local_size_px": 16, "local_crops": 2}  # fmt: skip
    result = bigrunner.run("attention-maps", config=SMALL, dataset=Grey(), model={"in_channels": 1}, views=views)
    result.assert_finished()
    assert len(pictures(result)) == 1
    assert attrs.asdict(result.run.config.plugins["attention-maps"])["channel"] is None  # type: ignore[union-attr]
