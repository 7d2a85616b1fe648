"""The store: publishing, replacing, deleting, sweeping, falling back, and full disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from forked import start

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import Stale, stale_name
from bigrun.checkpoint.store import CheckpointStore
from bigrun.checkpoint.verified import find_problems
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def save(store: CheckpointStore, step: int, value: float = 0.0, size: int = 8) -> Path:
    return store.save(
        step, {"model": {"w": torch.full((size,), value)}}, {"state": {"value": value}}, f"step = {step}\n"
    )


def value_of(store: CheckpointStore, step: int) -> float:
    """The value that a checkpoint was saved with; its files must agree and verify."""
    path = store.path(step)
    assert manifest.verify(path) == []
    value: float = store.load_facts(path, "state")["value"]
    assert torch.equal(store.load_tensors(path, "model")["w"], torch.full((8,), value))
    return value


def newest(store: CheckpointStore) -> tuple[Path | None, dict[str, list[str]]]:
    problems: dict[str, list[str]] = {}
    return store.newest_verified(lambda path, found: problems.update({path.name: found})), problems


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" / "checkpoints")


def test_what_was_saved_comes_back(store: CheckpointStore) -> None:
    tensors = {
        "student": {"w": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "step": torch.tensor(7)},
        "frozen": {},
    }
    path = store.save(12_000, tensors, {"state": {"step": 12_000, "lr": 0.1}, "notes": []}, "seed = 0\n")
    assert path == store.directory / "step-00012000"
    assert names(store) == ["step-00012000"]
    for stem, group in tensors.items():
        loaded = store.load_tensors(path, stem)
        assert loaded.keys() == group.keys()
        assert all(torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype for key, value in group.items())
    assert store.load_facts(path, "state") == {"step": 12_000, "lr": 0.1}
    assert store.load_facts(path, "notes") == []
    assert (path / "config.toml").read_text() == "seed = 0\n"
    assert manifest.read(path).step == 12_000


def test_steps_are_in_numeric_order(store: CheckpointStore) -> None:
    steps = [100, 9, 99_999, 123_456_789, 10, 100_000]
    for step in steps:
        save(store, step)
    assert store.steps() == sorted(steps)
    assert newest(store) == (store.path(123_456_789), {})


def test_a_store_without_a_directory_is_empty(store: CheckpointStore) -> None:
    assert store.steps() == []
    assert store.sweep() == []
    assert newest(store) == (None, {})
    assert not store.directory.exists()


def test_foreign_names_are_ignored_and_left_alone(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 5)
    for name in ("step-999", "old-step-100-backup", "step-00000700", ".tmp-mine", ".trash-00000001-x"):
        (store.directory / name).mkdir()
    (store.directory / "step-00000800").mkdir()
    (store.directory / "step-00000800" / "notes.txt").write_text("mine")
    (store.directory / "step-00000900").write_text("a file")
    (store.directory / stale_name(Stale.TEMPORARY, 6)).write_text("a file")
    elsewhere = save(CheckpointStore(tmp_path / "other"), 1000)
    (store.directory / "step-00001000").symlink_to(elsewhere)
    (store.directory / stale_name(Stale.TRASH, 1000)).symlink_to(elsewhere)
    before = names(store)
    assert store.steps() == [5]
    assert newest(store) == (store.path(5), {})
    assert store.sweep() == []
    assert names(store) == before
    assert manifest.verify(elsewhere) == []


def test_only_foreign_directories_are_no_checkpoints(store: CheckpointStore) -> None:
    (store.directory / "step-00000999").mkdir(parents=True)
    (store.directory / "step-999").mkdir()
    assert newest(store) == (None, {})


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    save(store, 5, 1.0)
    save(store, 5, 2.0)
    assert value_of(store, 5) == 2.0
    assert names(store) == ["step-00000005"]


def test_saving_replaces_a_damaged_checkpoint(store: CheckpointStore) -> None:
    (save(store, 5, 1.0) / "MANIFEST.json").write_bytes(b"\xff")
    save(store, 5, 2.0)
    assert value_of(store, 5) == 2.0


# -- amending: other facts beside the same tensors -----------------------------------------------------------------


def test_an_amended_checkpoint_has_the_new_facts_and_the_same_files(store: CheckpointStore) -> None:
    tensors = {"model": {"w": torch.ones(8)}, "optimizer": {"m": torch.zeros(3)}}
    path = store.save(5, tensors, {"state": {"value": 1.0}, "notes": ["kept"]}, "step = 5\n")
    inodes = {file.name: file.stat().st_ino for file in path.iterdir()}
    before = manifest.read(path)
    assert store.amend(5, {"state": {"value": 1.0, "position": 7}, "more": {}}) == path
    assert manifest.verify(path) == []
    assert names(store) == ["step-00000005"]
    assert store.load_facts(path, "state") == {"value": 1.0, "position": 7}
    assert store.load_facts(path, "notes") == ["kept"]
    assert store.load_facts(path, "more") == {}
    assert value_of(store, 5) == 1.0
    after = manifest.read(path)
    assert (after.step, after.config_sha256) == (5, before.config_sha256)
    same = {file.name for file in path.iterdir() if inodes.get(file.name) == file.stat().st_ino}
    assert same == {"model.safetensors", "optimizer.safetensors", "notes.json", "config.toml"}


def test_amending_what_is_not_there_is_an_error(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match="step-00000005"):
        store.amend(5, {"state": {}})
    assert names(store) == []


@pytest.mark.parametrize("facts", [{"state": float("nan")}, {"../state": {}}, {"MANIFEST": {}}])
def test_a_refused_amendment_leaves_the_old_one(store: CheckpointStore, facts: dict[str, Any]) -> None:
    save(store, 5, 1.0)
    with pytest.raises(CheckpointError):
        store.amend(5, facts)
    assert value_of(store, 5) == 1.0
    assert names(store) == ["step-00000005"]


def test_a_damaged_checkpoint_cannot_be_made_a_whole_one(store: CheckpointStore) -> None:
    path = save(store, 5, 1.0) / "model.safetensors"
    damage(path)
    with pytest.raises(CheckpointError, match=r"not saved: the disk gives back other bytes.*model\.safetensors"):
        store.amend(5, {"state": {"value": 1.0}})
    assert manifest.verify(store.path(5))[0].startswith("model.safetensors: has sha256")
    assert names(store) == ["step-00000005"]


def test_whoever_may_not_publish_may_not_amend(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 5, 1.0)

    def refuse() -> None:
        raise CheckpointError("not yours")

    store = CheckpointStore(tmp_path, before_publishing=refuse)
    for act in (lambda: store.amend(5, {"state": {"value": 2.0}}), lambda: save(store, 5, 2.0)):
        with pytest.raises(CheckpointError, match="not yours"):
            act()
    assert value_of(store, 5) == 1.0
    assert names(store) == ["step-00000005"]


# -- which are whole ----------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """Flip a bit in the last byte, behind the back of whoever remembers the file."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_verified_steps_are_those_of_which_every_byte_is_right(store: CheckpointStore) -> None:
    assert store.verified_steps() == []
    for step in (100, 9, 10):
        save(store, step)
    (store.directory / "step-999").mkdir()
    damage(store.path(10) / "model.safetensors")
    fresh = CheckpointStore(store.directory)
    assert fresh.steps() == [9, 10, 100]
    assert fresh.verified_steps() == [9, 100]


def test_what_was_read_once_or_written_is_not_read_again(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2)
    damage(store.path(1) / "model.safetensors")
    assert store.verified_steps() == [1, 2], "this object has written both"
    reader = CheckpointStore(store.directory)
    assert reader.verified_steps() == [2]
    damage(store.path(2) / "model.safetensors")
    assert reader.verified_steps() == [2], "it has read it before"
    assert CheckpointStore(store.directory).verified_steps() == []


def test_a_damaged_one_counts_again_once_it_is_whole(store: CheckpointStore) -> None:
    save(store, 1)
    damage(store.path(1) / "model.safetensors")
    reader = CheckpointStore(store.directory)
    assert reader.verified_steps() == []
    damage(store.path(1) / "model.safetensors")  # put right, as by a copy of the file
    os.utime(store.path(1) / "model.safetensors")
    assert reader.verified_steps() == [1]


def test_a_step_that_was_saved_again_is_read_again(store: CheckpointStore) -> None:
    save(store, 1, 1.0)
    reader = CheckpointStore(store.directory)
    assert reader.verified_steps() == [1]
    save(store, 1, 2.0)
    damage(store.path(1) / "model.safetensors")
    assert reader.verified_steps() == []
    save(store, 1, 3.0)
    store.amend(1, {"state": {"value": 3.0}})
    damage(store.path(1) / "model.safetensors")
    assert reader.verified_steps() == []


def test_what_is_gone_is_not_listed(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2)
    store.delete(1)
    assert store.verified_steps() == [2]
    (store.path(2) / "MANIFEST.json").unlink()
    assert store.verified_steps() == []


def test_one_of_a_newer_format_is_none_that_this_version_can_vouch_for(store: CheckpointStore) -> None:
    save(store, 1)
    (save(store, 2) / "MANIFEST.json").write_text('{"format_version": 2}')
    assert CheckpointStore(store.directory).verified_steps() == [1]


def test_delete_removes_one(store: CheckpointStore) -> None:
    save(store, 5)
    save(store, 6)
    store.delete(5)
    assert names(store) == ["step-00000006"]
    with pytest.raises(CheckpointError, match="step-00000005: not deleted"):
        store.delete(5)


def test_the_newest_is_passed_over_when_a_bit_flipped(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        save(store, step)
    for step in (2, 3):
        path = store.path(step) / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 4
        path.write_bytes(data)
    path_found, problems = newest(store)
    assert path_found == store.path(1)
    assert list(problems) == ["step-00000003", "step-00000002"]
    assert problems["step-00000003"][0].startswith("model.safetensors: has sha256")
    assert store.steps() == [1, 2, 3]


def test_a_checkpoint_under_another_steps_name_is_passed_over(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2).rename(store.path(3))
    assert newest(store) == (
        store.path(1),
        {"step-00000003": ["MANIFEST.json: is of step 2, the directory of step 3"]},
    )


def test_one_that_its_run_removes_while_it_is_read_is_not_damaged(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who looks at a run that rotates: all that was listed is gone, and newer ones are there."""
    run = CheckpointStore(store.directory)
    save(run, 1)
    rotations = iter(range(3))

    def rotating(path: Path, step: int) -> list[str]:
        if (number := next(rotations, None)) is not None:
            save(run, number + 2)
            run.delete(number + 1)
        return find_problems(path, step)

    monkeypatch.setattr("bigrun.checkpoint.store.find_problems", rotating)
    assert newest(store) == (store.path(4), {})
    rotations = iter(range(3, 10_000))
    with pytest.raises(CheckpointError, match="removed faster than they can be read"):
        newest(store)


@pytest.mark.parametrize("damage", ["truncate", "lose the manifest", "garble the manifest"])
def test_when_all_are_damaged_the_store_refuses(store: CheckpointStore, damage: str) -> None:
    for step in (1, 2):
        path = save(store, step)
        if damage == "truncate":
            os.truncate(path / "model.safetensors", 50)
        elif damage == "lose the manifest":
            (path / "MANIFEST.json").unlink()
        else:
            (path / "MANIFEST.json").write_text("{}")
    seen: list[str] = []
    with pytest.raises(CheckpointError, match="every checkpoint is damaged") as caught:
        store.newest_verified(lambda path, problems: seen.append(path.name))
    assert seen == ["step-00000002", "step-00000001"]
    assert "step-00000001: " in str(caught.value)
    assert "start again from step 0" in str(caught.value)


def test_a_newer_format_is_not_passed_over(store: CheckpointStore) -> None:
    save(store, 1)
    (save(store, 2) / "MANIFEST.json").write_text('{"format_version": 2}')
    with pytest.raises(manifest.NewerFormatError, match="step-00000002"):
        newest(store)
    assert store.steps() == [1]


@pytest.mark.parametrize("stem", ["../model", "a/b", "", ".hidden"])
def test_names_that_are_no_file_names_are_refused(store: CheckpointStore, stem: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be the name"):
        store.save(1, {stem: {}}, {}, "")
    with pytest.raises(CheckpointError, match="cannot be the name"):
        store.save(1, {}, {stem: {}}, "")
    assert names(store) == []


def test_facts_cannot_take_the_manifests_place(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"'MANIFEST\.json' cannot be the name"):
        store.save(1, {}, {"MANIFEST": {}}, "")


def test_a_refused_save_leaves_the_old_one_and_no_temporary(store: CheckpointStore) -> None:
    save(store, 5, 1.0)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        store.save(5, {"model": {"w": torch.ones(8)}}, {"state": float("nan")}, "")
    assert value_of(store, 5) == 1.0
    assert names(store) == ["step-00000005"]


def test_a_file_in_the_way_is_an_error_and_stays(store: CheckpointStore) -> None:
    store.directory.mkdir(parents=True)
    store.path(5).write_text("mine")
    with pytest.raises(CheckpointError, match="step-00000005: not saved"):
        save(store, 5)
    assert store.path(5).read_text() == "mine"
    assert names(store) == ["step-00000005"]


def leave(store: CheckpointStore, kind: Stale, step: int, value: float, *, complete: bool = True) -> Path:
    """What a process that was killed leaves behind."""
    elsewhere = save(CheckpointStore(store.directory.parent / "elsewhere"), step, value)
    if not complete:
        (elsewhere / "MANIFEST.json").unlink()
    store.directory.mkdir(parents=True, exist_ok=True)
    return elsewhere.rename(store.directory / stale_name(kind, step))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("kind", Stale)
def test_sweep_leaves_a_published_step_alone(store: CheckpointStore, kind: Stale, complete: bool) -> None:
    save(store, 5, 1.0)
    path = leave(store, kind, 5, 2.0, complete=complete)
    assert store.sweep() == [f"{path.name}: removed"]
    assert names(store) == ["step-00000005"]
    assert value_of(store, 5) == 1.0


@pytest.mark.parametrize("kind", [Stale.TEMPORARY, Stale.ASIDE])
def test_sweep_publishes_what_is_complete_and_missing(store: CheckpointStore, kind: Stale) -> None:
    path = leave(store, kind, 5, 2.0)
    assert store.sweep() == [f"{path.name}: complete, published as step-00000005"]
    assert names(store) == ["step-00000005"]
    assert value_of(store, 5) == 2.0


def test_sweep_prefers_the_new_of_two_copies(store: CheckpointStore) -> None:
    leave(store, Stale.ASIDE, 5, 1.0)
    leave(store, Stale.TEMPORARY, 5, 2.0)
    store.sweep()
    assert value_of(store, 5) == 2.0
    assert names(store) == ["step-00000005"]


def test_sweep_takes_the_old_copy_when_the_new_is_not_complete(store: CheckpointStore) -> None:
    leave(store, Stale.ASIDE, 5, 1.0)
    leave(store, Stale.TEMPORARY, 5, 2.0, complete=False)
    store.sweep()
    assert value_of(store, 5) == 1.0
    assert names(store) == ["step-00000005"]


def test_sweep_never_brings_back_what_was_deleted(store: CheckpointStore) -> None:
    leave(store, Stale.TRASH, 5, 1.0)
    store.sweep()
    assert names(store) == []


def test_sweep_does_not_publish_under_a_false_step(store: CheckpointStore) -> None:
    leave(store, Stale.TEMPORARY, 5, 1.0).rename(store.directory / stale_name(Stale.TEMPORARY, 6))
    store.sweep()
    assert names(store) == []


def save_with_a_size_limit(directory: Path, answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))
    try:
        save(CheckpointStore(directory), 2, size=100_000)
    except CheckpointError as error:
        cause = error.__cause__
        answers.put((str(error), cause.errno if isinstance(cause, OSError) else None))


def test_a_file_that_grows_too_large_leaves_the_old_checkpoints(store: CheckpointStore) -> None:
    save(store, 1)
    context = multiprocessing.get_context("forkserver")
    answers = context.SimpleQueue()
    process = context.Process(target=save_with_a_size_limit, args=(store.directory, answers))
    start(process)
    process.join()
    assert process.exitcode == 0
    assert not answers.empty()
    message, code = answers.get()
    assert message.startswith(f"{store.path(2)}: not saved: ")
    assert code == errno.EFBIG
    assert names(store) == ["step-00000001"]
    assert newest(store) == (store.path(1), {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root and permission to mount")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


def test_a_full_disk_leaves_the_old_checkpoints_and_its_space(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    save(store, 1, 1.0)
    for _ in range(3):
        with pytest.raises(CheckpointError, match="not saved") as caught:
            save(store, 2, size=500_000)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert names(store) == ["step-00000001"]
    assert value_of(store, 1) == 1.0
    save(store, 3, 3.0, size=150_000)
    assert store.steps() == [1, 3]


def test_listing_and_verifying_import_no_torch(store: CheckpointStore) -> None:
    save(store, 5)
    program = (
        "import sys, pathlib\n"
        "from bigrun.checkpoint.store import CheckpointStore\n"
        "store = CheckpointStore(pathlib.Path(sys.argv[1]))\n"
        "assert store.sweep() == [] and store.steps() == [5]\n"
        "assert store.newest_verified(print) == store.path(5)\n"
        "assert store.load_facts(store.path(5), 'state') == {'value': 0.0}\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(store.directory)], check=True)
