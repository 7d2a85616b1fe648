"""Bar 14: steps are numbers: 9, 10, 100 and 99999, 100000, also where they get a ninth digit; `final_` is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from killing import rotate, save

from bigrun.checkpoint.retention import Policy
from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main

ORDERS = [[9, 10, 100], [99_999, 100_000], [99_999_999, 100_000_000, 999_999_999]]


def fill(directory: Path, steps: list[int]) -> CheckpointStore:
    """Saved in an order that is none, beside names that sort after them."""
    store = CheckpointStore(directory / "checkpoints")
    for step in sorted(steps, key=str, reverse=True):
        save(store, step)
    for name in ("final_", "final_00000001", "step-final", "step-00000007_final", "zzz"):
        (store.directory / name).mkdir()
        (store.directory / name / "MANIFEST.json").write_text("{}")
    return store


@pytest.mark.parametrize("steps", ORDERS, ids=str)
def test_bar_14_the_newest_is_that_of_the_highest_step(tmp_path: Path, steps: list[int]) -> None:
    store = fill(tmp_path, steps)
    assert store.steps() == steps
    assert store.verified_steps() == steps
    assert store.newest_verified(lambda path, problems: None) == store.path(steps[-1])


@pytest.mark.parametrize("steps", ORDERS, ids=str)
def test_bar_14_rotation_removes_the_lowest_steps(tmp_path: Path, steps: list[int]) -> None:
    store = fill(tmp_path, steps)
    rotate(store, Policy(keep_last=2))
    assert store.steps() == steps[-2:]
    assert len(list(store.directory.iterdir())) == 2 + 5


@pytest.mark.parametrize("steps", ORDERS, ids=str)
@pytest.mark.parametrize("command", [["list"], ["verify"], ["prune", "--keep-last", "2", "--dry-run"]], ids=" ".join)
def test_bar_14_commands_list_them_in_order(tmp_path: Path, steps: list[int], command: list[str]) -> None:
    fill(tmp_path, steps)
    result = CliRunner().invoke(main, ["checkpoints", command[0], str(tmp_path), *command[1:]])
    assert result.exit_code == 0
    places = [result.output.index(f"step-{step:08d}") for step in steps]
    assert places == sorted(places)
