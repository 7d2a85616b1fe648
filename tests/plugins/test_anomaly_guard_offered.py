"""What other plugins offer to anomaly-guard: it holds back, reminds, answers by its ladders, and forgets."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.errors import ExitCode, PluginError
from bigrun.evaluation.facts import Facts
from bigrun.testing.runner import Runner, RunResult
from bigrun_guard.config import GuardConfig
from bigrun_guard.guard import Guard

FACTS = Facts(warmup_steps=0, release_step=None, rows=128, log_every_steps=10, is_fresh=True, prototypes=256)
QUICK = {"settle_steps": 0, "hold_steps": 0, "collapse": ["warn"], "divergence": ["halt"]}


def guard_of(**options: Any) -> Guard:
    return Guard(GuardConfig(**({"settle_steps": 0} | options)), FACTS)


def offer(step: int, kind: str = "collapse", onset: int | None = None, **evidence: float) -> Anomaly:
    return Anomaly(kind, step, f"{kind} it is", evidence or {"health/spread": 0.01}, onset=onset)


def judged(guard: Guard, step: int, *offers: Anomaly) -> list[tuple[str, int, str | None]]:
    """(kind, onset, answer) of what was reported."""
    found = list(guard.on_metrics(step, {}, offers))
    return [(a.kind, a.onset or 0, guard.answer(a.kind, a.step)) for a in found]


def test_a_condition_is_reported_when_it_has_lasted() -> None:
    guard = guard_of(hold_steps=50, remind_steps=100)
    assert judged(guard, 10, offer(10)) == []
    assert judged(guard, 50, offer(50)) == []
    assert judged(guard, 60, offer(60)) == [("collapse", 10, "halt")]
    assert judged(guard, 70, offer(70)) == []
    assert judged(guard, 160, offer(160)) == [("collapse", 10, "halt")]


def test_it_lasts_as_its_plugin_has_measured_it() -> None:
    """The same measurement, offered at every row, is no second one; an onset counts."""
    guard = guard_of(hold_steps=50)
    assert [judged(guard, step, offer(10)) for step in range(10, 200, 10)] == [[]] * 19
    assert judged(guard, 200, offer(200)) == [("collapse", 10, "halt")]
    assert judged(guard_of(hold_steps=50), 100, offer(100, onset=40)) == [("collapse", 40, "halt")]


def test_it_is_as_grave_as_the_guards_own_unless_its_plugin_says_so() -> None:
    said = (("divergence", "minor"), ("entropy-wall", "grave"), ("near-collapse", "serious"))
    offers = offer(10), offer(10, "mine"), *(attrs.evolve(offer(10, kind), severity=word) for kind, word in said)
    found = guard_of(hold_steps=0).on_metrics(10, {}, offers)
    assert [anomaly.severity for anomaly in found] == ["grave", "serious", "minor", "grave", "serious"]


def test_what_is_offered_no_more_is_over() -> None:
    guard = guard_of(hold_steps=20)
    judged(guard, 10, offer(10))
    judged(guard, 20)
    assert judged(guard, 30, offer(30)) == []
    assert judged(guard, 50, offer(50)) == [("collapse", 30, "halt")]


def test_kind_and_evidence_tell_conditions_apart_and_a_ladder_is_climbed_together() -> None:
    guard = guard_of(hold_steps=0, collapse=("warn", "halt"), remind_steps=10)
    both = offer(10), offer(10, koleo=5.0)
    assert judged(guard, 10, *both) == [("collapse", 10, "warn")] * 2
    assert judged(guard, 20, offer(20, koleo=5.0)) == [("collapse", 10, "halt")]
    judged(guard, 30)
    assert judged(guard, 40, offer(40, koleo=5.0)) == [("collapse", 40, "warn")]  # a new one is a first one


SPREAD = {"loss": 5.0, "class_spread": 0.2}
"""A row in which the guard itself sees near-collapse, as long as the loss moves."""


def test_one_condition_that_two_plugins_see_is_one_occurrence() -> None:
    """The second one says so later, by its own measurement; with the reminders it is one more."""
    guard = guard_of(hold_steps=0, near_collapse=("warn", "save", "halt"), remind_steps=100)
    said: list[Any] = []
    for step in range(10, 240, 10):
        offers = [offer(step, "near-collapse")] if step >= 50 else []
        found = list(guard.on_metrics(step, {**SPREAD, "loss": 5.0 + step}, offers))
        said += [(step, guard.answer(a.kind, a.step)) for a in found]
    assert said == [(10, "warn"), (50, "warn"), (110, "save"), (150, "save"), (210, "halt")]


def test_a_dead_module_that_is_offered_climbs_its_ladder() -> None:
    guard = guard_of(hold_steps=0, dead_module=("warn", "halt"), remind_steps=20)
    said: list[Any] = []
    for step in range(1, 32):
        list(guard.before_update(step, {"loss": 5.0 + step, "grad_norm": 1.0, "grad_norm/head": 1.0}))
        list(guard.after_update(step, {"head"}))
        said += [answer for _, _, answer in judged(guard, step, *[offer(step, "dead-module")] * (step < 25))]
    assert said == ["warn", "halt"]
    assert "dead-module" not in guard.ladder.steps  # over: the next one is a first one


def test_what_was_reported_and_holds_no_more_is_over_once() -> None:
    """After it has not held for `hold_steps`; what was held back was never said, and is not over either."""
    guard = guard_of(hold_steps=20)
    said: list[Any] = []
    for step in range(10, 200, 10):
        offers = [offer(step)] * (step <= 50 or step in (70, 130))
        judged(guard, step, *offers, *[offer(step, what=1.0)] * (step <= 20))
        said += [(step, over.kind, over.since, over.evidence) for over in guard.take_over()]
    assert said == [(100, "collapse", 10, ("health/spread",))]


def test_it_says_causes_and_advice_where_the_plugin_has_none() -> None:
    (plain,) = guard_of(hold_steps=0).on_metrics(10, {}, [offer(10, "entropy-wall")])
    assert plain.causes
    assert plain.advice
    own = Anomaly("collapse", 10, "it is", {}, ("mine",), ("do",))
    (kept,) = guard_of(hold_steps=0).on_metrics(10, {}, [own])
    assert (kept.causes, kept.advice) == (("mine",), ("do",))
    (foreign,) = guard_of(hold_steps=0).on_metrics(10, {}, [offer(10, "of-mine")])
    assert foreign.causes == ()


def test_nothing_is_heard_before_the_warm_ups_are_over() -> None:
    assert judged(guard_of(settle_steps=100, hold_steps=0), 100, offer(100)) == []


def test_conditions_survive_a_resume_and_older_checkpoints_have_none() -> None:
    first, second = guard_of(hold_steps=50), guard_of(hold_steps=50)
    judged(first, 10, offer(10))
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert judged(second, 60, offer(60)) == [("collapse", 10, "halt")]
    del state["trends"]["offered"]
    older = guard_of(hold_steps=50)
    older.load_state_dict(state)
    assert judged(older, 60, offer(60)) == []


class Offers:
    """A plugin of somebody else's; of itself, the tiny run never diverges."""

    answer: Any = ()

    @hookimpl(optionalhook=True)
    def diagnoses(self, step: int) -> Any:
        return [offer(step, kind, what=1.0) for kind in self.answer] if isinstance(self.answer, tuple) else self.answer


class Looks(Offers):
    observer = True


def run_with(bigrunner: Runner, answer: Any, *names: str) -> RunResult:
    companion = Offers()
    companion.answer = answer
    config = {"config": QUICK} if names else {}
    return bigrunner.run(*names, companions=[companion], **config)  # type: ignore[arg-type]


def test_a_run_is_halted_by_what_is_offered(bigrunner: Runner) -> None:
    result = run_with(bigrunner, ("divergence",), "anomaly-guard")
    assert result.exit_code == ExitCode.HALTED
    (event,) = [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "divergence"]
    assert event.facts["action"] == "halt"


def test_kinds_that_the_guard_does_not_know_are_reported_and_left_to_others(bigrunner: Runner) -> None:
    result = run_with(bigrunner, ("of-mine",), "anomaly-guard")
    result.assert_finished()
    assert [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "of-mine"]


def test_without_the_guard_nobody_asks(bigrunner: Runner) -> None:
    run_with(bigrunner, ("divergence",)).assert_finished()


@pytest.mark.parametrize("answer", [["collapse"], 3])
def test_an_answer_that_is_none_is_the_error_of_who_gave_it(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(Offers, "answer", answer)
    critical = bigrunner.run("anomaly-guard", f"{__name__}:Offers", config=QUICK)
    assert isinstance(critical.error, PluginError)
    assert f"{__name__}:Offers failed in diagnoses" in str(critical.error)
    assert "expected a list of Anomaly, got" in str(critical.error)
    observer = bigrunner.run("anomaly-guard", f"{__name__}:Looks", config=QUICK)
    assert observer.exit_code == ExitCode.QUARANTINED
    assert observer.quarantined == [f"{__name__}:Looks"]
    (failed,) = [event for event in observer.events if event.kind == "observer-failed"]
    assert "expected a list of Anomaly, got" in failed.message


def test_what_is_over_is_said(bigrunner: Runner) -> None:
    class Passing(Offers):
        @hookimpl(optionalhook=True)
        def diagnoses(self, step: int) -> list[Anomaly]:
            return [offer(step, "of-mine", what=1.0)] if step < 4 else []

    result = bigrunner.run("anomaly-guard", config=QUICK, companions=[Passing()], steps=5)
    result.assert_finished()
    (said,) = [e.facts for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "of-mine"]
    assert (said["step"], said["onset"], said["lasts"]) == (2, 2, True)
    (over,) = [e for e in result.events if e.kind == "anomaly-over" and e.facts["anomaly"] == "of-mine"]
    assert (over.step, over.facts) == (4, {"anomaly": "of-mine", "since": 2, "evidence": ["what"]})
