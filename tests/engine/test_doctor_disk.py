"""What `bigrun doctor` says of a disk: on real ones, on a small one, and of those that do not keep their word."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from disks import small_disk, unwritable
from hypothesis import given
from hypothesis import strategies as st

from bigrun.doctor import disk, saving
from bigrun.doctor.check import Check, rows_of
from bigrun.doctor.disk import disk_rows, judge_sync, judge_writing, sync_seconds, write_and_read
from bigrun.doctor.filesystem import filesystem_rows, judge_mount, mount_of
from bigrun.doctor.locks import HOLDER, is_free, lock_rows
from bigrun.doctor.saving import publish_row, saving_rows, torn_reads
from bigrun.doctor.subject import Subject
from bigrun.lock import RunLock

MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:25 / /mnt/my\040disk rw,relatime - xfs /dev/sdb1 rw,nobarrier
29 27 0:26 / /home rw,relatime - nfs4 server:/home rw,soft,proto=tcp
30 29 0:27 / /home/me/cloud rw,nosuid - fuse.sshfs me@host: rw
31 27 0:28 / /scratch rw,noatime - tmpfs tmpfs rw,size=8g
32 27 0:29 / /scratch rw,noatime - lustre mds:/fs ro,flock
33 27 0:30 / /data rw - btrfs /dev/sdc rw,ssd
a line that is none
"""


@pytest.mark.parametrize(
    ("place", "kind", "verdicts"),
    [
        ("/var/runs", "ext4", ["ok"]),
        ("/mnt/my disk/runs", "xfs", ["ok", "warn"]),
        ("/home/me/runs", "nfs4", ["warn", "warn"]),
        ("/home/me/cloud/runs", "fuse.sshfs", ["warn"]),
        ("/homely", "ext4", ["ok"]),
        ("/scratch/runs", "lustre", ["warn", "fail"]),
        ("/data", "btrfs", ["ok"]),
    ],
)
def test_the_file_system_of_a_directory(place: str, kind: str, verdicts: list[str]) -> None:
    mount = mount_of(Path(place), MOUNTS)
    assert mount is not None
    assert mount.kind == kind
    assert [row.verdict for row in judge_mount(mount)] == verdicts


@pytest.mark.parametrize("kind", ["tmpfs", "overlay", "9p", "vfat", "cifs", "ceph", "fuse"])
def test_kinds_that_may_lose_a_run(kind: str) -> None:
    mount = mount_of(Path("/"), f"27 1 254:0 / / rw - {kind} source rw")
    assert mount is not None
    (row,) = judge_mount(mount)
    assert row.verdict == "warn"
    assert row.facts == {"kind": kind}


def test_a_small_disk_in_memory(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as place:
        subject = Subject(place / "runs", is_quick=True)
        rows = {row.name: row for row in filesystem_rows(subject)}
        assert [row.verdict for row in rows.values()] == ["warn", "ok", "warn"]
        assert "gone when the machine restarts" in rows["file system"].found
        assert rows["free space"].facts["free_bytes"] < 5 << 20
        speed = {row.name: row for row in disk_rows(subject)}
        assert speed["disk contents"].found == "2.1 MB"  # of 16: half of what is free
        assert speed["disk contents"].verdict == "ok"
        assert {row.verdict for row in (*saving_rows(subject), *lock_rows(subject))} == {"ok"}
        assert list(place.iterdir()) == []


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "runs")
    with unwritable(tmp_path):
        row = next(row for row in filesystem_rows(subject) if row.name == "can be written")
        (left_out,) = rows_of(Check("saving", "bigrun.doctor.saving:saving_rows", needs="disk"), subject)
    assert (row.name, row.verdict) == ("can be written", "fail")
    assert "change the permissions" in str(row.remedy)
    assert left_out.verdict == "info"


def test_the_nearest_directory_that_is_there_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Subject(tmp_path / "a" / "b").place == tmp_path
    monkeypatch.chdir(tmp_path)
    assert Subject(Path("runs")).place == tmp_path
    (tmp_path / "runs").mkdir()
    assert Subject(Path("runs")).place == tmp_path / "runs"


# -- what a checkpoint needs ------------------------------------------------------------------------------------


def test_this_disk_can_be_saved_to(tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    rows = [*saving_rows(subject), *lock_rows(subject)]
    assert [row.name for row in rows] == ["checkpoint", "replacing a file", "replacing a directory", "run lock"]
    assert {row.verdict for row in rows} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_change_on_the_disk_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_sync(directory: Path) -> None:
        with (directory / "tensors").open("r+b") as file:
            file.seek(4096)
            byte = file.read(1)[0]
            file.seek(4096)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(saving, "sync", bad_sync)
    row = publish_row(tmp_path)
    assert (row.verdict, row.found) == ("fail", "not what was written")


def test_a_replacement_with_a_gap_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torn_reads(tmp_path / "a", 50)[1] == 0
    real = Path.replace

    def first_remove(self: Path, target: Path) -> Path:
        target.unlink()
        time.sleep(0.002)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", first_remove)
    assert torn_reads(tmp_path / "b", 50)[1] > 0


def test_the_lock_that_is_tried_is_that_of_a_run(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    command = [sys.executable, "-I", "-S", "-c", HOLDER, str(lock.path)]
    try:
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1  # BlockingIOError
    finally:
        lock.release()


def test_locks_that_are_none_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    (row,) = lock_rows(Subject(tmp_path))
    assert (row.verdict, row.found) == ("fail", "it does not keep others out")

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    (row,) = lock_rows(Subject(tmp_path))
    assert (row.verdict, row.found) == ("fail", "no lock to be had: No locks available")
    monkeypatch.undo()
    (tmp_path / "free").touch()
    assert is_free(tmp_path / "free")


# -- speed ------------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 40_000), piece=st.sampled_from([1, 8, 9, 4096]))
def test_what_was_written_is_what_is_read(size: int, piece: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    before, disk.PIECE_BYTES = disk.PIECE_BYTES, piece * 64
    try:
        directory = tmp_path_factory.mktemp("disk")
        passage = write_and_read(directory / "data", size)
        assert (passage.size_bytes, passage.is_same) == (size, True)
        assert list(directory.iterdir()) == []
    finally:
        disk.PIECE_BYTES = before


def test_a_slow_or_lying_disk() -> None:
    passage = disk.Passage(200_000_000, write_seconds=1.0, read_seconds=0.5, is_same=True)
    assert [row.verdict for row in judge_writing(passage)] == ["ok"] * 3
    slow = list(judge_writing(attrs.evolve(passage, write_seconds=4.0)))
    assert [(row.name, row.verdict) for row in slow][1:] == [("disk writing", "warn"), ("disk reading", "ok")]
    assert "takes 112 s" in str(slow[1].remedy)
    assert next(judge_writing(attrs.evolve(passage, is_same=False))).verdict == "fail"
    assert judge_sync([0.001, 0.002, 5.0]).verdict == "ok"
    assert judge_sync([0.1, 0.2, 0.3]).verdict == "warn"
    assert "does not sync" in str(judge_sync([1e-6, 2e-6, 1.0]).remedy)


def test_syncs_are_timed(tmp_path: Path) -> None:
    found = sync_seconds(tmp_path / "small", 3)
    assert len(found) == 3
    assert found == sorted(found)
    assert found[0] > 0
