"""Bars 7 and 8: a write that fails in its thread is noticed by the next step, not at the exit, and nothing is
published. What the disk refuses is an event; any other error ends the run there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from acting import Acting, events, only_whole_checkpoints
from disks import file_size_limit, unwritable

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError, ExitCode, RunDirectoryError
from bigrun.lock import LOCK
from bigrun.testing.runner import Runner

RUN = {"checkpoint_every_steps": 2, "max_steps": 7, "background_checkpoints": True}


def refusals(directory: Path) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    yield "[Errno 13] Permission denied", unwritable(directory / "checkpoints")
    yield "[Errno 27] File too large", file_size_limit(50_000)


@pytest.mark.parametrize("number", [0, 1], ids=["unwritable", "too-large"])
def test_bar_07_an_error_of_the_writing_thread_is_noticed_by_the_next_step(
    bigrunner: Runner, tmp_path: Path, number: int
) -> None:
    reason, refusing = list(refusals(tmp_path / "run"))[number]
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(CheckpointStore(tmp_path / "run" / "checkpoints").steps())

    # The save after step 4 begins when step 4 is over and fails in its thread; step 5 notices, six saves again.
    acting = Acting(
        {4: refusing.__enter__, 6: lambda: (refusing.__exit__(None, None, None), look())}, wait_before=(4, 5)
    )
    result = bigrunner.run(run=RUN, directory=tmp_path / "run", companions=[acting])
    result.assert_finished()
    (event,) = events(result, "checkpoint-failed")
    assert event.facts["failed_step"] == 4
    assert event.step in (4, 5)  # where the disk does not even say what room there is, nothing is begun
    assert reason in event.message
    assert "the newest checkpoint is still that of step 2" in event.message
    assert seen == [[2]]
    assert only_whole_checkpoints(tmp_path / "run") == [2, 6, 7]


def test_bar_08_hooks_hear_of_no_checkpoint_that_was_not_published(bigrunner: Runner, tmp_path: Path) -> None:
    heard: list[tuple[int, int, bool]] = []

    class Listener:
        @hookimpl
        def on_checkpoint(self, run: Any, step: int, path: Path) -> None:
            heard.append((step, run.step, (path / "MANIFEST.json").exists()))

    limit = file_size_limit(50_000)
    acting = Acting({4: limit.__enter__, 6: lambda: limit.__exit__(None, None, None)}, wait_before=(3, 4, 5, 7))
    bigrunner.run(run=RUN, directory=tmp_path / "run", companions=[acting, Listener()]).assert_finished()
    assert [(step, there) for step, _, there in heard] == [(2, True), (6, True), (7, True)]
    assert [at for _, at, _ in heard] == [3, 7, 7], "each in the step after its own, and the last one at the end"


class Strange:
    """Has a frozen network with numbers that the format of checkpoints does not have."""

    @hookimpl
    def frozen_modules(self) -> dict[str, torch.nn.Module]:
        module = torch.nn.Module()
        module.register_buffer("phases", torch.zeros(2, dtype=torch.complex64))
        return {"strange": module}


def test_bar_07_an_error_that_is_not_the_disks_ends_the_run_at_the_next_step(bigrunner: Runner, tmp_path: Path) -> None:
    taken: list[int] = []

    class Count:
        @hookimpl
        def after_step(self, step: int) -> None:
            taken.append(step)

    result = bigrunner.run(
        run=RUN, directory=tmp_path / "run", companions=[Strange(), Count(), Acting({}, wait_before=(3,))]
    )
    assert result.exit_code == ExitCode.ERROR
    assert isinstance(result.error, CheckpointError)
    assert "frozen.safetensors: tensor 'strange/phases' of torch.complex64 cannot be saved" in str(result.error)
    assert taken in ([1, 2], [1, 2, 3])  # the thread may have failed before step 2 is over
    assert only_whole_checkpoints(tmp_path / "run") == []


def test_bar_07_an_error_in_the_last_save_ends_the_run_too(bigrunner: Runner, tmp_path: Path) -> None:
    run = {**RUN, "checkpoint_every_steps": 100, "max_steps": 2}
    result = bigrunner.run(run=run, directory=tmp_path / "run", companions=[Strange()])
    assert result.exit_code == ExitCode.ERROR
    assert "cannot be saved" in str(result.error)


def test_bar_07_a_process_that_lost_its_directory_publishes_nothing(bigrunner: Runner, tmp_path: Path) -> None:
    """Another process took it over while this one slept: see bar 37."""

    def lose() -> None:
        (tmp_path / "run" / LOCK).unlink()
        (tmp_path / "run" / LOCK).write_text("of another")

    acting = Acting({4: lose}, wait_before=(4, 5))
    result = bigrunner.run(run=RUN, directory=tmp_path / "run", companions=[acting])
    assert isinstance(result.error, RunDirectoryError)
    assert "not the lock of this process any more" in str(result.error)
    assert only_whole_checkpoints(tmp_path / "run") == [2]


def test_bar_07_the_kinds_of_anomalies_wait_for_a_checkpoint_that_tells_of_them(
    bigrunner: Runner, tmp_path: Path
) -> None:
    """Reported before a save that failed: the next one is not a healthy one."""

    class Ill:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            from bigrun.anomaly import Anomaly

            if step in (3, 6):
                run.report_anomaly(Anomaly("early" if step == 3 else "late", step, "ill"))

    limit = file_size_limit(50_000)
    acting = Acting({4: limit.__enter__, 6: lambda: limit.__exit__(None, None, None)}, wait_before=(4, 5))
    bigrunner.run(run=RUN, directory=tmp_path / "run", companions=[acting, Ill()]).assert_finished()
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    said = {step: store.load_facts(store.path(step), "state")["anomalies"] for step in store.steps()}
    assert said == {2: [], 6: ["early", "late"], 7: []}
