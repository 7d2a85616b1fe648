"""The supervisor of a run: what it passes on, what it starts again, what it writes. Crash loops are in tests/faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from bigrun.cli import main
from bigrun.errors import ExitCode
from bigrun.supervisor.child import Start
from bigrun.supervisor.command import words_of
from bigrun.supervisor.history import History, describe_end, describe_start
from bigrun.testing.runner import Runner

# -- words ----------------------------------------------------------------------------------------------------


def given(*arguments: str) -> click.Context:
    """What click makes of `bigrun run ...`."""
    return main.commands["run"].make_context("run", list(arguments))


def test_a_command_is_given_again_as_it_was() -> None:
    words = ["--set", "run.seed=1", "--set", "data.path='a b'", "--plugin", "x:Y", "--no-plugin", "console",
             "--drop-plugin", "z", "--from", "runs/a/checkpoints/step-00000001", "--fresh", "--max-hours", "2.5",
             "--run-dir", "runs/b", "my preset.toml"]  # fmt: skip
    context = given(*words)
    again = words_of(context)
    assert given(*again[1:]).params == context.params
    assert again[0] == "run"
    assert again[-2:] == ["--", "my preset.toml"]


def test_parts_of_a_command_are_replaced() -> None:
    context = given("--supervise", "--max-restarts", "2", "--fresh", "--drop-plugin", "z", "--", "-h.toml")
    replaced = {"supervise": False, "max_restarts": None, "fresh": False, "drop_plugins": (), "max_hours": 0.25}
    assert words_of(context, **replaced, run_dir=Path("d")) == [
        "run",
        "--run-dir=d",
        "--max-hours=0.25",
        "--",
        "-h.toml",
    ]


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit code 0"),
        (1, "exit code 1 (an error)"),
        (6, "exit code 6 (it hung)"),
        (-9, "killed by signal 9 (SIGKILL, often: out of memory)"),
        (-11, "killed by signal 11 (SIGSEGV, often: a driver or a native library)"),
        (-15, "killed by signal 15 (SIGTERM)"),
        (-40, "killed by signal 40"),
    ],
)
def test_an_end_is_told_in_words(returncode: int, words: str) -> None:
    assert describe_end(returncode) == words


def start(**facts: Any) -> Start:
    defaults = {"number": 1, "began_utc": "2026-01-01T00:00:00+00:00", "seconds": 2.0, "returncode": 1, "step": None,
                "newest": None, "last_lines": ("error: a reason",)}  # fmt: skip
    return Start(**(defaults | facts))


def test_how_far_a_start_was_is_told() -> None:
    assert describe_start(start()) == "exit code 1 (an error) before it was built; no checkpoint"
    reached = describe_start(start(step=7, newest=4))
    assert reached == "exit code 1 (an error) after step 7; newest checkpoint: step 4"


def test_nothing_is_written_before_there_is_a_run_and_nothing_is_lost(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    history.began(1, 4711)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    history.ended(start())
    assert list((tmp_path / "run").iterdir()) == []
    assert "no report was written" in history.give_up("it is hopeless")
    (tmp_path / "run" / "config.toml").touch()
    text = history.give_up("it is hopeless")
    assert len((tmp_path / "run" / "supervisor" / "log.jsonl").read_text().splitlines()) == 4
    (report,) = (tmp_path / "run" / "supervisor").glob("report-*.txt")
    assert text == f"{report.read_text()}report: {report}"
    assert "| error: a reason" in text


def test_a_disk_that_refuses_does_not_end_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "supervisor").write_text("a file is in the way")
    history = History(tmp_path)
    history.ended(start())
    assert "no report was written: " in history.give_up("it is hopeless")


def test_the_supervisor_loads_no_torch() -> None:
    script = "import sys, bigrun.supervisor.supervise; print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


# -- processes ------------------------------------------------------------------------------------------------


def test_a_command_that_is_refused_is_not_given_again(bigrunner: Runner) -> None:
    done = bigrunner.cli("run", "quickstart", "--supervise", "--set", "model.dept=3")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("model.dept: unknown option") == 1
    assert "supervisor" not in done.stderr


def test_restarts_without_a_supervisor_are_refused(bigrunner: Runner) -> None:
    done = bigrunner.cli("run", "quickstart", "--max-restarts", "3")
    assert done.returncode == ExitCode.USAGE
    assert "--max-restarts has no effect without --supervise" in done.stderr
