"""Which checkpoints stay: laws that hold for any history and any policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bigrun.checkpoint.records import Record, read_record, verified_records
from bigrun.checkpoint.retention import Policy, reasons_to_stay
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError

LAW = settings(deadline=None, max_examples=150)
VALUES = st.floats(-3, 3).map(lambda value: round(value, 1))  # ties are frequent

records = st.lists(
    st.builds(
        Record,
        step=st.integers(0, 60),
        anomalies=st.sampled_from([(), (), ("loss-spike",)]),
        measured=st.one_of(st.just({}), st.fixed_dictionaries({"score": VALUES})),
    ),
    max_size=20,
    unique_by=lambda record: record.step,
)


def with_onsets(history: list[Record], delay: int) -> list[Record]:
    """The trouble showed so many steps before it was reported, and its onset is remembered while it lasts."""
    onset: int | None = None
    found = {}
    for record in sorted(history, key=lambda record: record.step):
        showed = max(record.step - delay, 0)
        onset = None if record.is_healthy else showed if onset is None else min(onset, showed)
        found[record.step] = attrs.evolve(record, onset=onset)
    return [found[record.step] for record in history]


seen_at_once = st.builds(with_onsets, records, st.just(0))
records = st.builds(with_onsets, records, st.integers(0, 30))
policies = st.builds(
    Policy,
    keep_last=st.integers(0, 8),
    milestones_every_steps=st.one_of(st.none(), st.integers(1, 30)),
    milestone_steps=st.frozensets(st.integers(1, 60), max_size=4),
    keep_healthy=st.booleans(),
    best_by=st.sampled_from([None, "score", "absent"]),
    best=st.sampled_from(["min", "max"]),
    keep_best=st.integers(1, 3),
)


def staying(history: Sequence[Record], policy: Policy) -> list[Record]:
    reasons = reasons_to_stay(history, policy)
    assert list(reasons) == sorted(record.step for record in history)
    return [record for record in history if reasons[record.step]]


def steps(history: Sequence[Record]) -> set[int]:
    return {record.step for record in history}


@LAW
@given(records, policies)
def test_the_newest_two_stay_whatever_is_wished(history: list[Record], policy: Policy) -> None:
    kept = steps(staying(history, policy))
    assert kept >= set(sorted(steps(history))[-2:])
    assert len(kept) >= min(2, len(history))


@LAW
@given(records, policies)
def test_milestones_and_the_last_k_stay(history: list[Record], policy: Policy) -> None:
    kept = steps(staying(history, policy))
    every = policy.milestones_every_steps
    assert kept >= {step for step in steps(history) if every and step and step % every == 0}
    assert kept >= steps(history) & set(policy.milestone_steps)
    assert kept >= set(sorted(steps(history))[len(history) - policy.keep_last :]) or policy.keep_last > len(history)


FORGOTTEN = with_onsets([Record(0), Record(2), Record(7, ("loss-spike",)), Record(8), Record(9, ("loss-spike",))], 5)
"""By the checkpoint of step 7 the trouble had begun at 2; without it the last healthy one is 2, and not 0."""


@LAW
@example(FORGOTTEN, Policy(keep_last=0, milestones_every_steps=2))
@given(records, policies)
def test_twice_is_once_but_for_a_trouble_that_went_with_the_checkpoint_that_knew_of_it(
    history: list[Record], policy: Policy
) -> None:
    kept = staying(history, policy)
    again = staying(kept, policy)
    lost = steps(kept) - steps(again)
    assert steps(again) <= steps(kept)
    assert [reasons_to_stay(history, policy)[step] for step in lost] in ([], [["the last healthy one"]])


@LAW
@given(seen_at_once, policies)
def test_reasons_stay_the_same(history: list[Record], policy: Policy) -> None:
    kept = staying(history, policy)
    assert {s: r for s, r in reasons_to_stay(history, policy).items() if r} == reasons_to_stay(kept, policy)


@LAW
@given(seen_at_once, policies)
def test_after_every_save_is_as_once_at_the_end(history: list[Record], policy: Policy) -> None:
    """Of trouble that is found late this does not hold: the one from before its onset may have gone by then."""
    alive: list[Record] = []
    for record in sorted(history, key=lambda record: record.step):
        alive = staying([*alive, record], policy)
    assert steps(alive) == steps(staying(history, policy))


@LAW
@given(records, policies, st.integers(0, 4), st.integers(1, 60))
def test_who_wishes_more_keeps_no_less(history: list[Record], policy: Policy, more: int, step: int) -> None:
    kept = steps(staying(history, policy))
    for wish in (
        attrs.evolve(policy, keep_last=policy.keep_last + more),
        attrs.evolve(policy, milestone_steps=frozenset({*policy.milestone_steps, step})),
        attrs.evolve(policy, keep_healthy=True),
        attrs.evolve(policy, keep_best=policy.keep_best + more),
    ):
        assert steps(staying(history, wish)) >= kept


@LAW
@given(records, policies)
def test_the_last_healthy_one_goes_only_for_a_later_one(history: list[Record], policy: Policy) -> None:
    policy = attrs.evolve(policy, keep_healthy=True)
    healthy = [record.step for record in history if is_healthy(record, history)]
    kept = [record.step for record in staying(history, policy) if is_healthy(record, history)]
    assert max(kept, default=None) == max(healthy, default=None)


def is_healthy(record: Record, history: list[Record]) -> bool:
    """Nothing was reported before it, and nobody has said later that the trouble had begun by then."""
    later = [other.onset for other in history if other.step > record.step and other.onset is not None]
    return record.is_healthy and all(onset > record.step for onset in later)


@LAW
@given(records, policies)
def test_the_best_goes_only_for_better_ones(history: list[Record], policy: Policy) -> None:
    """For each that goes there are as many better ones as the policy wants to keep; equal and older is better."""
    policy = attrs.evolve(policy, best_by="score")
    sign = 1 if policy.best == "min" else -1

    def rank(record: Record) -> tuple[float, int]:
        return sign * record.measured["score"], record.step

    kept = staying(history, policy)
    ranked = [rank(record) for record in kept if "score" in record.measured]
    for gone in history:
        if gone not in kept and "score" in gone.measured:
            assert sum(better < rank(gone) for better in ranked) >= policy.keep_best


@LAW
@given(records, policies)
def test_nothing_stays_without_a_wish(history: list[Record], policy: Policy) -> None:
    """The laws above would hold if everything stayed: it does not."""
    every = policy.milestones_every_steps
    milestones = [s for s in steps(history) if s in policy.milestone_steps or (every and s and s % every == 0)]
    best = policy.keep_best if policy.best_by == "score" else 0
    at_most = max(2, policy.keep_last) + len(milestones) + policy.keep_healthy + best
    assert len(staying(history, policy)) <= at_most


def test_reasons_are_said() -> None:
    history = [
        Record(10, (), {"score": 0.5}),
        Record(20, (), {"score": 0.25}),
        Record(30, ("loss-spike",), {"score": 0.75}),
        Record(40, ("loss-spike",)),
        Record(50, ("collapse",)),
    ]
    policy = Policy(keep_last=2, milestone_steps=(10,), best_by="score", best="max")
    assert reasons_to_stay(history, policy) == {
        10: ["a milestone"],
        20: ["the last healthy one"],
        30: ["number 1 by score (0.75)"],
        40: ["one of the newest 2"],
        50: ["one of the newest 2"],
    }
    history[-1] = attrs.evolve(history[-1], onset=15)  # it had begun before the checkpoint that looked healthy
    assert reasons_to_stay(history, policy)[20] == []
    assert reasons_to_stay(history, policy)[10] == ["a milestone", "the last healthy one"]
    history[-1] = attrs.evolve(history[-1], onset=None)
    assert reasons_to_stay([], policy) == {}
    assert reasons_to_stay(history, Policy(keep_healthy=False))[20] == []


def test_of_two_equally_good_the_older_stays() -> None:
    history = [Record(step, ("x",), {"score": 1.0}) for step in (1, 2, 3, 4, 5)]
    assert steps(staying(history, Policy(best_by="score", keep_best=2))) == {1, 2, 4, 5}


# -- what a checkpoint says of itself ---------------------------------------------------------------------------------


def save(store: CheckpointStore, step: int, facts: dict[str, Any]) -> Path:
    return store.save(step, {"model": {"w": torch.zeros(2)}}, facts, "seed = 0\n")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"anomalies": [], "measured": {"loss": 1.5}}, Record(7, (), {"loss": 1.5})),
        ({"anomalies": ["loss-spike"], "measured": {}}, Record(7, ("loss-spike",), {})),
        ({}, Record(7)),  # of an older version
        ({"anomalies": "no", "measured": [1]}, Record(7)),
        ({"measured": {"a": "1", "b": True, "c": None, "d": 2}}, Record(7, (), {"d": 2})),
        ([1, 2], Record(7)),
    ],
)
def test_a_record_takes_what_it_understands(tmp_path: Path, facts: Any, expected: Record) -> None:
    assert read_record(save(CheckpointStore(tmp_path), 7, {"state": facts}), 7) == expected


def test_only_verified_checkpoints_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        save(store, step, {"state": {}})
    save(store, 4, {"other": {}})
    (store.path(2) / "model.safetensors").write_bytes(b"damaged")
    (store.path(3) / "MANIFEST.json").unlink()
    assert [record.step for record in verified_records(CheckpointStore(tmp_path))] == [1]
    with pytest.raises(CheckpointError, match=r"state\.json"):
        read_record(store.path(4), 4)
