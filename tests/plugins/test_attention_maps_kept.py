"""attention-maps: strips over time, how many looks are kept, and what becomes of them when a run goes on or back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.testing.runner import Runner, RunResult
from bigrun_pictures.kept import Kept, KeptLook, thinned

SMALLEST: dict[str, Any] = {"images": 1, "side_px": 16, "heights": [1.0], "every_steps": 1}
WIDTH = 132
"""Of a column of a strip."""


def folder(result: RunResult) -> Path:
    return result.directory / "attention-maps"


def files(result: RunResult) -> dict[str, bytes]:
    home = folder(result)
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}


def columns(result: RunResult) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Pixels of each step's column in the strip of the first image, below its title."""
    with Image.open(folder(result) / "strip-1.png") as strip:
        pixels = np.asarray(strip.convert("RGB"))[64:]
    found = [pixels[:, left : left + 128] for left in range(14 + 84 + WIDTH, pixels.shape[1], WIDTH)]
    return [column for column in found if column.shape[1] == 128 and column.max() > 100]


# -- thinning -------------------------------------------------------------------------------------------------


@given(steps=st.sets(st.integers(0, 10**9), min_size=1, max_size=60), keep=st.integers(4, 20))
def test_the_first_and_the_newest_are_always_kept(steps: set[int], keep: int) -> None:
    left = thinned(steps, keep)
    assert len(left) == min(len(steps), keep)
    assert left == sorted(left)
    assert set(left) <= steps
    assert {left[0], left[-1]} == {min(steps), max(steps)}


@pytest.mark.parametrize("keep", [4, 12])
def test_what_is_kept_is_spread_over_the_run_at_any_time(keep: int) -> None:
    left: list[int] = []
    for step in range(0, 30_000, 100):
        left = thinned([*left, step], keep)
        if step > 100 * keep:
            gaps = np.diff(left) / ((left[-1] - left[0]) / (keep - 1))
            assert gaps[:-1].max() <= 2  # but the one to the newest, which is short at first
            assert gaps[:-1].min() >= 0.4


def test_a_long_run_keeps_so_many_looks_and_no_more_files(bigrunner: Runner) -> None:
    result = bigrunner.run("attention-maps", steps=6, config={**SMALLEST, "keep": 4})
    result.assert_finished()
    left = [0, 2, 4, 6]
    names = [f"kept/step_{step:09d}.safetensors" for step in left]
    names += [f"sample-1/step_{step:09d}.png" for step in left] + [f"step_{step:09d}.png" for step in left]
    assert sorted(files(result)) == sorted([*names, "strip-1.png"])
    assert len(columns(result)) == 4


# -- going on, and back ---------------------------------------------------------------------------------------


def test_a_resumed_run_draws_what_the_straight_run_drew(bigrunner: Runner) -> None:
    straight = bigrunner.run("attention-maps", steps=4, config=SMALLEST)
    straight.assert_finished()
    assert len(columns(straight)) == 5
    resumed = bigrunner.resume(straight, at_step=2)
    resumed.assert_finished()
    assert files(resumed) == files(straight)


@pytest.mark.slow
def test_looks_beyond_the_checkpoint_are_forgotten_at_once(bigrunner: Runner) -> None:
    straight = bigrunner.run("attention-maps", steps=4, config=SMALLEST)
    rarely = {"every_steps": 500}
    resumed = bigrunner.resume(straight, at_step=2, plugins={"attention-maps": {**SMALLEST, **rarely}})
    resumed.assert_finished()
    assert Kept(folder(resumed)).steps() == [0, 1, 2, 4]
    all_of_them, left = columns(straight), columns(resumed)
    assert len(left) == 4
    assert all(map(np.array_equal, left[:3], all_of_them[:3]))


def test_a_roll_back_forgets_the_looks_that_it_takes_back(bigrunner: Runner) -> None:
    seen: list[list[int]] = []

    class GoesBack:
        done = False

        @hookimpl
        def after_step(self, run: Any, step: int) -> None:
            if step == 4 and not GoesBack.done:
                GoesBack.done = True
                run.report_anomaly(Anomaly("test", step, "an anomaly", onset=3))

        @hookimpl
        def on_anomaly(self) -> Action:
            return Action.ROLL_BACK

        @hookimpl(trylast=True)
        def on_start(self, run: Any) -> None:
            seen.append(Kept(run.directory / "attention-maps").steps())

    result = bigrunner.run("attention-maps", steps=5, config=SMALLEST, companions=[GoesBack()])
    result.assert_finished()
    assert seen[-1] == [0, 1, 2]
    assert Kept(folder(result)).steps() == [0, 1, 2, 3, 4, 5]
    assert len(columns(result)) == 6


def test_a_run_that_died_before_its_first_checkpoint_begins_its_strip_again(bigrunner: Runner) -> None:
    died = bigrunner.run("attention-maps", steps=3, config=SMALLEST)
    shutil.rmtree(died.directory / "checkpoints")
    (died.directory / "saved.json").unlink()
    run = {"max_steps": 1}
    again = bigrunner.run("attention-maps", steps=1, config=SMALLEST, directory=died.directory, run=run)
    again.assert_finished()
    assert Kept(folder(again)).steps() == [0, 1]


@pytest.mark.slow
def test_other_options_begin_another_strip(bigrunner: Runner) -> None:
    straight = bigrunner.run("attention-maps", steps=4, config=SMALLEST)
    other = {"attention-maps": {**SMALLEST, "patch": [0.1, 0.1]}}
    resumed = bigrunner.resume(straight, at_step=2, plugins=other)
    resumed.assert_finished()
    assert Kept(folder(resumed)).steps() == [0, 1, 2, 3, 4]
    assert len(columns(resumed)) == 2


# -- damage ---------------------------------------------------------------------------------------------------


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    wrong = {"1.tiles": torch.zeros(4, 4, dtype=torch.uint8)}
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "no facts":
        save_file({"1.tiles": torch.zeros(4, 8, 8, 3, dtype=torch.uint8)}, path)
    elif how == "wrong tiles":
        save_file(wrong, path, {"facts": "{}"})
    else:
        save_file({}, path, {"facts": "{" * 10_000})


@pytest.mark.parametrize("how", ["truncated", "no facts", "wrong tiles", "no json"])
def test_a_look_that_cannot_be_read_is_left_out_and_said_once(bigrunner: Runner, how: str) -> None:
    class Damages:
        @hookimpl
        def after_update(self, run: Any, step: int) -> None:
            if step == 2:
                damaged(Kept(run.directory / "attention-maps").path(1), how)

    result = bigrunner.run("attention-maps", steps=3, config=SMALLEST, companions=[Damages()])
    assert result.quarantined == []
    (told,) = [e.message for e in result.events if e.kind == "attention-maps" and e.level == "warning"]
    assert "step_000000001.safetensors is no look that could be read" in told
    assert told.endswith("it is left out of the strips")
    assert Kept(folder(result)).steps() == [0, 2, 3]
    assert len(columns(result)) == 3


def test_a_look_comes_back_from_its_file(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tiles = {1: torch.randint(0, 255, (4, 8, 8, 3), dtype=torch.uint8, generator=generator)}
    facts: dict[str, Any] = {"key": "k", "names": {"1": "a"}, "missing": [], "blocks": [1], "depth": 2}
    facts |= {"entropies": [0.5], "prefix_shares": [0.1], "differences": {}}
    kept = Kept(tmp_path)
    kept.save(KeptLook(7, tiles, {1: torch.randn(2, 5, 3, generator=generator)}, facts))
    (look,) = kept.looks("k")
    assert look.step == 7
    assert torch.equal(look.tiles[1], tiles[1])
    assert look.scores[1].shape == (2, 5, 3)
    assert look.facts == facts
    assert kept.looks("another") == []
    assert kept.unreadable == []
