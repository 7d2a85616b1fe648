"""anomaly-guard: a loss far above the run's own beginning, given numbers alone and in real runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import pytest

from bigrun.checkpoint.store import CheckpointStore
from bigrun.evaluation.facts import Facts
from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict
from bigrun.testing.runner import Runner, RunResult
from bigrun_guard.conditions import Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.guard import Guard

# ln 65,536 = 11.09, as of the large presets, whose warm-ups take a thousand steps.
FACTS = Facts(warmup_steps=1000, release_step=None, rows=128, log_every_steps=10, is_fresh=True, prototypes=65_536)
Course = Callable[[int], Mapping[str, float]]


def guard_of(facts: Facts = FACTS, basis: str = "", **options: Any) -> Guard:
    return Guard(GuardConfig(**options), facts, basis)


def feed(guard: Guard, course: Course, steps: range) -> list[tuple[str, int, str]]:
    """(kind, step, answer) of what is said; `loss` is the sum of the terms. Steps are taken whatever is said."""
    said = []
    for step in steps:
        terms = {f"loss/{name}": value for name, value in course(step).items()}
        found = list(guard.before_update(step, {**terms, "loss": sum(terms.values())}))
        found = [*(anomaly for anomaly in found if anomaly.kind == "divergence"), *guard.after_update(step, ())]
        said += [(a.kind, step, str(guard.answer(a.kind, step))) for a in found]
    return said


def constant(**terms: float) -> Course:
    return lambda step: terms


def slowly_rising(step: int) -> Mapping[str, float]:
    """From 16 to 64 in 300 steps, by half a percent a step, which no spike is."""
    return {"dino": 11.0 * min(1.005**step, 4.0), "ibot": 5.0 * min(1.005**step, 4.0)}


def test_a_slow_rise_in_the_warm_up_is_a_divergence_and_climbs_the_ladder() -> None:
    guard = guard_of()
    assert [kind for kind, *_ in feed(guard, slowly_rising, range(1, 85))] == []
    (first, *later) = feed(guard, slowly_rising, range(85, 2300))
    assert first[0] == "divergence"
    assert 85 <= first[1] < 110  # 1.5 times the beginning at step 87, the median of 20 steps 10 steps later
    assert [answer for *_, answer in (first, *later)] == ["warn", "warn", "halt"]
    assert [b[1] - a[1] for a, b in pairwise((first, *later))] == [1000, 1000]


def test_it_is_over_when_the_loss_is_back_for_a_while() -> None:
    guard = guard_of(hold_steps=30)
    feed(guard, constant(dino=11.0), range(1, 31))
    ((_, onset, _),) = feed(guard, constant(dino=30.0), range(31, 100))
    feed(guard, constant(dino=9.0), range(100, 139))
    assert guard.take_over() == []
    feed(guard, constant(dino=9.0), range(139, 160))
    assert guard.take_over() == [Over("divergence", onset, ("loss_now", "loss_at_start"))]


@pytest.mark.parametrize(("factor", "kinds"), [(1.49, []), (1.51, ["divergence"])])
def test_the_limit_is_an_option(factor: float, kinds: list[str]) -> None:
    for scale, options in ((1.0, {}), (2.0, {"divergence_loss_factor": 3.0})):
        guard = guard_of(**options)
        feed(guard, constant(dino=11.0), range(1, 11))
        said = feed(guard, constant(dino=11.0 * factor * scale), range(11, 60))
        assert [kind for kind, *_ in said] == kinds


def test_bad_steps_that_come_alone_are_none() -> None:
    guard = guard_of()
    assert feed(guard, lambda step: {"dino": 100.0 if step % 3 == 0 else 11.0}, range(1, 300)) == []


def test_a_run_that_is_bad_from_its_second_step_on_has_no_such_beginning() -> None:
    """The first loss is that of the network before any update."""
    guard = guard_of()
    ((kind, step, _),) = feed(guard, lambda step: {"dino": 11.0 if step == 1 else 300.0 - step}, range(1, 50))
    assert (kind, step) == ("divergence", 30)


def test_terms_that_begin_later_or_grow_from_nothing_do_not_count() -> None:
    """Gram anchoring adds a term, a weight is on a ramp, and KoLeo is not at its highest in the beginning."""

    def course(step: int) -> Mapping[str, float]:
        later = {"gram": 0.1 * (step - 50)} if step > 50 else {}
        return {"dino": 11.0, "ibot": 5.0, "koleo": min(-0.06 + step / 100, 9.0), "ramp": step / 100, **later}

    guard = guard_of()
    assert feed(guard, course, range(1, 1000)) == []
    said = feed(guard, lambda step: {**course(step), "ibot": 25.0}, range(1000, 1100))
    assert [kind for kind, *_ in said] == ["divergence"]


def test_a_beginning_that_was_not_seen_is_at_least_ln_k() -> None:
    """Heads that know something begin low, and may learn other images; so does a run that an older version began."""
    for facts, first in ((attrs.evolve(FACTS, is_fresh=False), 1), (FACTS, 5001)):
        guard = guard_of(facts)
        feed(guard, constant(dino=4.0), range(first, first + 30))
        assert feed(guard, constant(dino=16.0), range(first + 30, first + 200)) == []
        assert feed(guard, constant(dino=17.0), range(first + 200, first + 300)) != []


def test_nothing_is_known_of_the_loss_of_another_objective() -> None:
    guard = guard_of(attrs.evolve(FACTS, prototypes=None))
    assert feed(guard, slowly_rising, range(1, 1000)) == []


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_a_loss_that_does_not_begin_above_zero_is_not_judged(level: float) -> None:
    guard = guard_of()
    assert feed(guard, lambda step: {"dino": level if step < 50 else 9.0}, range(1, 300)) == []


# -- a run that is continued ---------------------------------------------------------------------------------------


def continued(guard: Guard, basis: str = "", drop: str = "") -> Guard:
    state = json.loads(json.dumps(guard.state_dict(), allow_nan=False))
    state.pop(drop, None)
    again = guard_of(basis=basis)
    again.load_state_dict(state)
    return again


@pytest.mark.parametrize("at", [1, 5, 10, 25, 95, 500])
def test_a_run_that_is_continued_is_measured_against_the_same_beginning(at: int) -> None:
    straight, half = guard_of(), guard_of()
    said = feed(half, slowly_rising, range(1, at))
    said += feed(continued(half), slowly_rising, range(at, 1200))
    assert said == feed(straight, slowly_rising, range(1, 1200))


def test_options_on_which_the_loss_depends_begin_it_anew() -> None:
    guard = guard_of()
    feed(guard, constant(dino=11.0, ibot=5.0), range(1, 100))
    heavier = constant(dino=11.0, ibot=50.0)
    assert feed(continued(guard), heavier, range(100, 300)) != []
    assert feed(continued(guard, basis="ibot_weight = 10"), heavier, range(100, 300)) == []


def test_a_checkpoint_of_an_older_version_knows_no_beginning() -> None:
    guard = guard_of()
    feed(guard, constant(dino=11.0), range(1, 100))
    assert "rise" in guard.state_dict()
    again = continued(guard, drop="rise")
    assert feed(again, constant(dino=7.0), range(100, 300)) == []
    assert again.state_dict()["rise"]["reference"] == pytest.approx(np.log(65_536))


# -- real runs -----------------------------------------------------------------------------------------------------


def run(bigrunner: Runner, base_lr: float, steps: int = 32, **more: Any) -> RunResult:
    tables: dict[str, Any] = {
        "optimizer": {"base_lr": base_lr, "warmup_steps": 10},
        "run": {"max_steps": steps, "log_every_steps": 2, "checkpoint_every_steps": steps},
    }
    return bigrunner.run("anomaly-guard", "metrics-log", steps=steps, **{**tables, **more})


def test_a_learning_rate_that_is_far_too_high_heads_the_verdict_before_the_run_has_settled(bigrunner: Runner) -> None:
    result = run(bigrunner, 30.0)
    result.assert_finished()
    assert verdict(RunRecord(result.directory)).headline.startswith("look at this: divergence at step 3")
    said = [event.facts for event in result.events if event.kind == "anomaly"]
    (facts,) = [each for each in said if each["anomaly"] == "divergence"]
    assert (facts["lasts"], facts["severity"], facts["action"]) == (True, "grave", "warn")
    assert facts["evidence"]["loss_now"] > 1.5 * facts["evidence"]["loss_at_start"]


def rise_of(result: RunResult) -> Any:
    store = CheckpointStore(result.directory / "checkpoints")
    return store.load_facts(store.path(store.steps()[-1]), "state")["plugins"]["anomaly-guard"]["state"]["rise"]


def test_the_beginning_is_part_of_a_checkpoint_and_belongs_to_the_weights_of_the_terms(bigrunner: Runner) -> None:
    first = run(bigrunner, 1e-4, 12)
    first.assert_finished()
    before = rise_of(first)
    assert before["terms"] == ["loss/dino_global", "loss/dino_local", "loss/ibot"]
    assert before["reference"] == pytest.approx(sum(first.metrics[0][name] for name in before["terms"]), rel=0.1)
    second = run(bigrunner, 1e-4, 14, directory=first.directory)
    second.assert_finished()
    after = rise_of(second)
    assert [after[name] for name in ("basis", "reference")] == [before[name] for name in ("basis", "reference")]
    assert len(after["recent"]) == 4
    heavier = run(bigrunner, 1e-4, 12, objective={"ibot_weight": 10.0})
    assert rise_of(heavier)["basis"] != before["basis"]
