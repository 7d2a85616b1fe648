"""Room on the disk: what is free, what a save wants, and the forecast before the first step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.checkpoint.space import RESERVE_BYTES, free_bytes, human_bytes, require_room
from bigrun.errors import NotSavedError
from bigrun.room import Room
from bigrun.testing.runner import Runner


def test_free_bytes_are_those_of_an_ordinary_user(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    assert free_bytes(tmp_path) == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)


def test_a_directory_that_is_not_there_yet_is_on_the_disk_of_its_parents(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "runs" / "a" / "checkpoints") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def test_room_for_two_for_one_and_for_none(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)
    assert require_room(tmp_path, free // 4)
    assert not require_room(tmp_path, int(free * 0.7))
    with pytest.raises(NotSavedError, match=r"not saved: a checkpoint takes .*, and the disk has .* left") as caught:
        require_room(tmp_path, 2 * free)
    assert str(tmp_path) in str(caught.value)
    assert human_bytes(2 * free) in str(caught.value)


def test_a_disk_that_does_not_say_what_is_free_is_one_that_refuses(tmp_path: Path) -> None:
    """A save that cannot be tried must not end the run: as with ESTALE of a server that went away."""
    with pytest.raises(NotSavedError, match="not saved: "):
        require_room(tmp_path / ("x" * 5000), 1)  # ENAMETOOLONG


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (5_610_000_000, "5.61 GB"), (980_400, "980 kB"), (999_700, "1 MB"),
     (28_000_000_000_000, "28 TB")],
)  # fmt: skip
def test_three_digits_and_a_unit(size: int, text: str) -> None:
    assert human_bytes(size) == text


@given(free=st.integers(0, 10**15), size=st.integers(0, 10**12))
def test_the_forecast_counts_what_saves_will_accept(free: int, size: int) -> None:
    count = Room(checkpoint_bytes=size, free_bytes=free, wanted=None).count
    assert count >= 0
    if size:
        assert (count >= 1) == (free >= size + RESERVE_BYTES)
        assert count * size <= free


@pytest.mark.parametrize(
    ("wanted", "ending"),
    [
        (3, "room for 9, and the run saves 3"),
        (20, "room for 9, and the run saves 20, so older ones must go meanwhile"),
        (None, "room for 9, and the run has no end"),
    ],
)
def test_the_header_says_size_cadence_and_room(wanted: int | None, ending: str) -> None:
    line = Room(10**9, 10**10, wanted).line(every_steps=500)
    assert line.startswith("1 GB each, every 500 steps; 10 GB free: room for 9")
    assert line.endswith(ending)


def test_the_forecast_is_near_what_a_checkpoint_takes(bigrunner: Runner) -> None:
    """Moments are there from the first update on."""
    result = bigrunner.run(steps=5, run={"checkpoint_every_steps": 2})
    result.assert_finished()
    assert result.run is not None
    room = result.run.room
    assert room is not None
    checkpoint = result.directory / "checkpoints" / "step-00000004"
    tensors = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert room.checkpoint_bytes == pytest.approx(tensors, rel=0.1)
    assert room.wanted == 3  # after steps 2, 4 and 5
