"""tensorboard: what the event files hold, read back with tensorboardX's own message types."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from probe_images import TOML, write_photos
from tensorboardX.proto.event_pb2 import Event, SessionLog

from bigrun import hookimpl
from bigrun.cli import main
from bigrun.errors import ExitCode
from bigrun.events import Event as RunEvent
from bigrun.peers.place import Place
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun.throughput import TIMINGS
from bigrun_tensorboard.plugin import TensorBoard


class TestContract(PluginContract):
    plugin = "tensorboard"


def records(path: Path) -> Iterator[Event]:
    """The messages of one event file; each is (length uint64, crc uint32, message, crc uint32)."""
    data, start = path.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += 12 + length + 4


def shown(directory: Path) -> list[Event]:
    """What TensorBoard shows: files in the order of their names; where a session starts at a step, everything of
    this step and later that was written before is purged."""
    events: list[Event] = []
    for path in sorted((directory / "tensorboard").iterdir()):
        for event in records(path):
            if event.session_log.status == SessionLog.START:
                events = [old for old in events if old.step < event.step]
            else:
                events.append(event)
    return events


def scalars(directory: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value)."""
    return [
        (event.step, value.tag, value.simple_value)
        for event in shown(directory)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def texts(directory: Path) -> list[tuple[int, str, str]]:
    """(step, tag, text)."""
    return [
        (event.step, value.tag.removesuffix("/text_summary"), value.tensor.string_val[0].decode())
        for event in shown(directory)
        for value in event.summary.value
        if value.tensor.string_val
    ]


def images(directory: Path) -> list[tuple[int, str, Image.Image]]:
    """(step, tag, image)."""
    return [
        (event.step, value.tag, Image.open(io.BytesIO(value.image.encoded_image_string)))
        for event in shown(directory)
        for value in event.summary.value
        if value.HasField("image")
    ]


def points(result: RunResult) -> list[tuple[int, str, float]]:
    """The same from the run itself, without the timings."""
    return [(int(row["step"]), name, value) for row in result.metrics for name, value in row.items() if name != "step"]


def assert_same_points(directory: Path, expected: list[tuple[int, str, float]]) -> None:
    """Each step and tag once, with its value as float32."""
    found = sorted(point for point in scalars(directory) if point[1] not in TIMINGS)
    expected = sorted(expected)
    assert [point[:2] for point in found] == [point[:2] for point in expected]
    assert [point[2] for point in found] == pytest.approx([point[2] for point in expected], rel=1e-6)


def test_every_metric_is_a_scalar(bigrunner: Runner) -> None:
    result = bigrunner.run("tensorboard", steps=4, run={"log_every_steps": 2, "max_steps": 4})
    result.assert_finished()
    tags = {tag for step, tag, _ in scalars(result.directory) if step == 4}
    assert tags >= {
        "loss", "loss/dino_global", "loss/dino_local", "learning_rate", "last_layer_learning_rate", "weight_decay",
        "teacher_momentum", "student_temperature", "teacher_temperature", "steps_per_second",
        "images_per_second", "data_wait_fraction", "model_tflops_per_second", "grad_norm", "grad_norm/backbone",
        "grad_norm/dino_head",
    }  # fmt: skip
    assert_same_points(result.directory, points(result))


def test_events_are_texts_also_those_before_the_start(bigrunner: Runner) -> None:
    class Remark:
        @hookimpl
        def build_loader(self, run: Any) -> None:
            run.event("early", "before the start")

        @hookimpl
        def after_update(self, run: Any, step: int) -> None:
            if step == 2:
                run.event("late", "in step 2")

    result = bigrunner.run("tensorboard", steps=3, companions=[Remark()])
    assert texts(result.directory) == [(0, "early", "before the start"), (2, "late", "in step 2")]


def test_a_process_that_is_not_the_main_one_keeps_nothing(bigrunner: Runner) -> None:
    """It would keep every event of 15 days."""
    result = bigrunner.run("tensorboard", steps=1)
    assert result.run is not None
    other = TensorBoard()
    run: Any = result.run
    run.peers.place = Place(rank=1)
    other.on_start(run)
    other.on_event(run, RunEvent("late", "nobody writes this", 1, "info", {}))
    other.on_picture(run, 1, "x/y", Path("y.png"))
    assert [value for value in vars(other).values() if value] == []


class Painter:
    """Draws before the start, and in step 2: a picture, and what is none."""

    def show(self, run: Any, name: str, colour: tuple[int, int, int]) -> Path:
        path: Path = run.path_for("painter") / f"{colour[0]}.png"
        Image.new("RGB", (30, 20), colour).save(path)
        run.picture(name, path)
        return path

    @hookimpl
    def build_loader(self, run: Any) -> None:
        self.show(run, "painter/early", (200, 10, 10))

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 2:
            path = self.show(run, "painter/late", (10, 20, 30))
            for broken in ("broken.png", "none.png"):
                if broken == "broken.png":
                    (path.parent / broken).write_bytes(path.read_bytes()[:40])
                run.picture(f"painter/{broken}", path.parent / broken)


def test_pictures_are_images_also_those_before_the_start(bigrunner: Runner) -> None:
    result = bigrunner.run("tensorboard", steps=3, companions=[Painter()])
    result.assert_finished()
    found = images(result.directory)
    assert [(step, tag) for step, tag, _ in found] == [(0, "painter/early"), (1, "painter/late")]
    assert [(image.size, image.getpixel((15, 10))) for _, _, image in found] == [
        ((30, 20), (200, 10, 10)),
        ((30, 20), (10, 20, 30)),
    ]


def test_a_picture_that_cannot_be_read_costs_no_more_than_itself(bigrunner: Runner) -> None:
    result = bigrunner.run("tensorboard", steps=3, companions=[Painter()])
    told = [event.message for event in result.events if event.kind == "tensorboard"]
    assert len(told) == 2
    assert all("cannot be read and is not shown" in message for message in told)
    assert "painter/broken.png" in told[0]
    assert result.quarantined == []
    assert_same_points(result.directory, points(result))


def test_a_resumed_run_has_no_step_twice(bigrunner: Runner) -> None:
    straight = bigrunner.run("tensorboard", steps=5)
    resumed = bigrunner.resume(straight, at_step=2)
    assert len(list((resumed.directory / "tensorboard").iterdir())) == 2
    assert_same_points(resumed.directory, points(straight))
    assert [(step, tag) for step, tag, _ in texts(resumed.directory)] == [(2, "resumed")]


def test_a_run_that_died_before_its_first_checkpoint_begins_its_curves_again(bigrunner: Runner) -> None:
    died = bigrunner.run("tensorboard", steps=3)
    shutil.rmtree(died.directory / "checkpoints")
    (died.directory / "saved.json").unlink()
    again = bigrunner.run("tensorboard", steps=2, directory=died.directory, run={"max_steps": 2})
    again.assert_finished()
    assert_same_points(again.directory, points(again))


def test_a_folder_that_cannot_be_made_costs_the_curves_and_not_the_run(bigrunner: Runner) -> None:
    plain = bigrunner.run(steps=2)
    (plain.directory / "tensorboard").write_text("a file is in the way", encoding="utf-8")
    result = bigrunner.run("tensorboard", steps=4, directory=plain.directory)
    assert result.exit_code == ExitCode.QUARANTINED
    assert result.quarantined == ["tensorboard"]
    assert result.checkpoints[-1] == 4


def train(*words: object) -> None:
    done = CliRunner().invoke(main, ["run", "tiny.toml", *map(str, words)])
    assert done.exit_code == 0, done.output


def grown(steps: int) -> int:
    """Bytes after so many steps, each of which has a row."""
    run = Path("runs") / str(steps)
    train("--run-dir", run, "--set", f"run.max_steps={steps}", "--set", "run.log_every_steps=1")
    return sum(path.stat().st_size for path in (run / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_dry_run_foretells_its_growth_and_takes_no_picture_for_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos"))
    preset = TOML.format(path="photos", steps=100, log=5, save=100, lr=0.01)
    Path("tiny.toml").write_text(preset + "[plugins.tensorboard]\n")
    row = (grown(40) - grown(10)) / 30
    train("--dry-run", "--steps", 12, "--json", "found.json", "--plugin", "attention-maps")
    found = json.loads(Path("found.json").read_text())
    written = {entry["name"]: entry for entry in found["written"]}
    rows_a_day = 86400 / found["step_seconds"] / 5
    assert written["tensorboard"]["bytes_per_day"] / rows_a_day == pytest.approx(row, rel=0.2)
    assert written["tensorboard"]["bytes"] > 3 * 12 * row, "the pictures are there"
    assert written["attention-maps"]["bytes_per_day"] is None
