"""Bar 4: kill -9 at any moment of a roll back, in which newer checkpoints are removed and an older one is saved again.
The run continues as one that never went back, or as one that has, never as a mix; and then it goes on."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from acting import StopAt, only_whole_checkpoints
from endless import begin

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.checkpoint.store import CheckpointStore
from bigrun.testing.runner import Runner

RUN = {"max_steps": 5, "checkpoint_every_steps": 1}
CHANGES = {"open", "os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir"}
# Two steps back from the fourth: steps 3 and 4 are seen again with other images.
TARGET, POSITION_BEFORE, POSITION_AFTER = 2, 8, 16


class GoesBack:
    """Reports in step 4, the first time that it is taken, what began in step 3; and dies at the n-th change."""

    def __init__(self, directory: Path, at: int) -> None:
        self.directory = directory
        self.at = at
        self.changes = 0
        self.is_on = False

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 4 and not run.rollbacks:
            run.report_anomaly(Anomaly("test", step, "ill", onset=3))

    @hookimpl(tryfirst=True)
    def on_anomaly(self) -> Action:
        self.is_on = True
        sys.addaudithook(self.strike)
        return Action.ROLL_BACK

    @hookimpl
    def after_step(self) -> None:
        self.is_on = False

    def strike(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or event not in CHANGES or not self.concerns(event, arguments):
            return
        self.changes += 1
        if self.changes == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether it changes the directory; relative paths are those of removing a tree in it."""
        path = str(arguments[0])
        reads = event == "open" and isinstance(arguments[1], str) and "r" in arguments[1]
        return not reads and (not path.startswith("/") or str(self.directory) in path)


def go_back_and_die(directory: Path, at: int, report: Path) -> None:
    plugin = GoesBack(directory / "checkpoints", at)
    result = Runner(directory.parent).run(run=RUN, directory=directory, companions=[plugin])
    report.write_text(json.dumps([result.exit_code, plugin.changes]))


@pytest.mark.slow
def test_bar_04_a_kill_at_any_change_of_a_roll_back(bigrunner: Runner, tmp_path: Path) -> None:
    template = bigrunner.run(run=RUN, companions=[StopAt(3)])
    seen = set()
    for at in itertools.count(1):
        directory, report = tmp_path / f"run-{at:03d}", tmp_path / f"report-{at:03d}"
        shutil.copytree(template.directory, directory)
        process = begin(go_back_and_die, directory, at, report)
        process.join()
        store = CheckpointStore(directory / "checkpoints")
        if process.exitcode == 0:
            code, changes = json.loads(report.read_text())
            assert (code, changes < at) == (0, True)
            break
        assert process.exitcode == -signal.SIGKILL
        store.sweep()
        assert only_whole_checkpoints(directory) == store.steps()
        state = store.load_facts(store.path(store.steps()[-1]), "state")
        went_back = bool(state["rollbacks"])
        seen.add((store.steps()[-1], went_back))
        if went_back:
            assert (state["step"], state["position"]) == (TARGET, POSITION_AFTER)
        else:
            assert state["position"] == 4 * state["step"]
        bigrunner.run(run=RUN, directory=directory).assert_finished()
        assert only_whole_checkpoints(directory)[-1] == 5
    assert at > 20, "the hook must see the changes"
    assert seen == {(3, False), (2, False), (2, True)}
