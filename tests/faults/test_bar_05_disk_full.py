"""Bar 5: a disk that is full costs checkpoints and nothing else. The message names the disk and both sizes, nothing
half-written stays, older checkpoints are as they were, and the next interval tries again.

Exit codes: 0 when the last state was saved, whatever failed before; 1 when it was not; 2 when there is no room for one
checkpoint before the first step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from acting import Acting, StopAt, contents, events, only_whole_checkpoints
from disks import file_size_limit, fill, small_disk
from killing import begin
from training import Training

from bigrun.errors import CheckpointError, ExitCode, UsageError
from bigrun.testing.runner import Runner

BACKGROUND = pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=12) as path:
        yield path


@BACKGROUND
def test_bar_05_a_full_disk_costs_checkpoints_and_nothing_else(bigrunner: Runner, disk: Path, background: bool) -> None:
    run = {"background_checkpoints": background, "max_steps": 8}
    kept: dict[str, str] = {}

    def become_full() -> None:
        kept.update(contents(disk / "run", 2))
        fill(disk)

    def make_room() -> None:
        assert contents(disk / "run", 2) == kept
        (disk / "of-somebody-else").unlink()

    acting = Acting({4: become_full, 7: make_room}, wait_before=(4, 7))
    plain = bigrunner.run(run=run)
    result = bigrunner.run(run=run, directory=disk / "run", companions=[acting])
    result.assert_finished()
    assert only_whole_checkpoints(disk / "run") == [1, 2, 3, 7, 8]
    failed = events(result, "checkpoint-failed")
    assert [event.facts["failed_step"] for event in failed] == [4, 5, 6]
    assert [event.facts["failures_in_a_row"] for event in failed] == [1, 2, 3]
    for event in failed:
        assert event.level == "error"
        assert f"{disk / 'run' / 'checkpoints'}: not saved: a checkpoint takes 4" in event.message
        assert "the disk has 0 B left" in event.message
        assert "the newest checkpoint is still that of step 3" in event.message
    assert "training goes on, and the next one is tried after step 5" in failed[0].message
    assert result.losses == plain.losses
    assert all(torch.equal(result.parameters[name], tensor) for name, tensor in plain.parameters.items())


@BACKGROUND
def test_bar_05_a_disk_that_refuses_in_the_middle_of_a_file(
    bigrunner: Runner, tmp_path: Path, background: bool
) -> None:
    """There is room, and still the largest file cannot be finished: EFBIG, as EDQUOT would be."""
    limit = file_size_limit(150_000)
    acting = Acting({3: limit.__enter__, 5: lambda: limit.__exit__(None, None, None)}, wait_before=(3, 5))
    run = {"checkpoint_every_steps": 2, "max_steps": 7, "background_checkpoints": background}
    # Saves after steps 2, 4 (refused), 6 and 7.
    result = bigrunner.run(run=run, directory=tmp_path / "run", companions=[acting])
    result.assert_finished()
    assert only_whole_checkpoints(tmp_path / "run") == [2, 6, 7]
    (event,) = events(result, "checkpoint-failed")
    assert event.facts["failed_step"] == 4
    assert "step-00000004: not saved: [Errno 27] File too large; it takes 4" in event.message
    assert "the disk has" not in event.message
    assert "the next one is tried after step 6" in event.message


def test_bar_05_the_last_state_that_cannot_be_saved_is_an_error(bigrunner: Runner, disk: Path) -> None:
    acting = Acting({5: lambda: fill(disk)}, wait_before=(5,))
    run = {"max_steps": 6, "background_checkpoints": True}
    result = bigrunner.run(run=run, directory=disk / "run", companions=[acting])
    assert result.exit_code == ExitCode.ERROR
    assert isinstance(result.error, CheckpointError)
    assert "the last state, after step 6, could not be saved" in str(result.error)
    last = events(result, "checkpoint-failed")[-1]
    assert "training is over" in last.message
    assert only_whole_checkpoints(disk / "run") == [1, 2, 3, 4]
    (disk / "of-somebody-else").unlink()
    again = bigrunner.run(run=run, directory=disk / "run")
    again.assert_finished()
    assert "after step 4" in events(again, "resumed")[0].message


def test_bar_05_a_stop_whose_state_cannot_be_saved_is_an_error_too(bigrunner: Runner, disk: Path) -> None:
    acting = Acting({3: lambda: fill(disk)})
    result = bigrunner.run(
        run={"max_steps": 9, "checkpoint_every_steps": 2}, directory=disk / "run", companions=[acting, StopAt(3)]
    )
    assert result.exit_code == ExitCode.ERROR
    assert "the last state, after step 3, could not be saved" in str(result.error)
    assert only_whole_checkpoints(disk / "run") == [2]


@pytest.mark.parametrize("left", [0, 300_000, 1_200_000])
def test_bar_05_a_run_without_room_for_one_checkpoint_is_refused(bigrunner: Runner, disk: Path, left: int) -> None:
    """The tiny network's checkpoint takes 0.5 MB, and 1 MiB is left to the facts and the file system."""
    fill(disk, leave_bytes=left)
    before = sorted(disk.iterdir())
    result = bigrunner.run(directory=disk / "run")
    assert result.exit_code == ExitCode.USAGE
    assert isinstance(result.error, UsageError)
    assert f"{disk / 'run'}: a checkpoint of this run takes about " in str(result.error)
    assert "make room, or choose another disk with --run-dir" in str(result.error)
    assert sorted(disk.iterdir()) == before
    assert "before_step" not in result.hooks.names()


def test_bar_05_little_room_is_said_once(bigrunner: Runner, disk: Path) -> None:
    room = (1 << 20) + 800_000  # for one, not for two, until the first is written
    acting = Acting({2: lambda: (disk / "of-somebody-else").unlink(), 4: lambda: fill(disk, room)})
    fill(disk, leave_bytes=room)
    result = bigrunner.run(run={"max_steps": 4}, directory=disk / "run", companions=[acting])
    result.assert_finished()
    low = events(result, "disk-space-low")
    assert [event.step for event in low] == [1, 4]
    assert all("not for two" in event.message and event.level == "warning" for event in low)


# -- a disk that becomes full while a file is written ----------------------------------------------------------


def train_on_a_disk_that_fills(disk: Path, report: Path) -> None:
    """In a process of its own, since an audit hook is for ever: when the third checkpoint's largest file is opened,
    somebody else takes what room there is."""

    def fill_up(event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if event == "open" else ""
        if ".tmp-00000003" in path and path.endswith("optimizer.safetensors") and "x" in arguments[1]:
            fill(disk)

    sys.addaudithook(fill_up)
    acting = Acting({5: lambda: (disk / "of-somebody-else").unlink()}, wait_before=(5,))
    result = Runner(disk).run(
        run={"max_steps": 6, "background_checkpoints": True}, directory=disk / "run", companions=[acting]
    )
    failed = [event.message for event in events(result, "checkpoint-failed")]
    report.write_text(json.dumps([result.exit_code, failed]))


@pytest.mark.slow
def test_bar_05_a_disk_that_fills_in_mid_save(tmp_path: Path, disk: Path) -> None:
    process = begin(train_on_a_disk_that_fills, disk, tmp_path / "report")
    process.join()
    code, failed = json.loads((tmp_path / "report").read_text())
    assert code == 0
    assert len(failed) == 2
    assert "step-00000003: not saved: [Errno 28] No space left on device; it takes 4" in failed[0]
    assert "and the disk has " in failed[0]
    assert "a checkpoint takes" in failed[1]
    assert only_whole_checkpoints(disk / "run") == [1, 2, 5, 6]


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bar_05_the_command_on_a_disk_that_fills_and_is_cleared(tmp_path: Path, disk: Path) -> None:
    training = Training(tmp_path, run={"max_steps": 400, "checkpoint_every_steps": 2, "log_every_steps": 1},
        plugins={"checkpoint-rotation": {"keep_last": 3}})  # fmt: skip
    training.run = disk / "run"
    with training.begun("--run-dir", str(training.run), step=5) as process:
        other = fill(disk)
        while not training.events("checkpoint-failed"):
            assert process.poll() is None
        other.unlink()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    refused = next(line for line in output.splitlines() if line.startswith("error: the checkpoint of step"))
    assert f"{disk}/run/checkpoints" in refused
    assert only_whole_checkpoints(training.run)[-1] == 400
    assert [row["step"] for row in training.metrics()] == list(range(1, 401))


@pytest.mark.slow
def test_bar_05_the_command_where_there_is_no_room_at_all(tmp_path: Path, disk: Path) -> None:
    fill(disk)
    done = Training(tmp_path)("--run-dir", str(disk / "run"))
    assert done.returncode == 2
    assert "make room, or choose another disk with --run-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bar_05_the_command_in_its_directory_on_a_full_disk(tmp_path: Path, disk: Path) -> None:
    """A restart, which cannot even write who uses the directory."""
    training = Training(tmp_path, run={"max_steps": 2})
    assert training("--run-dir", str(disk / "run")).returncode == 0
    other = fill(disk)
    training.configure()
    done = training("--run-dir", str(disk / "run"))
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    other.unlink()
    assert training("--run-dir", str(disk / "run")).returncode == 0


@pytest.mark.slow
def test_bar_05_the_command_whose_own_output_goes_to_the_full_disk(tmp_path: Path) -> None:
    """`bigrun run ... > log.txt`: nobody reads what it says, and it trains and saves all the same."""
    training = Training(tmp_path)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            training.words(), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert only_whole_checkpoints(training.run) == [2, 4, 6]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
