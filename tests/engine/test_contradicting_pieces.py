"""A checkpoint in pieces whose index and files contradict each other, although every byte is as its manifest says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import warm
from training import Training

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.layout import MANIFEST
from bigrun.checkpoint.listing import look
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode, NotSavedError

INDEX = "teacher.pieces.json"
PIECES = ["teacher-00001-of-00002.safetensors", "teacher-00002-of-00002.safetensors"]


def indexed(**facts: Any) -> Callable[[Path], None]:
    def harm(checkpoint: Path) -> None:
        path = checkpoint / INDEX
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return harm


def with_huge_shapes(checkpoint: Path) -> None:
    shapes = json.loads((checkpoint / INDEX).read_text())["shapes"]
    indexed(shapes={name: [10**12, *shape[1:]] for name, shape in shapes.items()})(checkpoint)


def swapped(checkpoint: Path) -> None:
    one, two = (checkpoint / name for name in PIECES)
    one.rename(checkpoint / "other")
    two.rename(one)
    (checkpoint / "other").rename(two)


def without_index(checkpoint: Path) -> None:
    (checkpoint / INDEX).unlink()


def with_another_piece(checkpoint: Path) -> None:
    shutil.copy(checkpoint / PIECES[1], checkpoint / "teacher-00003-of-00003.safetensors")


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "more": (indexed(pieces=3), f"{INDEX}: says 3 pieces, but teacher-00001-of-00003.safetensors is missing"),
    "none": (indexed(pieces=0), f"{INDEX}: is no index of pieces: pieces is 0"),
    "negative": (indexed(pieces=-1), f"{INDEX}: is no index of pieces: pieces is -1"),
    "many": (indexed(pieces=10**12), f"{INDEX}: says 1000000000000 pieces, but teacher-00001"),
    "text": (indexed(pieces="two"), f"{INDEX}: is no index of pieces: pieces is 'two'"),
    "shapeless": (indexed(shapes={}), f"{PIECES[1]}: has "),
    "huge": (with_huge_shapes, "teacher: the pieces of "),
    "swapped": (swapped, f"{PIECES[1]}: has "),
    "gone": (without_index, f"{INDEX}: is missing, but {PIECES[0]} is a piece"),
    "stray": (with_another_piece, f"teacher-00003-of-00003.safetensors: is none of the 2 pieces that {INDEX} says"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Of two processes with shards."""
    training = Training(tmp_path_factory.mktemp("finished"), parallel={"strategy": "fsdp"})
    assert [each.returncode for each in training.together(2)] == [0, 0]
    return training


def sealed(checkpoint: Path) -> None:
    """Write the manifest of what is there."""
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != MANIFEST)
    files = {n: disk.FileRecord((checkpoint / n).stat().st_size, disk.hash_file(checkpoint / n)) for n in names}
    known = manifest.read(checkpoint)
    (checkpoint / MANIFEST).unlink()
    manifest.write(checkpoint, attrs.evolve(known, files=files))


@pytest.mark.parametrize("name", HARMS)
def test_it_is_damaged_and_passed_over(finished: Training, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    sealed(run / "checkpoints" / "step-00000006")
    assert {entry.condition for entry in look(run, verify=True)} == {"verified"}
    harm, problem = HARMS[name]
    harm(run / "checkpoints" / "step-00000006")
    sealed(run / "checkpoints" / "step-00000006")
    told: list[str] = []
    found = CheckpointStore(run / "checkpoints").newest_verified(lambda _, problems: told.extend(problems))
    assert found == run / "checkpoints" / "step-00000004"
    (said,) = told
    assert said.startswith(problem)
    assert [entry.step for entry in look(run, verify=True) if entry.condition == "damaged"] == [6]


def test_a_copy_of_it_is_not_saved_and_no_disk_is_blamed(finished: Training, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    harm, problem = HARMS["shapeless"]
    harm(run / "checkpoints" / "step-00000006")
    sealed(run / "checkpoints" / "step-00000006")
    with pytest.raises(NotSavedError, match="not saved: its files do not belong together: ") as caught:
        CheckpointStore(run / "checkpoints").amend(6, {"note": 1})
    assert problem in str(caught.value)
    assert "disk" not in str(caught.value)


@pytest.mark.parametrize("name", ["more", pytest.param("swapped", marks=pytest.mark.slow)])
def test_a_run_goes_on_from_an_older_one_and_no_command_takes_it(finished: Training, tmp_path: Path, name: str) -> None:
    folder, images = Path(shutil.copytree(finished.folder, tmp_path / "folder")), finished.folder / "images"
    harm, problem = HARMS[name]
    newest = folder / "runs" / "tiny" / "checkpoints" / "step-00000006"
    harm(newest)
    sealed(newest)
    done = warm.bigrun(folder, "checkpoints", "verify", "runs/tiny")
    assert done.returncode != 0
    assert problem in done.stdout + done.stderr
    for words in (
        ["export", str(newest), "--to", "safetensors", "--out", "out"],
        ["run", "tiny.toml", "--from", str(newest), "--run-dir", "runs/new", "--set", "run.max_steps=7"],
        ["eval", str(newest)],
    ):
        done = warm.bigrun(folder, *words)
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert done.stderr.count("damaged") == 1
        assert problem in done.stderr
    done = warm.bigrun(folder, "run", "tiny.toml", "--set", "run.max_steps=7", "--set", f"data.path={images}")
    assert done.returncode == 0, done.stderr
    assert f"step-00000006 is damaged and was passed over: {problem}" in done.stdout
