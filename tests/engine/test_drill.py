"""`bigrun drill`: that it passes where nothing is lost, and does not where something is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

from bigrun.activation import activate
from bigrun.cli import main
from bigrun.config import Document, read_preset, shipped_presets
from bigrun.drill.child import Child, DrillError
from bigrun.drill.drill import lost_steps, row
from bigrun.drill.faults import progress_path
from bigrun.drill.preset import full_size, small
from bigrun.drill.scenarios import Drill, Outcome, bad_tensors, flip_a_bit
from bigrun.errors import UsageError
from bigrun.testing.runner import TINY, Runner


@pytest.mark.parametrize("preset", sorted(shipped_presets()))
@pytest.mark.parametrize("make", [small, full_size])
def test_every_shipped_preset_can_be_drilled(preset: str, make: object) -> None:
    document = read_preset(preset, sets=["data.path=/images"])
    before = copy.deepcopy(dict(document.tables))
    tables = make(document)  # type: ignore[operator]
    config, _ = activate(Document(preset, preset, tables))  # raises what is wrong with it
    assert document.tables == before
    original, _ = activate(document)
    assert config.views == original.views
    assert set(original.plugins) < set(config.plugins)
    assert (config.model.width == 64) is (make is small)


def test_the_steps_that_had_to_be_taken_again_are_counted(tmp_path: Path) -> None:
    child = Child(tmp_path / "run", {})
    assert lost_steps(child) == 0
    steps = [1, 2, 3, 3, 4, 5, 6, 4, 5, 6, 7, 8]  # one step again, then three
    lines = "".join(f'{{"step": {step}}}\n{{"checkpoint": {step}}}\n' for step in steps)
    progress_path(child.directory).write_text(lines)
    assert lost_steps(child) == 3


def test_what_is_not_equal_is_found(bigrunner: Runner, tmp_path: Path) -> None:
    straight, other = bigrunner.run(steps=3), bigrunner.run(steps=3, optimizer={"base_lr": 1e-4})
    arena = Drill(tmp_path, {}, seed=0, cycles=1)
    arena.straight.directory = straight.directory
    same, different = Child(straight.directory, {}), Child(other.directory, {})
    assert arena.difference(same) == 0
    assert arena.difference(different) > 0
    moved = Child(bigrunner.run(steps=3).directory, {})
    facts = moved.store.load_facts(moved.last_path, "state")
    moved.store.amend(3, {"state": {**facts, "position": 4}})
    with pytest.raises(DrillError, match="facts of its last state are not those of the straight run: position"):
        arena.difference(moved)
    shorter = Child(bigrunner.run(steps=2).directory, {})
    with pytest.raises(DrillError, match="ends at step-00000002, the straight run at step-00000003"):
        arena.difference(shorter)


def test_a_flipped_bit_is_one_that_the_store_finds(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1)
    child = Child(result.directory, {})
    assert child.store.verified_steps() == [1]
    assert bad_tensors(child.last_path) == []
    flip_a_bit(child.last_path)
    assert child.store.verified_steps() == []


def test_a_row_says_whether_it_is_equal() -> None:
    assert row(Outcome("a", "b", 1, 0.0, 2.0))[2:] == ("1", "bit for bit", "2.0")
    assert row(Outcome("a", "b", 0, 1e-7, 2.0))[3] == "within 1e-07"
    assert row(Outcome("a", "b", 0, None, 2.0))[3] == "not meant to be"
    assert row(Outcome("a", "b", 0, None, 2.0, "why"))[3] == "FAILED"


def test_without_images_there_is_no_drill_and_nothing_is_left(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["drill", "vit_tiny", "--dir", str(tmp_path / "here")])
    assert done.exit_code == UsageError.exit_code, done.output
    assert "no images" in done.output
    assert list((tmp_path / "here").iterdir()) == []


def preset_of(tmp_path: Path, **tables: object) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps({**TINY, **tables}), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_whole_drill_passes_and_cleans_up(tmp_path: Path) -> None:
    preset = preset_of(tmp_path, plugins={"demo-photos": {}, "metrics-log": {}, "checkpoint-rotation": {}})
    done = CliRunner().invoke(main, ["drill", preset, "--dir", str(tmp_path / "here"), "--cycles", "2"])
    assert done.exit_code == 0, done.output
    assert done.output.count("bit for bit") == 7
    assert "nothing was lost" in done.output
    assert "full size" in done.output
    assert list((tmp_path / "here").iterdir()) == []


FORGETFUL = """
import torch
from bigrun import hookimpl


class Forgetful:
    '''Counts steps, and keeps no state: what a continued run does depends on where it was stopped.'''

    def __init__(self):
        self.steps = 0

    @hookimpl
    def loss_terms(self, outputs):
        self.steps += 1
        return {"forgetful": outputs.global_features.cls.square().mean() * self.steps * 0.01}
"""


@pytest.mark.slow
def test_a_plugin_that_loses_its_state_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    monkeypatch.chdir(tmp_path)
    preset = preset_of(tmp_path, plugins={"demo-photos": {}, "forgetful:Forgetful": {}})
    done = CliRunner().invoke(main, ["drill", preset, "--dir", "here", "--cycles", "1", "--small-only"])
    assert done.exit_code == 1, done.output
    assert "FAILED SIGTERM: its last state differs from the straight run's by up to" in done.output
    (folder,) = (tmp_path / "here").iterdir()
    assert (folder / "terminated.log").is_file()
