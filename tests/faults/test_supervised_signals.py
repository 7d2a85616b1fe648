"""Who stops a supervisor stops its run, which saves; and no run is left that nobody looks after."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import harm
import psutil
import pytest
from training import ENDLESS, Training, read_lines

from bigrun.lock import LOCK

# A terminal of its own for what follows, as a shell in a window has it.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def begin_in_terminal(words: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the descriptor of the terminal's other end."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-c", IN_TERMINAL, *words]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return process, ours


def read_until(terminal: int, wanted: bytes, seconds: float = 60) -> bytes:
    """What is written to the terminal, up to `wanted` or its end."""
    seen, until = b"", time.monotonic() + seconds
    while wanted not in seen and select.select([terminal], [], [], max(until - time.monotonic(), 0))[0]:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # nobody has the other end any more
            break
    assert wanted in seen, seen.decode(errors="replace")
    return seen


def only_child(process: subprocess.Popen[str]) -> psutil.Process:
    (child,) = psutil.Process(process.pid).children()
    return child


@pytest.mark.slow
def test_a_signal_to_the_supervisor_stops_the_run_which_saves(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun("--supervise", "--max-restarts", "1") as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "(SIGTERM); the same command continues" in output
    assert "supervisor:" not in output
    assert len(list((training.run / "checkpoints").iterdir())) == 1
    assert [row["what"] for row in read_lines(training.run / "supervisor" / "log.jsonl")] == ["started", "ended"]


def test_a_run_whose_supervisor_is_killed_saves_and_ends(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun("--supervise") as process:
        child = only_child(process)
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert int(status.partition("SigBlk:")[2].split()[0], 16) == 0, "the run does not hear of its workers' deaths"
        process.kill()
        assert not psutil.wait_procs([child], timeout=60)[1]
    (event,) = training.events("stop-requested")
    assert event["message"] == "stopping after this step: SIGTERM"
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{training.metrics()[-1]['step']:08d}"
    assert not (training.run / LOCK).exists()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_a_supervised_run_and_its_bar_works(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    process, terminal = begin_in_terminal(training.words("--supervise"), tmp_path)
    try:
        read_until(terminal, b"samples/s")
        os.write(terminal, b"\x03")
        text = read_until(terminal, b"checkpoint: ").decode(errors="replace")
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        os.close(terminal)
    assert "\x1b[" in text, "no bar, although it is a terminal"
    assert "(SIGINT); the same command continues" in " ".join(text.split())
    assert len(list((training.run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_signal_of_the_terminal_is_not_passed_on_and_others_are(tmp_path: Path) -> None:
    script = (
        "from bigrun.supervisor.signals import blocked, next_signal\n"
        "with blocked():\n    print('ready', flush=True)\n"
        "    for _ in range(2): print(next_signal(60.0), flush=True)\n"
    )
    process, terminal = begin_in_terminal([sys.executable, "-c", script], tmp_path)
    try:
        read_until(terminal, b"ready")
        os.write(terminal, b"\x03")
        read_until(terminal, b"<Signals.SIGINT: 2>, False)")
        process.send_signal(signal.SIGINT)
        read_until(terminal, b"<Signals.SIGINT: 2>, True)")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(terminal)


@pytest.mark.slow
def test_a_supervisor_that_waits_before_a_restart_can_be_stopped(tmp_path: Path) -> None:
    """And a run that cannot begin leaves no directory."""
    shutil.copy(harm.__file__, tmp_path)
    training = Training(tmp_path)
    words = training.words("--supervise", "--max-restarts", "9", "--plugin", "harm:CannotBegin")
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("restart 2 of 9 in 2 s" in line for line in process.stderr)
        finally:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert process.returncode == 143
    assert not training.run.exists()


@pytest.mark.slow
def test_a_fresh_run_is_continued_where_it_began(tmp_path: Path) -> None:
    shutil.copy(harm.__file__, tmp_path)
    training = Training(tmp_path, run={"background_checkpoints": False})
    training.run.mkdir(parents=True)
    done = training("--supervise", "--fresh", "--max-restarts", "1", "--plugin", "harm:DiesAtItsThird")
    assert done.returncode == 0, done.stderr
    beside = training.run.with_name("tiny-2")
    assert json.loads((beside / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    assert list(training.run.iterdir()) == []
    assert not training.run.with_name("tiny-3").exists()
