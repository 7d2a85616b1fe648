"""demo-photos: photographs out of installed packages, cut into tiles that leave nothing out."""

from __future__ import annotations

import pytest
import torch

from bigrun.errors import ConfigError, DataError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner
from bigrun_demo import photos
from bigrun_demo.photos import PHOTOS, PhotoTiles, load_photos, photo_paths, starts


class TestContract(PluginContract):
    plugin = "demo-photos"
    dataset = False


@pytest.fixture(scope="module")
def loaded() -> dict[str, torch.Tensor]:
    return load_photos()


def test_every_photograph_is_there(loaded: dict[str, torch.Tensor]) -> None:
    assert len(photo_paths()) == len(loaded) == sum(map(len, PHOTOS.values())) == 20
    for name, photo in loaded.items():
        assert photo.dtype == torch.uint8, name
        assert photo.shape[0] == 3, name
        assert min(photo.shape[1:]) >= 170, name
        assert photo.float().std() > 10, name  # a picture, not a blank


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "PHOTOS", {"no_such_package": ("a.png",)})
    with pytest.raises(DataError, match=r"no_such_package.*pip install 'bigrun\[demo\]'"):
        photo_paths()


@pytest.mark.parametrize(
    ("length", "tile", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 6]),
        (10, 10, 3, [0]),
        (7, 10, 3, [0]),
        (11, 10, 64, [0, 1]),
    ],
)
def test_tiles_start_at_both_ends(length: int, tile: int, stride: int, expected: list[int]) -> None:
    assert starts(length, tile, stride) == expected


def test_tiles_cover_every_pixel(loaded: dict[str, torch.Tensor]) -> None:
    names = ("astronaut", "chelsea", "rocket")  # square, wide, and neither side a multiple of the stride
    chosen = {name: loaded[name] for name in names}
    tiles = PhotoTiles(chosen, tile_px=160, stride_px=64)
    covered = {name: torch.zeros(photo.shape[1:], dtype=torch.bool) for name, photo in chosen.items()}
    for index, (name, y, x) in enumerate(tiles.places):
        assert tiles[index].shape == (3, 160, 160)
        assert torch.equal(tiles[index], chosen[name][:, y : y + 160, x : x + 160])
        covered[name][y : y + 160, x : x + 160] = True
    assert len(tiles) == len(set(tiles.places)) == len(tiles.places)
    assert all(pixels.all() for pixels in covered.values())


def test_a_photograph_smaller_than_a_tile_is_one_tile() -> None:
    tiles = PhotoTiles({"small": torch.zeros(3, 20, 300, dtype=torch.uint8)}, tile_px=100, stride_px=100)
    assert [tile.shape for tile in map(tiles.__getitem__, range(len(tiles)))] == [(3, 20, 100)] * 3


def test_the_options_reach_the_data_set(bigrunner: Runner) -> None:
    default = bigrunner.run("demo-photos", steps=1, dataset=False)
    coarse = bigrunner.run("demo-photos", steps=1, dataset=False, config={"tile_px": 96, "stride_px": 96})
    assert default.run is not None
    assert coarse.run is not None
    assert coarse.run.dataset[0].shape == (3, 96, 96)
    assert default.run.dataset[0].shape == (3, 160, 160)
    assert 0 < len(coarse.run.dataset) < len(default.run.dataset)


def test_a_tile_of_a_few_pixels_is_refused(bigrunner: Runner) -> None:
    result = bigrunner.run("demo-photos", dataset=False, config={"tile_px": 8})
    assert isinstance(result.error, ConfigError)
    assert "plugins.demo-photos.tile_px: expected at least 16, got 8" in str(result.error)
