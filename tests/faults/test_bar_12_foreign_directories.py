"""Bar 12: what is no checkpoint is ignored, whatever it is called, and left as it is."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bigrun.checkpoint.layout import Stale, stale_name
from bigrun.cli import main
from bigrun.testing.runner import Runner

ROTATION = {"keep_last": 2}


def add_foreign(checkpoints: Path) -> list[Path]:
    """Empty directories, directories of somebody, files and links, with names that look right and others."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    empty = [checkpoints / name for name in ("step-999", "step-00000800", "empty", "final_")]
    full = [checkpoints / name for name in ("old-step-100-backup", "step-00000900", "step-1", ".tmp-mine", "best")]
    for path in [*empty, *full]:
        path.mkdir()
    for path in full:
        (path / "notes.txt").write_text("mine")
    files = [checkpoints / name for name in ("step-00000700", stale_name(Stale.TRASH, 7), "notes.txt")]
    for path in files:
        path.write_text("mine")
    return [*empty, *files, *(path / "notes.txt" for path in full)]


def is_as_it_was(path: Path) -> bool:
    return list(path.iterdir()) == [] if path.is_dir() else path.read_text() == "mine"


def test_bar_12_foreign_directories_are_ignored_by_a_run(bigrunner: Runner) -> None:
    first = bigrunner.run("checkpoint-rotation", steps=3, config=ROTATION)
    foreign = add_foreign(first.directory / "checkpoints")
    second = bigrunner.run("checkpoint-rotation", steps=6, config=ROTATION, directory=first.directory)
    second.assert_finished()
    assert second.run is not None
    assert second.run.resumed_from == first.directory / "checkpoints" / "step-00000003"
    assert second.checkpoints == [5, 6]
    assert all(is_as_it_was(path) for path in foreign)
    assert not {"checkpoint-refused", "checkpoint-swept", "checkpoint-not-removed"} & {e.kind for e in second.events}


def test_bar_12_a_run_with_nothing_but_foreign_directories_begins(bigrunner: Runner, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    foreign = add_foreign(directory / "checkpoints")
    (directory / "config.toml").write_text("")
    result = bigrunner.run("checkpoint-rotation", steps=3, config=ROTATION, directory=directory)
    result.assert_finished()
    assert result.run is not None
    assert result.run.resumed_from is None
    assert result.checkpoints == [2, 3]
    assert all(is_as_it_was(path) for path in foreign)


def test_bar_12_a_copy_of_a_checkpoint_under_another_name_is_none(bigrunner: Runner) -> None:
    """`step-00000999` with the checkpoint of step 3 in it would be the newest: it is damaged, and said to be."""
    first = bigrunner.run(steps=3)
    checkpoints = first.directory / "checkpoints"
    (checkpoints / "step-00000003").rename(checkpoints / "step-00000999")
    second = bigrunner.run("checkpoint-rotation", steps=4, config=ROTATION, directory=first.directory)
    second.assert_finished()
    assert second.run is not None
    assert second.run.resumed_from == checkpoints / "step-00000002"
    (event,) = [event for event in second.events if event.kind == "checkpoint-refused"]
    assert "is of step 3, the directory of step 999" in event.message
    assert second.checkpoints == [3, 4, 999]


def test_bar_12_the_commands_ignore_them_too(bigrunner: Runner) -> None:
    first = bigrunner.run(steps=4)
    foreign = add_foreign(first.directory / "checkpoints")
    run = str(first.directory)
    verify = CliRunner().invoke(main, ["checkpoints", "verify", run])
    assert (verify.exit_code, verify.output.count("verified"), len(verify.output.splitlines())) == (0, 4, 4)
    prune = CliRunner().invoke(main, ["checkpoints", "prune", run, "--keep-last", "2", "--yes"])
    assert prune.exit_code == 0
    assert first.checkpoints == [3, 4]
    assert all(is_as_it_was(path) for path in foreign)
