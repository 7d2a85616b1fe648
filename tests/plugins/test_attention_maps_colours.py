"""attention-maps: colours of patch features that mean the same from look to look, and how alike patches are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun_pictures.canvas import Canvas, plain_text
from bigrun_pictures.colours import as_colours, painted, principal_scores, rotation_to
from bigrun_pictures.gather import Look, Sample
from bigrun_pictures.similarity import entropy_fraction, gram, mean_difference, patch_at, similarity_to
from bigrun_pictures.tiles import HEAT, LIKENESS, coloured, cosine_tile, heat_tile, image_tile


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(size: int, seed: int) -> Tensor:
    """A rotation or reflection."""
    return torch.linalg.qr(drawn(size, size, seed=seed).double()).Q.float()


def look_of(features: Tensor, step: int = 1) -> Look:
    """Two images with 3 x 4 patches, two blocks. features: (2, 2 blocks, 12, D)."""
    nothing = torch.zeros(3, 4)
    samples = [
        Sample(n, "", torch.zeros(1, 8, 8), [], [], list(of_image), [nothing, nothing], {"teacher": torch.eye(12)})
        for n, of_image in enumerate(features, 1)
    ]
    return Look(step, [1, 2], 2, (3, 4), (1, 2), None, samples, [])


# -- components -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 8), (20, 50)])
def test_components_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    features = drawn(*shape) * torch.arange(1.0, shape[1] + 1) + 3
    scores, explained = principal_scores(features)
    centred = (features - features.mean(0)).double().numpy()
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = torch.from_numpy(left[:, :3] * math.sqrt(shape[0])).float()
    assert torch.allclose(scores.abs(), expected.abs(), atol=1e-3)
    assert explained == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    assert torch.allclose(principal_scores(features.flip(0))[0].flip(0), scores, atol=1e-3)


def test_features_that_are_all_alike_have_no_colour_and_no_error() -> None:
    scores, explained = principal_scores(torch.ones(10, 4))
    assert torch.equal(scores, torch.zeros(10, 3))
    assert explained == 0
    assert as_colours(scores).isfinite().all()
    assert principal_scores(drawn(5, 2))[0].shape == (5, 3)


def test_colours_fill_the_range() -> None:
    colours = as_colours(drawn(500, 3))
    assert (colours.min(), colours.max()) == (0, 1)
    assert (colours.median() - 0.5).abs() < 0.05


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_alignment_undoes_any_rotation_of_the_components(seed: int) -> None:
    scores = drawn(60, 3, seed=seed)
    turned = scores @ orthogonal(3, seed + 1)
    assert torch.allclose(turned @ rotation_to(turned, scores), scores, atol=1e-4)
    rotation = rotation_to(turned, drawn(60, 3, seed=seed + 2))
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)  # it turns and never stretches


def test_a_later_look_has_the_colours_of_the_one_before_however_features_have_turned() -> None:
    features = drawn(2, 2, 12, 6) * torch.tensor([5.0, 4.9, 4.8, 1, 1, 1])
    first = painted(look_of(features), {})
    turned = features @ orthogonal(6, 3) * torch.tensor(0.5) + 2
    later = painted(look_of(turned, 2), first.scores)
    unaligned = painted(look_of(turned, 2), {})
    for position in (1, 2):
        assert torch.allclose(later.colours[position], first.colours[position], atol=1e-3)
        assert not torch.allclose(unaligned.colours[position], first.colours[position], atol=0.1)


def test_of_a_look_before_what_is_there_is_used() -> None:
    """An image can be missing in one of the two, and a look of other options has other patches."""
    features = drawn(2, 2, 12, 6) * torch.tensor([5.0, 4.0, 3.0, 1, 1, 1])
    first = painted(look_of(features), {})
    later = painted(look_of(features @ orthogonal(6, 3), 2), {2: first.scores[2], 1: torch.zeros(2, 5, 3)})
    assert torch.allclose(later.colours[1], first.colours[1], atol=0.02)


def test_the_first_look_has_the_same_colours_at_all_heights() -> None:
    last = drawn(2, 1, 12, 6) * torch.tensor([5.0, 4.0, 3.0, 1, 1, 1])
    features = torch.cat([last @ orthogonal(6, 5), last], dim=1)
    colours = painted(look_of(features), {}).colours[1]
    assert torch.allclose(colours[0], colours[1], atol=1e-3)


# -- similarity -----------------------------------------------------------------------------------------------


def test_similarities_are_cosines() -> None:
    patches = drawn(2, 12, 5)
    similar = similarity_to(patches, 1, 2, (3, 4))
    expected = torch.nn.functional.cosine_similarity(patches, patches[:, 6:7], dim=-1)
    assert torch.allclose(similar, expected.view(2, 3, 4), atol=1e-6)
    matrices = gram(patches, (3, 4))
    assert torch.allclose(matrices[:, 6], expected, atol=1e-6)
    assert torch.allclose(matrices, gram(7 * patches, (3, 4)), atol=1e-6)
    assert mean_difference(matrices[0], matrices[0]) == 0
    assert mean_difference(torch.ones(4, 4), -torch.ones(4, 4)) == 2


def test_the_matrix_of_many_patches_is_that_of_some() -> None:
    patches = drawn(1, 70 * 40, 3)
    matrix = gram(patches, (70, 40))[0]
    rows, columns = range(1, 70, 3), range(1, 40, 3)
    chosen = [row * 40 + column for row in rows for column in columns]
    directions = torch.nn.functional.normalize(patches[0, chosen], dim=-1)
    assert torch.allclose(matrix, directions @ directions.T, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "expected"), [((0.0, 0.0), (0, 0)), ((1.0, 1.0), (2, 3)), ((0.5, 0.5), (1, 2)), ((1.0, 0.0), (0, 3))]
)
def test_a_place_is_a_patch(place: tuple[float, float], expected: tuple[int, int]) -> None:
    assert patch_at(place, (3, 4)) == expected


def test_even_attention_has_all_the_entropy_and_attention_to_one_patch_none() -> None:
    assert entropy_fraction(torch.full((2, 3, 16), 0.01)) == pytest.approx(1)
    assert entropy_fraction(torch.eye(16)) == pytest.approx(0)
    half = torch.tensor([[0.5, 0.5, 0, 0]])
    assert entropy_fraction(half) == pytest.approx(0.5)
    assert entropy_fraction(torch.ones(1, 1)) == 0


# -- tiles ----------------------------------------------------------------------------------------------------


def luminance(colours: object) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(colours, dtype=float) @ [0.2126, 0.7152, 0.0722]


def test_more_attention_is_lighter_and_even_attention_is_not_all_light() -> None:
    ramp = luminance(coloured(np.linspace(0, 1, 50), HEAT))
    assert (np.diff(ramp) > 0).all()
    even = luminance(heat_tile(torch.full((4, 4), 0.01), 16))
    assert ramp[15] < even.mean() < ramp[35]
    spot = torch.full((8, 8), 0.001)
    spot[0, 0] = 1
    assert luminance(heat_tile(spot, 64))[0, 0] > 200
    assert luminance(heat_tile(spot, 64))[-1, -1] < 20


def test_cosines_have_one_scale_on_which_nothing_is_dark() -> None:
    ramp = luminance(coloured(np.linspace(0, 1, 101), LIKENESS))
    assert (np.diff(ramp[50:]) > 0).all()
    assert (np.diff(ramp[:51]) < 0).all()
    values = torch.tensor([[-1.0, 0.0], [1.0, 5.0]])
    tile = cosine_tile(values, 4)
    assert tuple(tile[0, 0]) == LIKENESS[0]
    assert tuple(tile[0, 3]) == LIKENESS[3]
    assert tuple(tile[3, 0]) == tuple(tile[3, 3]) == LIKENESS[-1]


def test_a_grey_image_stays_grey_and_an_image_keeps_its_colours() -> None:
    assert (np.ptp(image_tile(drawn(1, 8, 8).sigmoid(), 8), axis=-1) == 0).all()
    red = torch.stack([torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)])
    assert tuple(image_tile(red, 5)[2, 2]) == (255, 0, 0)


# -- words ----------------------------------------------------------------------------------------------------


@given(text=st.text())
def test_any_name_can_be_written(text: str) -> None:
    assert all(" " <= letter <= "~" for letter in plain_text(text))


def test_accents_are_left_away_and_long_names_cut_off() -> None:
    assert plain_text("Schädel-Größe/\x1b[31m你.png") == "Schadel-Grosse/?[31m?.png"
    canvas = Canvas(100, 20)
    canvas.text(0, 0, "x" * 10_000, 13, width=60)
    pixels = np.asarray(canvas.image).max(axis=(0, 2))
    assert pixels[:50].max() > 200
    assert pixels[62:].max() < 30
