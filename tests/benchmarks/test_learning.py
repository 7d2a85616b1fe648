"""`learning.py` runs, continues, and prints its tables; its probes say what they should of features that are known."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fashion import CHECKSUMS, FashionMnist
from features import FeatureLog
from learning_data import spread_tiles
from learning_tables import Point, at_images, at_time, difference_at_equal_time
from probes import Labels, collapse_warnings, joined, knn_score, linear_score, rankme, rotated, spread
from test_benchmarks import assert_header, run, tables

METHODS = ["bigrun", "bigrun, DINO alone"]
PEER = os.environ.get("BIGRUN_PEER_PYTHON")


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_all_methods_are_in_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = tmp_path / "results.jsonl"
    words = ["--quick", "--tasks", "photos", "--seeds", "0", "--jobs", "1", "--results", str(results), "--methods"]
    lines = run("learning.py", *words, METHODS[0])
    assert_header(lines)
    assert lines[5] == "peer      lightly-train: not installed (--peer-python)"
    assert [line for line in lines if line.startswith("photos, bigrun, seed 0: 64 images")]
    (first,) = results.read_text().splitlines()
    assert [point["images"] for point in json.loads(first)["points"]] == [0, 16, 32, 48, 64]

    lines = run("learning.py", *words, *METHODS)
    assert not [line for line in lines if line.startswith("photos, bigrun, seed 0")]
    assert [line for line in lines if line.startswith("photos, bigrun, DINO alone, seed 0")]
    assert results.read_text().splitlines()[0] == first
    *accuracy, indicators = tables(lines)
    assert [list(table) for table in accuracy] == [["raw pixels", *METHODS]] * 4
    assert list(indicators) == METHODS
    assert len([line for line in lines if line.startswith("photos, k-NN: bigrun less bigrun, DINO alone: at")]) == 1
    # Four steps change nothing yet: both began as the same network.
    images, _ = accuracy[0], accuracy[1]
    assert images[METHODS[0]][0] == images[METHODS[1]][0] != images["raw pixels"][0]


@pytest.mark.skipif(PEER is None, reason="BIGRUN_PEER_PYTHON names no Python that has lightly-train")
def test_the_peer_trains_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--quick", "--tasks", "photos", "--seeds", "0", "--results", str(tmp_path / "results.jsonl")]
    methods = ["bigrun", "lightly-train", "lightly-train, our settings"]
    lines = run("learning.py", *words, "--peer-python", str(PEER), "--methods", *methods)
    *accuracy, indicators = tables(lines)
    assert [list(table) for table in accuracy] == [["raw pixels", *methods]] * 4
    assert list(indicators) == methods
    assert accuracy[0]["lightly-train"][0] != accuracy[0]["raw pixels"][0]
    assert [line for line in lines if line.startswith("photos, linear probe: bigrun less peer: lightly-train: at")]


def test_a_peer_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"--peer-python .*nothing: No such file"):
        run("learning.py", "--quick", "--peer-python", str(tmp_path / "nothing"))


@pytest.fixture
def clusters() -> tuple[np.ndarray[Any, Any], Labels]:
    """Four classes, each around a direction of its own."""
    generator = np.random.default_rng(0)
    classes = np.tile(np.arange(4), 60)
    centres = np.eye(4, 32)
    return (centres[classes] + 0.1 * generator.standard_normal((240, 32))).astype(np.float32), Labels(160, classes)


def test_clusters_are_recognised_and_noise_is_not(clusters: tuple[np.ndarray[Any, Any], Labels]) -> None:
    features, labels = clusters
    assert knn_score(features, labels) == 1
    assert linear_score(features, labels) == 1
    noise = np.random.default_rng(1).standard_normal(features.shape).astype(np.float32)
    assert knn_score(noise, labels) < 0.5
    assert linear_score(noise, labels) < 0.5


def test_a_linear_probe_of_more_columns_than_rows_is_a_rotation(
    clusters: tuple[np.ndarray[Any, Any], Labels],
) -> None:
    features, _ = clusters
    turned = rotated(features, 20)
    assert turned.shape == (240, 20)
    np.testing.assert_allclose(turned[:20] @ turned.T, features[:20] @ features.T, atol=1e-4)
    assert rotated(features, 32) is features


def test_joined_halves_have_the_same_weight() -> None:
    features = joined(np.full((3, 4), 5, np.float32), np.full((3, 4), 0.1, np.float32))
    np.testing.assert_allclose(features, 0.5, rtol=1e-6)


def test_rankme_and_spread_are_those_of_known_features() -> None:
    basis = np.tile(np.eye(16, dtype=np.float32), (4, 1))
    constant = np.ones((64, 16), np.float32)
    assert rankme(basis) == pytest.approx(16, rel=1e-3)
    assert rankme(constant) == pytest.approx(1, rel=1e-3)
    assert spread(constant) == pytest.approx(0, abs=1e-6)
    assert spread(np.concatenate([basis, -basis])) == pytest.approx(1)
    # sqrt(1 - mean pairwise cosine), [spec 10.4]
    features = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) + 1
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert spread(features) == pytest.approx(math.sqrt(1 - (rows @ rows.T).mean()), rel=1e-5)


def test_warnings_name_what_is_beyond_its_bound() -> None:
    healthy = {"s_cls": 0.6, "rankme_fraction": 0.5, "s_patch": 0.4, "cls_patch_cosine": 0.1, "prototypes_used": 0.9}
    assert collapse_warnings(healthy) == []
    assert collapse_warnings({**healthy, "s_cls": 0.1, "s_patch": 0.95}) == ["s_cls", "s_patch"]
    assert collapse_warnings({"prototypes_used": math.nan}) == []


def test_features_are_recorded_when_they_are_wanted_and_that_time_does_not_count(tmp_path: Path) -> None:
    np.savez(tmp_path / "probe.npz", images=np.zeros((6, 3, 4, 4), np.uint8), labels=np.zeros(6))
    views = {"mean": [0.5] * 3, "std": [0.5] * 3}
    probe = str(tmp_path / "probe.npz")
    log = FeatureLog({"out": str(tmp_path), "probe": probe, "batch": 8, "record_steps": [0, 2], "views": views})

    def embed(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        assert crops.unique().tolist() == [-1]  # black, normalised
        assert sum(range(2_000_000)) > 0  # some milliseconds
        patches = torch.eye(3, 5).expand(len(crops), -1, -1)
        return patches[:, 0], patches, torch.eye(6)[:, :4]

    log.start()
    for step in range(4):
        log.record(step, embed)
    first, second = map(json.loads, (tmp_path / "features.jsonl").read_text().splitlines())
    assert (first["step"], second["step"], second["images"]) == (0, 2, 16)
    assert second["cpu_seconds"] < 0.005
    assert second["s_patch"] == pytest.approx(0, abs=1e-6)
    assert second["cls_patch_cosine"] == pytest.approx(1 / 3)
    assert second["prototypes_used"] == 1
    with np.load(tmp_path / "features-2.npz") as arrays:
        np.testing.assert_allclose(arrays["patches"], np.tile([1 / 3, 1 / 3, 1 / 3, 0, 0], (6, 1)), rtol=1e-6)


def curve(*pairs: tuple[float, float]) -> list[Point]:
    """Points of (CPU seconds, accuracy)."""
    return [Point(int(10 * s), s, s, knn=a, linear=a, indicators={}, warnings=()) for s, a in pairs]


def test_scores_are_compared_at_the_same_images_and_at_the_same_time() -> None:
    fast, slow = curve((0, 0.0), (1, 0.4), (2, 0.8)), curve((0, 0.0), (2, 0.4), (4, 0.8))
    assert at_images(slow, 20, "knn") == 0.4
    assert at_time(fast, 1.5, "knn") == pytest.approx(0.6)
    assert at_time(fast, 9, "knn") == 0.8
    assert difference_at_equal_time(fast, slow, "linear") == pytest.approx(0.4)
    assert difference_at_equal_time(slow, fast, "linear") == pytest.approx(-0.4)


@pytest.mark.parametrize(("height", "width"), [(512, 256), (172, 224), (300, 1000)])
def test_tiles_cover_an_image_from_edge_to_edge(height: int, width: int) -> None:
    places = torch.arange(height * width).view(1, height, width)
    tiles = spread_tiles(places, 96, 32)
    assert len(tiles) == 32
    assert all(tile.shape == (1, 96, 96) for tile in tiles)
    seen = torch.stack(tiles).unique()
    corners = [0, width - 1, (height - 1) * width, height * width - 1]
    assert torch.isin(torch.tensor(corners), seen).all()


def test_a_file_of_another_content_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such file; expected the files of Fashion-MNIST"):
        FashionMnist(tmp_path)
    for name in CHECKSUMS:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(SystemExit, match=r"train-images-idx3-ubyte.gz: SHA-256 is .*, expected b0564c3e"):
        FashionMnist(tmp_path)
