"""gram-anchoring: its promises as a plugin, the loss, the plan, and what happens at which step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.errors import ConfigError, ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_gram.loss import gram_loss
from bigrun_gram.plugin import GramConfig, Plan

GRAM = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 2, "refresh_every_steps": 2, "max_refreshes": 2}


class TestContract(PluginContract):
    plugin = "gram-anchoring"
    config = GRAM
    steps = 5


# -- the loss -------------------------------------------------------------------------------------------------


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_and_rotated_features_cost_nothing() -> None:
    features = random_features(2, 6, 8)
    rotation, _ = torch.linalg.qr(random_features(8, 8, seed=1))
    assert gram_loss(features, features).item() == 0.0
    assert gram_loss(features @ rotation, features).item() < 1e-12


def test_the_length_of_a_patch_feature_does_not_matter() -> None:
    features = random_features(2, 6, 8)
    lengths = random_features(2, 6, 1, seed=2).exp()
    assert gram_loss(features * lengths, features).item() < 1e-12
    assert gram_loss(features * -1, features).item() < 1e-12
    one_turned = features * torch.tensor([-1.0, 1, 1, 1, 1, 1]).view(1, 6, 1)
    assert gram_loss(one_turned, features).item() > 1e-3


def test_the_loss_is_symmetric_and_a_mean_over_crops() -> None:
    a, b = random_features(2, 6, 8), random_features(2, 6, 8, seed=3)
    assert gram_loss(a, b).item() == gram_loss(b, a).item()
    each = torch.stack([gram_loss(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert gram_loss(a, b).item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize("patches", [2, 5, 16])
def test_collapsed_features_are_one_minus_one_over_p_from_orthonormal_ones(patches: int) -> None:
    collapsed, orthonormal = torch.ones(1, patches, patches), torch.eye(patches)[None]
    assert gram_loss(collapsed, orthonormal).item() == pytest.approx(1 - 1 / patches)


def test_only_the_student_receives_a_gradient() -> None:
    student, teacher = random_features(1, 4, 8), random_features(1, 4, 8, seed=1)
    student.requires_grad_()
    teacher.requires_grad_()
    gram_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_the_loss_is_computed_in_fp32_whatever_surrounds_it() -> None:
    a, b = random_features(1, 16, 64), random_features(1, 16, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram_loss(a, b)
    assert inside.dtype == torch.float32
    assert inside.item() == gram_loss(a, b).item()


# -- the plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_steps", "plan"),
    [
        (1_000_000, Plan(200_000, 830_000, 1000, 2.0, 10_000, 3)),
        (1000, Plan(200, 830, 100, 2.0, 500, 3)),
        (100, Plan(20, 83, 17, 2.0, 500, 3)),
        (1, Plan(1, 2, 1, 2.0, 500, 3)),
    ],
)
def test_open_values_follow_the_length_of_the_run(max_steps: int, plan: Plan) -> None:
    assert Plan.of(GramConfig(), max_steps) == plan


def test_given_values_are_kept() -> None:
    config = GramConfig(snapshot_step=7, start_step=9, ramp_steps=3, refresh_every_steps=5, max_refreshes=0, weight=0.5)
    assert Plan.of(config, 1000) == Plan.of(config, None) == Plan(7, 9, 3, 0.5, 5, 0)


def test_the_weight_ramps_up_from_the_start_and_stays() -> None:
    plan = Plan(1, 10, 4, 2.0, 500, 0)
    quarter = 0.5 * (1 - math.cos(math.pi / 4)) * 2.0
    expected = [0.0, quarter, 1.0, 2.0 - quarter, 2.0, 2.0]
    assert [plan.weight_at(step) for step in range(9, 15)] == pytest.approx(expected)


def test_refreshes_count_from_the_start_of_the_loss() -> None:
    plan = Plan(1, 10, 1, 2.0, refresh_every_steps=3, max_refreshes=2)
    assert [step for step in range(1, 25) if plan.is_refresh(step, refreshes=0)] == [12, 15, 18, 21, 24]
    assert not any(plan.is_refresh(step, refreshes=2) for step in range(1, 25))


def test_a_run_without_end_needs_every_step(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config={"snapshot_step": 1}, run={"max_steps": False})
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    assert "needs snapshot_step, start_step, ramp_steps and refresh_every_steps" in str(result.error)


def test_a_loss_before_its_teacher_is_refused(bigrunner: Runner) -> None:
    both_given = bigrunner.run("gram-anchoring", config={"snapshot_step": 5, "start_step": 5})
    assert isinstance(both_given.error, ConfigError)
    assert "plugins.gram-anchoring.start_step: 5 is not after snapshot_step = 5" in str(both_given.error)
    by_rule = bigrunner.run("gram-anchoring", config={"start_step": 2}, steps=10)
    assert isinstance(by_rule.error, UsageError)
    assert "start_step 2 is not after snapshot_step 2" in str(by_rule.error)


def test_the_header_tells_the_plan_and_warns_of_one_beyond_the_end(bigrunner: Runner) -> None:
    within, beyond = (bigrunner.run("gram-anchoring", config=GRAM, steps=steps) for steps in (3, 2))
    assert within.run is not None
    assert beyond.run is not None
    assert any("loss from step 3, weight 2.0 after 2 steps" in line for line in within.run.header)
    warning = "the Gram loss has no part in this run, which ends at step 2"
    assert not any(warning in line for line in within.run.header)
    assert any(warning in line for line in beyond.run.header)


# -- the run --------------------------------------------------------------------------------------------------


def frozen_and_teacher(result: RunResult, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The Gram teacher and the teacher's backbone in the checkpoint of a step, by the same names."""
    assert result.run is not None
    store = result.run.checkpoints
    frozen = store.load_tensors(store.path(step), "frozen")
    teacher = store.load_tensors(store.path(step), "teacher")
    return (
        {name.removeprefix("gram_teacher/"): tensor for name, tensor in frozen.items()},
        {name.removeprefix("backbone."): t for name, t in teacher.items() if name.startswith("backbone.")},
    )


def is_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_gram_teacher_is_the_teacher_of_its_step_bit_for_bit(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"snapshot_step": 2}, steps=7)
    result.assert_finished()
    assert [event.step for event in result.events if event.kind == "gram-teacher"] == [2, 4, 6]
    before, _ = frozen_and_teacher(result, 1)
    assert before == {}
    taken_at = {2: 2, 3: 2, 4: 4, 5: 4, 6: 6, 7: 6}
    for step, source in taken_at.items():
        gram, _ = frozen_and_teacher(result, step)
        _, teacher = frozen_and_teacher(result, source)
        assert is_same(gram, teacher), step
    gram, teacher = frozen_and_teacher(result, 5)  # not 7: in the last step the momentum is 1
    assert not is_same(gram, teacher)


def test_it_is_refreshed_at_most_so_many_times(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"max_refreshes": 1, "refresh_every_steps": 1}, steps=7)
    assert [event.step for event in result.events if event.kind == "gram-teacher"] == [1, 3]


def test_the_loss_has_the_weight_of_the_plan(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM, steps=6, accumulate=2)
    result.assert_finished()
    assert [row["gram/weight"] for row in result.metrics] == pytest.approx([0, 0, 1, 2, 2, 2])
    assert [row["step"] for row in result.metrics if "loss/gram" in row] == [3, 4, 5, 6]
    for row in result.metrics[2:]:
        assert row["gram/distance"] > 0
        assert row["loss/gram"] == pytest.approx(row["gram/weight"] * row["gram/distance"], rel=1e-5)
        assert row["loss"] == pytest.approx(sum(value for name, value in row.items() if name.startswith("loss/")))


def test_training_differs_from_the_start_of_the_loss_and_not_earlier(bigrunner: Runner) -> None:
    without, anchored = bigrunner.run(steps=4), bigrunner.run("gram-anchoring", config=GRAM, steps=4)
    dino = [[row["loss/dino_global"] for row in result.metrics] for result in (without, anchored)]
    assert dino[0][:3] == dino[1][:3]  # the gradient of step 3 is the first that has the term
    assert dino[0][3] != dino[1][3]


def test_the_gram_teacher_takes_no_forward_pass_while_its_weight_is_zero(bigrunner: Runner) -> None:
    passes: dict[int, int] = {}

    class Count:
        @hookimpl
        def on_start(self, run: Any) -> None:
            def count(*ignored: Any) -> None:
                passes[run.step + 1] = passes.get(run.step + 1, 0) + 1

            run.frozen["gram_teacher"].register_forward_hook(count)

    bigrunner.run("gram-anchoring", config=GRAM, steps=5, accumulate=2, companions=[Count()]).assert_finished()
    assert passes == {3: 2, 4: 2, 5: 2}


def test_the_gram_teacher_is_not_trained(bigrunner: Runner) -> None:
    run = bigrunner.run("gram-anchoring", config=GRAM, steps=4).run
    assert run is not None
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not [p for p in run.frozen["gram_teacher"].parameters() if p.requires_grad or id(p) in trained]
    assert not run.frozen["gram_teacher"].training


def test_a_run_that_is_older_than_the_plan_takes_the_teacher_at_once(bigrunner: Runner) -> None:
    older = bigrunner.run(steps=4)
    added = bigrunner.run("gram-anchoring", config=GRAM, steps=7, directory=older.directory)
    added.assert_finished()
    assert next(event.step for event in added.events if event.kind == "gram-teacher") == 5
    assert [row["step"] for row in added.metrics if "loss/gram" in row] == [6, 7]
