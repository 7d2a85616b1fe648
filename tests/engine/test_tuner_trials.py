"""Trials that are made, remembered and judged by `bigrun tune`, with answers in place of processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from bigrun.activation import activate
from bigrun.config import Config, Document, read_preset
from bigrun.redaction import Redactor
from bigrun.testing.devices import device
from bigrun.tuner.isolation import Answer
from bigrun.tuner.ledger import Ledger, key_of
from bigrun.tuner.recipe import Recipe
from bigrun.tuner.report import conclusion
from bigrun.tuner.space import MODES, Space, Wishes
from bigrun.tuner.trial import Outcome, Settings
from bigrun.tuner.trials import Effort, Machine, Row, Trials
from bigrun.tuner.tune import Tuner, Tuning

START = Settings(8, "none", 2, True)
SPACE = Space(START, (1, 2, 4, 8, 16, 32), MODES, (0, 2, 4, 8), (True, False))
MACHINE = Machine(device("rtx4090"), 8, 1000)


def preset(*sets: str) -> tuple[Document, Config]:
    document = read_preset("vit_small", ["data.path=/images", *sets])
    return document, activate(document)[0]


def at(speed: float) -> Outcome:
    return Outcome("ok", "", speed, {"forward": 1000 / speed})


def test_the_ledger_keeps_whole_lines_and_forgets_half_of_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new")
    ledger.put("a", {"x": 1})
    ledger.put("b", {"x": 2})
    ledger.close()
    path = tmp_path / "new" / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    again = Ledger(tmp_path / "new")
    assert (again.get("a"), again.get("b")) == ({"x": 1}, None)
    again.put("b", {"x": 3})
    again.close()
    last = Ledger(tmp_path / "new")
    last.close()
    assert last.answers == {"a": {"x": 1}, "b": {"x": 3}}


def test_the_key_is_of_what_lasts() -> None:
    facts = device("rtx4090")
    host = attrs.evolve(facts.host, ram_free_bytes=1, disk_free_bytes=2)
    later = attrs.evolve(facts, free_bytes=5, host=host)
    assert key_of(facts.as_facts()) == key_of(later.as_facts())
    assert key_of(facts.as_facts()) != key_of(attrs.evolve(facts, driver="another").as_facts())


def test_what_torch_is_told_by_the_environment_makes_another_trial(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = {"what": "measure"}
    before = trials.key(order)
    monkeypatch.setenv("SOME_OTHER_VARIABLE", "1")
    assert trials.key(order) == before
    for name, value in {
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128",
        "TORCH_BLAS_PREFER_HIPBLASLT": "0",
        "MIOPEN_FIND_MODE": "2",
        "NVIDIA_TF32_OVERRIDE": "0",
    }.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert trials.key(order) != before, name
            changed.setenv(name, value + "0")
            another = trials.key(order)
            changed.setenv(name, value)
            assert trials.key(order) != another, name
    assert trials.key(order) == before


def test_another_process_with_the_same_folder_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    other = "from pathlib import Path; from bigrun.tuner.ledger import Ledger; import sys; Ledger(Path(sys.argv[1]))"
    words = [sys.executable, "-c", other, str(tmp_path)]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "another `bigrun tune` works there" in refused.stderr
    ledger.close()
    assert subprocess.run(words, capture_output=True, text=True, check=False).returncode == 0


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[Trials]:
    document, config = preset("data.effective_batch=64", "data.micro_batch=8")
    trials = Trials(Recipe.of(document, config), tmp_path, Effort(), MACHINE, config.redactor())
    with trials.opened():
        yield trials


class Answers:
    """Answers of child processes."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Answer]) -> None:
        self.answer = answer
        self.orders: list[Mapping[str, Any]] = []

    def __call__(self, order: Mapping[str, Any], limit_seconds: float) -> Answer:
        self.orders.append(order)
        return self.answer(order)

    @property
    def micro_batches(self) -> list[int]:
        return [order["document"]["tables"]["data"]["micro_batch"] for order in self.orders]


def measured(order: Mapping[str, Any], forward: float = 100.0) -> Answer:
    """A hundred milliseconds for an image."""
    micro = order["document"]["tables"]["data"]["micro_batch"]
    batch = 64 if order["micro_batches"] > 2 else 2 * micro
    facts = {"totals": {"forward": forward * batch}, "steps": 1, "trial_batch": batch, "effective_batch": 64}
    return Answer("ok", facts | {"peak_memory_bytes": 5 * 2**30, "warm_up_steps": 2})


def failing_at(*sizes: int, status: str = "out-of-memory") -> Callable[[Mapping[str, Any]], Answer]:
    def answer(order: Mapping[str, Any]) -> Answer:
        micro = order["document"]["tables"]["data"]["micro_batch"]
        return Answer(status, message="no memory") if micro in sizes else measured(order)  # type: ignore[arg-type]

    return answer


def test_what_is_known_is_not_measured_again_unless_it_failed_and_a_retry_is_asked_for(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(failing_at(64))
    monkeypatch.setattr("bigrun.tuner.trials.ask", answers)
    failing = attrs.evolve(START, micro_batch=64)

    def both() -> list[str]:
        trials.rows.clear()  # as another process
        return [trials.together([each])[0].status for each in (START, failing)]

    assert both() == both() == ["ok", "out-of-memory"]
    assert answers.micro_batches == [8, 64]
    assert [row.is_remembered for row in trials.rows] == [True, True]
    trials.effort = Effort(retry=True)
    both()
    assert answers.micro_batches == [8, 64, 64]
    for changed in (Effort(steps=11), Effort(seconds=4.0), Effort(inflate=2)):
        trials.effort = changed
        both()
        assert answers.micro_batches[-2:] == [8, 64]
        assert not trials.rows[0].is_remembered
    for machine in (
        attrs.evolve(MACHINE, threads=9),
        attrs.evolve(MACHINE, images=9),
        Machine(device("h100"), 8, 1000),
    ):
        trials.machine = machine
        both()
        assert not trials.rows[0].is_remembered, "other trials"


def test_a_trial_that_took_too_long_is_made_again_when_it_may_take_longer(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(failing_at(8, status="timeout"))
    monkeypatch.setattr("bigrun.tuner.trials.ask", answers)
    for limit, made in ((0.0, 1), (0.0, 1), (5.0, 2)):
        trials.effort = Effort(trial_seconds=limit)
        trials.rows.clear()
        trials.together([START])
        assert len(answers.orders) == made


def test_what_stands_side_by_side_is_measured_so(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(measured)
    monkeypatch.setattr("bigrun.tuner.trials.ask", answers)
    pair = [START, attrs.evolve(START, micro_batch=16)]
    trials.together(pair)
    trials.together(pair[:1])  # the first of a second pair; then the process was killed
    trials.rows[:] = trials.rows[:2]
    trials.together(pair)
    assert answers.micro_batches == [8, 16, 8, 8, 16]
    assert [row.round for row in trials.rows] == [1, 1, 2, 2]
    trials.rows.clear()
    trials.together(pair)
    trials.together(pair)
    assert len(answers.orders) == 5
    assert all(row.is_remembered for row in trials.rows)


def test_secrets_of_the_configuration_are_in_no_message(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials.redactor = Redactor(["opensesame"])
    monkeypatch.setattr("bigrun.tuner.trials.ask", Answers(lambda order: Answer("error", message="door: opensesame?")))
    (outcome,) = trials.together([START])
    assert outcome.message == "door: [redacted]?"
    assert "opensesame" not in (tmp_path / "trials.jsonl").read_text()


def test_a_row_of_another_hand_is_no_answer(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(measured)
    monkeypatch.setattr("bigrun.tuner.trials.ask", answers)
    trials.ledger.put(trials.key(trials.order(START, 1, is_whole=False)), {"outcome": {"speed": 3}})
    assert trials.together([START])[0].status == "ok"
    assert len(answers.orders) == 1


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".trial-123" / "checkpoints").mkdir(parents=True)
    document, config = preset()
    with Trials(Recipe.of(document, config), tmp_path, Effort(), MACHINE, config.redactor()).opened():
        assert {path.name for path in tmp_path.iterdir()} == {"trials.jsonl"}


@pytest.fixture
def tuner(tmp_path: Path) -> Tuner:
    return Tuner(preset()[0], tmp_path, Effort())


def test_more_activation_checkpointing_is_for_memory_alone(
    tuner: Tuner, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predicted(order: Mapping[str, Any], limit_seconds: float) -> Answer:
        asked.append(order["mode"])
        return Answer("ok", {"largest": 16}) if len(asked) == 1 else Answer("crash", message="killed by SIGKILL")

    monkeypatch.setattr("bigrun.tuner.trials.ask", predicted)
    trials.rows = [Row(START, Outcome("error", "a plugin"))]
    assert tuner.largest(trials, SPACE, "selective") == 0
    assert not asked
    trials.rows.append(Row(START, Outcome("out-of-memory")))
    assert [tuner.largest(trials, SPACE, "selective") for _ in range(2)] == [16, 16]
    assert asked == ["selective"], "a prediction is kept"
    assert "activation checkpointing selective: micro-batch 16 is the largest that should fit" in tuner.notes[0]
    assert tuner.largest(trials, SPACE, "full") is None
    assert "could not be predicted (killed by SIGKILL)" in tuner.notes[-1]


@pytest.mark.parametrize(
    ("fails", "found", "whole"), [((), 16, [16]), ((16,), 8, [16, 8]), ((16, 8, 4, 2, 1), None, [16, 8, 4, 2, 1])]
)
def test_what_is_recommended_was_tried_with_the_whole_effective_batch(
    tuner: Tuner, trials: Trials, monkeypatch: pytest.MonkeyPatch, fails: tuple[int, ...], found: int | None, whole: Any
) -> None:
    def answer(order: Mapping[str, Any]) -> Answer:
        return failing_at(*fails)(order) if order["micro_batches"] > 2 else measured(order)

    answers = Answers(answer)
    monkeypatch.setattr("bigrun.tuner.trials.ask", answers)
    best = tuner.proven(trials, attrs.evolve(START, micro_batch=16), SPACE, 64)
    assert (None if best is None else best.micro_batch) == found
    assert [row.settings.micro_batch for row in trials.rows if row.is_whole] == whole
    lengths = [order["length"] for order in answers.orders if order["micro_batches"] > 2]
    assert all(length["warm_up_steps"] + length["steps"] == 2 for length in lengths)
    assert len(tuner.notes) == len(fails) + (found is None)


def test_steps_of_two_micro_batches_were_tried_already(tuner: Tuner, trials: Trials) -> None:
    best = attrs.evolve(START, micro_batch=32)
    assert tuner.proven(trials, best, SPACE, 64) == best
    assert not trials.rows


@pytest.mark.parametrize("why", ["too long", "an error"])
def test_what_could_not_be_tried_is_said(
    tuner: Tuner, trials: Trials, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def answer(order: Mapping[str, Any]) -> Answer:
        return measured(order) if order["micro_batches"] == 2 else Answer("error", message="a plugin")

    monkeypatch.setattr("bigrun.tuner.trials.ask", Answers(answer))
    tuner.effort = Effort(trial_seconds=10.0 if why == "too long" else 600.0)
    assert tuner.proven(trials, START, SPACE, 64) == START
    said = "two would take 13 s of --trial-seconds 10" if why == "too long" else "a plugin"
    assert tuner.notes == [f"steps of 64 images were not tried ({said}): `bigrun plan` says what they need"]


def test_where_more_workers_did_not_help_more_are_not_advised(tuner: Tuner, trials: Trials) -> None:
    waiting = Outcome("ok", "", 10.0, {"data": 30.0, "forward": 70.0})
    trials.rows = [Row(START, waiting)]
    assert "raise data.workers = 2" in tuner.judge(tuner.config, trials, trials.rows[0])
    trials.rows.append(Row(attrs.evolve(START, workers=4), waiting))
    assert "were tried and are not faster" in tuner.judge(tuner.config, trials, trials.rows[0])
    assert "raise data.workers = 4" in tuner.judge(tuner.config, trials, trials.rows[1])


def test_the_gain_and_the_noise_are_those_of_all_trials() -> None:
    best = attrs.evolve(START, workers=4)
    speeds = [(START, 10.0), (best, 15.0), (START, 11.0), (best, 16.5)]
    rows = [Row(settings, at(speed)) for settings, speed in speeds]
    recipe = Recipe(preset()[0])
    found = Tuning(recipe, MACHINE, 64, Effort(), START, tuple(rows), (), rows[-1], "compute-bound")
    assert found.images_per_second == pytest.approx(15.75)
    assert found.gain == pytest.approx(1.5)
    assert found.spread == pytest.approx(0.1)
    assert found.whole is None
    assert any("1.50 times as fast as the preset as it is" in text for text in conclusion(found, Path("out")))
    assert any("differed by up to 10.0%" in text for text in conclusion(found, Path("out")))
    whole = Row(best, attrs.evolve(at(15.0), peak_memory_bytes=3 * 2**30), is_whole=True)
    found = attrs.evolve(found, rows=(*rows, whole))
    assert found.whole == whole
    assert any("a step of 64 images has room, 3.00 GiB" in text for text in conclusion(found, Path("out")))
    assert attrs.evolve(found, best=rows[0]).gain is None


def answers_of(order: Mapping[str, Any], *, has_order: bool = False) -> Answer:
    """A machine without a GPU, on which up to 32 images take as long as one, and four workers suffice."""
    if order["what"] == "look":
        data, hardware = {"micro_batch": 8, "workers": 2}, {"activation_checkpointing": "none", "pin_memory": True}
        facts = {"device": device("cpu").as_facts(), "threads": 2, "images": 10, "has_order": has_order}
        return Answer("ok", facts | {"data": data, "hardware": hardware})
    if order["what"] == "find_largest":
        return Answer("ok", {"largest": 64})
    data = order["document"]["tables"]["data"]
    answer = measured(order, forward=100.0 / min(data["micro_batch"], 32))
    return attrs.evolve(answer, facts=answer.facts | {"decoded_per_second": 100.0 * min(data["workers"], 4) or None})


def test_from_a_preset_to_its_recommendation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.tuner.trials.ask", Answers(answers_of))
    document, _ = preset("data.effective_batch=64", "data.micro_batch=8", "data.workers=2")
    heard: list[str] = []
    tuner = Tuner(
        document, tmp_path, Effort(), lambda row: heard.append("trial"), lambda name, text: heard.append(name)
    )
    found = tuner.run(Wishes(workers=(2, 4, 8)))
    assert found.best is not None
    assert (found.best.settings.micro_batch, found.best.settings.workers) == (32, 4)
    assert found.recipe.tables(found.best.settings)["objective"] == {"koleo_group": 8}
    assert found.best.outcome.images_per_second == pytest.approx(320)
    assert found.gain == pytest.approx(4.0), "with 2 workers 200 images/s were decoded, with micro-batch 8 80 trained"
    assert heard[:2] == ["device", "search"]
    assert heard.index("trial") > heard.index("note")
    assert found.verdict is not None
    assert found.verdict.startswith("compute-bound")


def test_a_data_set_with_an_order_of_its_own_is_not_inflated_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(order: Mapping[str, Any]) -> Answer:
        return answers_of(order, has_order=True)

    monkeypatch.setattr("bigrun.tuner.trials.ask", Answers(answer))
    document, _ = preset("data.effective_batch=8", "data.micro_batch=8", "data.workers=2")
    for factor, said in ((1, False), (5, True)):
        found = Tuner(document, tmp_path, Effort(inflate=factor)).run(Wishes())
        assert any("--inflate: has no effect" in note for note in found.notes) is said
