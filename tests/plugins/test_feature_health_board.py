"""How feature-health judges: numbers go in, statuses, changes and diagnoses come out."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from bigrun_features.board import Board
from bigrun_features.config import HealthConfig
from bigrun_features.indicators import healthy, ordered
from bigrun_features.measured import Measured
from bigrun_features.norms import Norms
from bigrun_features.section import section
from bigrun_features.signs import gradients, signs

HEALTHY = {
    "class_spread": 0.8, "koleo": -0.2, "patch_cosine": 0.4, "class_patch_cosine": 0.2, "target_entropy_fraction": 0.7,
    "teacher_entropy_fraction": 0.6, "marginal_entropy_fraction": 0.99, "prototypes_used_fraction": 0.6,
    "student_entropy_fraction": 0.8, "student_divergence": 0.5, "rank_me": 100.0, "rank_fraction": 0.26,
}  # fmt: skip
BAD: list[tuple[dict[str, float], str, str, str]] = [
    ({"class_spread": 0.2}, "class_spread", "warn", "near-collapse"),
    ({"class_spread": 0.05}, "class_spread", "fail", "collapse"),
    ({"rank_fraction": 0.01}, "rank_fraction", "fail", "collapse"),
    ({"rank_me": 4.0}, "rank_me", "fail", "collapse"),
    ({"patch_cosine": 0.95}, "patch_cosine", "warn", "near-collapse"),
    ({"patch_cosine": 0.99}, "patch_cosine", "fail", "collapse"),
    ({"class_patch_cosine": 0.95}, "class_patch_cosine", "fail", "near-collapse"),
    ({"koleo": 2.0}, "koleo", "warn", "koleo-duplicates"),
    ({"koleo": 5.0}, "koleo", "fail", "koleo-duplicates"),
    ({"target_entropy_fraction": 0.995}, "target_entropy_fraction", "warn", "entropy-wall"),
    ({"student_entropy_fraction": 0.995}, "student_entropy_fraction", "warn", "entropy-wall"),
    ({"marginal_entropy_fraction": 0.7}, "marginal_entropy_fraction", "warn", "near-collapse"),
    ({"marginal_entropy_fraction": 0.3}, "marginal_entropy_fraction", "fail", "collapse"),
    ({"prototypes_used_fraction": 0.05}, "prototypes_used_fraction", "warn", "near-collapse"),
    ({"prototypes_used_fraction": 0.001}, "prototypes_used_fraction", "fail", "collapse"),
    ({"student_divergence": 0.02}, "student_divergence", "warn", "near-collapse"),
    ({"student_divergence": 0.001, "target_entropy_fraction": 0.01}, "student_divergence", "fail", "collapse"),
]


def measured(images: int = 1024, **values: float) -> Measured:
    return Measured(HEALTHY | values, images, width=384, prototypes=1024)


def board_of(settled_step: int = 0, *, is_softmax_centred: bool = False, **options: Any) -> Board:
    config = HealthConfig(**options)
    known = signs(config, is_softmax_centred=is_softmax_centred)
    return Board([*known, *gradients(["backbone"], config.gradient_factor)], settled_step)


def test_what_is_healthy_is_ok() -> None:
    board = board_of()
    assert [change for step in range(10, 200, 10) for change in board.judge(step, measured())] == []
    assert board.status == "ok"
    assert set(board.levels.values()) == {"ok"}
    assert board.diagnoses() == []


@pytest.mark.parametrize(("values", "indicator", "level", "kind"), BAD)
def test_what_is_not_is_named_when_it_is_seen_twice_in_a_row(
    values: dict[str, float], indicator: str, level: str, kind: str
) -> None:
    board = board_of()
    board.judge(10, measured())
    assert board.judge(20, measured(**values)) == []
    (change,) = board.judge(30, measured(**values))
    assert (change.indicator, change.was, change.now, change.since) == (indicator, "ok", level, 20)
    assert change.why
    assert change.advice
    assert board.status == level
    (diagnosis,) = board.diagnoses()
    assert (diagnosis.kind, diagnosis.step, diagnosis.onset) == (kind, 30, 20)
    assert diagnosis.evidence[f"health/{indicator}"] == values[indicator]
    assert "since step 20" in diagnosis.message
    (back,) = board.judge(40, measured())
    assert (back.was, back.now) == (level, "ok")
    assert board.diagnoses() == []


def test_near_features_are_those_of_a_young_network_or_of_duplicates() -> None:
    board = board_of()
    (change,) = [change for step in (10, 20) for change in board.judge(step, measured(koleo=2.0))]
    assert "young network" in change.advice
    assert "several times" in change.advice


def test_one_look_alone_and_every_other_one_is_nothing() -> None:
    board = board_of()
    for step in range(10, 100, 10):
        bad = step // 10 % 2 == 0
        assert board.judge(step, measured(class_spread=0.01 if bad else 0.8)) == []


def test_nothing_is_judged_before_the_warm_ups_are_over() -> None:
    board = board_of(settled_step=100)
    for step in range(10, 101, 10):
        assert board.judge(step, measured(class_spread=0.0, koleo=15.0)) == []
    assert board.status == "ok"
    assert not board.is_judged
    assert board.judge(110, measured(class_spread=0.0)) == []  # the first of two
    assert board.judge(120, measured(class_spread=0.0))


def test_targets_that_are_uniform_fail_after_wall_steps() -> None:
    board, levels = board_of(wall_steps=100), []
    for step in range(10, 140, 10):
        board.judge(step, measured(target_entropy_fraction=0.9995))
        levels.append(board.levels["target_entropy_fraction"])
    assert levels == ["ok"] + ["warn"] * 9 + ["fail"] * 3
    assert [d.kind for d in board.diagnoses()] == ["collapse"]


def test_targets_of_one_prototype_are_a_collapse_with_softmax_centring_only() -> None:
    for is_softmax_centred in (True, False):
        board = board_of(is_softmax_centred=is_softmax_centred)
        for step in (10, 20):
            board.judge(step, measured(target_entropy_fraction=0.01))
        assert ("fail" in board.levels.values()) is is_softmax_centred


def test_agreement_on_healthy_targets_only_warns() -> None:
    board = board_of()
    for step in (10, 20):
        board.judge(step, measured(student_divergence=0.001))
    assert board.levels["student_divergence"] == "warn"


def test_the_rank_of_few_images_is_not_judged() -> None:
    board = board_of()
    for step in (10, 20):
        board.judge(step, measured(images=200, rank_me=1.0, rank_fraction=0.005))
    assert board.status == "ok"
    words = healthy("rank_me", HealthConfig(), measured(images=200))
    assert words == "not judged: 200 images, 384 are needed"


def test_a_low_rank_warns_when_it_was_twice_as_high_before_and_the_guard_is_not_told() -> None:
    """A healthy network on images that have few dimensions uses few from the beginning."""
    board = board_of()
    for step, rank in ((10, 0.06), (20, 0.05), (30, 0.04), (40, 0.031)):
        assert board.judge(step, measured(rank_fraction=rank, rank_me=20.0)) == []
    assert board.measured is not None
    assert healthy("rank_fraction", HealthConfig(), board.measured) == "above 0.03"
    assert board.judge(50, measured(rank_fraction=0.029, rank_me=11.0)) == []
    (change,) = board.judge(60, measured(rank_fraction=0.029, rank_me=11.0))
    assert (change.indicator, change.now, change.since) == ("rank_fraction", "warn", 50)
    assert board.diagnoses() == []
    high = board_of()
    for step, rank in ((10, 0.9), (20, 0.2), (30, 0.11)):
        assert high.judge(step, measured(rank_fraction=rank)) == []  # far from its best, and enough
    old = board_of()
    state = board.state_dict()
    del state["best_rank_fraction"]  # of a checkpoint that did not know it
    old.load_state_dict(state)
    old.judge(70, measured(rank_fraction=0.05))
    assert old.measured is not None
    assert old.measured.best_rank_fraction == 0.05


def test_the_best_rank_is_not_that_of_the_warm_ups_nor_of_few_images() -> None:
    board = board_of(settled_step=20)
    for step, found in ((10, measured(rank_fraction=0.9)), (30, measured(images=20, rank_fraction=0.9)),
                        (40, measured(rank_fraction=0.05)), (50, measured(rank_fraction=0.05))):  # fmt: skip
        assert board.judge(step, found) == []
    assert board.status == "ok"


def test_a_steady_rise_of_the_class_patch_cosine_warns() -> None:
    board = board_of()
    for index in range(12):
        board.judge(10 * index, measured(class_patch_cosine=0.2 + 0.02 * index))
    assert board.levels["class_patch_cosine"] == "warn"
    assert board.diagnoses() == []  # shown, and offered to nobody
    flat = board_of()
    for index in range(40):
        flat.judge(10 * index, measured(class_patch_cosine=0.3 + 0.1 * (index % 2)))
    assert flat.status == "ok"


def test_what_is_no_number_fails_at_once() -> None:
    board = board_of()
    (change,) = board.judge(10, measured(class_spread=math.nan))
    assert (change.now, change.value) == ("fail", None)
    assert "not finite" in change.why
    assert board.diagnoses() == []
    (back,) = board.judge(20, measured())
    assert back.now == "ok"


def test_an_indicator_that_is_not_there_is_not_judged() -> None:
    board = board_of()
    for step in (10, 20):
        assert board.judge(step, Measured({"class_spread": 0.9}, 512, 384)) == []
    assert board.levels == {"class_spread": "ok"}


values = st.fixed_dictionaries(
    {name: st.floats(0, 1.5) | st.just(math.nan) for name in ("class_spread", "class_patch_cosine", "koleo")}
)


@settings(deadline=None, max_examples=50)
@given(st.lists(values, min_size=2, max_size=20), st.data())
def test_the_state_is_json_and_goes_on_as_if_nothing_had_happened(rows: list[dict[str, float]], data: Any) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    straight, first, second = board_of(15), board_of(15), board_of(15)
    said = [straight.judge(10 * (i + 1), measured(**row)) for i, row in enumerate(rows)]
    again = [first.judge(10 * (i + 1), measured(**row)) for i, row in enumerate(rows[:cut])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    again += [second.judge(10 * (i + 1), measured(**row)) for i, row in enumerate(rows[cut:], cut)]
    assert again == said
    assert second.state_dict() == straight.state_dict()


# -- gradient norms -----------------------------------------------------------------------------------------------


def test_a_gradient_norm_far_above_its_median_is_found() -> None:
    norms = Norms()
    for _ in range(20):
        norms.add({"grad_norm/backbone": 1.0, "grad_norm/frozen": 0.0, "grad_norm": 9.0, "loss": 1.0})
    assert norms.take() == {"gradient_factor/backbone": 1.0}
    assert norms.take() == {}  # no row since
    norms.add({"grad_norm/backbone": 30.0})
    norms.add({"grad_norm/backbone": 2.0})
    assert norms.take() == {"gradient_factor/backbone": 30.0}
    board = board_of()
    for step in (10, 20):
        board.judge(step, Measured({"gradient_factor/backbone": 30.0}, 2, 8))
    assert board.status == "warn"
    assert board.diagnoses() == []


def test_of_few_rows_nothing_is_said_and_their_state_is_json() -> None:
    norms, other = Norms(), Norms()
    for _ in range(9):
        norms.add({"grad_norm/backbone": 1.0})
    other.load_state_dict(json.loads(json.dumps(norms.state_dict())))
    for both in (norms, other):
        both.add({"grad_norm/backbone": 2.0, "grad_norm/other": math.inf})
    assert norms.take() == other.take() == {"gradient_factor/backbone": 2.0}


# -- the section --------------------------------------------------------------------------------------------------


def test_the_section_is_plain_and_json() -> None:
    board = board_of()
    empty = section(HealthConfig(), board, "about", None)
    assert (empty["status"], empty["lines"]) == ("none", ["nothing was looked at yet", "about"])
    for step in (10, 20):
        board.judge(step, measured(class_spread=0.05))
    found = section(HealthConfig(), board, "about", "cost")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["status"] == "fail"
    assert found["lines"][0].startswith("fail: class tokens of different images are almost the same")
    rows = {row[0]: row[1:] for row in found["table"]["rows"]}
    assert rows["how much class tokens of different images differ"] == ["0.05", "above 0.3", "fail"]
    assert rows["entropy of the teacher's own answers over ln K"][1:] == ["-", "-"]
    assert len(rows) == len(ordered(measured()))
    assert all(metric.startswith("health/") for curve in found["curves"] for metric in curve["metrics"])


def test_the_section_says_when_it_is_too_early() -> None:
    board = board_of(settled_step=100)
    board.judge(10, measured(class_spread=0.0))
    found = section(HealthConfig(), board, "about", None)
    assert found["status"] == "none"
    assert "too early to judge: the warm-ups and some steps after them end with step 100" in found["lines"]
    assert {row[3] for row in found["table"]["rows"] if row[2] != "-"} == {"too early"}
