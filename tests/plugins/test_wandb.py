"""wandb: what its offline files hold, read with the library's own message types."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bigrun import hookimpl
from bigrun.activation import activate
from bigrun.anomaly import Action, Anomaly
from bigrun.errors import ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun.throughput import TIMINGS

pytest.importorskip("wandb")

BLOCK = 32768
SHORT = [
    *(f"--set={option}" for option in (
        "run.max_steps=2", "run.log_every_steps=1", "data.effective_batch=8", "optimizer.warmup_steps=0",
        "objective.teacher_temperature_warmup_steps=0",
    )),
    *(f"--no-plugin={name}" for name in ("learning-report", "gram-anchoring")),
]  # fmt: skip


@pytest.mark.slow
class TestContract(PluginContract):
    plugin = "wandb"


def records(path: Path) -> Iterator[Any]:
    """The messages of an offline file: blocks of 32 KiB, of (crc uint32, length uint16, kind uint8, part) each; a
    message may be in parts (kinds 2, 3, 4)."""
    from wandb.proto import wandb_internal_pb2

    data, at, message = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def files(directory: Path) -> list[Path]:
    return sorted((directory / "wandb").glob("offline-run-*/run-*.wandb"))


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of one start."""
    rows = [record.history.item for record in records(path) if record.WhichOneof("record_type") == "history"]
    return [nested([(item.nested_key or [item.key], json.loads(item.value_json)) for item in row]) for row in rows]


def nested(items: list[tuple[Any, Any]]) -> dict[str, Any]:
    """{a: {b: value}} of (["a", "b"], value)."""
    found: dict[str, Any] = {}
    for (first, *others), value in items:
        if others:
            found[first] = found.get(first, {}) | {".".join(others): value}
        else:
            found[first] = value
    return found


def of(path: Path, kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def metrics(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Rows of metrics as the run has them, without the timings and what the library and the plugin add."""
    added = {"start", "_step", "_timestamp", "_runtime", *TIMINGS}
    return [{k: v for k, v in row.items() if k not in added} for row in rows if "loss" in row]


def points(result: RunResult) -> list[dict[str, float]]:
    return [{k: pytest.approx(v, rel=1e-6) for k, v in row.items()} for row in result.metrics]


class Draws:
    """Tells of an event and shows a picture in step 2."""

    @hookimpl
    def build_loader(self, run: Any) -> None:
        run.event("early", "before the start, with api_key=12345678")

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2:
            run.event("late", "<script>alert(1)</script> \x1b[31m", "warning")
            path = run.path_for("draws") / "it.png"
            Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
            run.picture("draws/it.png", path)
            run.picture("draws/gone.png", path.with_name("gone.png"))


def test_metrics_events_pictures_checkpoints_and_configuration_are_in_the_offline_file(bigrunner: Runner) -> None:
    options = {"project": "teeth", "name": "<b>first</b>", "tags": ["ct", "test"]}
    result = bigrunner.run("wandb", steps=3, config=options, companions=[Draws()])
    result.assert_finished()
    (path,) = files(result.directory)
    rows = history(path)
    assert metrics(rows) == points(result)
    events = [(row["step"], row["event/kind"], row["event/message"]) for row in rows if "event/kind" in row]
    assert events == [
        (0, "early", "before the start, with api_key=[redacted]"),
        (2, "late", "<script>alert(1)</script> \x1b[31m"),
    ]
    assert [row["checkpoint/step"] for row in rows if "checkpoint/step" in row] == [1, 2, 3]
    (picture,) = [row["pictures/draws/it.png"] for row in rows if "pictures/draws/it.png" in row]
    assert (path.parent / "files" / picture["path"]).is_file()
    (run,) = of(path, "run")
    assert (run.project, run.display_name, list(run.tags)) == ("teeth", "<b>first</b>", ["ct", "test"])
    config = {update.key: json.loads(update.value_json) for part in of(path, "config") for update in part.update}
    assert config["model"]["width"] == 32
    assert config["plugins"]["wandb"]["project"] == "teeth"
    summary = {u.key: json.loads(u.value_json) for part in of(path, "summary") for u in part.update if u.key}
    assert summary["status"] == "finished"
    assert not list(path.parent.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_continued_run_is_the_same_one_and_says_which_points_are_void(bigrunner: Runner) -> None:
    first = bigrunner.run("wandb", steps=4)
    shutil.rmtree(first.directory / "checkpoints" / "step-00000004")
    shutil.rmtree(first.directory / "checkpoints" / "step-00000003")
    again = bigrunner.run("wandb", steps=5, directory=first.directory)
    again.assert_finished()
    before, after = files(first.directory)
    assert {of(path, "run")[0].run_id for path in (before, after)} == {before.stem.removeprefix("run-")}
    rows = [*history(before), *history(after)]
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers)), "Weights & Biases keeps only rows with ascending numbers"
    steps = [(row["start"], row["step"]) for row in rows if "loss" in row]
    assert steps == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (1, 5)]
    (said,) = [row["event/message"] for row in rows if row.get("event/kind") == "continued"]
    assert said == "start 1 continues after step 2: later rows of earlier starts are void"


@pytest.mark.slow
def test_a_run_that_rolls_back_continues_the_same_one(bigrunner: Runner) -> None:
    class Ill:
        """Once, in step 4."""

        told = False

        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            if step == 4 and not self.told:
                self.told = True
                run.report_anomaly(Anomaly("test", step, "ill", onset=3))

        @hookimpl(tryfirst=True)
        def on_anomaly(self, anomaly: Anomaly) -> Action | None:
            return Action.ROLL_BACK if anomaly.kind == "test" else None

    result = bigrunner.run("wandb", steps=5, companions=[Ill()])
    result.assert_finished()
    before, after = files(result.directory)
    steps = [(row["start"], row["step"]) for path in (before, after) for row in history(path) if "loss" in row]
    assert steps == [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (1, 5)]
    assert [of(path, "exit")[0].exit_code for path in (before, after)] == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which sees what the library's own program does")
def test_offline_nothing_is_connected_to_and_nothing_is_left_elsewhere(bigrunner: Runner, tmp_path: Path) -> None:
    """By the real command, with a home, a working directory and a temporary directory of its own."""
    places = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for place in places.values():
        place.mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "WANDB_"))},
        "HOME": str(places["home"]),
        "TMPDIR": str(places["tmp"]),
        "WANDB_MODE": "online",  # of another project's shell
        "WANDB_RUN_ID": "somebody-elses",
        "WANDB_API_KEY": "0" * 40,
    }
    command = ["run", "quickstart", *SHORT, "--plugin", "wandb", "--run-dir", str(tmp_path / "run")]
    trace = tmp_path / "trace.txt"
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=connect", "-o", trace, sys.executable, "-m", "bigrun", *command],
        env=environment, cwd=places["work"], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if "ptrace" in done.stderr.lower():
        pytest.skip("this machine lets nobody trace")
    assert done.returncode == 0, done.stdout + done.stderr
    connects = [line for line in trace.read_text(encoding="utf-8").splitlines() if "connect(" in line]
    # The library and its own program: by a socket of the file system, or (0.18) one of this machine. Whoever asks for
    # an address somewhere else asks a name server first, which may be on this machine.
    own = [line for line in connects if "AF_UNIX" in line or '"127.0.0.1"' in line]
    assert own  # or nothing was traced
    assert not [line for line in own if "htons(53)" in line]
    assert set(connects) == set(own)
    (path,) = files(tmp_path / "run")
    assert [row["step"] for row in history(path) if "loss" in row] == [1, 2]
    assert "somebody-elses" not in path.name
    left = [
        p for place in places.values() for p in place.rglob("*") if not re.search("matplotlib|torchinductor", str(p))
    ]
    assert [p for p in left if p.is_file()] == []


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_the_records_and_not_the_run(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    result = bigrunner.run("wandb", steps=3, config={"mode": "online", "finish_seconds": 3.0})
    assert result.run is not None
    assert result.run.finished
    assert result.checkpoints[-1] == 3
    assert [e.kind for e in result.events if e.kind == "logger-incomplete"]
    assert "0" * 40 not in "".join(p.read_text(errors="replace") for p in (result.directory / "wandb").glob("*.*"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_costs_the_records_and_not_the_run(bigrunner: Runner) -> None:
    plain = bigrunner.run(steps=2)
    (plain.directory / "wandb").write_text("a file is in the way", encoding="utf-8")
    result = bigrunner.run("wandb", steps=4, directory=plain.directory)
    assert result.exit_code == ExitCode.QUARANTINED
    assert result.quarantined == ["wandb"]
    assert result.checkpoints[-1] == 4


def test_a_missing_library_is_one_error_that_says_what_to_install(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_wandb.plugin.WeightsAndBiases.library", "wandb_is_not_here")
    with pytest.raises(UsageError, match=r"pip install 'bigrun\[wandb\]'") as error:
        activate(bigrunner.document({"wandb": {}}))
    assert error.value.exit_code == ExitCode.USAGE


def test_disabled_writes_nothing(bigrunner: Runner) -> None:
    result = bigrunner.run("wandb", steps=2, config={"mode": "disabled"})
    result.assert_finished()
    assert not (result.directory / "wandb").exists()
    assert result.run is not None
    assert "wandb        disabled: nothing is written" in result.run.header
