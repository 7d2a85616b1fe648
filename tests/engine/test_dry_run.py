"""`bigrun run --dry-run`: real steps, a real save and a real resume, of which nothing remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tiny import NETWORK
from torch import Tensor

from bigrun.activation import activate
from bigrun.cli import main
from bigrun.config import read_preset
from bigrun.drill.faults import FAULTS
from bigrun.dry_run import rehearse as rehearsing
from bigrun.dry_run.child import WORK
from bigrun.dry_run.comparison import compare
from bigrun.dry_run.one_machine import refuse_others
from bigrun.dry_run.rehearse import DryRun
from bigrun.dry_run.report import human_seconds, lines, to_json
from bigrun.dry_run.scratch import scratch_directory
from bigrun.dry_run.verdict import judge
from bigrun.dry_run.written import look_at_files, sizes_of
from bigrun.errors import UsageError
from bigrun.markers import hookimpl
from bigrun.objective.base import Outputs
from bigrun.replay import replay as replaying
from bigrun.run import Run
from bigrun.scribe.logger import LibraryLogger
from bigrun.testing.runner import Runner
from bigrun.tuner.child import describe, with_data
from bigrun.tuner.isolation import Answer

PRESET = (
    """[run]
max_steps = 20
log_every_steps = 1
checkpoint_every_steps = 5
[data]
path = "images"
effective_batch = 4
workers = 0
[optimizer]
warmup_steps = 8
[schedule]
form = "v1"
"""
    + NETWORK
    + """[hardware]
device = "cpu"
precision = "fp32"
threads = 1
[plugins.metrics-log]
[plugins.checkpoint-rotation]
keep_last = 2
"""
)


class Forgets:
    """A term of the loss that changes with the steps, by a count that no checkpoint holds."""

    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def loss_terms(self, run: Run, outputs: Outputs) -> Mapping[str, Tensor]:
        self.count += 1
        return {"drift": outputs.global_features.cls.float().square().mean() * self.count}


class Mixes(Forgets):
    """Saves the count, and does not take it back; no loss says so."""

    @hookimpl
    def loss_terms(self, run: Run, outputs: Outputs) -> Mapping[str, Tensor]:
        self.count += 1
        return {}

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        pass


class Breaks:
    """Fails at step 2."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 2:
            raise ValueError("no such luck")


class Perturbs:
    """What is restored becomes a little different, as of an optimizer that takes back less than it gave."""

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.resumed_from is not None:
            state = next(iter(run.optimizer.state.values()))
            state["exp_avg"].mul_(1 + 1e-5)


class StopsAgain:
    """Stops the run that was continued, after `steps` of its own; what it saves shows in no loss."""

    steps = 0

    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.resumed_from is not None and self.steps == 0:
            run.request_stop("enough")

    @hookimpl
    def after_step(self, run: Run) -> None:
        self.count += 1
        if run.resumed_from is not None:
            run.request_stop("enough")

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.count = state["count"]


class StopsAfterOne(StopsAgain):
    steps = 1


class WritesElsewhere(LibraryLogger):
    """Hands everything to a library, whose process does not even start."""

    observer = True
    plugin, library, extra, writer = "elsewhere", "json", "none", "there_is_no_such_writer"

    def __init__(self) -> None:
        super().__init__(1.0)

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        return {}

    def environment(self, run: Run, folder: Path) -> dict[str, str]:
        return dict(os.environ)


class FailsToWatch:
    observer = True

    @hookimpl
    def after_step(self, step: int) -> None:
        raise ValueError("blind")


class Diverges:
    """The loss is no number in step 2."""

    @hookimpl
    def loss_terms(self, step: int) -> Mapping[str, Tensor]:
        return {"bad": torch.tensor(float("nan") if step == 2 else 0.0, requires_grad=True)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with images and a preset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "tiny.toml").write_text(PRESET)
    return tmp_path


def invoke(*words: Any) -> Result:
    result = CliRunner().invoke(main, ["run", "tiny.toml", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each process of a dry run does is done in this one: the same functions, without three starts of torch, and
    without a plan."""

    def ask(order: Mapping[str, Any], limit: float, module: str, hear: Any) -> Answer:
        assert module == "bigrun.dry_run.child"
        wanted = json.loads(json.dumps(order))
        if wanted["what"] == "plan":
            return Answer("error", message="no plan here", exit_code=2)
        try:
            answer = WORK[wanted.pop("what")](tell=lambda **line: hear(line), **wanted)
        except Exception as error:
            return Answer(**describe(error))
        return Answer("ok", json.loads(json.dumps(answer)))

    monkeypatch.setattr(rehearsing, "ask", ask)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("here")
def test_its_numbers_are_those_of_the_run_and_nothing_is_left(home: Path) -> None:
    check_numbers(home)


@pytest.mark.slow
def test_so_they_are_in_processes_of_their_own(home: Path) -> None:
    found = check_numbers(home)
    assert found["predicted"]["checkpoint_bytes"] == pytest.approx(found["measured"]["checkpoint"]["bytes"], rel=0.1)


def check_numbers(home: Path) -> dict[str, Any]:
    """The schedules are those of the whole run: a cosine over six steps would be another."""
    before = names(home)
    result = invoke("--dry-run", "--steps", 6, "--json", "dry.json")
    assert result.exit_code == 0, result.output
    assert names(home) == before | {"dry.json"}
    found: dict[str, Any] = json.loads((home / "dry.json").read_text())
    assert invoke("--max-hours", 1).exit_code == 0
    straight = losses_of(home / "runs/tiny")
    assert [found["measured"]["rows"][str(step)]["loss"] for step in range(1, 7)] == straight[:6]
    assert len(straight) == 20
    saved = home / "runs/tiny/checkpoints/step-00000020"
    size = sum(path.stat().st_size for path in saved.iterdir())
    assert found["measured"]["checkpoint"]["bytes"] == pytest.approx(size, rel=0.05)
    assert found["resume"]["steps"] == [4, 5]
    assert found["resume"]["differing"] == []
    assert found["resume"]["loss"] == found["resume"]["resumed_loss"] == straight[4]
    assert found["total_seconds"] == pytest.approx(20 * found["step_seconds"], rel=0.5, abs=4)
    assert found["images_per_second"] == pytest.approx(4 / found["step_seconds"])
    assert found["measured"]["peak_bytes"] > 100 * 2**20
    assert "resume       step 4, 5 again from the checkpoint: the same losses, bit for bit" in result.output
    assert "the newest 2 stay" in result.output
    assert "verdict      look at this" in result.output  # of so small a batch
    return found


@pytest.mark.usefixtures("here")
def test_a_run_that_is_there_stays_as_it_is(home: Path) -> None:
    assert invoke().exit_code == 0
    before = everything(home)
    result = invoke("--dry-run", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert everything(home).keys() == before.keys()
    assert everything(home / "runs/tiny") == {k: v for k, v in before.items() if k.startswith(str(home / "runs/tiny"))}
    assert "runs/tiny holds a run, which the command continues; the dry run begins at step 1" in result.output


@pytest.mark.usefixtures("here")
def test_state_that_is_lost_is_found_and_its_plugin_named(home: Path) -> None:
    """A term of the loss that a checkpoint does not hold."""
    result = invoke("--dry-run", "--steps", 5, "--plugin", f"{__name__}:Forgets", "--json", "dry.json")
    assert result.exit_code == 1
    assert "verdict      not ready" in result.output
    assert "the run that was continued from its checkpoint is another" in result.output
    assert f"plugins that save no state of their own: {__name__}:Forgets" in result.output
    found = json.loads((home / "dry.json").read_text())
    assert {"loss", "loss/drift"} <= set(found["resume"]["differing"])
    assert found["verdict"] == "not ready"
    assert not (home / "runs").exists()


@pytest.mark.usefixtures("here")
def test_state_that_no_loss_shows_yet_is_found(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 4, "--plugin", f"{__name__}:Mixes")
    assert result.exit_code == 1
    assert f"state that was not restored: {__name__}:Mixes" in result.output
    assert "all losses are the same" in result.output


@pytest.mark.usefixtures("here")
def test_tensors_that_are_not_as_they_were_saved_are_found_and_their_file_named(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 4, "--plugin", f"{__name__}:Perturbs", "--json", "dry.json")
    assert result.exit_code == 1
    assert "state that was not restored: optimizer" in result.output
    assert json.loads((home / "dry.json").read_text())["resume"]["parts"] == ["optimizer"]


@pytest.mark.usefixtures("here")
def test_a_continued_run_that_stops_at_once_is_a_problem_with_its_reason(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 4, "--plugin", f"{__name__}:StopsAgain")
    assert result.exit_code == 1
    assert "not ready    resume: it stopped after step 2, before a step could be compared: enough" in result.output
    assert "resume       no step was taken from the checkpoint" in result.output
    assert "not restored" not in result.output


@pytest.mark.usefixtures("here")
def test_of_a_continued_run_that_stops_early_no_plugin_is_blamed(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 4, "--plugin", f"{__name__}:StopsAfterOne")
    assert result.exit_code == 1
    assert "not ready    resume: it stopped after step 3: enough" in result.output
    assert "resume       step 3 again from the checkpoint: the same losses, bit for bit" in result.output
    assert "not restored" not in result.output


@pytest.mark.usefixtures("here")
def test_images_that_are_not_there_are_an_error_of_the_command(home: Path) -> None:
    before = names(home)
    result = invoke("--dry-run", "--set", "data.path=nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output
    assert "verdict" not in result.output
    assert names(home) == before


@pytest.mark.usefixtures("here")
def test_nothing_is_handed_to_a_library(home: Path) -> None:
    """It might be on its way to a server of other people."""
    result = invoke("--dry-run", "--steps", 2, "--plugin", f"{__name__}:WritesElsewhere", "--json", "dry.json")
    assert result.exit_code == 0, result.output
    assert "left out     json: a rehearsal is not recorded" in result.output
    found = json.loads((home / "dry.json").read_text())
    assert found["measured"]["failures"] == {}
    assert "elsewhere" not in {entry["name"] for entry in found["written"]}


def test_trials_drills_and_replays_are_rehearsals_and_runs_are_not(
    home: Path, bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_data(read_preset("tiny.toml"), home / "trial") as trial:
        assert trial.is_rehearsal
    for plugins, expected in (((FAULTS,), True), ((), False)):
        run = bigrunner.run(*plugins, steps=2, dataset=False, data={"path": str(home / "images")}).run
        assert run is not None
        assert run.is_rehearsal is expected
    seen = list[bool]()
    look = replaying.bad_tensors
    monkeypatch.setattr(replaying, "bad_tensors", lambda again: seen.append(again.is_rehearsal) or look(again))
    replaying.replay(run.directory, 2)
    assert seen == [True]


@pytest.mark.usefixtures("here")
def test_an_error_in_a_step_is_not_ready(home: Path) -> None:
    before = names(home)
    result = invoke("--dry-run", "--plugin", f"{__name__}:Breaks", "--json", "dry.json")
    assert result.exit_code == 1
    assert "Breaks failed in before_step at step 2: ValueError: no such luck" in result.output
    assert "verdict      not ready" in result.output
    assert names(home) == before | {"dry.json"}


@pytest.mark.usefixtures("here")
def test_an_observer_that_fails_is_worth_a_look(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 3, "--plugin", f"{__name__}:FailsToWatch")
    assert result.exit_code == 0
    assert f"look at      observer {__name__}:FailsToWatch failed: ValueError: blind" in result.output
    assert "look at      nothing is predicted: no plan here" in result.output
    assert "at the peak, predicted n/a" in result.output


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_no_number_is_not_ready(home: Path) -> None:
    result = invoke("--dry-run", "--steps", 4, "--plugin", f"{__name__}:Diverges")
    assert result.exit_code == 1
    assert "the loss was not finite, or the step was left out: 2" in result.output


@pytest.mark.usefixtures("here")
def test_a_run_without_end_has_no_eta(home: Path) -> None:
    (home / "tiny.toml").write_text(PRESET.replace("max_steps = 20\n", "").replace('form = "v1"', 'form = "v2"'))
    result = invoke("--dry-run", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert "until stopped; " in result.output
    assert "steps a day; ETA n/a" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "--steps has no effect without --dry-run"),
        (["--json", "x"], "--json has no effect without --dry-run"),
        (["--scratch", "x"], "--scratch has no effect without --dry-run"),
        (["--dry-run", "--supervise"], "--supervise has no effect with --dry-run"),
        (["--dry-run", "--from", "x"], "--from has no effect with --dry-run"),
        (["--dry-run", "--drop-plugin", "x"], "--drop-plugin has no effect with --dry-run"),
        (["--dry-run", "--steps", "1"], "is not in the range x>=2"),
        (["--dry-run", "--set", "run.max_stps=3"], "run.max_stps: unknown option - did you mean 'max_steps'?"),
        (["--dry-run", "--run-dir", "tiny.toml"], "is a file; a run needs a directory"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Path, words: list[str], message: str) -> None:
    before = names(home)
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert names(home) == before


def test_one_command_on_one_machine_rehearses() -> None:
    refuse_others({"WORLD_SIZE": "1"}, 1)
    instead = "rehearse on one machine, outside of any launcher: bigrun launch PRESET --processes N --dry-run"
    for environment, nodes, said in [
        ({"WORLD_SIZE": "4"}, 1, f"WORLD_SIZE=4 says that a launcher has started 4; {instead}"),
        ({"SLURM_NTASKS": "2"}, 1, f"SLURM_NTASKS=2 says that a launcher has started 2; {instead}"),
        ({}, 3, f"--nodes says that there are 3; {instead}"),
    ]:
        with pytest.raises(UsageError, match=said):
            refuse_others(environment, nodes)


# -- parts -----------------------------------------------------------------------------------------------------


def test_the_scratch_directory_goes_whatever_happens(tmp_path: Path) -> None:
    parent = tmp_path / "runs" / "deep"

    def fail() -> None:
        with scratch_directory(parent, "x", print) as home:
            (home / "sub").mkdir()
            assert home.parent == parent
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def hold(directory: Path) -> subprocess.Popen[str]:
    """Another process that has made a directory, and has its lock."""
    script = (
        "import sys, time; from pathlib import Path; from bigrun.lock import RunLock\n"
        "Path(sys.argv[1]).mkdir(); RunLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_what_a_killed_one_has_left_goes_at_the_next(tmp_path: Path) -> None:
    """Not one that is in use, and nothing else of such a name."""
    killed, foreign = tmp_path / ".dry-run-a-1", tmp_path / ".dry-run-b-2"
    for folder in (killed, foreign):
        folder.mkdir()
    owner = {"host": "here", "pid": 1, "started_utc": "2026-01-01"}
    (killed / "run.lock").write_text(json.dumps(owner | {"host": os.uname().nodename}))
    used = tmp_path / ".dry-run-c-3"
    process = hold(used)
    try:
        said: list[str] = []
        with scratch_directory(tmp_path, "x", said.append):
            assert not killed.exists()
            assert foreign.exists()
            assert used.exists()
        assert said == [f"removed      {killed}, which a killed dry run has left"]
    finally:
        process.kill()
        process.communicate()


def test_the_directory_of_another_one_is_not_touched(tmp_path: Path) -> None:
    """Of one in another container, which has the same number of its process."""
    other = tmp_path / f".dry-run-x-{os.getpid()}"
    process = hold(other)
    try:
        (other / "precious").touch()
        with scratch_directory(tmp_path, "x", print) as home:
            assert home != other
        assert (other / "precious").exists()
        assert list(tmp_path.iterdir()) == [other]
    finally:
        process.kill()
        process.communicate()


def test_one_that_is_about_to_take_its_lock_is_not_swept(tmp_path: Path) -> None:
    begun = tmp_path / ".dry-run-a-1"
    begun.mkdir()
    (begun / "run.lock").touch()
    with scratch_directory(tmp_path, "x", print):
        assert begun.exists()


def test_a_place_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="see --scratch"), scratch_directory(tmp_path / "file", "x", print):
        pass


def row(loss: Any, **more: float) -> dict[str, Any]:
    return {"loss": loss, "grad_norm": 1.0, "memory/free": time.time(), **more}


def answer(rows: Mapping[str, Any], **states: str) -> dict[str, Any]:
    return {"rows": rows, "states": states, "by_rank": [prints()]}


def prints(frozen: str | None = "f") -> dict[str, Any]:
    """Of a process that has saved, and of one that has restored."""
    tensors = {"student": "s", "frozen": "f"}
    return {"saved": tensors, "restored": {"student": "s"} if frozen is None else tensors | {"frozen": frozen}}


def test_runs_are_compared_where_both_have_been() -> None:
    straight = answer({"1": row(3.0), "2": row(2.0), "3": row(1.0)}, a="x")
    same = compare(straight, answer({"2": row(2.0), "3": row(1.0)}, a="x"))
    assert same.is_exact
    assert same.steps == (2, 3)
    near = compare(straight, answer({"2": row(2.0), "3": row(1.0 + 1e-7)}, a="x"))
    assert not near.is_exact
    assert near.is_good(is_gpu=True)
    assert not near.is_good(is_gpu=False)
    far = compare(straight, answer({"2": row(2.2), "3": row(1.0)}, a="x"))
    assert not far.is_good(is_gpu=True)
    assert far.apart == pytest.approx(0.1)
    assert compare(straight, answer({"3": row("nan")}, a="x")).apart == float("inf")
    lost = compare(straight, answer({"3": row(1.0)}, a="y"))
    assert lost.plugins == ("a",)
    assert not lost.is_good(is_gpu=True)


def test_on_a_gpu_tensors_are_exact_and_norms_are_near() -> None:
    straight = answer({"2": row(2.0), "3": row(1.0)})
    near = answer({"3": row(1.0, grad_norm=1.001)})
    assert compare(straight, near).is_good(is_gpu=True)
    assert not compare(straight, answer({"3": row(1.0, grad_norm=1.1)})).is_good(is_gpu=True)
    lost = compare(straight, near | {"by_rank": [prints("another")]})
    assert lost.parts == ("frozen",)
    assert not lost.is_good(is_gpu=True)
    assert compare(straight, near | {"by_rank": [prints(None)]}).parts == ("frozen",)


def test_what_one_of_several_processes_has_lost_is_named_with_it() -> None:
    straight = answer({"2": row(2.0)}) | {"by_rank": [prints()] * 3}
    for restored, parts in [
        ([prints(), prints("x"), prints(None)], ("frozen of process 1, 2",)),
        ([prints("x"), prints("y"), prints("x")], ("frozen",)),
        ([prints()] * 3, ()),
    ]:
        assert compare(straight, answer({"2": row(2.0)}) | {"by_rank": restored}).parts == parts


def test_without_a_step_in_common_nothing_is_the_same() -> None:
    none = compare(answer({"2": row(2.0)}, a="x"), answer({}) | {"states": None})
    assert none.steps == ()
    assert not none.is_exact
    assert not none.is_good(is_gpu=True)
    assert none.plugins == ()


def test_growth_is_that_of_logs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"x" * 1000)
    (tmp_path / "telemetry.jsonl").write_bytes(b"x" * 500)
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "events.out.tfevents.1").write_bytes(b"x" * 300)
    (tmp_path / "config.toml").write_bytes(b"x" * 70)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(b"x" * 5000)
    last = sizes_of(tmp_path)
    assert last == {"metrics.jsonl": 1000, "telemetry.jsonl": 500, "curves": 300, "config.toml": 70, "pictures": 5000}
    changing: dict[str, Callable[[int], int]] = {
        "metrics.jsonl": lambda step: 100 * step,
        "curves": lambda step: 30 * step - (270 if step < 4 else 0),  # with a picture in the fourth step
        "pictures": lambda step: 5000 if step >= 4 else 0,
    }
    sizes = {step: last | {name: size(step) for name, size in changing.items()} for step in range(1, 11)}
    found = {w.name: w for w in look_at_files(tmp_path, sizes, 5.0, step_seconds=0.5, log_every_steps=20)}
    assert found.keys() == last.keys()
    assert found["pictures"].bytes_per_day is None
    assert found["metrics.jsonl"].bytes_per_day == pytest.approx(100 * 86400 / 0.5 / 20)
    assert found["curves"].bytes_per_day == pytest.approx(30 * 86400 / 0.5 / 20)
    assert found["telemetry.jsonl"].bytes_per_day == pytest.approx(100 * 86400)
    assert found["config.toml"].bytes_per_day is None
    unknown = look_at_files(tmp_path, {1: last}, 5.0, step_seconds=0.5, log_every_steps=20)
    assert {w.name for w in unknown if w.bytes_per_day is not None} == {"telemetry.jsonl"}


def test_a_directory_that_is_gone_has_nothing(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert sizes_of(gone) == {}
    assert look_at_files(gone, {1: {}, 2: {}}, 5.0, step_seconds=0.5, log_every_steps=20) == []


def made_up(**changes: Any) -> DryRun:
    """A dry run of which only what the verdict reads is there."""
    config, _ = activate(read_preset("quickstart"))
    trained = {
        "device": "cuda", "is_gpu": True, "effective_batch": 64, "images": 100, "max_steps": 1000,
        "checkpoint_every_steps": 100, "background": True, "parameters": {"backbone": 12}, "header": [],
        "stateless": [], "rotation": None, "free_bytes": 10**12, "room": 100, "warnings": [], "failures": {},
        "left_out": [], "before_bytes": 2**28, "before_save_bytes": 2**30, "peak_bytes": 2**31,
        "device_peak_bytes": 2**33, "device_reserved_bytes": 2**34, "steps": 4, "stop_reason": None,
        "rows": {str(k): row(1.0) for k in range(1, 5)},
        "timings": {str(k): {"data_wait_fraction": 0.01} for k in range(1, 5)},
        "seconds": {"1": 9.0, "2": 2.0, "3": 7.0, "4": 2.5}, "states": {}, "by_rank": [prints()],
        "checkpoint": {"step": 2, "path": "x", "bytes": 10**9, "stall_seconds": 0.5, "total_seconds": 3.0},
    }  # fmt: skip
    trained |= changes
    planned = {"device_peak_bytes": 2**33, "process_bytes": 2**32}
    resumed = answer({"3": row(1.0), "4": row(1.0)}) | {"verify_seconds": 1.5}
    found = DryRun(config, Path("runs/x"), 4, planned, trained=trained, resumed=resumed)
    return attrs.evolve(found, comparison=compare(trained, resumed))


def test_first_step_and_save_are_no_usual_steps() -> None:
    found = made_up()
    assert found.step_seconds == 2.25  # of steps 2 and 4
    text = "\n".join(lines(found, judge(found)))
    assert "of the device: 8.00 GiB in tensors at the peak, predicted 8.00 GiB; 16.0 GiB reserved" in text
    assert "1.00 GiB until the checkpoint, 2.00 GiB with its copy" in text
    assert "0.5 s in the background, 3 s in the foreground" in text
    assert "1,000 steps in 37.6 minutes" in text  # 1000 * 2.25 s + 10 * 0.5 s
    assert "all stay, for no plugin removes any; room for 100" in text
    assert text.endswith("verdict      ready; nothing of the dry run is left")
    assert judge(found).exit_code == 0
    json.dumps(to_json(found, judge(found)), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"room": 1}, "look at this", "room for one checkpoint"),
        ({"timings": {"2": {"data_wait_fraction": 0.4}}}, "look at this", "40% of the time waits for images"),
        ({"header": ["warning      too warm"]}, "look at this", "too warm"),
        ({"steps": 3, "stop_reason": "max_hours"}, "not ready", "stopped after step 3 of 4: max_hours"),
    ],
)
def test_what_is_worth_a_look(changes: dict[str, Any], word: str, reason: str) -> None:
    verdict = judge(made_up(**changes))
    assert verdict.word == word
    assert reason in " ".join((*verdict.problems, *verdict.remarks))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.21 s"), (150, "2.5 minutes"), (9000, "2.5 hours"), (864000, "10 days")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


# -- ended before its time -------------------------------------------------------------------------------------


def start(home: Path) -> subprocess.Popen[str]:
    """A dry run in its middle: it has taken a step and has 100,000 before it."""
    words = [sys.executable, "-m", "bigrun", "run", "tiny.toml", "--dry-run", "--steps", "100000", "--set"]
    process = subprocess.Popen([*words, "run.max_steps=100000"], text=True, stderr=subprocess.PIPE, cwd=home)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train        step"):
            return process
    raise AssertionError(process.wait())


def children_of(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_a_signal_ends_it_and_nothing_is_left(home: Path, number: signal.Signals) -> None:
    before = names(home)
    process = start(home)
    (child,) = children_of(process)
    assert names(home) != before
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}: nothing of the dry run is left" in said
    assert names(home) == before
    assert is_gone(child)


@pytest.mark.slow
def test_a_kill_leaves_what_the_next_one_removes(home: Path) -> None:
    before = names(home)
    process = start(home)
    (child,) = children_of(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while not is_gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert names(home) != before
    result = invoke("--dry-run", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert "which a killed dry run has left" in result.output
    assert names(home) == before | {"runs"}
