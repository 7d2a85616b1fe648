"""The order in which `bigrun tune` tries settings, and what it makes of what it has measured, without any run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.activation import activate
from bigrun.config import Config, Document, read_preset
from bigrun.data.order import EpochOrder
from bigrun.errors import UsageError
from bigrun.testing.devices import device
from bigrun.testing.runner import SyntheticImages
from bigrun.tuner.inflate import InflatedOrder, inflated
from bigrun.tuner.isolation import Answer
from bigrun.tuner.ledger import Ledger, key_of
from bigrun.tuner.recipe import Recipe, compiling, shorten
from bigrun.tuner.search import FLAT, climb, search
from bigrun.tuner.space import MODES, Space, Wishes, space_of
from bigrun.tuner.trial import Outcome, Settings
from bigrun.tuner.tune import Effort, Row, Tuner
from bigrun.tuner.verdict import bound_by, verdict

START = Settings(8, "none", 2, True)
SPACE = Space(START, (1, 2, 4, 8, 16, 32), MODES, (0, 2, 4, 8), (True, False), (None,), (None, "a", "b"))


@st.composite
def unimodal(draw: st.DrawFn) -> tuple[list[float], int]:
    """A response that rises and then falls, each time by more than the flatness, and where it is highest."""
    gains = draw(st.lists(st.floats(1.05, 3), max_size=6))
    losses = draw(st.lists(st.floats(1.05, 3), max_size=6))
    values = [10.0]
    for gain in gains:
        values.append(values[-1] * gain)
    for loss in losses:
        values.append(values[-1] / loss)
    return values, len(gains)


@given(unimodal(), st.data())
def test_the_best_of_a_response_that_rises_and_falls_is_found_from_anywhere(
    response: tuple[list[float], int], data: st.DataObject
) -> None:
    values, best = response
    asked: list[int] = []

    def speed(place: int) -> float:
        asked.append(place)
        return values[place]

    start = data.draw(st.integers(0, len(values) - 1))
    assert climb(range(len(values)), start, speed, beyond_failure=False) == best
    assert len(asked) == len(set(asked))
    assert len(asked) <= abs(best - start) + 3, "the way to the best, and one beyond it on either side"


@given(st.lists(st.none() | st.floats(0.1, 1e4), min_size=1, max_size=9), st.data(), st.booleans())
def test_whatever_the_response_nothing_is_asked_twice_and_the_answer_is_nearly_the_best_that_was_asked(
    values: list[float | None], data: st.DataObject, beyond: bool
) -> None:
    asked: dict[int, float | None] = {}

    def speed(place: int) -> float | None:
        assert place not in asked
        asked[place] = values[place]
        return values[place]

    found = climb(range(len(values)), data.draw(st.integers(0, len(values) - 1)), speed, beyond_failure=beyond)
    succeeded = [value for value in asked.values() if value is not None]
    if found is None:
        assert not succeeded
    else:
        assert (values[found] or 0) * (1 + FLAT) >= max(succeeded) * (1 - 1e-9)


def test_it_stops_where_the_curve_is_flat_and_prefers_the_smaller() -> None:
    asked = []

    def speed(size: int) -> float:
        asked.append(size)
        return {8: 100.0, 16: 150.0, 32: 151.0}.get(size, 152.0)

    assert climb((4, 8, 16, 32, 64, 128), 1, speed, beyond_failure=False) == 16
    assert asked == [8, 16, 32]


@given(
    st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(0, 3), st.booleans(), st.sampled_from([None, "a", "b"])
)
def test_each_setting_is_sought_from_the_best_so_far(
    failing: set[int], micro: int, workers: int, pin: bool, kernel: str | None
) -> None:
    trials: list[Settings] = []
    # What fails is what needs the most memory.
    most = min((SPACE.micro_batches[place] for place in failing), default=64)

    def speed(settings: Settings) -> float | None:
        assert settings not in trials
        trials.append(settings)
        if settings.micro_batch >= most and settings.activation_checkpointing == "none":
            return None
        speed = 100.0 / (1 + abs(SPACE.micro_batches.index(settings.micro_batch) - micro))
        speed /= 1 + abs(SPACE.workers.index(settings.workers) - workers)
        return speed * (1.0 + 0.1 * (settings.pin_memory == pin) + 0.1 * (settings.attention == kernel))

    best = search(SPACE, speed, lambda mode: None)
    assert best is not None
    fits = [size for size in SPACE.micro_batches if size < most]
    assert best.activation_checkpointing == ("none" if fits else "selective")
    sizes = fits or list(SPACE.micro_batches)
    assert best.micro_batch == min(sizes, key=lambda s: abs(SPACE.micro_batches.index(s) - micro))
    assert (best.workers, best.pin_memory, best.attention) == (SPACE.workers[workers], pin, kernel)
    assert len(trials) <= SPACE.most_trials


def test_what_should_not_fit_is_not_tried() -> None:
    trials: list[Settings] = []

    def speed(settings: Settings) -> float:
        trials.append(settings)
        return float(settings.micro_batch)

    best = search(SPACE, speed, {"none": 0, "selective": 4, "full": 32}.get)
    assert best is not None
    assert (best.micro_batch, best.activation_checkpointing) == (4, "selective")
    assert {settings.activation_checkpointing for settings in trials} == {"selective"}
    assert max(settings.micro_batch for settings in trials) == 4


def test_where_nothing_succeeds_there_is_no_answer_and_all_ways_to_save_memory_were_tried() -> None:
    trials: list[Settings] = []
    assert search(SPACE, lambda settings: trials.append(settings), lambda mode: None) is None  # type: ignore[func-returns-value]
    assert {settings.activation_checkpointing for settings in trials} == set(MODES)
    assert max(settings.micro_batch for settings in trials) == 8, "what is larger needs more"


def test_what_is_done_once_in_a_step_counts_over_the_whole_batch() -> None:
    totals = {"data": 0.0, "transfer": 20.0, "forward": 100.0, "backward": 200.0, "optimizer": 80.0, "other": 16.0}
    outcome = Outcome.measured(totals, steps=2, trial_batch=10, effective_batch=40)
    assert outcome.milliseconds == {
        "data": 0.0, "transfer": 1.0, "forward": 5.0, "backward": 10.0, "optimizer": 1.0, "other": 0.2,
    }  # fmt: skip
    assert outcome.images_per_second == pytest.approx(1000 / 17.2)
    whole = Outcome.measured(totals, steps=2, trial_batch=10, effective_batch=10)
    assert whole.images_per_second == pytest.approx(20 / 0.416)


def preset(*sets: str, plugins: tuple[str, ...] = ()) -> tuple[Document, Config]:
    document = read_preset("vit_small", ["data.path=/images", *sets], plugins)
    return document, activate(document)[0]


def test_the_verdict_says_what_to_change() -> None:
    _, config = preset("data.workers=2")
    waiting = Outcome("ok", "", 10.0, {"data": 30.0, "forward": 70.0})
    computing = Outcome("ok", "", 10.0, {"data": 5.0, "forward": 30.0, "backward": 65.0})
    assert (bound_by(waiting), bound_by(computing), bound_by(Outcome("crash"))) == ("data", "compute", None)
    assert verdict(waiting, config.data, 16).startswith("data-bound: 30% of the time a step waits for images: raise ")
    assert verdict(computing, config.data, 16) == (
        "compute-bound: 5% of the time a step waits for images; transfer 0%, forward 30%, backward 65%, optimizer 0%, "
        "other 0%"
    )


def test_a_trial_has_the_same_networks_and_a_smaller_batch() -> None:
    _, config = preset("data.effective_batch=256", "data.micro_batch=32", "run.max_steps=20")
    short, _ = activate(shorten(config, 500))
    assert (short.data.effective_batch, short.data.micro_batch) == (64, 32)
    assert (short.objective, short.model, short.views) == (config.objective, config.model, config.views)
    assert short.objective.prototypes != activate(preset("data.effective_batch=64")[0])[0].objective.prototypes
    assert short.run.max_steps == 500
    assert "data.prefetch" not in config.explicit
    assert "data.prefetch" not in short.explicit, "a plugin may choose it for the device"


@pytest.mark.parametrize("name", ["cpu", "rtx4090"])
def test_only_micro_batches_that_leave_the_objective_as_it_is_are_tried(name: str) -> None:
    document, config = preset("data.effective_batch=192", "data.micro_batch=48")
    facts = device(name)
    recipe = Recipe(document, compiling(config.plugins))
    space, notes = space_of(recipe, config, facts, Wishes(), [])
    assert config.objective.koleo_group == 16
    assert not [note for note in notes if note.startswith("micro-batch")]
    assert space.micro_batches == (16, 32, 48, 64)
    with pytest.raises(UsageError, match=r"--micro-batch 8,12: would be another objective.*effective_batch = 192"):
        space_of(recipe, config, facts, Wishes(micro_batches=(8, 12, 16)), [])


def test_what_has_no_effect_on_a_cpu_is_not_tried_and_said() -> None:
    document, config = preset()
    space, notes = space_of(Recipe(document), config, device("cpu"), Wishes(), ["x-attention"])
    assert (space.pin_memory, space.compile, space.attention) == ((True,), (None,), (None,))
    assert [note.partition(":")[0] for note in notes] == ["pinning", "compile", "attention"]


def test_on_a_gpu_they_are_tried_by_their_names() -> None:
    document, config = preset(plugins=("cuda-tuning",))
    recipe = Recipe(document, compiling(config.plugins))
    space, notes = space_of(recipe, config, device("rtx4090"), Wishes(), ["x-attention", "attention-maps"])
    assert (space.pin_memory, space.compile, space.attention) == ((True, False), (False, True), (None, "x-attention"))
    assert not notes
    settings = attrs.evolve(space.start, compile=True)
    assert recipe.tables(settings)["plugins"] == {"cuda-tuning": {"compile": True}}
    assert activate(recipe.with_settings(settings))[0].plugins["cuda-tuning"].compile is True
    with pytest.raises(UsageError, match="--compile: no active plugin"):
        space_of(Recipe(preset()[0]), preset()[1], device("rtx4090"), Wishes(compile=(True,)), [])


def test_no_workers_and_no_prefetch_go_together() -> None:
    document, config = preset("data.prefetch=3", "data.workers=2")
    space, _ = space_of(Recipe(document), config, device("rtx4090"), Wishes(), [])
    assert 0 not in space.workers, "the preset would be refused"
    activate(Recipe(document).with_settings(attrs.evolve(space.start, workers=0)))


def test_an_inflated_order_takes_the_same_images_and_no_pair_twice() -> None:
    order = InflatedOrder(7, seed=3, factor=5)
    epochs, indices = order.index(range(2 * 35))
    assert len(set(zip(epochs.tolist(), indices.tolist(), strict=True))) == 70
    assert sorted(indices[:35].tolist()) == sorted(list(range(7)) * 5), "one long epoch"
    plain = EpochOrder(7, 3).index(range(7))[1]
    assert sorted(plain.tolist()) == list(range(7))
    dataset = inflated(SyntheticImages(7), 5)
    assert len(dataset) == 7
    assert (dataset[6] == SyntheticImages(7)[6]).all()
    assert inflated(dataset, 2) is dataset, "it has an order of its own"


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


def test_one_micro_batch_that_leaves_the_objective_as_it_is_is_said_to_be_the_only_one() -> None:
    document, config = preset("data.effective_batch=16", "data.micro_batch=8")
    space, notes = space_of(Recipe(document), config, device("cpu"), Wishes(), [])
    assert space.micro_batches == (8,)
    assert notes[0] == (
        "micro-batch: only 8 leaves objective.koleo_group = 8 as it is, others are not tried; with "
        "objective.koleo_group set to a smaller number they are"
    )


def test_a_plugin_of_a_module_is_named_as_toml_wants_it() -> None:
    recipe = Recipe(preset()[0], ("my.module:Mine",))
    settings = attrs.evolve(START, compile=True)
    assert recipe.tables(settings)["plugins"] == {"my.module:Mine": {"compile": True}}
    assert "plugins" not in Recipe(preset()[0]).tables(START), "no empty table"


@pytest.mark.parametrize(
    ("again", "kept", "noted"),
    [((10.0, 11.0), True, ""), ((10.0, 10.1), False, "+1.0%"), ((10.0, None), False, "failed")],
)
def test_a_gain_that_a_second_trial_does_not_show_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: tuple[float, float | None], kept: bool, noted: str
) -> None:
    tuner = Tuner(preset()[0], tmp_path, Effort())
    best = attrs.evolve(START, workers=4)
    tuner.rows = [Row(START, Outcome("ok", "", 10.0), False), Row(best, Outcome("ok", "", 20.0), False)]
    speeds = {START: again[0], best: again[1]}
    monkeypatch.setattr(tuner, "speed", lambda settings, number: speeds[settings] if number == 2 else None)
    assert tuner.confirmed(START, best) == (best if kept else START)
    assert noted in "".join(tuner.notes)
    assert tuner.confirmed(START, START) == START
    tuner.rows = tuner.rows[1:]  # the preset's own settings have failed
    assert tuner.confirmed(START, best) == best


@pytest.fixture
def tuner(tmp_path: Path) -> Iterator[Tuner]:
    """On a machine that was looked at."""
    tuner = Tuner(preset()[0], tmp_path, Effort())
    tuner.device, tuner.ledger = device("rtx4090"), Ledger(tmp_path)
    yield tuner
    tuner.ledger.close()


def test_what_is_known_is_not_measured_again_unless_it_failed_and_a_retry_is_asked_for(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, measured = attrs.evolve(START, micro_batch=64), list[int]()

    def measure(order: Mapping[str, Any]) -> Outcome:
        micro: int = order["document"]["tables"]["data"]["micro_batch"]
        measured.append(micro)
        return Outcome("out-of-memory", "no memory") if micro == 64 else Outcome("ok", "", 5.0)

    monkeypatch.setattr(tuner, "measure", measure)
    for _ in range(2):
        assert (tuner.speed(START), tuner.speed(failing)) == (5.0, None)
    assert measured == [8, 64]
    assert [row.is_remembered for row in tuner.rows] == [False, False, True, True]
    tuner.effort = Effort(retry=True)
    assert (tuner.speed(START), tuner.speed(failing)) == (5.0, None)
    assert measured == [8, 64, 64]
    tuner.effort = Effort(steps=11)
    assert tuner.speed(START) == 5.0
    tuner.device = device("h100")
    assert tuner.speed(START) == 5.0
    assert measured == [8, 64, 64, 8, 8], "other trials"


def test_more_activation_checkpointing_is_for_memory_alone(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def predicted(order: Mapping[str, Any], limit_seconds: float) -> Answer:
        asked.append(order["mode"])
        return Answer("ok", {"largest": 16}) if len(asked) == 1 else Answer("crash", message="killed by SIGKILL")

    monkeypatch.setattr("bigrun.tuner.tune.ask", predicted)
    tuner.rows = [Row(START, Outcome("error", "a plugin"), False)]
    assert tuner.largest(SPACE, "selective") == 0
    assert not asked
    tuner.rows.append(Row(START, Outcome("out-of-memory"), False))
    assert [tuner.largest(SPACE, "selective") for _ in range(2)] == [16, 16]
    assert asked == ["selective"], "a prediction is kept"
    assert "activation checkpointing selective: micro-batch 16 is the largest that should fit" in tuner.notes[0]
    assert tuner.largest(SPACE, "full") is None
    assert "could not be predicted (killed by SIGKILL)" in tuner.notes[-1]
