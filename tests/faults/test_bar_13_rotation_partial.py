"""Bar 13: rotation with K = 2, one valid checkpoint and three partial ones. The valid one is kept: what is not verified
does not count."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main
from bigrun.testing.runner import Runner


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def lose_manifest(checkpoint: Path) -> None:
    (checkpoint / "MANIFEST.json").unlink()


def lose_file(checkpoint: Path) -> None:
    (checkpoint / "student.safetensors").unlink()


def flip_bit(checkpoint: Path) -> None:
    path = checkpoint / "teacher.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


PARTIAL: list[Callable[[Path], None]] = [truncate, lose_manifest, lose_file]


def damaged_run(bigrunner: Runner, valid: int, harms: list[Callable[[Path], None]]) -> Path:
    """Checkpoints of steps 1 to 4, of which only that of `valid` is whole."""
    first = bigrunner.run(steps=4)
    others = [step for step in (1, 2, 3, 4) if step != valid]
    for step, harm in zip(others, harms, strict=True):
        harm(first.directory / "checkpoints" / f"step-{step:08d}")
    return first.directory


@pytest.mark.parametrize("harms", [PARTIAL, [flip_bit] * 3], ids=["partial", "one bit"])
@pytest.mark.parametrize("valid", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_bar_13_the_valid_one_is_kept(bigrunner: Runner, valid: int, harms: list[Callable[[Path], None]]) -> None:
    directory = damaged_run(bigrunner, valid, harms)
    second = bigrunner.run(
        "checkpoint-rotation",
        steps=9,
        config={"keep_last": 2},
        directory=directory,
        run={"checkpoint_every_steps": 9},
    )
    second.assert_finished()
    store = CheckpointStore(directory / "checkpoints")
    assert store.verified_steps() == [valid, 9]
    third = bigrunner.run("checkpoint-rotation", steps=10, config={"keep_last": 2}, directory=directory)
    third.assert_finished()
    assert store.verified_steps() == [9, 10]


@pytest.mark.parametrize("valid", [1, 4])
def test_bar_13_the_command_keeps_it_too(bigrunner: Runner, valid: int) -> None:
    directory = damaged_run(bigrunner, valid, PARTIAL)
    result = CliRunner().invoke(main, ["checkpoints", "prune", str(directory), "--keep-last", "2", "--yes"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "nothing to remove")
    assert len(list((directory / "checkpoints").iterdir())) == 4
