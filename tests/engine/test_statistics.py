"""The statistics of the objective: what they are, in formulas written another way."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from bigrun.objective.statistics import class_patch_cosine, class_spread, patch_cosine, prototype_use
from bigrun.objective.targets import Targets

seeds = st.integers(0, 10_000)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(2, 9), st.floats(0, 3))
def test_the_spread_is_the_deviation_of_directions_within_each_crop(seed: int, images: int, offset: float) -> None:
    tokens = normal(seed, 2, images, 16) + offset
    directions = F.normalize(tokens, dim=-1)
    expected = directions.var(1).sum(-1).mean().sqrt()  # of each dimension, over images; unbiased
    assert class_spread(tokens).item() == pytest.approx(expected.item(), abs=1e-3)


def test_tokens_that_are_alike_have_no_spread_and_those_at_right_angles_have_one() -> None:
    assert class_spread(normal(0, 1, 1, 8).expand(2, 5, 8)).item() == pytest.approx(0, abs=1e-3)
    assert class_spread(torch.zeros(2, 5, 8)).item() == pytest.approx(0, abs=1e-3)
    assert class_spread(torch.eye(8)[None]).item() == pytest.approx(1, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_patches_that_were_hidden_do_not_count(seed: int) -> None:
    patches, tokens = normal(seed, 3, 10, 8), normal(seed + 1, 3, 8)
    masks = torch.zeros(3, 10, dtype=torch.bool)
    masks[:, 6:] = True
    masks[2] = False
    hidden = torch.where(masks[..., None], 100.0, patches)
    pairs, own = [], []
    for crop, mask, token in zip(patches, masks, tokens, strict=True):
        seen = F.normalize(crop[~mask], dim=-1)
        cosines = seen @ seen.T
        pairs.append(cosines[~torch.eye(len(seen), dtype=torch.bool)].mean())
        own.append(seen @ F.normalize(token, dim=0))
    assert patch_cosine(hidden, masks).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)
    assert class_patch_cosine(tokens, hidden, masks).item() == pytest.approx(torch.cat(own).mean().item(), abs=1e-5)


def targets(rows: torch.Tensor) -> Targets:
    """Sharp ones of (G, n, e) rows over as many prototypes as they have numbers."""
    return Targets(rows, torch.eye(rows.shape[-1]), torch.zeros(rows.shape[-1]), temperature=0.01)


def test_the_use_of_prototypes_is_that_of_the_whole_window() -> None:
    first, second = torch.eye(8)[None, :2], torch.eye(8)[None, 2:4]
    use = prototype_use([targets(first), targets(second)])
    assert use["prototypes_used_fraction"].item() == 1  # four rows cannot prefer more than four
    assert use["marginal_entropy_fraction"].item() == pytest.approx(math.log(4) / math.log(8), abs=1e-4)
    same = prototype_use([targets(first[:, :1]), targets(first[:, :1])])
    assert same["prototypes_used_fraction"].item() == 0.5
    assert same["marginal_entropy_fraction"].item() == pytest.approx(0, abs=1e-4)
