"""`bigrun data import` that is killed, repeated, given more, or run twice at once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import file_size_limit
from scans import Scan, read_index, run_import

# Imports once, then forks; each child is killed at its n-th rename, before that is done.
KILLED_AT = """
import os, signal, sys
import pydicom.pixels.utils, pydicom.pixels.decoders
from bigrun_ct_import.command import import_
from bigrun_ct_import import job
def strike(left):
    def hook(event, arguments):
        if event == "os.rename":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
source, out, count = sys.argv[1:]
for n in range(int(count)):
    child = os.fork()
    if not child:
        strike([n])
        import_.main([source, f"{out}{n}"], standalone_mode=False)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


pytestmark = pytest.mark.usefixtures("own_salt")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three series of two slices."""
    for name in "abc":
        scan = Scan(tmp_path / "in" / name, PatientID=name)
        scan.add((0, 0, 0))
        scan.add((0, 0, 3))
    return tmp_path / "in"


def content(out: Path) -> dict[str, bytes]:
    """Every file but the report, which has a time."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "import-report.json"
    }


def imported_now(out: Path) -> int:
    return int(json.loads((out / "import-report.json").read_text())["this_import"]["series"])


def kill_at_each_rename(source: Path, outs: Path, renames: int) -> None:
    """Import to `outs` with 0, 1, ... at the end, each killed at that rename; one more is not killed."""
    words = [sys.executable, "-c", KILLED_AT, source, outs, str(renames + 1)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.splitlines() if line in ("0", "9")] == [9] * renames + [0]


def test_an_import_that_is_killed_at_any_rename_goes_on(source: Path, tmp_path: Path) -> None:
    assert run_import(source, tmp_path / "straight").exit_code == 0
    renames = 5  # three series, index, report
    kill_at_each_rename(source, tmp_path / "killed", renames)
    for n in range(renames):
        out = tmp_path / f"killed{n}"
        assert (out / "index.csv").exists() == (n > 3)
        whole = [path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")]
        assert len(whole) == min(n, 3)
        assert all((path / "series.json").exists() and len(list(path.glob("*.png"))) == 2 for path in whole)
        assert run_import(source, out).exit_code == 0
        assert imported_now(out) == 3 - min(n, 3)
        assert content(out) == content(tmp_path / "straight")


def test_a_series_that_is_made_again_is_the_old_one_the_new_one_or_none(tmp_path: Path) -> None:
    scan, renames = Scan(tmp_path / "in"), 4  # the old one away, the new one in its place, index, report
    scan.add((0, 0, 0))
    for n in range(renames + 1):
        assert run_import(tmp_path / "in", tmp_path / f"killed{n}").exit_code == 0
    scan.add((0, 0, 3))
    kill_at_each_rename(tmp_path / "in", tmp_path / "killed", renames)
    assert run_import(tmp_path / "in", tmp_path / "straight").exit_code == 0
    for n in range(renames):
        out = tmp_path / f"killed{n}"
        assert [len(list(path.glob("*.png"))) for path in out.glob("[!.]*/")] == [[1], [], [2], [2]][n]
        assert run_import(tmp_path / "in", out).exit_code == 0
        assert content(out) == content(tmp_path / "straight")


@pytest.mark.slow
def test_an_import_in_several_processes_that_is_killed_goes_on(tmp_path: Path) -> None:
    for number in range(40):
        scan = Scan(tmp_path / "in" / str(number), shape=(200, 100), PatientID=str(number % 7))
        scan.add((-50, 0, 0))
        scan.add((-50, 0, 3))
    out = tmp_path / "out"
    words = [sys.executable, "-m", "bigrun", "data", "import", str(tmp_path / "in"), str(out), "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while not list(out.glob("[!.]*/series.json")):
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the processes of the pool notice, and end
    before = len(list(out.glob("[!.]*/series.json")))
    assert run_import(tmp_path / "in", out, "--workers", "0").exit_code == 0
    assert imported_now(out) == 40 - before
    assert run_import(tmp_path / "in", tmp_path / "straight").exit_code == 0
    assert content(out) == content(tmp_path / "straight")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_what_is_there_is_not_made_again_and_what_is_new_is_added(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_import(source, out).exit_code == 0
    first = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    Scan(source / "d", PatientID="d").add((0, 0, 0))
    Scan(source / "a").add((0, 0, 0), name="new.dcm")
    assert run_import(source, out).exit_code == 0
    assert imported_now(out) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert len(read_index(out)) == 8
    assert run_import(source / "d", out).exit_code == 0  # what was imported of other places stays
    assert len(read_index(out)) == 8


def test_a_series_that_has_grown_is_made_again(tmp_path: Path) -> None:
    scan, out = Scan(tmp_path / "in"), tmp_path / "out"
    scan.add((0, 0, 3))
    scan.add((0, 0, 6))
    assert run_import(tmp_path / "in", out).exit_code == 0
    scan.add((0, 0, 0))
    assert run_import(tmp_path / "in", out).exit_code == 0
    assert [row["slice_index"] for row in read_index(out)] == ["0", "1", "2"]
    assert imported_now(out) == 1
    assert run_import(tmp_path / "in", out, "--dataset", "other").exit_code == 0
    assert {row["dataset"] for row in read_index(out)} == {"other"}


def test_names_of_files_and_their_order_do_not_matter(source: Path, tmp_path: Path) -> None:
    assert run_import(source, tmp_path / "out").exit_code == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted(source.rglob("*.dcm"), reverse=True)):
        path.rename(moved / f"{number}")
    assert run_import(moved, tmp_path / "again").exit_code == 0
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_two_imports_at_once_do_not_share_a_folder(source: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    assert run_import(source, out).exit_code == 0
    with (out / "import.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run_import(source, out)
    assert done.exit_code == 2
    assert "another import is writing there" in done.output


def test_a_folder_that_cannot_be_made_is_one_message(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_import(source, tmp_path / "file" / "out")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "Not a directory" in done.output


def test_a_disk_that_is_full_is_one_message_and_leaves_what_is_whole(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Scan(source / "z", shape=(300, 300)).add((-100, -10, 0))  # its file is larger than the disk allows
    with file_size_limit(2 << 10):
        done = run_import(source, out)
    assert done.exit_code == 1
    assert "File too large; the same command goes on where this one stopped" in done.output
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert run_import(source, out).exit_code == 0
    assert len(read_index(out)) == 7
