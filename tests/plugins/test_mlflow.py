"""mlflow: what its store holds, read with the library's own client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bigrun import hookimpl
from bigrun.activation import activate
from bigrun.errors import ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def mlflow_client() -> Iterator[Any]:
    """The library in this process, as quiet as in the plugin's; the environment is then as before."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
            patch.setenv(name, "true")
        from mlflow import MlflowClient

        yield MlflowClient


@pytest.mark.slow
class TestContract(PluginContract):
    plugin = "mlflow"


class Draws:
    """Tells of an event and shows pictures before step 1 and in step 2."""

    @hookimpl
    def on_start(self, run: Any) -> None:
        self.picture(run)
        run.event("early", "before the start, with api_key=12345678")

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2:
            run.metrics.record("odd <name>", 4.0)
            run.event("late", "<script>alert(1)</script> " + "x" * 9000, "warning")
            self.picture(run)

    def picture(self, run: Any) -> None:
        path = run.path_for("draws") / "it.png"
        Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
        run.picture("draws/it.png", path)
        run.picture("draws/gone.png", path.with_name("gone.png"))


def the_run(client: Any, directory: Path, store: str = "store") -> tuple[Any, Any]:
    """The client of a run directory's store, and the one run in it."""
    found = client((directory / "mlflow" / store).as_uri())
    experiments = [e.experiment_id for e in found.search_experiments() if e.name != "Default"]
    (run,) = found.search_runs(experiments)
    return found, run


def test_metrics_events_pictures_checkpoints_and_configuration_are_in_the_store(
    bigrunner: Runner, mlflow_client: Any
) -> None:
    options = {"experiment": "teeth", "name": "<b>first</b>"}
    result = bigrunner.run("mlflow", steps=3, config=options, companions=[Draws()])
    result.assert_finished()
    client, run = the_run(mlflow_client, result.directory)
    assert client.get_experiment(run.info.experiment_id).name == "teeth"
    assert (run.info.run_name, run.info.status) == ("<b>first</b>", "FINISHED")
    names = {name for row in result.metrics for name in row} - {"step"}
    assert {"loss", "loss/ibot", "odd <name>"} <= names
    for name in names:
        points = client.get_metric_history(run.info.run_id, re.sub(r"[<>]", "_", name.replace("/", ".")))
        expected = [(row["step"], row[name]) for row in result.metrics if name in row]
        assert [(point.step, point.value) for point in points] == expected, name
    assert "steps_per_second" in run.data.metrics
    params, tags = run.data.params, run.data.tags
    assert (params["model.width"], params["plugins.mlflow.experiment"]) == ("32", "teeth")
    assert re.search(r" step 0 info early: before the start, with api_key=\[redacted\]$", tags["event.0001"])
    assert " step 2 warning late: <script>alert(1)</script> xxx" in tags["event.0002"]
    assert tags["checkpoint.step"] == "3"
    assert tags["status"] == "finished"
    pictures = [p.path for p in client.list_artifacts(run.info.run_id, "images")]
    assert len([p for p in pictures if "it" in p and p.endswith(".png")]) == 2, pictures
    assert not [p for p in pictures if "gone" in p]
    assert not list((result.directory / "mlflow").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_continued_run_is_the_same_one_and_says_which_points_are_void(bigrunner: Runner, mlflow_client: Any) -> None:
    first = bigrunner.run("mlflow", steps=4)
    _, before = the_run(mlflow_client, first.directory)
    for step in (3, 4):
        shutil.rmtree(first.directory / "checkpoints" / f"step-{step:08d}")
    again = bigrunner.run("mlflow", steps=5, directory=first.directory, run={"max_steps": 6})
    again.assert_finished()
    client, run = the_run(mlflow_client, first.directory)
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED"
    starts = client.get_metric_history(run.info.run_id, "start")
    steps = [(point.value, point.step) for point in starts]
    assert steps == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (1, 5), (1, 6)]
    assert (run.data.tags["start.0"], run.data.tags["start.1"]) == ("after step 0", "after step 2")
    assert run.data.params["run.max_steps"] == "4"
    assert run.data.tags["start.1.run.max_steps"] == "6"


@pytest.mark.slow
def test_a_run_directory_that_was_moved_writes_nothing_where_it_was(bigrunner: Runner, mlflow_client: Any) -> None:
    first = bigrunner.run("mlflow", steps=2)
    there = first.directory.with_name("moved")
    first.directory.rename(there)
    again = bigrunner.run("mlflow", steps=4, directory=there, companions=[Draws()])
    again.assert_finished()
    assert not first.directory.exists()
    third = bigrunner.run("mlflow", steps=5, directory=there)
    client, run = the_run(mlflow_client, there, "store-1")
    assert [p.step for p in client.get_metric_history(run.info.run_id, "loss")] == [3, 4, 5]
    assert [e.level for result in (again, third) for e in result.events if e.kind == "logger-said"] == ["warning"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which sees what the library does")
def test_without_a_server_nothing_is_connected_to_and_nothing_is_left_elsewhere(tmp_path: Path) -> None:
    """By the real command, with a home, a working directory and a temporary directory of its own, and outside of what
    the library takes for a test (it is quieter there)."""
    places = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for place in places.values():
        place.mkdir()
    unset = ("PYTEST_CURRENT_TEST", "CI", "DO_NOT_TRACK", "GITHUB_ACTIONS")
    environment = {
        **{k: v for k, v in os.environ.items() if k not in unset and not k.startswith(("XDG_", "MLFLOW_"))},
        "HOME": str(places["home"]),
        "TMPDIR": str(places["tmp"]),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # of another project's shell
    }
    options = (
        "run.max_steps=2", "run.log_every_steps=1", "data.effective_batch=8", "optimizer.warmup_steps=0",
        "objective.teacher_temperature_warmup_steps=0",
    )  # fmt: skip
    command = [
        "run", "quickstart", *(f"--set={option}" for option in options), "--no-plugin=learning-report",
        "--no-plugin=gram-anchoring", "--plugin=mlflow", "--run-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    trace = tmp_path / "trace.txt"
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=connect,execve", "-o", trace, sys.executable, "-m", "bigrun", *command],
        env=environment, cwd=places["work"], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if "ptrace" in done.stderr.lower():
        pytest.skip("this machine lets nobody trace")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = trace.read_text(encoding="utf-8").splitlines()
    assert any("bigrun_mlflow.writer" in line for line in lines)  # or nothing was traced
    assert not [line for line in lines if "connect(" in line and "AF_INET" in line]
    assert list((tmp_path / "run" / "mlflow" / "store").glob("*/*/metrics/loss"))
    left = [
        p for place in places.values() for p in place.rglob("*") if not re.search("matplotlib|torchinductor", str(p))
    ]
    assert [p for p in left if p.is_file()] == []


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_the_records_and_not_the_run(bigrunner: Runner) -> None:
    config = {"tracking_uri": "http://someone:secret@127.0.0.1:9", "finish_seconds": 2.0}
    result = bigrunner.run("mlflow", steps=3, config=config)
    assert result.run is not None
    assert result.run.finished
    assert result.checkpoints[-1] == 3
    (said,) = [e.message for e in result.events if e.kind == "logger-incomplete"]
    assert "2 s" in said
    files = [p for p in result.directory.rglob("*") if p.is_file()]
    assert result.directory / "mlflow" / "log.txt" in files
    assert not [p for p in files if b"someone:secret" in p.read_bytes()]
    assert not any("secret" in line for line in result.run.header)


class Rehearses:
    @hookimpl(tryfirst=True)
    def configure_runtime(self, run: Any) -> None:
        run.process.is_rehearsal = True


def test_a_rehearsal_leaves_nothing_where_other_people_look(bigrunner: Runner, tmp_path: Path) -> None:
    config = {"tracking_uri": (tmp_path / "elsewhere").as_uri()}
    result = bigrunner.run("mlflow", steps=2, config=config, companions=[Rehearses()])
    result.assert_finished()
    assert not (tmp_path / "elsewhere").exists()
    assert [e.message for e in result.events if e.kind == "logger-off"] == ["mlflow: a rehearsal is not recorded"]


def test_a_missing_library_is_one_error_that_says_what_to_install(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_mlflow.plugin.Mlflow.library", "mlflow_is_not_here")
    with pytest.raises(UsageError, match=r"pip install 'bigrun\[mlflow\]'") as error:
        activate(bigrunner.document({"mlflow": {}}))
    assert error.value.exit_code == ExitCode.USAGE
