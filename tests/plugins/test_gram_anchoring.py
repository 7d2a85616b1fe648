"""gram-anchoring: its promises as a plugin, the plan, and what happens at which step."""

from __future__ import annotations

import math
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.errors import ConfigError, ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_gram.config import GramConfig
from bigrun_gram.plan import Plan

GRAM = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 2, "refresh_every_steps": 2, "max_refreshes": 2}


class TestContract(PluginContract):
    plugin = "gram-anchoring"
    config = GRAM
    steps = 5


# -- the plan -------------------------------------------------------------------------------------------------


def plan_of(config: GramConfig, max_steps: int | None, warmup_steps: int = 0) -> Plan:
    plan = Plan.of(config, max_steps, warmup_steps)
    assert plan is not None
    return plan


def test_open_values_follow_the_length_of_the_run() -> None:
    published = plan_of(GramConfig(), 1_000_000, warmup_steps=100_000)
    assert published == Plan(
        snapshot_step=None,
        first_candidate_step=100_000,
        candidates_every_steps=50_000,
        start_step=830_000,
        ramp_steps=1000,
        weight=2.0,
        first_refresh_step=839_999,
        refresh_every_steps=10_000,
        max_refreshes=3,
        local_weight=0.5,
        teacher_momentum=1 - 20 / 1_000_000,
    )
    short = plan_of(GramConfig(), 5000, warmup_steps=1000)
    assert (short.first_candidate_step, short.candidates_every_steps) == (1000, 250)
    assert (short.start_step, short.ramp_steps, short.refresh_every_steps) == (4150, 100, 500)
    assert plan_of(GramConfig(snapshot_step=20), 100).ramp_steps == 17  # what is left


def test_a_short_run_has_none_unless_a_step_is_given() -> None:
    assert Plan.of(GramConfig(), 4999, 0) is None
    assert Plan.of(GramConfig(weight=3.0, ramp_steps=2), 4999, 0) is None
    assert plan_of(GramConfig(snapshot_step=10), 100).start_step == 83
    assert plan_of(GramConfig(start_step=50), 100).first_candidate_step == 5
    assert Plan.of(GramConfig(mode="off"), 1_000_000, 0) is None
    for asked_for in (GramConfig(mode="ckpt", checkpoint="x"), GramConfig(mode="ema")):
        plan = plan_of(asked_for, 100)
        assert (plan.start_step, plan.ramp_steps, plan.first_candidate_step) == (83, 17, None)


def test_given_values_are_kept() -> None:
    config = GramConfig(
        snapshot_step=7, start_step=9, ramp_steps=3, first_refresh_step=11, refresh_every_steps=5, max_refreshes=0,
        weight=0.5, local_weight=0.25, teacher_momentum=0.99,
    )  # fmt: skip
    expected = Plan(7, None, None, 9, 3, 0.5, 11, 5, 0, 0.25, 0.99)
    assert plan_of(config, 1000) == plan_of(config, None) == expected


def test_the_weight_ramps_up_from_the_start_and_stays() -> None:
    plan = plan_of(GramConfig(snapshot_step=1, start_step=10, ramp_steps=4), 1000)
    quarter = 0.5 * (1 - math.cos(math.pi / 4)) * 2.0
    expected = [0.0, quarter, 1.0, 2.0 - quarter, 2.0, 2.0]
    assert [plan.weight_at(step) for step in range(9, 15)] == pytest.approx(expected)
    assert [plan.local_weight_at(step, 1.0) for step in (9, 11, 13)] == pytest.approx([1.0, 0.75, 0.5])
    assert [plan.teacher_momentum_at(step, 0.9) for step in (9, 10)] == [0.9, 1 - 20 / 1000]
    assert plan.teacher_momentum_at(10, 0.999) == 0.999


def test_refreshes_count_from_the_start_of_the_loss_or_the_step_that_is_given() -> None:
    def refreshed(**options: Any) -> list[int]:
        plan = plan_of(GramConfig(snapshot_step=1, start_step=10, ramp_steps=1, refresh_every_steps=3, **options), 99)
        steps = [1]
        for step in range(1, 40):
            steps += [step] if plan.is_refresh(step, len(steps) - 1, steps[-1]) else []
        return steps[1:]

    assert refreshed() == [12, 15, 18]
    assert refreshed(first_refresh_step=14, max_refreshes=2) == [14, 17]
    assert refreshed(max_refreshes=0) == []
    assert refreshed(max_refreshes=None) == list(range(12, 40, 3))
    plan = plan_of(GramConfig(snapshot_step=1, start_step=10, ramp_steps=1, refresh_every_steps=3), 99)
    assert plan.is_refresh(16, 1, taken_at_step=12)  # 15 was skipped
    assert not plan.is_refresh(17, 2, taken_at_step=16)
    raised = attrs.evolve(plan, max_refreshes=9)  # long after the third: one at once, not all that were left out
    assert [raised.is_refresh(30, 3, 18), raised.is_refresh(31, 4, 30), raised.is_refresh(33, 4, 30)] == [
        True,
        False,
        True,
    ]


lengths = st.integers(5000, 2_000_000)


@settings(deadline=None, max_examples=100)
@given(lengths, st.floats(0, 1), st.integers(0, 2_000_000), st.booleans())
def test_a_plan_is_in_order_and_a_postponed_one_has_nothing_in_the_past(
    total: int, warmup: float, step: int, has_teacher: bool
) -> None:
    plan = plan_of(GramConfig(), total, warmup_steps=round(warmup * total))
    for p in (plan, plan.postponed(step, has_teacher=has_teacher)):
        is_moved = p is not plan
        first, last = p.first_candidate_step, p.last_candidate()
        if first is not None and last is not None:
            assert max(round(warmup * total), 1) <= first <= last < p.start_step
            assert p.candidates_every_steps is not None
            assert all(p.next_candidate(s - 1) == s for s in (first, last))
            assert p.next_candidate(last) is None
        if is_moved and not has_teacher:
            assert min(s for s in (first, p.snapshot_step) if s is not None) > step
        if is_moved:
            assert p.start_step > step
        assert p.start_step <= p.first_refresh_step
        assert plan.postponed(0, has_teacher=False) == plan


def test_a_run_without_end_needs_every_step(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config={"snapshot_step": 1}, run={"max_steps": False})
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    assert (
        "plugins.gram-anchoring: a run without run.max_steps needs start_step, ramp_steps and refresh_every_steps"
        in (str(result.error))
    )
    assert not result.directory.exists()
    given = {"candidates_every_steps": 1, "start_step": 9, "ramp_steps": 1, "max_refreshes": 0}
    assert plan_of(GramConfig(**given), None, warmup_steps=5).first_candidate_step == 5


def test_a_loss_before_its_teacher_is_refused(bigrunner: Runner) -> None:
    both_given = bigrunner.run("gram-anchoring", config={"snapshot_step": 5, "start_step": 5})
    assert isinstance(both_given.error, ConfigError)
    assert "plugins.gram-anchoring.start_step: 5 is not after snapshot_step = 5" in str(both_given.error)
    by_rule = bigrunner.run("gram-anchoring", config={"start_step": 2}, steps=10)
    assert isinstance(by_rule.error, UsageError)
    assert "plugins.gram-anchoring.start_step: 2 leaves no candidate" in str(by_rule.error)
    assert not by_rule.directory.exists()


def test_the_header_tells_the_plan_and_warns_of_one_beyond_the_end(bigrunner: Runner) -> None:
    within, beyond = (bigrunner.run("gram-anchoring", config=GRAM, steps=steps) for steps in (3, 2))
    assert within.run is not None
    assert beyond.run is not None
    assert any("loss from step 3, weight 2.0 after 2 steps" in line for line in within.run.header)
    assert any("refresh after step 4, then every 2 steps, 2 at most" in line for line in within.run.header)
    warning = "the Gram loss has no part in this run, which ends at step 2"
    assert not any(warning in line for line in within.run.header)
    assert any(warning in line for line in beyond.run.header)
    off = bigrunner.run("gram-anchoring")
    off.assert_finished()
    assert off.run is not None
    assert any("off: a run of fewer than 5,000 steps does without" in line for line in off.run.header)
    assert off.losses == bigrunner.run().losses


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


def taken(result: RunResult) -> list[int]:
    return [event.step for event in result.events if event.kind == "gram-teacher"]


def test_t23_the_gram_teacher_is_the_teacher_of_its_step_bit_for_bit(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"snapshot_step": 2}, steps=7)
    result.assert_finished()
    assert taken(result) == [2, 4, 6]
    before, _ = frozen_and_teacher(result, 1)
    assert before == {}
    taken_at = {2: 2, 3: 2, 4: 4, 5: 4, 6: 6, 7: 6}
    for step, source in taken_at.items():
        gram, _ = frozen_and_teacher(result, step)
        _, teacher = frozen_and_teacher(result, source)
        assert is_same(gram, teacher), step
    gram, teacher = frozen_and_teacher(result, 5)  # not 7: in the last step the momentum is 1
    assert not is_same(gram, teacher)


@pytest.mark.parametrize("most", [0, 1, 2, False])
def test_t23_it_is_refreshed_at_the_right_steps_and_at_most_so_many_times(bigrunner: Runner, most: int) -> None:
    config = {k: v for k, v in GRAM.items() if k != "refresh_every_steps"} | {"max_refreshes": most}
    config |= {"refresh_every_steps": 1, "first_refresh_step": 4} if most != 0 or most is False else {}
    result = bigrunner.run("gram-anchoring", config=config, steps=7)
    result.assert_finished()
    assert taken(result) == [1, *range(4, 8 if most is False else 4 + most)]


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run with three refreshes."""
    config = GRAM | {"refresh_every_steps": 1, "max_refreshes": 3}
    return Runner(tmp_path_factory.mktemp("refreshed")).run("gram-anchoring", config=config, steps=7)


@pytest.mark.parametrize("at_step", range(1, 7))
def test_t23_the_count_of_refreshes_survives_a_kill(bigrunner: Runner, refreshed: RunResult, at_step: int) -> None:
    straight = refreshed
    assert taken(straight) == [1, 3, 4, 5]
    resumed = bigrunner.resume(straight, at_step)
    resumed.assert_finished()
    assert taken(resumed) == [step for step in taken(straight) if step > at_step]
    assert resumed.losses == straight.losses
    assert is_same(frozen_and_teacher(resumed, 7)[0], frozen_and_teacher(straight, 7)[0])


def test_t23_off_before_the_start(bigrunner: Runner) -> None:
    without, anchored = bigrunner.run(steps=4), bigrunner.run("gram-anchoring", config=GRAM, steps=4)
    dino = [[row["loss/dino_global"] for row in result.metrics] for result in (without, anchored)]
    assert dino[0][:3] == dino[1][:3]  # the gradient of step 3 is the first that has the term
    assert dino[0][3] != dino[1][3]


def test_the_loss_has_the_weight_of_the_plan(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM, steps=6, accumulate=2)
    result.assert_finished()
    assert [row["gram/weight"] for row in result.metrics] == pytest.approx([0, 0, 1, 2, 2, 2])
    assert [row["step"] for row in result.metrics if "loss/gram" in row] == [3, 4, 5, 6]
    for row in result.metrics[2:]:
        assert row["gram/distance"] > 0
        assert row["loss/gram"] == pytest.approx(row["gram/weight"] * row["gram/distance"], rel=1e-5)
        assert row["loss"] == pytest.approx(sum(value for name, value in row.items() if name.startswith("loss/")))


def test_the_schedules_of_the_phase_come_with_the_loss(bigrunner: Runner) -> None:
    config = GRAM | {"teacher_momentum": 0.95}
    result = bigrunner.run("gram-anchoring", config=config, steps=5, teacher={"momentum": 0.9, "momentum_end": 0.9})
    assert [row["local_weight"] for row in result.metrics] == pytest.approx([1, 1, 0.75, 0.5, 0.5])
    assert [row["teacher_momentum"] for row in result.metrics] == pytest.approx([0.9, 0.9, 0.95, 0.95, 0.95])
    left_alone = GRAM | {"local_weight": False, "teacher_momentum": 0.0}
    result = bigrunner.run("gram-anchoring", config=left_alone, teacher={"momentum": 0.9, "momentum_end": 0.9})
    assert {row["local_weight"] for row in result.metrics} == {1.0}
    assert {row["teacher_momentum"] for row in result.metrics} == {0.9}


def count_passes(passes: dict[int, list[int]]) -> Any:
    """Notes the side of the crops of every forward pass of the Gram teacher, by step."""

    class Count:
        @hookimpl
        def on_start(self, run: Any) -> None:
            def count(module: Any, inputs: Any, features: Any) -> None:
                passes.setdefault(run.step + 1, []).append(inputs[0].shape[-1])

            run.frozen["gram_teacher"].register_forward_hook(count)

    return Count()


def test_the_gram_teacher_takes_no_forward_pass_while_its_weight_is_zero(bigrunner: Runner) -> None:
    passes: dict[int, list[int]] = {}
    result = bigrunner.run("gram-anchoring", config=GRAM, steps=5, accumulate=2, companions=[count_passes(passes)])
    result.assert_finished()
    assert passes == {3: [32, 32], 4: [32, 32], 5: [32, 32]}


def test_the_gram_teacher_is_not_trained(bigrunner: Runner) -> None:
    run = bigrunner.run("gram-anchoring", config=GRAM, steps=4).run
    assert run is not None
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not [p for p in run.frozen["gram_teacher"].parameters() if p.requires_grad or id(p) in trained]
    assert not [m for m in run.frozen["gram_teacher"].modules() if m.training]


def skipping(*steps: int) -> Any:
    class Skip:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            if step in steps:
                run.report_anomaly(Anomaly("test", step, "skipped by the test"))

    return Skip()


def test_nothing_happens_after_a_step_that_was_skipped(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM, steps=8, companions=[skipping(1, 4)])
    result.assert_finished()
    assert taken(result) == [2, 5, 6]  # instead of 1, 4 and 6
    chosen = {"candidates_every_steps": 2, "start_step": 6, "ramp_steps": 1, "max_refreshes": 0}
    result = bigrunner.run("gram-anchoring", config=chosen, steps=7, companions=[skipping(2)])
    assert [event.step for event in result.events if event.kind == "gram-candidate"] == [3, 4]


def test_a_run_that_is_older_than_the_plan_takes_the_teacher_at_once(bigrunner: Runner) -> None:
    older = bigrunner.run(steps=4)
    added = bigrunner.run("gram-anchoring", config=GRAM, steps=7, directory=older.directory)
    added.assert_finished()
    assert taken(added) == [5, 7]
    assert [row["step"] for row in added.metrics if "loss/gram" in row] == [6, 7]
    assert added.run is not None
    (line,) = [line for line in added.run.header if line.startswith("gram ")]
    assert "teacher to be taken at step 5; loss from step 6" in line
    assert "refresh after step 7" in line
    assert any("this run began without gram-anchoring" in line for line in added.run.header)


def test_a_run_in_the_middle_of_its_candidates_begins_with_the_next(bigrunner: Runner) -> None:
    config = {"candidates_every_steps": 2, "start_step": 8, "ramp_steps": 1, "max_refreshes": 0}
    older = bigrunner.run(steps=3)
    added = bigrunner.run("gram-anchoring", config=config, steps=8, directory=older.directory)
    added.assert_finished()
    assert [event.step for event in added.events if event.kind == "gram-candidate"] == [4, 6]
    too_late = bigrunner.run("gram-anchoring", config=config, steps=10, directory=bigrunner.run(steps=7).directory)
    assert taken(too_late) == [8]
    assert [row["step"] for row in too_late.metrics if "loss/gram" in row] == [9, 10]
