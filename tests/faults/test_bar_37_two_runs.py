"""Bar 37: two runs in one directory. The second is refused and told who is there; a holder that died holds nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from training import ENDLESS, Training

from bigrun.errors import RunDirectoryError
from bigrun.lock import LOCK, Owner, RunLock

ELSEWHERE = Owner("elsewhere", 4711, "2026-01-01T00:00:00+00:00")


def processes_below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_bar_37_a_second_run_on_the_same_host_is_refused_by_name(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun() as first:
        second = training()
        assert second.returncode == 2
        assert f"runs/tiny is in use by process {first.pid} on {socket.gethostname()}, since " in second.stderr
        assert "--run-dir" in second.stderr
        assert "Traceback" not in second.stderr
        assert first.poll() is None
        assert len(training.events("lock-recovered")) == 0


def test_bar_37_the_directory_of_a_killed_run_is_free_within_ten_seconds(tmp_path: Path) -> None:
    """And with it the memory of the processes that decoded its images."""
    training = Training(tmp_path, **{**ENDLESS, "data": {"workers": 1}})
    with training.begun() as first:
        workers = processes_below(first.pid)
        assert len(workers) >= 2  # the decoding process and its server
        first.kill()
        first.wait()
        killed = time.monotonic()
        lock = RunLock(training.run)
        lock.acquire()
        assert lock.died is not None
        assert lock.died.pid == first.pid
        lock.release()
        assert time.monotonic() - killed < 10
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == [], "processes of a killed run are still there"


def test_bar_37_a_run_after_a_kill_says_who_died_and_leaves_no_lock(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun() as first:
        first.kill()
    training.configure()
    done = training()
    assert done.returncode == 0, done.stderr
    (event,) = training.events("lock-recovered")
    assert f"was held by process {first.pid} on {socket.gethostname()}" in event["message"]
    assert event["level"] == "warning"
    assert not (training.run / LOCK).exists()


# -- a disk that two machines share: the kernel's lock of the other one is not seen here, its heartbeat is ------------


@contextlib.contextmanager
def held_elsewhere(directory: Path, *, alive: bool) -> Iterator[None]:
    path = directory / LOCK
    path.write_text(json.dumps({"host": ELSEWHERE.host, "pid": ELSEWHERE.pid, "started_utc": ELSEWHERE.started_utc}))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.5):
            os.utime(path)

    thread = threading.Thread(target=beat)
    if alive:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if alive:
            thread.join()


def test_bar_37_a_run_of_another_host_that_is_alive_is_refused_by_name(tmp_path: Path) -> None:
    with (
        held_elsewhere(tmp_path, alive=True),
        pytest.raises(RunDirectoryError, match="is in use by process 4711 on elsewhere, since 2026-01-01"),
    ):
        RunLock(tmp_path).acquire()
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


@pytest.mark.slow
def test_bar_37_a_run_of_another_host_that_died_is_taken_over_within_ten_seconds(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, alive=False):
        lock, began = RunLock(tmp_path), time.monotonic()
        lock.acquire()
        assert lock.died == ELSEWHERE
        assert time.monotonic() - began < 10
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        lock.release()


# -- the lock itself --------------------------------------------------------------------------------------------------


def test_the_holder_touches_its_file(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert not lock.is_held
    lock.acquire()
    assert lock.is_held
    os.utime(tmp_path / LOCK, (1, 1))
    deadline = time.monotonic() + 10
    while (tmp_path / LOCK).stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_whoever_lost_its_directory_publishes_nothing_more(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.check()
    lock.acquire()
    lock.check()
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).write_text("of another")
    with pytest.raises(RunDirectoryError, match="not the lock of this process any more"):
        lock.check()
    lock.release()
    assert (tmp_path / LOCK).read_text() == "of another"


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"host": "elsewhere"}'])
def test_a_file_without_an_owner_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert lock.died is None
    lock.release()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="cannot be locked"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / "precious").read_text() == "precious"


def test_whoever_was_taken_over_while_it_slept_publishes_nothing_more(tmp_path: Path) -> None:
    """The other machine writes its name into the same file."""
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.check()
    text = json.dumps({"host": ELSEWHERE.host, "pid": ELSEWHERE.pid, "started_utc": ELSEWHERE.started_utc})
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(RunDirectoryError, match="is not the lock of this process any more"):
        lock.check()
    lock.release()


def test_a_start_that_was_killed_while_it_wrote_its_configuration_can_be_repeated(tmp_path: Path) -> None:
    training = Training(tmp_path, run={"max_steps": 1})
    training.run.mkdir(parents=True)
    (training.run / LOCK).write_text("")
    (training.run / ".config.toml.new").write_text("[run]\nmax_st")
    done = training()
    assert done.returncode == 0, done.stderr
    assert not (training.run / ".config.toml.new").exists()
