"""A process that writes elsewhere: nothing it does, or fails to do, holds up whoever tells it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from bigrun.redaction import Redactor
from bigrun.run import Run
from bigrun.scribe.log import KEPT_BYTES, last_line, redact_log
from bigrun.scribe.logger import LibraryLogger
from bigrun.scribe.scribe import KEPT, Scribe, ScribeError
from bigrun.testing.runner import Runner

WRITER = """
import json, os, sys, time
from pathlib import Path
from bigrun.scribe.child import serve

class Writer:
    def __init__(self, settings, announce):
        print("printed by the library")
        self.settings, self.announce = settings, announce
        self.say("opened", settings)
    def say(self, *what):
        with Path("written.txt").open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def metrics(self, step, values, time_seconds):
        do = self.settings.get("do")
        if do == "raise":
            raise ValueError("the library has a bug")
        if do == "hang":
            time.sleep(1000)
        if do == "die":
            os._exit(7)
        if do == "slow":
            time.sleep(0.3)
        if do == "chatty":
            for _ in range(100):
                print("x" * 99_999)
            print("the end", flush=True)
        if do == "announce":
            self.announce("it is elsewhere", "warning")
        self.say("metrics", step, values)
    def finish(self, status):
        self.say("finish", status)

if __name__ == "__main__":
    sys.exit(serve(Writer))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_writer.py").write_text(WRITER, encoding="utf-8")
    return tmp_path


def scribe(folder: Path, **settings: object) -> Scribe:
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return Scribe("a_writer", settings, {**os.environ, "PYTHONPATH": paths}, folder)


def tell(to: Scribe, step: int = 1, loss: float = 1.0) -> None:
    to.tell("metrics", step=step, values={"loss": loss}, time_seconds=0.0)


def written(folder: Path) -> list[str]:
    return (folder / "written.txt").read_text(encoding="utf-8").splitlines()


def hear_until_it_fails(to: Scribe) -> str:
    with pytest.raises(ScribeError) as failure:  # noqa: PT012 - it takes as long as it takes
        for _ in range(600):
            to.hear()
            time.sleep(0.05)
    return str(failure.value)


def test_everything_is_written_in_order_also_what_no_number_of_json_can_be(folder: Path) -> None:
    to = scribe(folder)
    for step in range(1, 201):
        tell(to, step, float("nan") if step == 2 else step / 4)
    assert to.finish("finished", 60) == []
    assert to.unwritten == 0
    lines = written(folder)
    assert lines[1:4] == [f'["metrics", {n}, {{"loss": {v}}}]' for n, v in ((1, 0.25), (2, "NaN"), (3, 0.75))]
    assert len(lines) == 202
    assert lines[-1] == '["finish", "finished"]'
    assert "printed by the library" in (folder / "log.txt").read_text(encoding="utf-8")


def test_what_it_announces_comes_back(folder: Path) -> None:
    to = scribe(folder, do="announce")
    tell(to)
    assert to.finish("finished", 60) == [{"message": "it is elsewhere", "level": "warning"}]


def test_an_error_of_the_library_is_heard_with_its_words(folder: Path) -> None:
    to = scribe(folder, do="raise")
    tell(to)
    assert hear_until_it_fails(to) == "ValueError: the library has a bug"
    to.finish("failed", 10)
    assert "Traceback" in (folder / "log.txt").read_text(encoding="utf-8")


def test_a_library_that_ends_its_process_is_heard_too(folder: Path) -> None:
    to = scribe(folder, do="die")
    tell(to)
    assert "exit code 7; it said: printed by the library" in hear_until_it_fails(to)
    to.finish("failed", 10)


def test_a_library_that_hangs_costs_its_limit_and_leaves_no_process(folder: Path) -> None:
    to = scribe(folder, do="hang")
    begin = time.monotonic()
    for step in range(2000):  # 100 kB: more than a pipe takes
        tell(to, step)
    assert time.monotonic() - begin < 5
    assert to.hear() == []
    assert to.behind_seconds > 0
    begin = time.monotonic()
    to.finish("finished", 0.5)
    assert time.monotonic() - begin < 10
    assert to.unwritten >= 2000
    assert to.fault == "it has not come to an end within 0.5 s"
    assert not [p for p in psutil.Process().children() if "a_writer" in " ".join(p.cmdline())]


def test_too_many_messages_cost_the_oldest_and_are_counted(folder: Path) -> None:
    to = scribe(folder, do="hang")
    for step in range(KEPT + 4000):
        tell(to, step)
    assert 0 < to.lost <= 4000
    to.finish("finished", 0.1)


def test_its_log_is_for_this_user_alone_and_is_no_link(folder: Path) -> None:
    (folder / "log.txt").write_text("of an older version\n")
    scribe(folder).finish("finished", 60)
    assert (folder / "log.txt").stat().st_mode & 0o777 == 0o600
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to(folder / "else.txt")
    with pytest.raises(OSError, match="symbolic"):
        scribe(folder)
    assert not (folder / "else.txt").exists()


def is_said_to_its_end(to: Scribe, step: int, log: Path) -> bool:
    """Whether the last line that the library prints to a message has come into the log. What it prints in the moment in
    which the log is shortened may be lost."""
    before = log.stat().st_mtime_ns
    tell(to, step)
    while to.unwritten:
        to.hear()
        time.sleep(0.05)
    return log.stat().st_mtime_ns > before and last_line(log) == "the end"


def test_a_library_that_talks_without_end_does_not_fill_the_disk(folder: Path) -> None:
    to, log = scribe(folder, do="chatty"), folder / "log.txt"
    try:
        assert any(is_said_to_its_end(to, step, log) for step in range(1, 5))
        to.hear()
        assert log.stat().st_size <= 2 * KEPT_BYTES
        assert any(is_said_to_its_end(to, step, log) for step in range(5, 9)), "it goes on with the same file"
    finally:
        to.finish("finished", 60)


def test_of_a_long_log_whole_lines_are_kept_without_secrets(tmp_path: Path) -> None:
    """A part of a line could have lost what shows that a secret follows."""
    log, redactor = tmp_path / "log.txt", Redactor(["open sesame"])
    line = b"https://somebody:hunter22@example.org says open sesame\n"
    log.write_bytes(line * (3 * KEPT_BYTES // len(line)))
    redact_log(log, redactor)
    assert set(log.read_text().splitlines()) == {"https://[redacted]@example.org says [redacted]"}
    assert log.stat().st_size <= 2 * KEPT_BYTES
    assert log.stat().st_mode & 0o777 == 0o600
    log.write_bytes(b"password=hunter22 " * KEPT_BYTES)
    redact_log(log, redactor)
    assert log.read_bytes() == b""
    redact_log(tmp_path / "none.txt", redactor)


class Logger(LibraryLogger):
    """Sees its log when its process would start."""

    plugin, library, extra, writer = "told", "json", "none", "none"
    observer = True
    seen: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__(1.0)

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        self.seen.append((folder / "log.txt").read_text() if (folder / "log.txt").exists() else "none")
        raise ValueError("seen")

    def environment(self, run: Run, folder: Path) -> dict[str, str]:
        return {}


def test_what_a_killed_start_has_left_is_redacted_at_the_next(bigrunner: Runner) -> None:
    first = bigrunner.run(f"{__name__}:Logger", steps=1)
    log = first.directory / "told" / "log.txt"
    log.write_text("https://somebody:hunter22@example.org\n")
    bigrunner.run(f"{__name__}:Logger", steps=2, directory=first.directory)
    assert Logger.seen == ["none", "https://[redacted]@example.org\n"]


def test_a_stop_signal_to_everybody_is_not_its_end(folder: Path) -> None:
    to = scribe(folder, do="slow")
    for step in range(3):
        tell(to, step)
    for _ in range(3):
        os.kill(to._process.pid, signal.SIGTERM)
        os.kill(to._process.pid, signal.SIGINT)
        time.sleep(0.1)
    to.finish("stopped", 60)
    assert written(folder)[-1] == '["finish", "stopped"]'


def test_of_a_run_that_is_killed_everything_is_written_and_the_next_waits_for_it(folder: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from bigrun.scribe.scribe import Scribe;"
        "to = Scribe('a_writer', {'do': 'slow'}, {**os.environ, 'PYTHONPATH': sys.argv[2]}, Path(sys.argv[1]));"
        "[to.tell('metrics', step=n, values={}, time_seconds=0.0) for n in range(4)];"
        "[to.hear() for _ in iter(lambda: to.unwritten > 4, False)];"  # until it is open
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    killed = subprocess.run([sys.executable, "-c", program, str(folder), paths], check=False)
    assert killed.returncode == -signal.SIGKILL
    to = scribe(folder)
    tell(to, 9)
    to.finish("finished", 60)
    orders = [line.partition(",")[0] for line in written(folder)]
    first = ['["opened"', *['["metrics"'] * 4, '["finish"']
    assert orders == [*first, '["opened"', '["metrics"', '["finish"'], "two writers wrote at the same time"
    assert written(folder)[5] == '["finish", "died"]'


def test_a_process_whose_run_died_before_it_could_write_leaves_the_folder_to_the_next(folder: Path) -> None:
    (folder / "writer.lock").touch()
    program = (
        "import os, signal, sys; from pathlib import Path;"
        "from bigrun.scribe.scribe import Scribe;"
        "to = Scribe('a_writer', {}, {**os.environ, 'PYTHONPATH': sys.argv[2]}, Path(sys.argv[1]));"
        "print(to._process.pid, flush=True);"
        "to.tell('metrics', step=1, values={}, time_seconds=0.0);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with (folder / "writer.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the next start has it
        killed = subprocess.run(
            [sys.executable, "-c", program, str(folder), paths], check=False, capture_output=True, text=True, timeout=60
        )
        orphan = int(killed.stdout)
        for _ in range(400):
            if not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.05)
        else:
            pytest.fail("it still waits, and would write later than the next start")
    assert not (folder / "written.txt").exists()
