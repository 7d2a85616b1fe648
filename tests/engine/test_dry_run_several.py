"""`bigrun launch --dry-run`: the processes of a run are rehearsed together, and end together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import answering
import psutil
import pytest
from answering import acted, is_gone
from click.testing import CliRunner, Result
from training import ENDLESS, Training

from bigrun.cli import main
from bigrun.config import Document, read_preset
from bigrun.dry_run import rehearse as rehearsing
from bigrun.dry_run import together
from bigrun.dry_run.child import WORK
from bigrun.interruption import Interrupted
from bigrun.markers import hookimpl
from bigrun.overrides import override
from bigrun.planner.host_memory import COPY, IMAGES, PROCESS, WORKERS, of_first_process
from bigrun.planner.sharing import Sharing
from bigrun.run import Run
from bigrun.tuner.child import as_facts
from bigrun.tuner.isolation import Answer

SHARED = Path(answering.__file__).parent

# -- who ends, and what is said --------------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process finds what tests share."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SHARED), os.environ.get("PYTHONPATH", "")]))


def begun(folder: Path, count: int) -> list[int]:
    """The ids of so many processes, and of what each has started; waits until they are there."""
    deadline = time.monotonic() + 120
    while sum(len(path.read_text().split()) for path in folder.glob("pids-*")) < 2 * count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(word) for path in folder.glob("pids-*") for word in path.read_text().split()]


def wait_until_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if not is_gone(pid)]
        time.sleep(0.01)


@pytest.mark.usefixtures("shared")
def test_each_answers_and_the_first_is_heard(tmp_path: Path) -> None:
    heard: list[Mapping[str, Any]] = []
    answers = acted(tmp_path, "well", "well", hear=heard.append)
    assert [answer.facts for answer in answers] == [{"rank": 0}, {"rank": 1}]
    assert heard == [{"step": 0}]
    wait_until_gone(begun(tmp_path, 2))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("parts", "status", "message"),
    [
        (["loses", "fails_last"], "error", "process 1: no such luck"),
        pytest.param(["fails", "loses"], "error", "no such luck", marks=pytest.mark.slow),
        pytest.param(["sleeps", "fails"], "error", "process 1: no such luck", marks=pytest.mark.slow),
        (["well", "dies"], "crash", "process 1: killed by SIGKILL, which the kernel does when memory runs out"),
        (["dies", "loses"], "crash", "process 0: killed by SIGKILL, which the kernel does when memory runs out"),
    ],
)
def test_who_fails_for_a_reason_of_its_own_ends_the_others_and_is_named(
    tmp_path: Path, parts: list[str], status: str, message: str
) -> None:
    (answer,) = acted(tmp_path, *parts)
    assert (answer.status, answer.message) == (status, message)
    wait_until_gone(begun(tmp_path, 2))


@pytest.mark.usefixtures("shared")
def test_when_nobody_says_why_the_first_who_was_told_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits on its GPU for one that is gone never ends."""
    monkeypatch.setattr(together, "OWN_REASON_SECONDS", 0.1)
    (answer,) = acted(tmp_path, "sleeps", "repeats")
    assert answer.message == "process 1: process 2 on node-b has ended: no memory"
    wait_until_gone(begun(tmp_path, 2))


@pytest.mark.usefixtures("shared")
def test_an_interruption_ends_all(tmp_path: Path) -> None:
    def interrupt(line: Mapping[str, Any]) -> None:
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        acted(tmp_path, "sleeps", "sleeps", hear=interrupt)
    assert all(map(is_gone, begun(tmp_path, 2)[:1]))
    wait_until_gone(begun(tmp_path, 2))


@pytest.mark.usefixtures("shared")
def test_whoever_has_started_them_is_killed_and_they_end(tmp_path: Path) -> None:
    script = "import sys, pathlib, answering; answering.acted(pathlib.Path(sys.argv[1]), 'sleeps', 'sleeps', 'sleeps')"
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        pids = begun(tmp_path, 3)
        assert not any(map(is_gone, pids))
    finally:
        parent.kill()
        parent.wait()
    wait_until_gone(pids)


# -- rehearsals ------------------------------------------------------------------------------------------------


class PerturbsOne:
    """What one process restores becomes a little different."""

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.resumed_from is not None and run.peers.rank == 1:
            for state in run.optimizer.state.values():
                state["exp_avg"].add_(1e-6)


class FailsOnOne:
    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if step == 2 and run.peers.rank == 1:
            raise ValueError("no such luck")


class DiesOnOne(FailsOnOne):
    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if step == 2 and run.peers.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class FailsToWatch:
    """On the process that is not the main one."""

    observer = True

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if run.peers.rank == 1:
            raise ValueError("blind")


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """A folder with images and a preset, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return Training(tmp_path, run={"max_steps": 8, "checkpoint_every_steps": 5}, data={"effective_batch": 12})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, which meet as in a dry run, without starts of torch; and without a plan."""

    def ask_forked(order: Mapping[str, Any], environments: Sequence[Mapping[str, str]], *_: Any) -> list[Answer]:
        return answering.forked(order, environments)

    monkeypatch.setattr(rehearsing, "ask_together", ask_forked)
    monkeypatch.setattr(rehearsing, "ask", lambda *_: Answer("error", message="no plan here", exit_code=2))


def invoke(*words: Any, processes: int = 2) -> Result:
    words = ("launch", "tiny.toml", "--processes", processes, "--dry-run", *words)
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.usefixtures("here")
def test_its_numbers_are_those_of_the_run_and_nothing_is_left(training: Training) -> None:
    check_numbers(training, "ddp", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("strategy", "processes"), [("fsdp", 2), ("ddp", 3), ("fsdp", 3)])
def test_with_shards_and_more_processes_too(training: Training, strategy: str, processes: int) -> None:
    check_numbers(training, strategy, processes)


@pytest.mark.slow
def test_so_they_are_in_processes_that_it_starts(training: Training) -> None:
    found = check_numbers(training, "fsdp", 2)
    assert found["predicted"]["checkpoint_bytes"] == pytest.approx(found["measured"]["checkpoint"]["bytes"], rel=0.15)
    assert found["predicted"]["process_bytes"] == pytest.approx(found["measured"]["peak_bytes"], rel=0.6)


def check_numbers(training: Training, strategy: str, processes: int) -> dict[str, Any]:
    """The losses are those of the run's own processes."""
    before = names(training.folder)
    share = ("--set", f"parallel.strategy={strategy}")
    result = invoke("--steps", 4, "--json", "dry.json", *share, processes=processes)
    assert result.exit_code == 0, result.output
    assert names(training.folder) == before | {"dry.json"}
    found: dict[str, Any] = json.loads((training.folder / "dry.json").read_text())
    assert (found["processes"], found["strategy"], found["measured"]["steps"]) == (processes, strategy, 4)
    assert re.search(rf"^parallel     {strategy}\b.* {processes} processes", result.output, re.MULTILINE)
    assert "memory       of each process, without its workers" in result.output
    done = training.together(processes, "--max-hours", "1", *share)
    assert {each.returncode for each in done} == {0}
    straight = [row["loss"] for row in training.metrics()]
    assert len(straight) == 8
    assert [found["measured"]["rows"][str(step)]["loss"] for step in range(1, 5)] == straight[:4]
    assert found["resume"]["steps"] == [3, 4]
    assert found["resume"]["differing"] == found["resume"]["parts"] == []
    assert "resume       step 3, 4 again from the checkpoint: the same losses, bit for bit" in result.output
    saved = training.run / "checkpoints" / "step-00000008"
    size = sum(path.stat().st_size for path in saved.iterdir())
    assert found["measured"]["checkpoint"]["bytes"] == pytest.approx(size, rel=0.05)
    peaks = [facts["peak_bytes"] for facts in found["memory_by_rank"]]
    assert len(peaks) == processes
    assert found["measured"]["peak_bytes"] == max(peaks) > 100 * 2**20
    return found


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_what_is_predicted_is_the_plan_for_so_many(training: Training, strategy: str) -> None:
    tables = override(read_preset("tiny.toml").tables, [f"parallel.strategy={strategy}"])
    document = Document("tiny.toml", "tiny", tables)
    found = WORK["plan"](as_facts(document), str(training.folder / "x"), processes=2, tell=lambda **line: None)
    result = CliRunner().invoke(
        main, ["plan", "tiny.toml", "--gpus", "2", "--json", "--set", f"parallel.strategy={strategy}"]
    )
    planned = json.loads(result.stdout)
    assert found["device_need_bytes"] == planned["need_bytes"]
    assert found["checkpoint_bytes"] == planned["checkpoint_bytes"]


def test_the_first_of_several_processes_copies_whole_networks_alone() -> None:
    host = {PROCESS: 800, WORKERS: 4000, IMAGES: 80, COPY: 64}
    for strategy, groups, expected in (("ddp", 1, 100 + 10 + 64), ("fsdp", 1, 100 + 10 + 8)):
        assert of_first_process(host, Sharing(8, strategy=strategy, groups=groups)) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_tensors_that_one_process_did_not_restore_are_found(training: Training, strategy: str) -> None:
    words = ("--steps", 2, "--plugin", f"{__name__}:PerturbsOne", "--set", f"parallel.strategy={strategy}")
    result = invoke(*words)
    assert result.exit_code == 1, result.output
    assert "state that was not restored: optimizer of process 1" in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_an_observer_that_fails_on_one_process_is_worth_a_look(training: Training) -> None:
    result = invoke("--steps", 3, "--plugin", f"{__name__}:FailsToWatch")
    assert result.exit_code == 0, result.output
    assert f"look at      observer {__name__}:FailsToWatch failed: ValueError: blind" in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ("FailsOnOne", "process 1: {name}:FailsOnOne failed in before_update at step 2: ValueError: no such luck"),
        ("DiesOnOne", "process 1: killed by SIGKILL, which the kernel does when memory runs out"),
    ],
)
def test_a_process_that_fails_is_named_with_its_reason(
    training: Training, monkeypatch: pytest.MonkeyPatch, plugin: str, said: str, strategy: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]))
    before = names(training.folder)
    words = ("--steps", 4, "--plugin", f"{__name__}:{plugin}", "--set", f"parallel.strategy={strategy}")
    result = invoke(*words)
    assert result.exit_code == 1, result.output
    assert f"not ready    train: {said.format(name=__name__)}" in result.output
    assert names(training.folder) == before


@pytest.mark.usefixtures("here")
def test_images_that_are_not_there_are_an_error_of_the_command(training: Training) -> None:
    before = names(training.folder)
    result = invoke("--set", "data.path=nowhere")
    assert result.exit_code == 2
    assert result.output.count("nowhere") == 1
    assert "verdict" not in result.output
    assert names(training.folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2"], "--dry-run: stays on this machine, and --nodes says that there are 2; rehearse on one"),
        (["--supervise"], "--supervise has no effect with --dry-run"),
        (["--grace-seconds", "600"], "--grace-seconds has no effect with --dry-run"),
        (["--slurm"], "--slurm has no effect with --dry-run"),
        (["--set", "data.effective_batch=5"], "cannot be divided among 2 processes"),
        (["--set", "run.max_stps=3"], "run.max_stps: unknown option - did you mean 'max_steps'?"),
    ],
)
def test_what_makes_no_sense_is_refused(training: Training, words: list[str], message: str) -> None:
    before = names(training.folder)
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert names(training.folder) == before


def test_under_a_launcher_it_says_how_to_rehearse(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # that the other variables are missing is not the point
    result = invoke()
    assert result.exit_code == 2
    assert "outside of any launcher: bigrun launch PRESET --processes N --dry-run" in " ".join(result.output.split())


# -- ended before its time -------------------------------------------------------------------------------------


def start(training: Training) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A dry run in its middle, which has taken a step and has 100,000 before it; and its two processes."""
    training.configure(**ENDLESS, data={"workers": 1})
    words = [sys.executable, "-m", "bigrun", "launch", "tiny.toml", "--processes", "2", "--dry-run", "--steps"]
    process = subprocess.Popen([*words, "100000"], text=True, stderr=subprocess.PIPE, cwd=training.folder)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train        step"):
            members = psutil.Process(process.pid).children()
            assert len(members) == 2
            return process, psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(process.wait())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_it_and_nothing_is_left(training: Training, number: signal.Signals) -> None:
    before = names(training.folder)
    process, members = start(training)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}: nothing of the dry run is left" in said
    assert "Traceback" not in said
    assert names(training.folder) == before
    wait_until_gone([member.pid for member in members])


@pytest.mark.slow
def test_a_kill_ends_all_processes_and_leaves_what_the_next_one_removes(training: Training) -> None:
    before = names(training.folder)
    process, members = start(training)
    assert len(members) > 2, "they have workers"
    process.kill()
    process.communicate()
    wait_until_gone([member.pid for member in members])
    assert names(training.folder) != before
    result = invoke("--steps", 2, "--set", "data.workers=0")
    assert result.exit_code == 0, result.output
    assert "which a killed dry run has left" in result.output
    assert names(training.folder) == before | {"runs"}
