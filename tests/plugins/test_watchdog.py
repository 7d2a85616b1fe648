"""watchdog: what is a hang, what is none, and what it leaves. Runs that are ended by it are in tests/faults."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import psutil
import pytest

from bigrun import hookimpl
from bigrun.check import check_preset
from bigrun.sections.run import RunSection
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner
from bigrun_watchdog import sentinel
from bigrun_watchdog.limits import Limits
from bigrun_watchdog.plugin import within
from bigrun_watchdog.records import Hang, Records
from bigrun_watchdog.sentinel import Patience
from bigrun_watchdog.stacks import below, write_stacks


class TestContract(PluginContract):
    plugin = "watchdog"
    config: ClassVar[dict[str, Any]] = {"step_limit_seconds": 600.0}


# -- what is a hang -------------------------------------------------------------------------------------------


def test_time_in_which_nobody_looked_does_not_count() -> None:
    patience = Patience(0.01)
    time.sleep(0.3)
    assert 0 < patience.tick(moved=False) <= 0.02
    time.sleep(0.3)
    assert patience.tick(moved=False) <= 0.04


def test_patience_adds_up_until_something_moves() -> None:
    patience = Patience(10.0)
    time.sleep(0.02)
    first = patience.tick(moved=False)
    time.sleep(0.02)
    assert patience.tick(moved=False) >= first + 0.02 >= 0.04
    assert patience.tick(moved=True) == 0


@pytest.mark.parametrize(
    ("step", "activity", "limit"),
    [
        (1, "data", 200.0),
        (1, "step", 200.0),
        (1, "observe", 200.0),
        (2, "data", 100.0),
        (2, "step", 100.0),
        (2, "observe", 100.0),
        (1, "checkpoint", 14_400.0),
        (2, "checkpoint", 14_400.0),
        (2, "end", 200.0),
        (2, "start", None),
    ],
)
def test_each_activity_has_its_limit(step: int, activity: str, limit: float | None) -> None:
    limits = Limits.of(100.0, RunSection(first_step_limit_seconds=200.0), first_step=1)
    assert limits.of_state((step, activity)) == limit


def test_the_first_step_has_no_less_time_than_the_others() -> None:
    limits = Limits.of(100.0, RunSection(first_step_limit_seconds=5.0), first_step=7)
    assert limits.of_state((7, "step")) == limits.of_state((8, "step")) == 100.0


def test_the_limits_are_those_of_the_run(bigrunner: Runner) -> None:
    document = bigrunner.document(
        {"watchdog": {"step_limit_seconds": 10.0}}, run={"first_step_limit_seconds": 20.0, "save_limit_seconds": 30.0}
    )
    said = "\n".join(check_preset(document))
    assert "ends the process when a step stands still for 10 s, the first for 20 s" in said


class Slow:
    """A second step of one second."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 2:
            self.takes_its_time()

    def takes_its_time(self) -> None:
        time.sleep(1.0)


def test_a_step_that_moves_after_all_is_an_event_and_the_run_goes_on(bigrunner: Runner) -> None:
    config = {"step_limit_seconds": 0.5, "grace_seconds": 60.0}
    result = bigrunner.run("watchdog", config=config, companions=[Slow()], steps=12)
    result.assert_finished()
    (event,) = [event for event in result.events if event.kind == "slow-step"]
    assert (event.facts["step"], event.level) == (2, "warning")
    assert "takes_its_time" in Path(event.facts["stacks"]).read_text()
    assert not (result.directory / "watchdog" / "hang.json").exists()


def test_a_step_within_its_limit_is_nothing(bigrunner: Runner) -> None:
    result = bigrunner.run("watchdog", config={"step_limit_seconds": 30.0})
    result.assert_finished()
    assert list((result.directory / "watchdog").iterdir()) == []


class Census:
    """Who is there during the run."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.children: list[psutil.Process] = []

    @hookimpl
    def before_step(self) -> None:
        self.threads = {thread.name for thread in threading.enumerate()}
        self.children = [child for child in psutil.Process().children() if "sentinel.py" in " ".join(child.cmdline())]


def test_thread_and_sentinel_are_gone_after_the_run(bigrunner: Runner) -> None:
    census = Census()
    bigrunner.run("watchdog", companions=[census]).assert_finished()
    assert "watchdog" in census.threads
    (own,) = census.children
    assert not own.is_running()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


# -- what it leaves -------------------------------------------------------------------------------------------

HANG = Hang(7, "data", 31.2, 30.0, "somewhere/stacks.txt")


def test_the_next_start_tells_of_a_hang_once(bigrunner: Runner) -> None:
    first = bigrunner.run("watchdog", steps=1)
    Records(first.directory / "watchdog", 0).leave(HANG)
    for steps, told in ((2, [7]), (3, [])):
        result = bigrunner.run("watchdog", steps=steps, directory=first.directory)
        assert [event.facts["step"] for event in result.events if event.kind == "hang"] == told
    assert list((first.directory / "watchdog").iterdir()) == []


def test_the_next_start_tells_of_stacks_that_the_sentinel_wrote(bigrunner: Runner) -> None:
    first = bigrunner.run("watchdog", steps=1)
    (first.directory / "watchdog" / "interpreter.txt").write_text("stacks")
    result = bigrunner.run("watchdog", steps=2, directory=first.directory)
    (event,) = [event for event in result.events if event.kind == "hang"]
    assert Path(event.facts["stacks"]).read_text() == "stacks"
    assert [path.name for path in (first.directory / "watchdog").iterdir()] == [Path(event.facts["stacks"]).name]


def test_each_rank_has_files_of_its_own_and_the_main_one_tells_who_hung(tmp_path: Path) -> None:
    Records(tmp_path, 3).leave(HANG)
    Records(tmp_path, 12).leave(attrs.evolve(HANG, only_waits=True))
    assert Records(tmp_path, 0).take_hangs() == [HANG]
    assert Records(tmp_path, 0).take_hangs() == []
    assert Records(tmp_path, 3).new_stacks(5).name.endswith("-step-5-rank-3.txt")


def test_stacks_name_threads_functions_and_processes_below(tmp_path: Path) -> None:
    waits = threading.Event()

    def blocking_function() -> None:
        waits.wait()

    thread = threading.Thread(target=blocking_function, name="the one that blocks")
    thread.start()
    with subprocess.Popen(["sleep", "60"]) as child:
        write_stacks(tmp_path / "stacks", ["first line"])
        text = (tmp_path / "stacks").read_text()
        listed = {process.pid: process for process in below(os.getpid())}
        child.kill()
    waits.set()
    thread.join()
    assert text.startswith("first line\n")
    for word in ("blocking_function", "the one that blocks", "MainThread", f"{child.pid}  sleep"):
        assert word in text
    assert listed[child.pid].name == "sleep"
    assert listed[child.pid].state in "SRD"
    assert below(child.pid) == []


# -- the sentinel, at a process of its own ----------------------------------------------------------------------

TICK, LIMIT = 0.05, 0.8


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that says when it gets the signal that asks for stacks."""
    handler = f"signal.signal({int(signal.SIGRTMIN)}, lambda *_: print('stacks', flush=True))"
    script = f"import signal, time; {handler}; print('ready', flush=True)\nwhile True: time.sleep(60)"
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.fixture
def watcher(victim: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    numbers = (victim.pid, LIMIT, TICK, int(signal.SIGRTMIN))
    with subprocess.Popen(
        [sys.executable, "-I", "-S", sentinel.__file__, *map(str, numbers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def beat(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b".")


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigIgn:")[2].split()[0], 16) >> (number - 1) & 1)


def test_the_sentinel_kills_who_is_silent(victim: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes]) -> None:
    beat(watcher)
    assert victim.wait(timeout=30) == -signal.SIGKILL
    output, error = watcher.communicate(timeout=30)
    assert victim.stdout is not None
    assert victim.stdout.read() == b"stacks\n"
    assert f"process {victim.pid} ran no Python for 1 s" in output.decode()
    assert "It is killed" in error.decode()


def test_the_sentinel_lets_be_who_speaks(victim: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes]) -> None:
    for _ in range(20):
        beat(watcher)
        time.sleep(LIMIT / 10)
    assert victim.poll() is None
    watcher.communicate(timeout=30)
    assert (victim.poll(), watcher.returncode) == (None, 0)


@pytest.mark.slow
def test_the_sentinel_knows_who_was_stopped(victim: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes]) -> None:
    victim.send_signal(signal.SIGSTOP)
    time.sleep(2.5 * LIMIT)
    assert victim.poll() is None
    assert psutil.Process(victim.pid).status() == psutil.STATUS_STOPPED


def test_the_sentinel_spares_who_moves_again(victim: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes]) -> None:
    beat(watcher)
    assert victim.stdout is not None
    assert select.select([victim.stdout], [], [], 30)[0]  # it was asked for its stacks
    beat(watcher)
    time.sleep(0.2)
    assert victim.poll() is None
    output, _ = watcher.communicate(timeout=30)
    assert b"After that it ran on." in output
    assert victim.poll() is None


def test_the_sentinel_ends_with_the_run_and_not_with_a_signal_to_all(watcher: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while not all(ignores(watcher.pid, number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        assert time.monotonic() < until
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        watcher.send_signal(number)
    beat(watcher)
    time.sleep(0.1)
    assert watcher.poll() is None
    watcher.communicate(timeout=30)
    assert watcher.returncode == 0


# -- a disk that does not answer ------------------------------------------------------------------------------


def test_what_waits_for_a_disk_is_waited_for_no_longer_than_that() -> None:
    answers = threading.Event()
    assert not within(0.1, answers.wait)
    answers.set()
    assert within(30.0, answers.wait)


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    assert not within(30.0, write_stacks, tmp_path / "not there" / "stacks", [])
