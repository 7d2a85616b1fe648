"""attention-maps: what is drawn, when, of which images, and what it says in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from PIL import Image
from torch import Tensor
from training import Training

from bigrun import hookimpl
from bigrun.data.dataset import Samples
from bigrun.errors import ConfigError, DataError
from bigrun.evaluation.images import FixedImages
from bigrun.evaluation.visit import Visit, document_of, visited
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_pictures.config import MapsConfig
from bigrun_pictures.gather import Look, gathered
from bigrun_pictures.networks import compared_networks

SMALL: dict[str, Any] = {"images": 2, "side_px": 32}
SMALLEST = {"images": 1, "side_px": 16, "heights": [1.0]}
SPARSE = {**SMALLEST, "every_steps": 2}


class TestContract(PluginContract):
    plugin = "attention-maps"
    config = SPARSE


def folder(result: RunResult) -> Path:
    return result.directory / "attention-maps"


def sheets(result: RunResult) -> list[int]:
    """Steps of the sheets of all images."""
    return sorted(int(path.stem.removeprefix("step_")) for path in folder(result).glob("step_*.png"))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def told(result: RunResult, level: str) -> list[str]:
    return [event.message for event in result.events if event.kind == "attention-maps" and event.level == level]


def look_at(result: RunResult, **options: Any) -> Look | None:
    """A look at a run that has ended."""
    assert result.run is not None
    config = MapsConfig(**{**SMALL, **options})
    return gathered(result.run, FixedImages.spread(result.run, config.images, config.side_px), config)


# -- when -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "saved", "expected"), [(2, 1, [0, 2, 4, 5]), (None, 3, [0, 3, 5]), (None, 500, [0, 5])]
)
def test_a_look_before_the_first_step_now_and_then_and_at_the_end(
    bigrunner: Runner, every: int | None, saved: int, expected: list[int]
) -> None:
    config = SMALLEST | ({"every_steps": every} if every else {})
    run = {"max_steps": 5, "checkpoint_every_steps": saved}
    result = bigrunner.run("attention-maps", steps=5, config=config, run=run)
    result.assert_finished()
    assert sheets(result) == expected
    assert told(result, "info") == [f"attention and patch features   {folder(result)}/step_000000005.png"]


def test_what_is_drawn_has_clear_names_and_is_announced(bigrunner: Runner) -> None:
    class Audience:
        def __init__(self) -> None:
            self.shown: list[tuple[int, str, Path]] = []

        @hookimpl
        def on_picture(self, step: int, name: str, path: Path) -> None:
            with Image.open(path) as picture:
                picture.load()
                assert picture.format == "PNG"
            self.shown.append((step, name, path))

    audience = Audience()
    result = bigrunner.run("attention-maps", steps=1, config=SMALL, companions=[audience])
    result.assert_finished()
    names = ["overview", "strip-1", "strip-2"]  # who is told keeps a copy: the sheets of single images stay here
    assert [(step, name) for step, name, _ in audience.shown] == [
        (step, f"attention-maps/{name}") for step in (0, 1) for name in names
    ]
    home = folder(result)
    assert [path for step, _, path in audience.shown if step == 1] == [
        home / "step_000000001.png",
        home / "strip-1.png",
        home / "strip-2.png",
    ]
    assert all((home / f"sample-{position}" / "step_000000001.png").is_file() for position in (1, 2))
    assert {path.name for path in home.rglob("*") if path.name.startswith(".")} == set()


def test_a_sheet_shows_image_attention_colours_and_similarity(bigrunner: Runner) -> None:
    result = bigrunner.run("attention-maps", steps=1, config=SMALL)
    sheet = opened(folder(result) / "step_000000001.png")
    tiles = [sheet.crop((left, 70, left + 248, 70 + 240)) for left in (14, 268, 522, 776)]
    assert [len(tile.getcolors(100_000) or ()) > 3 for tile in tiles] == [True] * 4
    assert len({tile.tobytes() for tile in tiles}) == 4
    cream, ring = tiles[3].getpixel((132, 100)), sheet.getpixel((776 + 124, 68 + 124))
    assert cream != ring  # the marked patch has a frame


# -- numbers --------------------------------------------------------------------------------------------------


def test_numbers_are_metrics_and_those_of_a_visit_of_the_checkpoint(bigrunner: Runner, tmp_path: Path) -> None:
    result = bigrunner.run("attention-maps", steps=4, config={**SMALL, "every_steps": 2})
    rows = {int(row["step"]): {n: v for n, v in row.items() if n.startswith(("attention/", "gram/"))} for row in
            result.metrics}  # fmt: skip
    assert rows[1] == rows[3] == {}
    assert set(rows[2]) == {
        "attention/entropy/block_1",
        "attention/entropy/block_2",
        "attention/prefix_share/block_1",
        "attention/prefix_share/block_2",
        "gram/teacher_student_difference",
    }
    assert all(0 < value <= 1 for value in rows[2].values())
    checkpoint = result.directory / "checkpoints" / "step-00000002"
    before = sorted((path, path.stat().st_mtime_ns) for path in result.directory.rglob("*"))
    out = tmp_path / "visit"
    out.mkdir()
    with visited(Visit.of(checkpoint), document_of(checkpoint), out, {"images": Brings()}) as run:
        (found,) = run.hook.measurements(run=run)
    assert found == pytest.approx(rows[2], abs=1e-6)
    home = out / "attention-maps"
    drawn = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    assert drawn == ["sample-1/step_000000002.png", "sample-2/step_000000002.png", "step_000000002.png"]
    assert sorted((path, path.stat().st_mtime_ns) for path in result.directory.rglob("*")) == before


class Brings:
    @hookimpl
    def build_dataset(self) -> SyntheticImages:
        return SyntheticImages()


def test_the_section_of_the_health_report(bigrunner: Runner) -> None:
    result = bigrunner.run("attention-maps", steps=2, config={**SMALL, "every_steps": 1})
    assert result.run is not None
    (section,) = answers(result)
    assert json.loads(json.dumps(section)) == section
    assert section["status"] == "ok"
    assert section["lines"][0].startswith("step 2: the attention of block 2 of 2 is ")
    assert "; at step 0 it was " in section["lines"][0]
    assert section["lines"][1].startswith("teacher and student: cosines of patches differ by 0.")
    paths = [picture["path"] for picture in section["pictures"]]
    assert paths == ["attention-maps/step_000000002.png", "attention-maps/strip-1.png", "attention-maps/strip-2.png"]
    assert all((result.directory / path).is_file() for path in paths)
    assert all(name in result.metrics[-1] for curve in section["curves"] for name in curve["metrics"])


def answers(result: RunResult) -> list[Any]:
    assert result.run is not None
    plugin: Any = result.run.plugins.active["attention-maps"]
    return [plugin.health_section(result.run)]


# -- images ---------------------------------------------------------------------------------------------------


class Broken(SyntheticImages):
    bad: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Tensor:
        if index in self.bad:
            raise DataError("broken")
        return super().__getitem__(index)

    def describe(self, index: int) -> str:
        return f"/data/scan-{index // 6}/\x1b[31m<script>é{index:03}{'x' * 300}.png"


class Breaks:
    """After the first step the images of these numbers cannot be read."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    @hookimpl
    def after_update(self, run: Any) -> None:
        run.dataset.bad = self.numbers


def test_an_image_that_cannot_be_read_is_left_out_and_named_once(bigrunner: Runner) -> None:
    config = {**SMALL, "images": 3, "every_steps": 1}
    dataset = Broken(12)
    result = bigrunner.run("attention-maps", steps=2, config=config, dataset=dataset, companions=[Breaks(6)])
    assert result.quarantined == []
    assert sheets(result) == [0, 1, 2]
    (message,) = told(result, "warning")
    assert message.startswith("scan-1/")
    assert message.endswith(".png cannot be read: it is not in the pictures")
    steps: dict[str, list[str]] = {}
    for path in sorted(folder(result).glob("sample-*/*")):
        steps.setdefault(path.parent.name, []).append(path.stem[-1])
    assert steps == {"sample-1": ["0", "1", "2"], "sample-2": ["0"], "sample-3": ["0", "1", "2"]}
    (section,) = answers(result)
    assert section["status"] == "warn"


def test_without_any_image_nothing_is_drawn_and_training_goes_on(bigrunner: Runner) -> None:
    config = {**SMALL, "every_steps": 1}
    everything = Breaks(*range(12))
    result = bigrunner.run("attention-maps", steps=1, config=config, dataset=Broken(12), companions=[everything])
    assert result.quarantined == []
    assert sheets(result) == [0]
    assert len(told(result, "warning")) == 2
    assert not any(name.startswith("attention/") for name in result.metrics[-1])


class Grey(SyntheticImages):
    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index)[:1]


def test_one_channel_is_grey(bigrunner: Runner) -> None:
    views = {"mean": [0.5], "std": [0.25], "colour_probability": 0.0, "grayscale_probability": 0.0,
             "global_size_px": 32, "local_size_px": 16, "local_crops": 2}  # fmt: skip
    result = bigrunner.run("attention-maps", config=SMALL, dataset=Grey(), model={"in_channels": 1}, views=views)
    result.assert_finished()
    look = look_at(result)
    assert look is not None
    assert look.samples[0].picture.shape == (1, 32, 32)
    sheet = opened(folder(result) / "step_000000003.png")
    image = sheet.crop((14, 70, 130, 170))
    assert all(r == g == b for _, (r, g, b) in image.getcolors(100_000) or ())


class Window:
    """A tone of its own, as CT has."""

    def describe(self) -> str:
        return "-10 HU becomes 0 and 20 HU becomes 1; the channels are neighbouring slices"

    def typical(self, samples: Samples) -> tuple[Any, None]:
        import numpy as np

        return np.full(len(samples), 1 / 255), None

    def affine(self, samples: Samples, views: Any, seed: int) -> tuple[Any, None]:
        import numpy as np

        return np.full((len(views), len(samples)), 1 / 255), None


class Windowed:
    @hookimpl
    def build_tone(self) -> Window:
        return Window()


def test_the_window_is_said_and_its_middle_channel_is_grey(bigrunner: Runner) -> None:
    photos, slices = bigrunner.run(steps=1), bigrunner.run(steps=1, companions=[Windowed()])
    colour, grey, chosen = look_at(photos), look_at(slices), look_at(photos, channel=2)
    assert colour is not None
    assert grey is not None
    assert chosen is not None
    assert colour.window is None
    assert grey.window == "-10 HU becomes 0 and 20 HU becomes 1"
    whole = colour.samples[0].picture
    assert torch.allclose(grey.samples[0].picture, whole[1:2], atol=1e-5)
    assert torch.allclose(chosen.samples[0].picture, whole[2:], atol=1e-5)


def test_a_network_with_a_scale_embedding_is_told_the_spacing(bigrunner: Runner) -> None:
    class Measured(SyntheticImages):
        factor = 1.0

        def spacing_mm(self, indices: Any) -> Any:
            import numpy as np

            return np.full((len(indices), 3), 0.7 * self.factor)

    options: dict[str, Any] = {"dataset": Measured(), "model": {"scale_embedding": True}}
    result = bigrunner.run("attention-maps", config=SMALL, **options)
    result.assert_finished()
    assert result.run is not None
    embedding = result.run.objective.teacher.backbone.scale_embed
    assert embedding is not None
    with torch.no_grad():
        embedding.gamma.fill_(1.0)
    near = look_at(result)
    result.run.dataset.factor = 3.0  # type: ignore[attr-defined]
    far = look_at(result)
    assert near is not None
    assert far is not None
    assert not torch.allclose(near.samples[0].patches[-1], far.samples[0].patches[-1])


# -- networks -------------------------------------------------------------------------------------------------


def test_the_gram_teacher_is_compared_once_it_has_weights(bigrunner: Runner) -> None:
    late = {"snapshot_step": 2, "start_step": 3, "ramp_steps": 1, "refresh_every_steps": 500}
    rarely = {"max_steps": 4, "checkpoint_every_steps": 500}
    result = bigrunner.run("gram-anchoring", "attention-maps", steps=4, config=late, run=rarely)
    result.assert_finished()
    assert result.run is not None
    assert list(compared_networks(result.run)) == ["student", "gram teacher"]
    widths = [opened(folder(result) / "sample-1" / f"step_{step:09d}.png").width for step in (0, 4)]
    assert widths[0] < widths[1]  # a matrix more
    (section,) = answers(result)
    assert any(line.startswith("teacher and gram teacher: ") for line in section["lines"])
    result.run.frozen = {"other": torch.nn.Identity()}
    assert list(compared_networks(result.run)) == ["student"]


def test_a_teacher_that_is_the_student_is_compared_with_nobody(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1)
    assert result.run is not None
    result.run.objective.student = result.run.objective.teacher
    look = look_at(result)
    assert look is not None
    assert look.differences() == {}
    assert "gram/teacher_student_difference" not in look.metrics()


def test_the_gram_matrices_are_those_of_the_last_block_whatever_heights_are_drawn(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1)
    low, all_of_them = look_at(result, heights=(0.5,)), look_at(result)
    assert low is not None
    assert all_of_them is not None
    assert low.blocks == [1]
    assert all_of_them.blocks == [1, 2]
    assert torch.allclose(low.samples[0].grams["teacher"], all_of_them.samples[0].grams["teacher"], atol=1e-6)


def test_features_that_are_not_finite_are_said_and_not_drawn(bigrunner: Runner) -> None:
    class Spoils:
        @hookimpl
        def on_finish(self, run: Any) -> None:
            with torch.no_grad():
                run.objective.teacher.backbone.cls_token.fill_(float("nan"))

    config = {**SMALLEST, "every_steps": 500}
    result = bigrunner.run("attention-maps", steps=1, config=config, companions=[Spoils()])
    assert result.quarantined == []
    assert sheets(result) == [0]
    assert told(result, "warning") == ["the teacher's features are not finite at step 1: nothing is drawn"]


# -- processes ------------------------------------------------------------------------------------------------


def test_of_two_processes_the_main_one_draws(tmp_path: Path) -> None:
    training = Training(tmp_path, data={"effective_batch": 4, "micro_batch": 2}, run={"max_steps": 2})
    main, other = training.together(2, "--plugin", "attention-maps", "--set", "plugins.attention-maps.every_steps=1")
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    assert sorted(path.name for path in (training.run / "attention-maps").glob("step_*.png")) == [
        f"step_{step:09d}.png" for step in range(3)
    ]
    assert other.stdout == other.stderr == ""


# -- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("heights", [], "1 to 8 different fractions"),
        ("heights", [0.5, 1.5], "1 to 8 different fractions"),
        ("patch", [0.5, -0.1], "expected [x, y], each 0 to 1"),
        ("keep", 3, "expected 4 to 100"),
    ],
)
def test_an_impossible_option_is_refused(bigrunner: Runner, option: str, value: Any, said: str) -> None:
    result = bigrunner.run("attention-maps", config={option: value})
    assert isinstance(result.error, ConfigError)
    assert f"plugins.attention-maps.{option}" in str(result.error)
    assert said in str(result.error)


@pytest.mark.parametrize(
    ("heights", "depth", "expected"),
    [((0.25, 0.5, 0.75, 1.0), 24, [6, 12, 18, 24]), ((0.25, 0.5, 0.75, 1.0), 2, [1, 2]), ((0.01, 1.0), 40, [1, 40])],
)
def test_heights_are_blocks_each_once(heights: tuple[float, ...], depth: int, expected: list[int]) -> None:
    assert MapsConfig(heights=heights).blocks(depth) == expected


def test_images_are_28_patches_wide_unless_a_side_is_given() -> None:
    assert MapsConfig().side(16) == 448
    assert attrs.evolve(MapsConfig(), side_px=300).side(16) == 300
