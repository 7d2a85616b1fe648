"""The supervisor of a run: what it passes on, what it starts again, what it writes. Crash loops are in tests/faults."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG
from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main
from bigrun.config import Document
from bigrun.errors import BigrunError, ExitCode
from bigrun.supervisor.attempt import Attempt
from bigrun.supervisor.child import Start
from bigrun.supervisor.command import words_of
from bigrun.supervisor.device import backend_of_newest
from bigrun.supervisor.history import History, describe_end, describe_start
from bigrun.supervisor.supervise import Supervisor
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
        (2, "exit code 2 (refused)"),
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
    defaults: dict[str, Any] = {
        "number": 1, "began_utc": "2026-01-01T00:00:00+00:00", "seconds": 2.0, "returncode": 1, "step": None,
        "backend": None, "newest": None, "last_lines": ("error: a reason",),
    }  # fmt: skip
    return Start(**(defaults | facts))


def test_how_far_a_start_was_is_told() -> None:
    assert describe_start(start()) == "exit code 1 (an error) before training began; no checkpoint"
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


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call it with a directory to have a disk below it that answers nothing but EIO."""
    look = Path.stat

    def unmount(directory: Path) -> None:
        def refuse(path: Path, **options: Any) -> os.stat_result:
            if path.is_relative_to(directory):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return look(path, **options)

        monkeypatch.setattr(Path, "stat", refuse)

    yield unmount
    monkeypatch.undo()


def test_a_disk_that_does_not_answer_does_not_end_the_supervisor(
    tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CONFIG).touch()
    history = History(tmp_path)
    silent(tmp_path)
    history.began(1, 4711)
    history.ended(start())
    assert "no report was written: " in history.give_up("it is hopeless")
    assert not os.path.exists(tmp_path / "supervisor")  # noqa: PTH110 - the other one is silent
    monkeypatch.undo()
    history.began(2, 4712)
    assert len((tmp_path / "supervisor" / "log.jsonl").read_text().splitlines()) == 4


def test_the_newest_checkpoint_is_the_last_one_known(bigrunner: Runner, silent: Any) -> None:
    directory = bigrunner.run(steps=2).directory
    supervisor = Supervisor(given("--run-dir", str(directory), "p.toml"), Document("test", "test", {}))
    assert supervisor._newest_checkpoint() == 2
    moved = (directory / CHECKPOINTS).rename(directory / "not-mounted")
    assert supervisor._newest_checkpoint() == 2
    moved.rename(directory / CHECKPOINTS)
    CheckpointStore(directory / CHECKPOINTS).delete(2)
    silent(directory)
    assert supervisor._newest_checkpoint() == 2


def test_the_supervisor_loads_no_torch() -> None:
    script = "import sys, bigrun.supervisor.supervise; print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


# -- the device ------------------------------------------------------------------------------------------------


@pytest.fixture
def step_file() -> Iterator[int]:
    number = os.memfd_create("step")
    yield number
    os.close(number)


def of_a_gpu(directory: Path) -> Path:
    """The newest checkpoint, as if a GPU had made it."""
    store = CheckpointStore(directory / CHECKPOINTS)
    step = store.steps()[-1]
    state = store.load_facts(store.path(step), "state")
    store.amend(step, {"state": state | {"machine": state["machine"] | {"backend": "CUDA"}}})
    return directory


AUTO = {"device": "auto", "precision": "fp32", "threads": 1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("number", "before", "device", "is_refused"),
    [
        (2, None, "auto", True),
        (2, "ROCm", "auto", True),
        (1, None, "auto", False),  # who gives the command on another machine may mean it
        (2, "CPU", "auto", False),  # as the first start did
        (2, None, "cpu", False),
    ],
)
def test_a_restart_does_not_go_on_on_the_cpu_by_itself(
    bigrunner: Runner, step_file: int, number: int, before: str | None, device: str, is_refused: bool
) -> None:
    directory = of_a_gpu(bigrunner.run(steps=1).directory)
    attempt = Attempt(number, "killed", before, step_file)
    result = bigrunner.run(steps=2, directory=directory, companions=[attempt], hardware=AUTO | {"device": device})
    if not is_refused:
        result.assert_finished()
        assert os.pread(step_file, 64, 0) == (2).to_bytes(8, "little") + b"CPU"
        return
    assert isinstance(result.error, BigrunError)
    assert result.error.exit_code == ExitCode.ERROR  # the supervisor tries again
    assert f"was on a GPU ({before or 'CUDA'}), and torch sees none any more" in str(result.error)
    assert "hardware.device = 'cpu'" in str(result.error)
    assert result.checkpoints == [1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_restart_on_the_machine_of_the_checkpoint_goes_on(bigrunner: Runner, step_file: int) -> None:
    directory = bigrunner.run(steps=1).directory
    attempt = Attempt(2, "killed", None, step_file)
    bigrunner.run(steps=2, directory=directory, companions=[attempt], hardware=AUTO).assert_finished()


def test_a_damaged_checkpoint_does_not_say_what_it_was_made_on(bigrunner: Runner, tmp_path: Path) -> None:
    checkpoints = bigrunner.run(steps=2).directory / CHECKPOINTS
    of_a_gpu(checkpoints.parent)
    assert backend_of_newest(checkpoints) == "CUDA"
    (checkpoints / "step-00000002" / "state.json").write_text("{")
    assert backend_of_newest(checkpoints) == "CPU"
    assert backend_of_newest(tmp_path / "nowhere") is None


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
