"""A step that waits for images is noticed, and told what to change."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from bigrun.data.wait import advice
from bigrun.sections import Data
from bigrun.testing.runner import Runner


class Slow:
    """Images that take 30 ms each, where a tiny step takes less."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int, /) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.full((3, 40, 40), index, dtype=torch.uint8)


def waits(result: Any) -> list[str]:
    return [event.message for event in result.events if event.kind == "data-wait"]


def test_a_long_wait_is_said_once(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=6, dataset=Slow(0.05), run={"log_every_steps": 1})
    result.assert_finished()
    (message,) = waits(result)
    assert "data.workers = 1" in message


def test_images_that_are_there_are_no_news(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=6, dataset=Slow(0.0), run={"log_every_steps": 1})
    assert waits(result) == []


@pytest.mark.parametrize(
    ("workers", "cores", "says"),
    [
        (0, 2, "data.workers = 1"),
        (0, 16, "data.workers = 4"),
        (4, 16, "raise data.workers = 4 (of 16 cores 11 are left)"),
        (1, 2, "take all of the 2 cores: pack"),
    ],
)
def test_the_advice_fits_the_machine(workers: int, cores: int, says: str) -> None:
    assert says in advice(Data(workers=workers), cores)
