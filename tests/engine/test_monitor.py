"""`bigrun monitor`: what plugins measure of a checkpoint, into a directory of its own, while the run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny import NETWORK

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.layout import step_name
from bigrun.checkpoint.store import CheckpointStore
from bigrun.checkpoint.tensors import load_tensors
from bigrun.cli import main
from bigrun.errors import CheckpointError, UsageError
from bigrun.evaluation import courtesy, outcome
from bigrun.evaluation.visit import Visit
from bigrun.interruption import interrupting
from bigrun.lock import holder
from bigrun.markers import hookimpl
from bigrun.run import Run
from bigrun.testing.runner import Runner


class Look:
    """Measures what can be compared with the file, and draws."""

    observer = True

    @hookimpl
    def measurements(self, run: Run) -> Mapping[str, float]:
        folder = run.path_for("look")
        (folder / "a.png").write_bytes(b"picture")
        run.event("look", "with <b> and \x1b[31m", "warning")
        with run.objective.evaluation() as backbone:
            weight = backbone.state_dict()["cls_token"].double().sum()
        return {"look/sum": float(weight), "look/step": run.step, "look/nothing": float("nan")}


class Feels:
    """How the machine is shared."""

    observer = True

    @hookimpl
    def measurements(self) -> Mapping[str, float]:
        import torch

        return {"feels/nice": os.getpriority(os.PRIO_PROCESS, 0), "feels/threads": torch.get_num_threads()}


class Again:
    """Takes a name that is taken."""

    observer = True

    @hookimpl
    def measurements(self) -> Mapping[str, float]:
        return {"look/step": 1.0}


class Fails:
    observer = True

    @hookimpl
    def measurements(self) -> Mapping[str, float]:
        raise ValueError("nothing to see")


class Answers:
    """Not with numbers."""

    observer = True

    @hookimpl
    def measurements(self) -> Any:
        return {"look/step": "three"}


class FailsTheRun:
    @hookimpl
    def measurements(self) -> Mapping[str, float]:
        raise ValueError("nothing to see")


LOOK = f"{__name__}:Look"
SOMEBODY = """
from bigrun import hookimpl

class Plugin:
    observer = {observer}

    @hookimpl
    def measurements(self):
        return {{"somebody/is": 1}}
"""


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on a folder of images, with a plugin that measures and one that does not."""
    home = tmp_path_factory.mktemp("monitor")
    result = Runner(home).run(LOOK, "metrics-log", dataset=False, data={"path": str(images(home / "images"))})
    result.assert_finished()
    return result.directory


@pytest.fixture
def run(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it below the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(once, tmp_path / "runs" / "a run")
    return Path("runs") / "a run"


def monitor(*words: Any) -> Result:
    result = CliRunner().invoke(main, ["monitor", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def look(*words: Any) -> Result:
    return monitor(*words, "--plugin", LOOK)


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of every file and folder: when it was changed, and what is in it."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def amend(checkpoint: Path, name: str, *changes: tuple[str, str]) -> None:
    """Change the text of a file as somebody else might, who makes the manifest fit again."""
    path, known = checkpoint / name, manifest.read(checkpoint)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.unlink()
    record = disk.write(path, [text.encode()])
    (checkpoint / "MANIFEST.json").unlink()
    files = {**known.files, name: record}
    manifest.write(checkpoint, attrs.evolve(known, files=files, config_sha256=files["config.toml"].sha256))


def test_it_measures_and_writes_down_what_it_has_looked_at(run: Path) -> None:
    before = everything(run)
    result = look(run)
    assert result.exit_code == 0, result.output
    assert everything(run) == before
    checkpoint, out = run.absolute() / "checkpoints" / step_name(3), Path("monitor/a run/step-3")
    facts = json.loads((out / "monitor.json").read_text())
    weight = float(load_tensors(checkpoint, "teacher")["backbone.cls_token"].double().sum())
    assert facts["measurements"] == {"look/sum": weight, "look/step": 3, "look/nothing": "nan"}
    assert facts["checkpoint"] == str(checkpoint)
    assert (facts["step"], facts["manifest_sha256"]) == (3, disk.hash_file(checkpoint / "MANIFEST.json"))
    assert facts["created_utc"] == manifest.read(checkpoint).created_utc
    assert facts["precision"] == "fp32"
    assert facts["plugins"] == {LOOK: {}}
    assert facts["files"] == ["config.toml", "look/a.png", "monitor.json"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == facts["files"]
    assert {p.name for p in out.parent.iterdir()} == {"step-3"}
    assert "left out     metrics-log" in result.output
    assert f"look/sum      {weight:.6g}" in result.output
    assert f"written      {out}/look/a.png" in result.output
    assert r"warning      with <b> and \x1b[31m" in result.output


def test_json_is_what_is_in_the_file(run: Path) -> None:
    result = look(run / "checkpoints" / step_name(1), "--json", "--out", "x")
    assert json.loads(result.stdout) == json.loads(Path("x/monitor.json").read_text())
    assert json.loads(result.stdout)["step"] == 1


def test_nobody_who_measures_is_an_error_with_the_way_out(run: Path) -> None:
    result = monitor(run, "--no-plugin", LOOK)
    assert result.exit_code == 2
    assert "no active plugin measures a checkpoint: add one that does with --plugin NAME" in result.output
    assert not Path("monitor").exists()


def test_an_observer_that_fails_is_named_and_the_others_count(run: Path) -> None:
    result = look(run, "--plugin", f"{__name__}:Fails", "--plugin", f"{__name__}:Answers")
    assert result.exit_code == 4
    assert f"failed       {__name__}:Fails in measurements: ValueError: nothing to see" in result.output
    facts = json.loads(Path("monitor/a run/step-3/monitor.json").read_text())
    assert {failure["plugin"] for failure in facts["failures"]} == {f"{__name__}:Fails", f"{__name__}:Answers"}
    assert facts["measurements"]["look/step"] == 3


def test_a_critical_plugin_that_fails_ends_it_and_nothing_is_left(run: Path) -> None:
    result = look(run, "--plugin", f"{__name__}:FailsTheRun")
    assert result.exit_code == 1
    assert "FailsTheRun failed in measurements at step 3: ValueError: nothing to see" in result.output
    assert not Path("monitor").exists()


def test_a_name_that_comes_twice_is_refused(run: Path) -> None:
    result = look(run, "--plugin", f"{__name__}:Again")
    assert result.exit_code == 2
    assert "the measurement 'look/step' comes twice" in result.output


@pytest.mark.parametrize("out", ["runs/a run/monitor", "runs/a run", "link/x", "runs/other/x/y"])
def test_it_never_writes_into_a_run(run: Path, out: str) -> None:
    shutil.copytree(run, "runs/other")
    Path("link").symlink_to(run / "checkpoints")
    before = everything(Path("runs"))
    result = look(run, "--out", out)
    assert result.exit_code == 2
    assert f"{out}: is inside the run directory" in result.output
    assert everything(Path("runs")) == before


@pytest.mark.parametrize("mark", ["config.toml", "run.lock", "metrics.jsonl"])
def test_nor_into_one_that_has_saved_nothing_yet(run: Path, mark: str) -> None:
    young = Path("young")
    young.mkdir()
    (young / mark).touch()
    result = look(run, "--out", "young/x")
    assert result.exit_code == 2
    assert "young/x: is inside the run directory" in result.output
    assert [path.name for path in young.iterdir()] == [mark]


def test_nor_into_a_run_that_somebody_has_made_look_like_a_visit(run: Path) -> None:
    shutil.copytree(run, "other")
    Path("other/metrics.jsonl").unlink()
    Path("other/monitor.json").write_text("{}")
    assert look(run, "--out", "other/x").exit_code == 2


def test_a_visit_is_no_run(run: Path) -> None:
    assert look(run, "--out", "x").exit_code == 0
    assert look(run, "--out", "x/again").exit_code == 0


def test_the_folder_has_the_name_of_the_run_however_it_was_said(run: Path) -> None:
    assert look(run / "checkpoints" / "..").exit_code == 0
    assert Path("monitor/a run/step-3/monitor.json").is_file()
    assert look(run / "checkpoints" / ".." / "checkpoints" / step_name(3)).exit_code == 0


def test_it_is_last_in_line_and_takes_half_of_the_processors(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courtesy, "usable_cores", lambda: 6)
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def felt(*words: str) -> tuple[int, int]:
        result = monitor(run, "--no-plugin", LOOK, "--plugin", f"{__name__}:Feels", "--json", *words)
        found = json.loads(result.stdout)["measurements"]
        return found["feels/nice"], found["feels/threads"]

    assert felt() == (19, 3)
    assert felt("--set", "hardware.threads=2") == (19, 2)
    assert felt("--device", "cpu") == (19, 1)  # as the run has it
    if os.geteuid() == 0:
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
    monkeypatch.setattr(courtesy, "usable_cores", lambda: 1)
    assert courtesy.few_threads() == 1


def test_a_plugin_that_needs_a_gpu_is_named_with_the_way_out(run: Path) -> None:
    checkpoint = run / "checkpoints" / step_name(3)
    amend(checkpoint, "config.toml", ("metrics-log", "xformers-attention"))
    amend(checkpoint, "state.json", ("metrics-log", "xformers-attention"))
    result = look(run)
    assert result.exit_code == 2
    assert "plugins.xformers-attention: xformers has no operator for a CPU" in result.output
    assert "to look at the checkpoint without it: --no-plugin xformers-attention" in result.output
    assert look(run, "--no-plugin", "xformers-attention").exit_code == 0


# -- publishing ------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """An earlier visit, with a note of somebody's."""
    out = tmp_path / "visit"
    publish(out, "old", "a/x.png", "b/y.png")
    (out / "notes.txt").write_text("mine")
    return out


def publish(out: Path, text: str, *names: str) -> None:
    with outcome.outcome_folder(out) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / "monitor.json").write_text(json.dumps({"visit": text, "files": [*names, "monitor.json"]}))


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("number", range(5))
def test_what_fails_while_files_are_replaced_leaves_the_earlier_visit(
    visit: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], number: int
) -> None:
    before, move, moves = texts(visit.parent), outcome.move, list[Path]()

    def fails(path: Path, to: Path) -> None:
        moves.append(path)
        if len(moves) == number + 1:
            raise error(5, "no")
        move(path, to)

    monkeypatch.setattr(outcome, "move", fails)
    with pytest.raises((error, UsageError)):
        publish(visit, "new", "a/x.png", "c/z.png", "d/u.png")
    assert texts(visit.parent) == before
    monkeypatch.setattr(outcome, "move", move)
    publish(visit, "new", "a/x.png", "c/z.png")
    assert texts(visit).keys() == {"a/x.png", "c/z.png", "monitor.json", "notes.txt"}


def test_a_kill_while_files_are_replaced_leaves_a_folder_for_the_next_visit(visit: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from bigrun.evaluation import outcome\n"
        "move, left = outcome.move, [int(sys.argv[2])]\n"
        "def dies(*paths):\n"
        "    if left[0] == 0: os._exit(9)\n"
        "    left[0] -= 1; move(*paths)\n"
        "outcome.move = dies\n"
        "with outcome.outcome_folder(Path(sys.argv[1])) as folder:\n"
        "    for name in ('x.png', 'z.png', 'monitor.json'): (folder / name).write_text('new')\n"
    )
    for number in range(4):
        out = Path(shutil.copytree(visit, visit.with_name(f"visit-{number}")))
        done = subprocess.run([sys.executable, "-c", script, str(out), str(number)], check=False)
        assert done.returncode == 9
        assert json.loads((out / "monitor.json").read_text())["visit"] == "old"
        publish(out, "new", "x.png", "z.png")
        assert texts(out).keys() == {"x.png", "z.png", "monitor.json", "notes.txt"}


def test_a_signal_while_files_are_replaced_comes_too_late(visit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of an interrupted visit, that nothing was written, stays true."""
    move = outcome.move

    def interrupted(path: Path, to: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        move(path, to)

    monkeypatch.setattr(outcome, "move", interrupted)
    with interrupting():
        publish(visit, "new", "x.png")
        os.kill(os.getpid(), signal.SIGINT)
    assert texts(visit).keys() == {"x.png", "monitor.json", "notes.txt"}


def test_nothing_is_written_through_a_link_that_leads_out(visit: Path) -> None:
    other = visit.parent / "other"
    other.mkdir()
    (visit / "c").symlink_to(other)
    before = texts(visit)
    with pytest.raises(UsageError, match="behind a link"):
        publish(visit, "new", "a/x.png", "c/z.png")
    assert list(other.iterdir()) == []
    assert texts(visit) == before


def test_another_visit_replaces_what_the_first_has_written_and_nothing_else(run: Path) -> None:
    assert look(run).exit_code == 0
    out = Path("monitor/a run/step-3")
    (out / "notes.txt").write_text("mine")
    (out / "look/a.png").write_bytes(b"old")
    assert monitor(run, "--no-plugin", LOOK, "--plugin", f"{__name__}:Again").exit_code == 0
    assert {p.name for p in out.rglob("*") if p.is_file()} == {"notes.txt", "config.toml", "monitor.json"}
    assert json.loads((out / "monitor.json").read_text())["measurements"] == {"look/step": 1.0}


def test_what_is_written_there_may_not_lead_out(run: Path) -> None:
    """`files` of a monitor.json that somebody has changed."""
    assert look(run).exit_code == 0
    out, other = Path("monitor/a run/step-3"), Path("other.txt")
    other.write_text("mine")
    facts = json.loads((out / "monitor.json").read_text())
    (out / "monitor.json").write_text(json.dumps(facts | {"files": ["../../../other.txt", str(other.absolute()), 3]}))
    assert look(run).exit_code == 0
    assert other.read_text() == "mine"


@pytest.mark.parametrize("there", ["another", "something", "file"])
def test_a_place_that_is_taken_is_refused(run: Path, there: str) -> None:
    if there == "another":
        assert look(run / "checkpoints" / step_name(1), "--out", "x").exit_code == 0
    elif there == "something":
        Path("x").mkdir()
        Path("x/important.txt").touch()
    else:
        Path("x").touch()
    before = everything(Path("x"))
    result = look(run, "--out", "x")
    assert result.exit_code == 2
    assert "choose another with --out" in result.output
    assert everything(Path("x")) == before


@pytest.fixture
def somebody(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Code that is not installed, and a run whose configuration names it; the code is not loaded any more."""
    name = f"somebody_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(SOMEBODY.format(observer=True))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = str(once.parent / "images")
    result = Runner(tmp_path).run(f"{name}:Plugin", dataset=False, steps=1, data={"path": folder})
    result.assert_finished()
    del sys.modules[name]
    yield name, result.directory
    sys.modules.pop(name, None)


def test_code_that_only_the_checkpoint_names_is_not_started(somebody: tuple[str, Path]) -> None:
    name, run = somebody
    for words in (["--plugin", LOOK], []):
        result = monitor(run, *words)
        assert result.exit_code == 2
        assert f"names code that is not installed, {name}:Plugin" in result.output
        assert f"--plugin {name}:Plugin" in result.output
        assert name not in sys.modules
    assert monitor(run, "--plugin", LOOK, "--no-plugin", f"{name}:Plugin").exit_code == 0
    assert name not in sys.modules
    result = monitor(run, "--plugin", f"{name}:Plugin", "--out", "named")
    assert result.exit_code == 0
    assert json.loads(Path("named/monitor.json").read_text())["measurements"] == {"somebody/is": 1}


def rename_plugin(run: Path, *, observer: bool) -> None:
    """The run's metrics-log becomes a plugin that is not installed here."""
    checkpoint = run / "checkpoints" / step_name(3)
    amend(checkpoint, "config.toml", ("metrics-log", "not-here"))
    amend(checkpoint, "state.json", ("metrics-log", "not-here"))
    if not observer:
        amend(checkpoint, "state.json", ('"observer": true', '"observer": false'))


def test_an_observer_that_is_not_installed_is_left_out(run: Path) -> None:
    rename_plugin(run, observer=True)
    result = look(run)
    assert result.exit_code == 0, result.output
    assert "left out     not-here: is not installed here" in result.output


def test_a_plugin_that_the_run_depended_on_is_missed(run: Path) -> None:
    rename_plugin(run, observer=False)
    result = look(run)
    assert result.exit_code == 2
    assert "plugins.not-here: is not installed here" in result.output
    assert "leave one out with --no-plugin" in result.output
    assert look(run, "--no-plugin", "not-here").exit_code == 0


def test_a_mistyped_plugin_is_named_and_none_for_one_that_the_checkpoint_names(run: Path) -> None:
    result = look(run, "--plugin", "metric-log")
    assert result.exit_code == 2
    assert "plugins.metric-log: is not installed here - did you mean 'metrics-log'?" in result.output
    checkpoint = run / "checkpoints" / step_name(3)
    for name in ("config.toml", "state.json"):
        amend(checkpoint, name, ("metrics-log", "metric-log"))
    result = look(run)
    assert result.exit_code == 0, result.output
    assert "left out     metric-log: is not installed here\n" in result.output


def test_a_damaged_checkpoint_is_named(run: Path) -> None:
    """Of a run the next older one is taken."""
    path = run / "checkpoints" / step_name(3) / "student.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = look(path.parent)
    assert result.exit_code == 2
    assert "step-00000003: damaged:\n  student.safetensors: has sha256" in result.output
    result = look(run)
    assert result.exit_code == 0
    assert "step-00000003 is damaged and was passed over" in result.output
    assert Path("monitor/a run/step-2/monitor.json").is_file()


def test_an_emergency_checkpoint_has_a_place_of_its_own(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / step_name(3), run / "emergency" / step_name(3))
    assert look(run / "emergency" / step_name(3)).exit_code == 0
    assert Path("monitor/a run/emergency-step-3/monitor.json").is_file()


def test_what_is_no_run_is_refused(run: Path) -> None:
    assert look("nowhere").exit_code == 2
    Path("empty").mkdir()
    result = look("empty")
    assert result.exit_code == 2
    assert "holds no checkpoint" in result.output


def test_a_checkpoint_that_its_run_removes_meanwhile(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one that is there then is looked at; one that was named is said to be gone."""
    original = Visit.of

    def of(checkpoint: Path, *, is_verified: bool = False) -> Visit:
        if checkpoint.name == step_name(3):
            shutil.rmtree(checkpoint)
        return original(checkpoint, is_verified=is_verified)

    monkeypatch.setattr(Visit, "of", of)
    named = Path(shutil.copytree(run / "checkpoints" / step_name(3), run / "emergency" / step_name(3)))
    result = look(named)
    assert result.exit_code == 2
    assert f"{named}: its run has removed it meanwhile" in result.output
    result = look(run)
    assert result.exit_code == 0, result.output
    assert "taking the newest that is there now" in result.output
    assert Path("monitor/a run/step-2/monitor.json").is_file()


def test_one_that_is_not_there_is_a_checkpoint_error(run: Path) -> None:
    with pytest.raises(CheckpointError):
        Visit.of(run / "checkpoints" / step_name(9))


PRESET = (
    """[run]
log_every_steps = 1
checkpoint_every_steps = 50
[data]
path = "images"
effective_batch = 4
workers = 0
"""
    + NETWORK
    + """[hardware]
device = "cpu"
precision = "fp32"
threads = 1
[plugins.metrics-log]
[plugins.checkpoint-rotation]
keep_last = 3
"""
)


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_goes_on_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, which removes its checkpoints underneath: it keeps its lock, and ends as it is asked to."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "images")
    Path("job.toml").write_text(PRESET)
    job = subprocess.Popen([sys.executable, "-m", "bigrun", "run", "job.toml"], text=True, stdout=subprocess.DEVNULL)
    try:
        run = Path("runs/job")
        store = CheckpointStore(run / "checkpoints")
        wait_for(lambda: len(store.steps()) > 1, job)
        for number in range(2):
            before = store.steps()[-1]
            result = look(run, "--out", f"look-{number}")
            assert result.exit_code == 0, result.output
            wait_for(lambda before=before: store.steps()[-1] > before, job)
        owner = holder(run)
        assert owner is not None
        assert owner.pid == job.pid
        names = {path.name for path in run.iterdir()}
        assert names <= {"config.toml", "run.lock", "checkpoints", "metrics.jsonl", "events.jsonl", "saved.json",
                         "provenance.json"} | {name for name in names if name.startswith(".")}  # fmt: skip
        job.send_signal(signal.SIGTERM)
        assert job.wait(120) == 128 + signal.SIGTERM
    finally:
        job.kill()
        job.wait()
    facts = [json.loads(Path(f"look-{number}/monitor.json").read_text()) for number in range(2)]
    assert facts[0]["step"] < facts[1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_look_that_is_ended_leaves_nothing(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "sleeps.py").write_text(
        "import time\nfrom bigrun import hookimpl\n\nclass Plugin:\n    observer = True\n\n"
        "    @hookimpl\n    def measurements(self, run):\n        run.path_for('x')\n        time.sleep(60)\n"
    )
    words = [sys.executable, "-m", "bigrun", "monitor", str(run), "--no-plugin", LOOK, "--plugin", "sleeps:Plugin"]
    process = subprocess.Popen(words, text=True, stderr=subprocess.PIPE)
    wait_for(lambda: list(tmp_path.rglob(".step-3-*/new/x")), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said == f"interrupted by {number.name}: nothing was written\n"
    assert not Path("monitor").exists()
