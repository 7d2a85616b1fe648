"""Where the time of a step goes, as `bigrun tune` measures it: sleeps in known places, found in their phases."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from statistics import mean
from typing import Any

import pytest
from torch import Tensor

from bigrun import hookimpl
from bigrun.errors import ExitCode
from bigrun.testing.runner import Runner, SyntheticImages
from bigrun.tuner.timing import DECODING_SECONDS, Length, Timing, decoded_per_second

SECONDS = 0.06
PLACES = ("data", "forward", "losses", "backward", "optimizer", "other")
PHASES = {"losses": "forward"}
TRIES = 5
"""On a busy machine any phase may be held up longer than a sleep; once in so many times it is not."""


class SlowImages(SyntheticImages):
    """Each takes a fourth of the sleep to decode; there are four in a step."""

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(SECONDS / 4)
        return super().__getitem__(index)


class Sleeper:
    """Sleeps once in a step."""

    def __init__(self, place: str) -> None:
        self.place = place

    def sleep(self, place: str) -> None:
        if place == self.place:
            time.sleep(SECONDS)

    @hookimpl
    def configure_model(self, objective: Any) -> None:
        parameter = next(objective.student.backbone.parameters())
        parameter.register_hook(lambda gradient: self.sleep("backward"))
        loss_terms = objective.loss_terms

        def slow(outputs: Any) -> Any:
            self.sleep("losses")
            return loss_terms(outputs)

        objective.loss_terms = slow

    @hookimpl
    def loss_terms(self) -> dict[str, Tensor]:
        self.sleep("forward")
        return {}

    @hookimpl
    def before_update(self) -> None:
        self.sleep("optimizer")

    @hookimpl
    def after_step(self) -> None:
        self.sleep("other")


@pytest.mark.parametrize("place", PLACES)
def test_a_sleep_is_found_in_its_phase_and_nowhere_else(bigrunner: Runner, place: str) -> None:
    phase, longest = PHASES.get(place, place), list[str]()
    while phase not in longest and len(longest) < TRIES:
        found = measured(bigrunner, place)
        assert found[phase] >= 3 * 1000 * SECONDS
        longest.append(max(found, key=lambda each: found[each]))
    assert phase in longest, longest


def measured(bigrunner: Runner, place: str) -> dict[str, float]:
    """Milliseconds of each phase of a run that sleeps in one place."""
    timing = Timing(Length(warm_up_steps=2, steps=3))
    images = SlowImages() if place == "data" else SyntheticImages()
    began = time.perf_counter()
    unsaved = {"checkpoint_every_steps": 1000}
    result = bigrunner.run(steps=100, dataset=images, companions=[Sleeper(place), timing], run=unsaved)
    elapsed_ms = 1000 * (time.perf_counter() - began)
    assert result.exit_code == ExitCode.STOPPED
    assert (timing.warmed_up, timing.measured) == (2, 3)
    assert result.run is not None
    assert result.run.step == 5
    found = timing.milliseconds()
    assert set(found) == {"data", "transfer", "forward", "backward", "optimizer", "other"}
    assert sum(found.values()) < elapsed_ms
    return found


def test_the_warm_up_lasts_until_what_was_decoded_beforehand_is_used_up(bigrunner: Runner) -> None:
    timing = Timing(Length(warm_up_steps=2, steps=1))
    result = bigrunner.run(steps=100, data={"workers": 1, "prefetch": 9}, accumulate=2, companions=[timing])
    assert result.exit_code == ExitCode.STOPPED
    assert timing.warmed_up == 5, "9 micro-batches, two in a step"


def test_it_lasts_for_so_many_seconds_at_least(bigrunner: Runner) -> None:
    timing = Timing(Length(warm_up_steps=1, steps=2, seconds=0.5))
    result = bigrunner.run(steps=100_000, companions=[timing], run={"checkpoint_every_steps": 100_000})
    assert sum(timing.milliseconds().values()) / 1000 >= 0.5
    assert result.run is not None
    assert result.run.step < 5_000, "it goes no further than it must"
    assert timing.measured > 2


def test_what_was_decoded_beforehand_does_not_count_as_decoding() -> None:
    slept = list[float]()

    def loader() -> Iterator[Any]:
        for number in itertools.count():
            if number >= 12:
                began = time.perf_counter()
                time.sleep(SECONDS)
                slept.append(time.perf_counter() - began)
            yield number

    found = decoded_per_second(loader(), micro_batch=8, under_way=12)
    assert 0.7 * 8 / mean(slept) < found <= 8 / SECONDS
    assert sum(slept[:-1]) < DECODING_SECONDS


def test_each_step_is_told(bigrunner: Runner) -> None:
    told: list[int] = []
    bigrunner.run(steps=100, companions=[Timing(Length(warm_up_steps=1, steps=2), told.append)])
    assert told == [1, 2, 3]


def test_a_run_that_ends_earlier_has_not_measured_all(bigrunner: Runner) -> None:
    timing = Timing(Length(warm_up_steps=2, steps=5))
    bigrunner.run(steps=4, companions=[timing]).assert_finished()
    assert timing.measured == 2
