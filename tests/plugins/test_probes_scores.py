"""probes: what the numbers are, as facts about arrays, and beside scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bigrun.evaluation import knn
from bigrun.evaluation.knn import knn_accuracy, knn_predictions, leave_one_out_accuracy
from bigrun_probes.classify import dense_scores
from bigrun_probes.config import ProbesConfig
from bigrun_probes.dense import IGNORED, as_patches, majority, overlap
from bigrun_probes.linear import linear_accuracy, ridge
from bigrun_probes.probe_set import Masked
from bigrun_probes.retrieval import hit_rate


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(classes: int, each: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows in a random order, far apart by class."""
    labels = torch.arange(classes).repeat(each)[
        torch.randperm(classes * each, generator=torch.Generator().manual_seed(seed))
    ]
    return 10 * torch.eye(classes, width)[labels] + noise(len(labels), width, seed=seed), labels


# -- k-NN -----------------------------------------------------------------------------------------------------


def test_classes_that_are_apart_are_told_apart() -> None:
    rows, labels = clusters(4, 10)
    assert knn_accuracy(rows[:30], labels[:30], rows[30:], labels[30:], k=3) == 1.0
    assert leave_one_out_accuracy(rows, labels, k=3) == 1.0
    assert linear_accuracy(rows[:30], labels[:30], rows[30:], labels[30:]) == 1.0


def test_of_labels_that_mean_nothing_as_many_are_right_as_by_chance() -> None:
    rows, labels = noise(1500, 16), torch.randint(0, 3, (1500,), generator=torch.Generator().manual_seed(1))
    bound = 4 * math.sqrt(1 / 3 * 2 / 3 / 750)  # four deviations of the binomial distribution
    half = (rows[:750], labels[:750], rows[750:], labels[750:])
    assert knn_accuracy(*half) == pytest.approx(1 / 3, abs=bound)
    assert linear_accuracy(*half) == pytest.approx(1 / 3, abs=bound)
    assert leave_one_out_accuracy(rows, labels) == pytest.approx(1 / 3, abs=bound)


def test_k_beyond_the_gallery_is_all_of_it() -> None:
    rows, labels = clusters(2, 5)
    queries = noise(20, 8, seed=3)
    assert torch.equal(knn_predictions(rows, labels, queries, k=10), knn_predictions(rows, labels, queries, k=10_000))
    assert leave_one_out_accuracy(rows, labels, k=9) == leave_one_out_accuracy(rows, labels, k=10_000)


def test_equal_votes_go_to_the_lowest_label() -> None:
    gallery, query = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    for labels in ([0, 1], [1, 0]):
        assert knn_predictions(gallery, torch.tensor(labels), query, k=2, centred=False).tolist() == [0]


def test_a_class_of_one_image_cannot_find_itself() -> None:
    rows, labels = clusters(3, 6)
    rows, labels = torch.cat([rows, torch.full((1, 8), -20.0)]), torch.cat([labels, torch.tensor([3])])
    assert leave_one_out_accuracy(rows, labels, k=1) == pytest.approx(18 / 19)
    assert knn_accuracy(rows, labels, rows, labels, k=1) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_know_nothing(value: float) -> None:
    """One of them makes the gallery's mean NaN, and so every vote."""
    rows, labels = clusters(3, 10)
    bad = rows.clone()
    bad[4, 2] = value
    for gallery, queries in ((bad, rows), (rows, bad)):
        assert math.isnan(knn_accuracy(gallery, labels, queries, labels))
        with pytest.raises(ValueError, match="not finite"):
            knn_predictions(gallery, labels, queries)
    assert math.isnan(leave_one_out_accuracy(bad, labels))


def test_similarities_in_memory_are_bounded_whatever_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clusters(2, 500)
    seen: list[int] = []
    real = Tensor.topk
    monkeypatch.setattr(Tensor, "topk", lambda self, *a, **k: (seen.append(self.numel()), real(self, *a, **k))[1])
    monkeypatch.setattr("bigrun.evaluation.knn.AT_ONCE", 50_000)
    assert knn_accuracy(rows, labels, rows, labels) == 1.0
    assert seen == [50_000] * 20
    monkeypatch.undo()
    assert 4 * knn.AT_ONCE <= 2**26


def test_many_queries_are_answered_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clusters(3, 20)
    queries = noise(50, 8)
    whole, alone = knn_predictions(rows, labels, queries), leave_one_out_accuracy(rows, labels, k=1)
    monkeypatch.setattr("bigrun.evaluation.knn.AT_ONCE", 7)
    assert torch.equal(knn_predictions(rows, labels, queries), whole)
    assert leave_one_out_accuracy(rows, labels, k=1) == alone


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_neither_rotation_nor_scale_matters(seed: int, scale: float) -> None:
    rows, labels = noise(60, 6, seed=seed).double(), torch.arange(60) % 3
    rotation, _ = torch.linalg.qr(noise(6, 6, seed=seed + 1).double())
    turned = scale * rows @ rotation
    for centred in (True, False):
        plain = knn_predictions(rows[:40], labels[:40], rows[40:], centred=centred)
        assert (knn_predictions(turned[:40], labels[:40], turned[40:], centred=centred) == plain).float().mean() >= 0.95
    assert hit_rate(turned[:30], turned[30:], 5) == pytest.approx(hit_rate(rows[:30], rows[30:], 5))


def test_what_cannot_be_asked_is_refused() -> None:
    rows, labels = clusters(2, 3)
    for wrong in ({"k": 0}, {"temperature": 0.001}):
        with pytest.raises(ValueError, match="at least"):
            knn_predictions(rows, labels, rows, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        knn_predictions(rows[:0], labels[:0], rows)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out_accuracy(rows[:1], labels[:1])


# -- the linear probe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "width"), [(40, 7), (12, 30)])
def test_the_linear_probe_is_scikit_learns_ridge(rows: int, width: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = noise(rows, width).double() + 3, torch.nn.functional.one_hot(torch.arange(rows) % 3).double()
    strengths = (1e-3, 0.1, 10.0)
    weights, intercepts = ridge(x, y, strengths)
    for number, strength in enumerate(strengths):
        peer = linear_model.Ridge(alpha=rows * strength).fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(weights[number].numpy(), peer.coef_.T, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(intercepts[number].numpy(), peer.intercept_, rtol=1e-7, atol=1e-9)


def one_direction(gallery: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One of 100 directions tells two classes apart."""
    labels = torch.arange(gallery + 400) % 2
    rows = noise(len(labels), 100)
    rows[:, 0] += 4 * labels - 2
    return rows[:gallery], labels[:gallery], rows[gallery:], labels[gallery:]


def test_the_linear_probe_finds_what_neighbours_miss() -> None:
    gallery, known, queries, asked = one_direction(gallery=400)
    gallery[:, 1:], queries[:, 1:] = 3 * gallery[:, 1:], 3 * queries[:, 1:]
    assert knn_accuracy(gallery, known, queries, asked) < 0.85 < 0.9 < linear_accuracy(gallery, known, queries, asked)


def test_the_linear_probe_chooses_its_strength_on_rows_that_the_fit_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """About as many rows as directions: a weak penalty learns them by heart, and fails."""
    split = one_direction(gallery=125)  # 100 of them are fitted to
    chosen = linear_accuracy(*split)
    alone = {}
    for strength in (1e-4, 1.0):
        monkeypatch.setattr("bigrun_probes.linear.STRENGTHS", (strength,))
        alone[strength] = linear_accuracy(*split)
    assert chosen >= alone[1.0] - 0.02 > alone[1e-4] + 0.05


# -- view retrieval -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.integers(0, 100))
def test_identical_views_are_always_found_and_constant_ones_by_chance(count: int, seed: int) -> None:
    views = noise(count, 16, seed=seed)
    assert hit_rate(views, views, 1) == 1.0
    for among in (1, 5):
        constant = torch.ones(count, 16)
        assert hit_rate(constant, constant, among) == pytest.approx(min(among / count, 1))
    shifted = views.roll(1, 0)
    assert hit_rate(views, shifted, 1) == 0.0
    assert hit_rate(views, shifted, count) == 1.0


def test_two_collapsed_groups_are_two_times_chance() -> None:
    """N/2 images each at two points: an image is one of N/2 that look alike."""
    rows = torch.eye(2).repeat(10, 1)
    assert hit_rate(rows, rows, 1) == pytest.approx(2 / 20)
    assert hit_rate(rows, rows, 5) == pytest.approx(10 / 20)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(1, 2000), st.integers(0, 100), st.booleans())
def test_in_blocks_as_many_are_found_as_in_one_matrix(count: int, at_once: int, seed: int, has_twins: bool) -> None:
    first, second = noise(count, 4, seed=seed), noise(count, 4, seed=seed + 1)
    if has_twins:
        twins = torch.arange(count) % max(count // 2, 1)
        first, second = first[twins], second[twins]
    similarity = functional.normalize(first.double(), dim=1) @ functional.normalize(second.double(), dim=1).T
    similarity = (similarity * 1e9).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigrun_probes.retrieval.AT_ONCE", at_once)
        for among in (1, 5):
            sides = []
            for table in (similarity, similarity.T):
                own = table.diagonal()[:, None]
                better, equal = (table > own).sum(1), (table == own).sum(1)
                sides.append(torch.clamp((among - better) / equal, 0, 1).double().mean())
            assert hit_rate(first, second, among) == pytest.approx(float(sum(sides) / 2), abs=1e-12)


class Largest(TorchFunctionMode):
    """The largest tensor that anything has returned."""

    numbers = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = function(*args, **(kwargs or {}))
        if isinstance(answer, Tensor):
            self.numbers = max(self.numbers, answer.numel())
        return answer


def test_no_matrix_of_all_similarities_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun_probes.retrieval.AT_ONCE", 10_000)
    monkeypatch.setattr("bigrun.evaluation.knn.AT_ONCE", 10_000)
    views = noise(1000, 8)
    with Largest() as largest:
        hit_rate(views, views + 0.1, 5)
    assert largest.numbers <= 10_000
    patches, pixels = noise(100, 4, 8), (torch.arange(100 * 4 * 4).view(100, 4, 4) % 3).to(torch.uint8)
    masked = Masked(None, pixels, torch.arange(100) < 50, (0, 1, 2))  # type: ignore[arg-type]
    with Largest() as largest:
        dense_scores(patches, masked, 2, ProbesConfig(masks="x"))
    assert largest.numbers <= 10_000


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_dense_probe_says_the_same_in_blocks(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, generator = noise(40, 4, 8), torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 4, (40, 4, 4), generator=generator).to(torch.uint8)
    pixels[pixels == 3] = IGNORED
    masked = Masked(None, pixels, torch.arange(40) % 4 == 0, (0, 1, 2))  # type: ignore[arg-type]
    config = ProbesConfig(masks="x")
    gallery = majority(as_patches(pixels[~masked.is_query].long(), 2), 3).flatten()
    known = gallery < 3
    named = knn_predictions(
        patches[~masked.is_query].flatten(0, 1)[known], gallery[known], patches[masked.is_query].flatten(0, 1),
        config.k, config.temperature,
    )  # fmt: skip
    true = as_patches(pixels[masked.is_query].long(), 2).flatten(0, 1)
    whole = overlap(named[:, None].expand_as(true), true, 3)
    monkeypatch.setattr("bigrun_probes.classify.IMAGES_AT_ONCE", at_once)
    found = dense_scores(patches, masked, 2, config)
    assert found == {"probe/dense_miou": whole.miou, "probe/dense_pixel_accuracy": whole.pixel_accuracy}


# -- the dense probe ------------------------------------------------------------------------------------------


def test_patches_are_in_the_order_of_tokens() -> None:
    pixels = torch.arange(2 * 4 * 6).view(2, 4, 6)
    patches = as_patches(pixels, 2)
    assert patches.shape == (2, 6, 4)
    assert patches[0, 1].tolist() == [2, 3, 8, 9]
    assert patches[1, 3].tolist() == [36, 37, 42, 43]


def test_the_label_of_a_patch_is_its_commonest_class() -> None:
    x = IGNORED
    patches = torch.tensor([[0, 1, 1, 2], [x, x, x, 2], [x, x, x, x], [0, 0, 1, 1]])
    assert majority(patches, 3).tolist() == [1, 2, x, 0]


def test_the_overlap_by_hand() -> None:
    true = torch.tensor([0, 0, 0, 1, 1, IGNORED, 2])
    predicted = torch.tensor([0, 0, 1, 1, 0, 0, 2])
    found = overlap(predicted, true, 4)  # class 3 is nowhere
    assert found.pixel_accuracy == pytest.approx(4 / 6)
    assert found.miou == pytest.approx((2 / 4 + 1 / 3 + 1 / 1) / 3)
    perfect = overlap(true[:5], true[:5], 4)
    assert (perfect.miou, perfect.pixel_accuracy) == (1, 1)
    with pytest.raises(ValueError, match="no pixel"):
        overlap(true[5:6], true[5:6], 4)
