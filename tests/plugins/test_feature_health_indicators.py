"""The numbers of feature-health: features and prototypes of which every indicator is known beforehand."""

from __future__ import annotations

import math
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from bigrun.evaluation.rank import rank_me
from bigrun.objective.targets import Targets
from bigrun.testing.runner import Runner
from bigrun_features.look import class_indicators, prototype_indicators
from bigrun_features.measured import Measured

COUNT = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(tokens: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in class_indicators(tokens).items()}


def targets_of(logits: Tensor, temperature: float = 1.0) -> Targets:
    """Rows of these logits (n, K), which are their own bottlenecks."""
    count = logits.shape[1]
    return Targets(logits[None], torch.eye(count), torch.zeros(count), temperature)


def prototypes(targets: Targets, predictions: Targets | None = None) -> dict[str, float]:
    return {name: float(value) for name, value in prototype_indicators(targets, predictions).items()}


# -- class tokens -------------------------------------------------------------------------------------------------


def test_constant_features_have_no_spread_one_dimension_and_a_koleo_that_no_healthy_network_has() -> None:
    found = features(torch.ones(COUNT, 32))
    assert found["class_spread"] == pytest.approx(0, abs=1e-3)
    assert found["koleo"] > 10
    assert rank_me(torch.ones(COUNT, 32)) == pytest.approx(1, abs=1e-3)


def test_orthogonal_features_use_every_dimension() -> None:
    found = features(torch.eye(COUNT))
    assert found["class_spread"] == pytest.approx(1, abs=1e-3)
    assert found["koleo"] == pytest.approx(-0.5 * math.log(2), abs=1e-4)  # T11 of the recipe
    assert rank_me(torch.eye(COUNT)) == pytest.approx(COUNT, rel=1e-3)


def test_constant_features_with_2_per_cent_noise_are_a_collapse() -> None:
    """Section 10.4: centred, their rank would be 363 of 384."""
    tokens = 1 + 0.02 * torch.randn(1024, 384, generator=seeded())
    found = features(tokens)
    assert found["class_spread"] == pytest.approx(0.02, abs=0.001)
    assert rank_me(tokens) == pytest.approx(8.9, abs=0.4)
    assert rank_me(tokens - tokens.mean(0)) > 350


def test_random_features_are_healthy() -> None:
    tokens = torch.randn(1024, 128, generator=seeded())
    found = features(tokens)
    assert found["class_spread"] == pytest.approx(1, abs=0.01)
    assert -0.35 < found["koleo"] < -0.2
    assert rank_me(tokens) / 128 > 0.9


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.05, 5.0))
def test_the_spread_is_the_deviation_of_the_dimensions(seed: int, mean: float) -> None:
    """sqrt(1 - mean cosine) of distinct rows = the standard deviation per dimension of directions times sqrt(D), up to
    n / (n - 1)."""
    tokens = mean + torch.randn(COUNT, 16, generator=seeded(seed))
    directions = F.normalize(tokens, dim=1)
    deviation = directions.var(0, unbiased=True).sum().sqrt()
    assert features(tokens)["class_spread"] == pytest.approx(float(deviation), abs=1e-3)


def test_koleo_looks_for_neighbours_far_away_in_the_data_set() -> None:
    """Each image twice in a row, as slices next to each other: they come into different groups."""
    tokens = torch.randn(COUNT, 64, generator=seeded())
    pairs = tokens.repeat_interleave(2, 0) + 1e-3 * torch.randn(2 * COUNT, 64, generator=seeded(1))
    assert features(pairs)["koleo"] < 0
    half = torch.cat([tokens[:8]] * 8)  # eight images eight times over: no arrangement hides that
    assert features(half)["koleo"] > 4


def test_of_one_image_there_is_no_spread() -> None:
    assert class_indicators(torch.ones(1, 8)) == {}


# -- prototypes ---------------------------------------------------------------------------------------------------


def test_uniform_targets_have_all_the_entropy_and_one_prototype() -> None:
    found = prototypes(targets_of(torch.zeros(COUNT, 16)), targets_of(torch.zeros(COUNT, 16)))
    assert found["target_entropy_fraction"] == pytest.approx(1)
    assert found["teacher_entropy_fraction"] == pytest.approx(1)
    assert found["student_entropy_fraction"] == pytest.approx(1)
    assert found["marginal_entropy_fraction"] == pytest.approx(1)
    assert found["student_divergence"] == pytest.approx(0, abs=1e-5)
    assert found["prototypes_used_fraction"] == pytest.approx(1 / 16)


def test_one_prototype_for_every_image_is_no_entropy() -> None:
    logits = torch.zeros(COUNT, 16)
    logits[:, 3] = 100
    found = prototypes(targets_of(logits))
    assert found["target_entropy_fraction"] == pytest.approx(0, abs=1e-5)
    assert found["marginal_entropy_fraction"] == pytest.approx(0, abs=1e-5)
    assert found["prototypes_used_fraction"] == pytest.approx(1 / 16)
    assert "student_divergence" not in found


def test_one_hot_targets_over_all_prototypes_and_a_student_that_says_nothing() -> None:
    logits = 100 * torch.eye(16).repeat(4, 1)
    found = prototypes(targets_of(logits), targets_of(torch.zeros(COUNT, 16)))
    assert found["target_entropy_fraction"] == pytest.approx(0, abs=1e-5)
    assert found["marginal_entropy_fraction"] == pytest.approx(1)
    assert found["prototypes_used_fraction"] == pytest.approx(1)
    assert found["student_entropy_fraction"] == pytest.approx(1)
    assert found["student_divergence"] == pytest.approx(math.log(16), rel=1e-4)


def test_the_teachers_own_answers_are_those_without_the_balance() -> None:
    balanced = attrs.evolve(targets_of(torch.zeros(COUNT, 8)), bias=torch.tensor([9.0, *[0.0] * 7]))
    found = prototypes(balanced)
    assert found["teacher_entropy_fraction"] == pytest.approx(1)
    assert found["target_entropy_fraction"] < 0.1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.05, 2.0))
def test_a_student_is_never_better_than_its_targets(seed: int, temperature: float) -> None:
    """A divergence is not below 0, and 0 for the targets themselves."""
    logits = torch.randn(COUNT, 16, generator=seeded(seed))
    targets = targets_of(logits, temperature)
    other = targets_of(torch.randn(COUNT, 16, generator=seeded(seed + 1)))
    assert prototypes(targets, targets)["student_divergence"] == pytest.approx(0, abs=1e-4)
    assert prototypes(targets, other)["student_divergence"] > 0


def test_bounds_of_few_images() -> None:
    """n targets cannot be sharper than ln(K / n), and their mean has at most ln n more than one of them."""
    few = Measured({"target_entropy_fraction": 0.5}, images=16, width=64, prototypes=256)
    assert few.entropy_floor_fraction == pytest.approx(0.5)
    assert few.marginal_ceiling_fraction == pytest.approx(1.0)
    assert attrs.evolve(few, values={"target_entropy_fraction": 0.0}).marginal_ceiling_fraction == pytest.approx(0.5)
    assert not few.has_enough
    assert attrs.evolve(few, images=64).has_enough
    assert not Measured({}, images=1000, width=1536).has_enough
    assert Measured({}, images=1024, width=1536).has_enough


# -- the objective ------------------------------------------------------------------------------------------------


def assignments(bigrunner: Runner, **objective: Any) -> tuple[Any, Tensor, Targets, Targets]:
    result = bigrunner.run(steps=2, objective=objective)
    result.assert_finished()
    assert result.run is not None
    tokens = torch.randn(96, 32, generator=seeded())
    found = result.run.objective
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    taught, said = (found.assignments(network, tokens) for network in (found.teacher, found.student))
    assert taught is not None
    assert said is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in found.state_dict().items())
    return found, tokens, taught, said


def test_assignments_are_targets_and_predictions_and_leave_no_trace(bigrunner: Runner) -> None:
    objective, tokens, taught, said = assignments(bigrunner, queue_steps=2, sinkhorn_iterations=50)
    pending = [list(centring.pending) for centring in objective.centrings()]
    whole = slice(0, len(tokens))
    rows = taught.rows(whole)[0]
    assert rows.sum(1) == pytest.approx(1, abs=1e-5)
    assert rows.sum(0) == pytest.approx(96 / 64, rel=0.02)  # balanced over these images
    logits = objective.student.dino_head(tokens) / objective.schedules["student_temperature"]
    assert torch.allclose(said.rows(whole)[0], logits.softmax(1), atol=1e-6)
    now = [list(centring.pending) for centring in objective.centrings()]
    assert all(torch.equal(a, b) for was, is_ in zip(pending, now, strict=True) for a, b in zip(was, is_, strict=True))


def test_assignments_with_a_centre_are_those_of_the_next_step(bigrunner: Runner) -> None:
    objective, tokens, taught, _ = assignments(bigrunner, centring="softmax")
    temperature, centre = objective.schedules["teacher_temperature"], objective.centring["classes"].centre
    logits = objective.teacher.dino_head(tokens)
    expected = ((logits - centre) / temperature).softmax(1)
    assert torch.allclose(taught.rows(slice(0, len(tokens)))[0], expected, atol=1e-5)
    assert objective.centring["classes"].pending is None
