"""learning-report: the probe's arithmetic, and the files of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bigrun.evaluation.knn import knn_accuracy
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_demo.pictures import first_components
from bigrun_demo.probe import PatchProbe

COARSE = {"patch_px": 200}  # few patches: a run takes 0.3 s


class TestContract(PluginContract):
    plugin = "learning-report"
    config = COARSE
    steps = 2


# -- the probe ------------------------------------------------------------------------------------------------


def clusters(seed: int, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """20 points around each of three corners: (60, 8) and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(20)
    return torch.eye(8)[labels] + spread * torch.randn(60, 8, generator=generator), labels


def test_separated_clusters_are_recognised() -> None:
    gallery, labels = clusters(0)
    queries, _ = clusters(1)
    assert knn_accuracy(gallery, labels, queries, labels) == 1.0
    assert knn_accuracy(gallery, labels, queries, (labels + 1) % 3) == 0.0
    assert knn_accuracy(gallery, (labels + 1) % 3, queries, (labels + 1) % 3) == 1.0


def test_features_without_information_score_as_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(2, 900, 16, generator=generator)
    labels = torch.arange(900) % 3
    assert knn_accuracy(gallery, labels, queries, labels) == pytest.approx(1 / 3, abs=0.06)


def test_a_common_offset_and_a_common_length_do_not_matter() -> None:
    gallery, labels = clusters(0, spread=0.6)
    queries, _ = clusters(1, spread=0.6)
    plain = knn_accuracy(gallery, labels, queries, labels)
    assert 1 / 3 < plain < 1
    assert knn_accuracy(gallery + 5, labels, queries + 5, labels) == plain
    assert knn_accuracy(gallery * 7, labels, queries * 7, labels) == plain


def test_near_neighbours_outvote_more_distant_ones() -> None:
    # Mean of the gallery 0; the query looks like point 0 and is at 60 degrees from points 1 and 2.
    gallery = torch.tensor([[1.0, 0], [0.5, 0.87], [0.5, -0.87], [-2.0, 0]])
    labels, query = torch.tensor([0, 1, 1, 2]), torch.tensor([[1.0, 0]])
    assert knn_accuracy(gallery, labels, query, torch.tensor([0]), k=3, temperature=0.07) == 1.0
    assert knn_accuracy(gallery, labels, query, torch.tensor([1]), k=3, temperature=10.0) == 1.0  # a plain majority


def test_gallery_and_queries_are_the_two_halves() -> None:
    left_dark = torch.zeros(3, 40, 80, dtype=torch.uint8)
    left_dark[:, :, 40:] = 255
    grey = torch.full((3, 20, 100), 51, dtype=torch.uint8)
    probe = PatchProbe({"left_dark": left_dark, "grey": grey}, patch_px=20)
    assert probe.gallery_labels.tolist() == [0] * 4 + [1] * 2
    assert probe.query_labels.tolist() == [0] * 4 + [1] * 2
    assert probe.gallery[:4].eq(0).all()
    assert probe.queries[:4].eq(1).all()
    assert probe.gallery[4:].allclose(torch.tensor(0.2))


def test_the_score_is_of_the_given_features() -> None:
    photos = {"dark": torch.zeros(3, 20, 80, dtype=torch.uint8), "light": torch.full((3, 20, 80), 255).byte()}
    probe = PatchProbe(photos, patch_px=20)
    assert probe.raw_pixel_score() == 1.0
    # A constant tells nothing: all neighbours are equal, and one label wins all votes.
    assert probe.score(lambda patches: torch.ones(len(patches), 4)) == 0.5


def test_the_components_are_colours_and_the_first_varies_most() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-5, 5, 200)[:, None] * torch.randn(1, 8, generator=generator)
    colours = first_components(line + 0.01 * torch.randn(200, 8, generator=generator))
    assert colours.shape == (200, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    along = torch.corrcoef(torch.stack([colours[:, 0], torch.arange(200.0)]))[0, 1]
    assert abs(along) > 0.99


# -- the run --------------------------------------------------------------------------------------------------


def scores_of(result: RunResult) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((folder_of(result) / "scores.json").read_text(encoding="utf-8"))
    return scores


def folder_of(result: RunResult) -> Path:
    return result.directory / "learning-report"


def test_a_run_leaves_scores_and_two_pictures(bigrunner: Runner) -> None:
    result = bigrunner.run("learning-report", config=COARSE)
    result.assert_finished()
    scores = scores_of(result)
    assert scores.keys() == {"step", "raw_pixels", "untrained", "trained"}
    assert scores.pop("step") == 3
    assert all(0 <= score <= 1 for score in scores.values())
    for name in ("loss.png", "patch_features.png"):
        with Image.open(folder_of(result) / name) as picture:
            assert min(picture.size) > 300
            assert picture.convert("L").getextrema()[0] < 200  # something is drawn
    (event,) = [event for event in result.events if event.kind == "learning-report"]
    assert event.facts == scores
    for name in ("untrained", "trained"):
        assert re.search(rf"\b{name}\s+{scores[name]:.3f}\b", event.message)


@pytest.mark.slow
def test_the_untrained_score_is_of_the_first_start(bigrunner: Runner) -> None:
    straight = bigrunner.run("learning-report", config=COARSE)
    resumed = bigrunner.resume(straight, at_step=1)
    assert scores_of(resumed) == scores_of(straight)


def test_added_to_an_older_run_it_does_not_pretend_to_know_the_untrained_score(bigrunner: Runner) -> None:
    older = bigrunner.run(steps=2)
    added = bigrunner.run("learning-report", config=COARSE, steps=3, directory=older.directory)
    added.assert_finished()
    assert scores_of(added)["untrained"] is None
    message = next(event.message for event in added.events if event.kind == "learning-report")
    assert re.search(r"\buntrained\s+not measured\b", message)
