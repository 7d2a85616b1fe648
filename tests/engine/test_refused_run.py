"""What is left of a run that is refused after its directory was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import Training

from bigrun.errors import ExitCode

REFUSES = """
from bigrun import hookimpl
from bigrun.errors import BigrunError, UsageError


class Plugin:
    @hookimpl
    def HOOK(self, run):
        BEFORE
        raise ERROR("no good")
"""
BEGUN = {"config.toml", "provenance.json"}


def refused(training: Training, *arguments: str, hook: str, before: str = "pass", error: str = "UsageError") -> int:
    """The exit code of a run in which a plugin raises."""
    text = REFUSES.replace("HOOK", hook).replace("BEFORE", before).replace("ERROR", error)
    (training.folder / "refuses.py").write_text(text, encoding="utf-8")
    done = training("--plugin", "refuses:Plugin", *arguments)
    assert done.stderr == "error: no good\n"
    return done.returncode


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name not in ("images", "tiny.toml", "refuses.py")}


@pytest.mark.parametrize("hook", ["build_loader", pytest.param("header_lines", marks=pytest.mark.slow), "on_start"])
def test_nothing_is_left_of_it(tmp_path: Path, hook: str) -> None:
    """Neither is the folder above."""
    training = Training(tmp_path)
    assert refused(training, "--run-dir", "deep/er/run", hook=hook) == ExitCode.USAGE
    assert names(tmp_path) <= {"__pycache__"}


def test_nothing_is_left_where_another_process_refuses(tmp_path: Path) -> None:
    training = Training(tmp_path)
    text = REFUSES.replace("HOOK", "on_start").replace("BEFORE", "if run.is_main: return")
    (tmp_path / "refuses.py").write_text(text.replace("ERROR", "UsageError"), encoding="utf-8")
    ended = training.together(2, "--plugin", "refuses:Plugin", "--no-plugin", "metrics-log")
    assert [each.returncode for each in ended] == [ExitCode.USAGE] * 2
    assert names(tmp_path) <= {"__pycache__"}


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.run.mkdir(parents=True)
    assert refused(training, hook="on_start") == ExitCode.USAGE
    assert names(training.run) == BEGUN


def test_a_log_that_says_why_stays(tmp_path: Path) -> None:
    training = Training(tmp_path)
    say = "run.event('seen', 'something bad')"
    assert refused(training, hook="on_start", before=say) == ExitCode.USAGE
    assert names(training.run) == {*BEGUN, "events.jsonl"}


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("(run.directory / 'notes.txt').touch()", id="a-file"),
        pytest.param("run.path_for('refuses')", id="a-folder", marks=pytest.mark.slow),
    ],
)
def test_a_directory_with_something_else_in_it_stays_whole(tmp_path: Path, before: str) -> None:
    training = Training(tmp_path)
    assert refused(training, hook="on_start", before=before) == ExitCode.USAGE
    assert names(training.run) > BEGUN


@pytest.mark.slow
def test_a_branch_that_has_its_first_checkpoint_stays(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training("--set", "run.max_steps=2").returncode == ExitCode.FINISHED
    source = training.run / "checkpoints" / "step-00000002"
    assert refused(training, "--from", str(source), "--run-dir", "branch", hook="on_start") == ExitCode.USAGE
    assert names(tmp_path / "branch") >= {*BEGUN, "branch.json", "checkpoints"}


@pytest.mark.parametrize(
    ("hook", "error", "code"),
    [("on_start", "BigrunError", ExitCode.ERROR), ("after_step", "UsageError", ExitCode.USAGE)],
    ids=["fails", "has-begun"],
)
def test_a_run_that_is_not_refused_keeps_its_directory(tmp_path: Path, hook: str, error: str, code: int) -> None:
    training = Training(tmp_path)
    assert refused(training, "--no-plugin", "metrics-log", hook=hook, error=error) == code
    assert names(training.run) == BEGUN
