"""The order in which `bigrun tune` tries settings, and what it makes of what it has measured, without any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

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
from bigrun.tuner.recipe import Recipe, compiling, shorten
from bigrun.tuner.search import FLAT, Search, climb, is_certain
from bigrun.tuner.space import MODES, Space, Wishes, space_of
from bigrun.tuner.trial import Outcome, Settings
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


def outcome_of(speed: float | None, device_speed: float | None = None) -> Outcome:
    """As fast as is said; what is between the two speeds is waiting for images."""
    if speed is None:
        return Outcome("out-of-memory", "no memory")
    busy = 1000 / (device_speed or speed)
    return Outcome("ok", "", speed, {"data": 1000 / speed - busy, "forward": busy})


class Imagined:
    """Answers for trials, which are counted."""

    def __init__(self, speed: Callable[[Settings], Outcome]) -> None:
        self.speed = speed
        self.asked: list[Settings] = []
        self.notes: list[str] = []

    def attempt(self, several: Sequence[Settings]) -> list[Outcome]:
        self.asked += several
        return [self.speed(settings) for settings in several]

    def search(self, space: Space, largest: Callable[[str], int | None] = lambda mode: None) -> Settings | None:
        return Search(space, self.attempt, largest, self.notes.append).run()


@given(
    st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(0, 3), st.booleans(), st.sampled_from([None, "a", "b"])
)
def test_each_setting_is_sought_from_the_best_so_far(
    failing: set[int], micro: int, workers: int, pin: bool, kernel: str | None
) -> None:
    # What fails is what needs the most memory.
    most = min((SPACE.micro_batches[place] for place in failing), default=64)

    def speed(settings: Settings) -> Outcome:
        if settings.micro_batch >= most and settings.activation_checkpointing == "none":
            return outcome_of(None)
        speed = 100.0 / (1 + abs(SPACE.micro_batches.index(settings.micro_batch) - micro))
        speed /= 1 + abs(SPACE.workers.index(settings.workers) - workers)
        return outcome_of(speed * (1.0 + 0.1 * (settings.pin_memory == pin) + 0.1 * (settings.attention == kernel)))

    machine = Imagined(speed)
    best = machine.search(SPACE)
    assert best is not None
    fits = [size for size in SPACE.micro_batches if size < most]
    assert best.activation_checkpointing == ("none" if fits else "selective")
    sizes = fits or list(SPACE.micro_batches)
    assert best.micro_batch == min(sizes, key=lambda s: abs(SPACE.micro_batches.index(s) - micro))
    assert (best.workers, best.pin_memory, best.attention) == (SPACE.workers[workers], pin, kernel)
    assert len(machine.asked) <= SPACE.most_trials


def test_the_micro_batch_is_judged_by_the_device_and_not_by_the_wait_for_images() -> None:
    def speed(settings: Settings) -> Outcome:
        device, decoding = 100.0 * settings.micro_batch, 200.0 * (settings.workers + 1)
        return outcome_of(min(device, decoding), device)

    best = Imagined(speed).search(attrs.evolve(SPACE, workers=(0, 1, 2, 4, 8, 16)))
    assert best is not None
    assert (best.micro_batch, best.workers) == (32, 16), "with 2 workers every micro-batch is equally fast"


@pytest.mark.parametrize("seed", range(20))
def test_where_trials_differ_by_more_than_settings_the_presets_own_stay(seed: int) -> None:
    random = Random(seed)
    machine = Imagined(lambda settings: outcome_of(random.uniform(90, 110)))
    best = machine.search(attrs.evolve(SPACE, pin_memory=(True,), attention=(None,)))
    assert best == START or any("taken" in note for note in machine.notes)


def test_of_many_searches_among_equal_settings_few_change_anything() -> None:
    space = Space(START, (8,), ("none",), (1, 2, 4), (True,))
    random = Random(0)
    found = [Imagined(lambda settings: outcome_of(random.gauss(100, 10))).search(space) for _ in range(500)]
    changed = sum(best != START for best in found)
    assert 0 < changed < 75, "a coin, thrown once for each neighbour, would change 350 of them"


def test_a_gain_is_confirmed_by_trials_beside_each_other_and_said() -> None:
    machine = Imagined(lambda settings: outcome_of(100.0 + 30 * (settings.workers == 4)))
    best = machine.search(attrs.evolve(SPACE, attention=(None,)))
    assert best == attrs.evolve(START, workers=4)
    other = attrs.evolve(START, workers=4)
    assert [each for each in machine.asked if each in (START, other)] == [START, other, START, other, other, START]
    assert machine.notes == ["workers 4 beside workers 2: +30.0%, +30.0%, in 2 trials of each: taken"]


def test_a_gain_that_is_not_there_again_is_none() -> None:
    speeds = iter([130.0, 101.0])
    machine = Imagined(lambda settings: outcome_of(next(speeds) if settings.workers == 4 else 100.0))
    space = attrs.evolve(SPACE, pin_memory=(True,), attention=(None,), workers=(2, 4))
    assert machine.search(space) == START
    assert machine.notes == ["workers 4 beside workers 2: +1.0%, which is no certain gain: workers 2 stays"]


@pytest.mark.parametrize(
    ("before", "now", "certain"),
    [
        ([100, 101], [104, 120], True),
        ([100, 103], [104, 120], False),
        ([100], [101.9], False),
        ([100], [102.1], True),
        ([0, 0], [5, 6], True),
        ([0, 0], [0, 6], False),
    ],
)
def test_certain_is_what_separates_all_trials(before: list[float], now: list[float], certain: bool) -> None:
    assert is_certain(before, now) is certain


def test_what_should_not_fit_is_not_tried() -> None:
    machine = Imagined(lambda settings: outcome_of(float(settings.micro_batch)))
    best = machine.search(SPACE, {"none": 0, "selective": 4, "full": 32}.get)
    assert best is not None
    assert (best.micro_batch, best.activation_checkpointing) == (4, "selective")
    assert {settings.activation_checkpointing for settings in machine.asked} == {"selective"}
    assert max(settings.micro_batch for settings in machine.asked) == 4


def test_where_nothing_should_fit_the_smallest_is_tried_all_the_same() -> None:
    machine = Imagined(lambda settings: outcome_of(5.0))
    best = machine.search(SPACE, lambda mode: 0)
    assert best is not None
    assert (best.micro_batch, best.activation_checkpointing) == (1, "full")
    assert machine.notes == ["no micro-batch should fit: the smallest is tried, for a prediction may be wrong"]


def test_where_nothing_succeeds_there_is_no_answer_and_all_ways_to_save_memory_were_tried() -> None:
    machine = Imagined(lambda settings: outcome_of(None))
    assert machine.search(SPACE) is None
    assert {settings.activation_checkpointing for settings in machine.asked} == set(MODES)
    assert max(settings.micro_batch for settings in machine.asked) == 8, "what is larger needs more"
    assert len(machine.asked) == len(set(machine.asked))


def test_what_the_steps_did_not_wait_for_yet_the_run_will() -> None:
    totals = {"data": 0.0, "forward": 800.0, "backward": 1000.0, "optimizer": 200.0}
    facts = {"steps": 10, "trial_batch": 100, "effective_batch": 100}
    fast = Outcome.measured(totals, decoded_per_second=600.0, **facts)
    assert fast.images_per_second == pytest.approx(500)
    assert fast.milliseconds["data"] == 0
    slow = Outcome.measured(totals, decoded_per_second=400.0, **facts)
    assert slow.images_per_second == pytest.approx(400)
    assert slow.device_images_per_second == pytest.approx(500)
    assert slow.milliseconds["data"] == pytest.approx(0.5)
    assert bound_by(slow) == "data"
    waited = Outcome.measured(totals | {"data": 1500.0}, decoded_per_second=400.0, **facts)
    assert waited.milliseconds["data"] == pytest.approx(1.5), "what was measured, if it is more"


def test_what_is_done_once_in_a_step_counts_over_the_whole_batch() -> None:
    totals = {"data": 0.0, "transfer": 20.0, "forward": 100.0, "backward": 200.0, "optimizer": 80.0, "other": 16.0}
    outcome = Outcome.measured(totals, steps=2, trial_batch=10, effective_batch=40)
    assert outcome.milliseconds == {
        "data": 0.0, "transfer": 1.0, "forward": 5.0, "backward": 10.0, "optimizer": 1.0, "other": 0.2,
    }  # fmt: skip
    assert outcome.images_per_second == pytest.approx(1000 / 17.2)
    whole = Outcome.measured(totals, steps=2, trial_batch=10, effective_batch=10)
    assert whole.images_per_second == pytest.approx(20 / 0.416)


def recipe_of(*sets: str, plugins: tuple[str, ...] = ()) -> tuple[Recipe, Config]:
    document, config = preset(*sets, plugins=plugins)
    return Recipe.of(document, config), config


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
    said = verdict(waiting, config.data, 16, more_were_tried=True)
    assert "more processes that decode were tried and are not faster" in said
    assert "raise" not in said


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
    recipe, config = recipe_of("data.effective_batch=192", "data.micro_batch=48")
    space, notes = space_of(recipe, config, device(name), Wishes(), [])
    assert config.objective.koleo_group == 16
    assert not [note for note in notes if note.startswith("micro-batch")]
    assert space.micro_batches == (16, 32, 48, 64)
    with pytest.raises(UsageError, match=r"--micro-batch 8,12: would be another objective.*effective_batch = 192"):
        space_of(recipe, config, device(name), Wishes(micro_batches=(8, 12, 16)), [])


def test_another_micro_batch_keeps_the_group_that_a_rule_has_chosen_for_the_presets_own() -> None:
    recipe, config = recipe_of("data.effective_batch=64", "data.micro_batch=8")
    space, _ = space_of(recipe, config, device("cpu"), Wishes(), [])
    assert config.objective.koleo_group == 8
    assert space.micro_batches == (8, 16, 32, 64)
    for size in space.micro_batches:
        settings = attrs.evolve(space.start, micro_batch=size)
        other, _ = activate(recipe.with_settings(settings))
        assert other.objective == config.objective
        assert ("objective" in recipe.tables(settings)) is (size != 8), "else the rule chooses 16"
        assert activate(
            read_preset("vit_small", ["data.path=/images", "data.effective_batch=64", *recipe.sets(settings)])
        )


def test_where_the_rule_chooses_the_same_group_none_is_set() -> None:
    recipe, config = recipe_of("data.effective_batch=64", "data.micro_batch=64")
    space, _ = space_of(recipe, config, device("cpu"), Wishes(), [])
    assert space.micro_batches == (16, 32, 64)
    assert not any("objective" in recipe.tables(attrs.evolve(space.start, micro_batch=size)) for size in (16, 32, 64))


def test_where_the_micro_batch_is_a_part_of_the_objective_no_other_is_tried() -> None:
    recipe, config = recipe_of("data.effective_batch=64", "data.micro_batch=16", "objective.sinkhorn_scope=micro")
    space, notes = space_of(recipe, config, device("cpu"), Wishes(), [])
    assert space.micro_batches == (16,)
    assert 'objective.sinkhorn_scope = "micro" makes it part of the objective' in notes[0]
    with pytest.raises(UsageError, match=r"--micro-batch 32: would be another objective; objective\.sinkhorn_scope"):
        space_of(recipe, config, device("cpu"), Wishes(micro_batches=(16, 32)), [])


def test_an_objective_of_a_plugin_is_tried_with_other_micro_batches_only_if_they_are_named() -> None:
    recipe, config = recipe_of("data.effective_batch=64", "data.micro_batch=16")
    config = attrs.evolve(config, replaced={"objective": "theirs"})
    space, notes = space_of(recipe, config, device("cpu"), Wishes(), [])
    assert space.micro_batches == (16,)
    assert "plugin theirs brings the objective, which may depend on it" in notes[0]
    space, _ = space_of(recipe, config, device("cpu"), Wishes(micro_batches=(16, 32)), [])
    assert space.micro_batches == (16, 32)


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
    recipe, config = recipe_of("data.prefetch=3", "data.workers=2")
    space, _ = space_of(recipe, config, device("rtx4090"), Wishes(), [])
    assert 0 not in space.workers, "the preset would be refused"
    with pytest.raises(UsageError, match=r"--workers 0: the preset sets data\.prefetch"):
        space_of(recipe, config, device("rtx4090"), Wishes(workers=(0, 2)), [])
    recipe, config = recipe_of("data.workers=0")
    assert 0 in space_of(recipe, config, device("rtx4090"), Wishes(), [])[0].workers


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


def test_one_micro_batch_that_leaves_the_objective_as_it_is_is_said_to_be_the_only_one() -> None:
    recipe, config = recipe_of("data.effective_batch=16", "data.micro_batch=16")
    space, notes = space_of(recipe, config, device("cpu"), Wishes(), [])
    assert space.micro_batches == (16,)
    assert notes[0] == (
        "micro-batch: only 16 leaves the objective as it is (others are no multiples of objective.koleo_group = 16)"
    )


def test_a_plugin_of_a_module_is_named_as_toml_wants_it() -> None:
    recipe = Recipe(preset()[0], ("my.module:Mine",))
    settings = attrs.evolve(START, compile=True)
    assert recipe.tables(settings)["plugins"] == {"my.module:Mine": {"compile": True}}
    assert "plugins" not in Recipe(preset()[0]).tables(START), "no empty table"
