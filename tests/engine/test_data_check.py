"""`bigrun data check`: what it sees, what follows, and whether training may start."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image
from typed import Typed

from bigrun.cli import main
from bigrun.data.check.duplicates import groups_of_equals
from bigrun.data.check.histogram import Histogram
from bigrun.data.check.tally import weighted
from bigrun.errors import ExitCode

# -- numbers ----------------------------------------------------------------------------------------------------------

integers = st.sampled_from(["uint8", "uint16"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
)


@settings(deadline=None)
@given(st.lists(integers, min_size=1, max_size=4), st.integers(0, 100))
def test_a_percentile_is_that_of_all_values_together(arrays: list[Any], percent: int) -> None:
    arrays = [array.astype(arrays[0].dtype) for array in arrays]
    whole, other = Histogram(str(arrays[0].dtype)), Histogram(str(arrays[0].dtype))
    for number, array in enumerate(arrays):
        (whole if number % 2 else other).add(array)
    whole.merge(other)
    values = np.concatenate([array.ravel() for array in arrays])
    assert whole.total == values.size
    assert whole.percentile(percent) == np.percentile(values, percent, method="inverted_cdf")


@settings(deadline=None)
@given(hnp.arrays(np.float32, (50,), elements=st.floats(0, 1, width=32)), st.integers(0, 100))
def test_a_percentile_of_floats_is_right_to_half_a_bin(values: Any, percent: int) -> None:
    histogram = Histogram("float32")
    histogram.add(values)
    exact = np.percentile(values.astype(np.float64), percent, method="inverted_cdf")
    assert abs(histogram.percentile(percent) - exact) <= 0.5 / 65535 + 1e-9


@settings(deadline=None)
@given(integers, st.integers(1, 90))
def test_the_bars_hold_every_value_once(array: Any, count: int) -> None:
    histogram = Histogram(str(array.dtype))
    histogram.add(array)
    low, high, bars = histogram.bars(count)
    assert (low, high) == (array.min(), array.max())
    assert bars.sum() == array.size
    assert len(bars) == min(count, int(array.max()) - int(array.min()) + 1)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_equals_are_found_as_by_comparing_all(values: list[int]) -> None:
    digests = np.zeros((len(values), 16), dtype=np.uint8)
    digests[:, 7] = values
    numbers = np.arange(len(values)) * 3
    naive = {value: [3 * place for place, other in enumerate(values) if other == value] for value in values}
    expected = sorted(group for group in naive.values() if len(group) > 1)
    assert [group.tolist() for group in groups_of_equals(digests, numbers)] == expected


@given(st.dictionaries(st.integers(1, 50), st.integers(1, 9), min_size=1))
def test_the_median_size_counts_every_image(sizes: dict[int, int]) -> None:
    every = sorted(size for size, count in sizes.items() for _ in range(count))
    smallest, median, largest = weighted(np.array(list(sizes)), np.array(list(sizes.values())))
    assert (smallest, median, largest) == (every[0], every[(len(every) - 1) // 2], every[-1])


# -- folders ----------------------------------------------------------------------------------------------------------


def save(path: Path, seed: int, *, bits: int = 8, size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if bits == 8:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    else:
        Image.fromarray(rng.integers(1000, 2000, size).astype(np.uint16)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of two depths in three folders, nothing wrong."""
    root = tmp_path / "images"
    for number in range(4):
        save(root / "a" / f"{number}.png", number)
        save(root / "b" / f"{number}.png", 10 + number, size=(40, 25))
        save(root / "c" / f"{number}.png", 20 + number, bits=16, size=(16 + number, 16))
    return root


def bigrun(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def check(*words: Any) -> tuple[int, dict[str, Any]]:
    code, said = bigrun("data", "check", *words, "--json")
    return code, json.loads(said)


GREY = [
    word
    for option in ("model.in_channels=1", "views.mean=[0.5]", "views.std=[0.25]", "views.colour_probability=0.0",
                   "views.grayscale_probability=0.0")
    for word in ("--set", option)
]  # fmt: skip


def kinds_of(report: dict[str, Any]) -> list[str]:
    return [finding["kind"] for finding in report["findings"]]


def test_a_sound_folder_may_be_trained_on(folder: Path) -> None:
    shutil.rmtree(folder / "c")
    code, report = check(folder)
    assert code == 0
    assert report["may_start"]
    assert report["findings"] == []
    assert (report["images"], report["checked"], report["samples"]) == (8, 8, 8)
    (kind,) = report["kinds"]
    assert kind["channels"] == {"3": 8}
    assert [kind[size] for size in ("smallest", "median", "largest")] == [
        {"width": 25, "height": 20}, {"width": 25, "height": 20}, {"width": 30, "height": 40},
    ]  # fmt: skip
    assert kind["unit"] is None
    assert (kind["percentiles"]["0"], kind["percentiles"]["100"]) == (0, 255)
    code, said = bigrun("data", "check", folder)
    assert code == 0
    assert said.endswith("result    training may start\n")


def test_depths_that_are_mixed_are_told_apart(folder: Path) -> None:
    code, report = check(folder)
    assert code == 0
    assert {kind["dtype"]: kind["images"] for kind in report["kinds"]} == {"uint8": 8, "uint16": 4}
    assert kinds_of(report) == ["mixed-depths"]
    deep = next(kind for kind in report["kinds"] if kind["dtype"] == "uint16")
    values = np.concatenate([np.asarray(Image.open(path)).ravel() for path in (folder / "c").iterdir()])
    assert deep["percentiles"]["1"] == np.percentile(values, 1, method="inverted_cdf")


def test_bad_images_are_counted_by_cause_and_judged_as_a_run_would(folder: Path) -> None:
    (folder / "a" / "0.png").write_bytes((folder / "a" / "0.png").read_bytes()[:300])
    code, report = check(folder)
    assert code == 0, report  # one never stops a run
    assert report["bad"]["causes"] == {"truncated": 1}
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>404")
    code, report = check(folder)
    assert code == 1
    assert report["bad"]["causes"] == {"truncated": 1, "empty": 1, "not-an-image": 1}
    assert sorted(image["path"] for image in report["bad"]["images"]) == ["a/0.png", "page.jpg", "zero.jpg"]
    assert report["findings"][0]["kind"] == "bad-images"
    assert report["findings"][0]["refuses"]
    assert not report["may_start"]
    code, said = bigrun("data", "check", folder)
    assert code == 1
    assert "refused   bad-images: 3 of 14 cannot be used (" in said
    assert said.endswith("result    training must not start: bad-images\n")
    assert check(folder, "--set", "data.max_bad_fraction=0.3")[0] == 0
    code, report = check(folder, "--set", 'data.accept_findings=["bad-images"]')
    assert (code, report["may_start"], kinds_of(report)) == (0, True, ["bad-images", "mixed-depths"])


def test_images_that_are_all_bad_refuse_even_if_any_number_is_allowed(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    code, report = check(folder, "--set", "data.max_bad_fraction=1")
    assert code == 1
    assert [finding["kind"] for finding in report["findings"] if finding["refuses"]] == ["no-image"]
    assert "not one of its 12 images was decoded" in bigrun("data", "check", folder)[1]


def test_an_image_with_other_channels_than_the_model_is_one_that_cannot_be_used(folder: Path) -> None:
    code, report = check(folder, *GREY)
    assert code == 1
    assert report["bad"]["causes"] == {"unsupported": 8}
    assert "the image has 3 channels, expected 1" in report["bad"]["images"][0]["message"]


def test_constant_images_and_copies_are_named(folder: Path) -> None:
    Image.new("L", (9, 9), 7).save(folder / "grey.png")
    Image.new("L", (9, 9), 7).save(folder / "grey again.png")
    Image.open(folder / "a" / "0.png").save(folder / "copy.bmp")  # other bytes, the same pixels
    code, report = check(folder)
    assert code == 0
    told = {finding["kind"]: finding["message"] for finding in report["findings"]}
    assert told["constant-images"] == "2 images are one colour, and teach nothing: grey again.png, grey.png"
    assert told["duplicates"] == "1 images are there again, pixel by pixel: a/0.png = copy.bmp"


def test_copies_on_both_sides_of_a_split_refuse(folder: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    own = {"format_version": 1, "rule": "list", "level": "folder", "validation_groups": ["a"]}
    split.write_text(json.dumps(own))
    code, report = check(folder, "--split", split)
    assert code == 0, report
    assert report["split"] == {
        "level": "folder", "training": {"groups": 2, "samples": 8}, "validation": {"groups": 1, "samples": 4},
    }  # fmt: skip
    Image.new("L", (9, 9)).save(folder / "a" / "black.png")  # one colour in both parts is no leak
    Image.new("L", (9, 9)).save(folder / "b" / "black.png")
    shutil.copy(folder / "b" / "1.png", folder / "b" / "within.png")
    assert check(folder, "--split", split)[0] == 0
    shutil.copy(folder / "a" / "1.png", folder / "b" / "leak.png")
    code, report = check(folder, "--split", split)
    assert code == 1
    (finding,) = [finding for finding in report["findings"] if finding["refuses"]]
    assert finding["kind"] == "duplicates-across-split"
    assert "1 images for validation are for training as well: b/leak.png = a/1.png" in finding["message"]


def test_a_split_of_other_data_is_said(folder: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    assert bigrun("data", "split", folder, "--level", "folder", "--out", split)[0] == 0
    assert "other-files" not in kinds_of(check(folder, "--split", split)[1])
    save(folder / "d" / "0.png", 99)
    assert "other-files" in kinds_of(check(folder, "--split", split)[1])
    own = {"format_version": 1, "rule": "list", "level": "folder", "validation_groups": ["x"]}
    split.write_text(json.dumps(own))
    assert "no-validation" in kinds_of(check(folder, "--split", split)[1])
    split.write_text(json.dumps(own | {"validation_groups": list("abcd")}))
    code, report = check(folder, "--split", split)
    assert code == 1
    assert "no-training" in kinds_of(report)


def test_any_number_of_processes_sees_the_same(folder: Path) -> None:
    for number in range(70):
        save(folder / "more" / f"{number}.png", 100 + number % 60)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    alone, several = (check(folder, "--workers", workers) for workers in (0, 2))
    for _, report in (alone, several):
        report.pop("seconds")
    assert alone == several
    assert "10 images are there again" in json.dumps(alone)


def test_a_sample_is_the_same_images_in_any_order_of_listing(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    first, second = check(folder, "--sample", 5)[1], check(other, "--sample", 5)[1]
    assert (first["images"], first["checked"]) == (12, 5)
    assert first["kinds"] == second["kinds"]
    assert sum(kind["images"] for kind in first["kinds"]) == 5
    assert check(folder, "--sample", 500)[1]["checked"] == 12
    assert "images: 5 of 12 images checked" in bigrun("data", "check", folder, "--sample", 5)[1]


def test_copies_are_found_in_a_sample_by_the_index(folder: Path) -> None:
    shutil.copy(folder / "a" / "1.png", folder / "b" / "again.png")
    assert bigrun("data", "index", folder)[0] == 0
    (message,) = [f["message"] for f in check(folder, "--sample", 1)[1]["findings"] if f["kind"] == "duplicates"]
    assert message == "1 images are there again, by the contents of all files, from the index: a/1.png = b/again.png"


def test_what_cannot_be_checked_ends_with_two(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert bigrun("data", "check", tmp_path / "empty")[0] == ExitCode.USAGE
    assert bigrun("data", "check", folder, "--split", tmp_path / "no.json")[0] == ExitCode.USAGE
    code, said = bigrun("data", "check", folder, "--html", tmp_path / "no" / "page.html")
    assert code == ExitCode.USAGE
    assert f"there is no folder {tmp_path / 'no'}" in said
    code, said = bigrun("data", "check", folder, "--html", tmp_path)
    assert code == ExitCode.USAGE
    assert "that is a folder; expected a file" in said


def test_a_table_beside_images_is_said_not_to_be_read(folder: Path) -> None:
    (folder / "index.csv").write_text("png_path,series_dir,slice_index\n")
    (finding,) = [f for f in check(folder)[1]["findings"] if f["kind"] == "table-not-read"]
    assert str(folder / "index.csv") in finding["message"]
    assert not finding["refuses"]


def test_a_sample_is_judged_as_all_images_are(folder: Path, tmp_path: Path) -> None:
    """Black images on both sides are no leak, whoever finds them: the index knows bytes, and no colours."""
    split = tmp_path / "split.json"
    own = {"format_version": 1, "rule": "list", "level": "folder", "validation_groups": ["a"]}
    split.write_text(json.dumps(own))
    for part in "ab":
        Image.new("L", (9, 9)).save(folder / part / "black.png")
    assert bigrun("data", "index", folder)[0] == 0
    for some in ((), ("--sample", 3)):
        code, report = check(folder, "--split", split, *some)
        assert (code, report["may_start"]) == (0, True)
        assert "duplicates" not in kinds_of(report)
    shutil.copy(folder / "a" / "1.png", folder / "b" / "leak.png")
    assert bigrun("data", "index", folder)[0] == 0
    code, report = check(folder, "--split", split, "--sample", 3)
    assert code == 1
    assert "1 images for validation" in report["findings"][0]["message"]


# -- samples that are not files ---------------------------------------------------------------------------------------

CENTRES = """
import numpy as np
from pathlib import Path
from bigrun import hookimpl
from bigrun.data.check import Intensity
from bigrun.data.files import Entry, open_files
from bigrun.data.split import file_groups

ROWS = [("s1", "old", "p1"), ("s1", "old", "p1"), ("s2", "old", None), ("s3", "new", "p2"), ("s3", None, "p2")]

def rows():
    for number, (series, dataset, patient) in enumerate(ROWS):
        yield Entry(f"{number}.png", {"series": series, "dataset": dataset, "patient": patient})

class Centres:
    levels = ("patient", "series")
    def __init__(self, root):
        self.files = open_files(root, rows)
        self.centres = np.array([0, 2, 3])
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return self.files[int(self.centres[index])]
    def groups(self, level):
        return file_groups(self.files, level)[self.centres]
    def intensity(self, dataset):
        return {"old": Intensity("HU", 1.0, 1024.0), "new": Intensity("HU", 0.1, 32768.0)}.get(dataset)

class Plugin:
    @hookimpl
    def build_dataset(self, run):
        return Centres(Path(run.config.data.path))
"""


def test_files_are_decoded_and_samples_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample may be several files, and a file a part of several samples."""
    typed = Typed(tmp_path, monkeypatch, plugins={"centres:Plugin": {}}, data={"path": "slices", "split": "split.json"})
    Path("centres.py").write_text(textwrap.dedent(CENTRES), encoding="utf-8")
    for number in range(4):
        save(Path("slices") / f"{number}.png", number, bits=16)
    shutil.copy("slices/1.png", "slices/4.png")  # of s1 and of s3, and no sample itself
    own = {"format_version": 1, "rule": "list", "level": "series", "validation_groups": ["s3"]}
    Path("split.json").write_text(json.dumps(own))
    done = typed.type("data", "check", "tiny.toml", "--json")
    report = json.loads(done.said)
    assert (report["samples"], report["images"], report["data_sets"]) == (3, 5, {"-": 1, "new": 1, "old": 3})
    assert report["split"]["training"] == {"groups": 2, "samples": 2, "patients": 1, "series": 2}
    assert "training: 2 samples of 2 series groups, 1 patients\n" in typed.type("data", "check", "tiny.toml").said
    (gap,) = [finding["message"] for finding in report["findings"] if finding["kind"] == "split-level"]
    assert gap == "1 of 3 samples have no patient: two series groups of one patient may be on both sides"
    low = {kind["data_set"]: (kind["unit"], kind["percentiles"]["0"]) for kind in report["kinds"]}
    stored = [int(np.asarray(Image.open(f"slices/{number}.png")).min()) for number in range(5)]
    assert low["old"] == ("HU", min(stored[:3]) - 1024)
    assert low["new"] == ("HU", pytest.approx((stored[3] - 32768) * 0.1))
    assert low["-"] == (None, stored[4])
    (finding,) = [finding for finding in report["findings"] if finding["refuses"]]
    assert finding["kind"] == "duplicates-across-split"
    assert "1.png = 4.png" in finding["message"]
    assert done.code == 1


# -- what data sets say of themselves ---------------------------------------------------------------------------------

TALKING = """
import numpy as np
import torch
from bigrun import hookimpl, option
from bigrun.data.check import Finding, Intensity
import attrs

class Slices:
    def __init__(self):
        self.asked = 0
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return torch.arange(64 * 64).reshape(1, 64, 64).to(torch.int32).add(index).to(torch.uint16)
    def describe(self, index):
        return f"slice {index}"
    def intensity(self, dataset):
        return Intensity("HU", slope=0.1, offset=1000)
    def problems(self):
        yield Finding("odd-series", "a series has one slice")
        yield Finding("hu-range", "the 1st percentile is 7 HU, expected -1100 to -800", refuses=True)

class Plugin:
    @hookimpl
    def build_dataset(self, run):
        return Slices()
"""


@pytest.fixture
def talking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    (tmp_path / "talking.py").write_text(textwrap.dedent(TALKING), encoding="utf-8")
    return Typed(tmp_path, monkeypatch, run={"max_steps": 1}, plugins={"talking:Plugin": {}})


def test_values_are_told_in_the_unit_of_the_data_set(talking: Typed) -> None:
    done = talking.type("data", "check", "tiny.toml", "--json")
    report = json.loads(done.said)
    (kind,) = report["kinds"]
    assert kind["unit"] == "HU"
    assert kind["percentiles"]["0"] == pytest.approx(-100)
    assert kind["percentiles"]["100"] == pytest.approx((4095 + 5 - 1000) * 0.1)
    assert report["root"] is None
    assert talking.type("data", "check", "tiny.toml").said.count("HU") >= 2


def test_a_data_set_that_is_not_fit_starts_no_run(talking: Typed) -> None:
    for words in (("run", "tiny.toml"), ("check", "tiny.toml")):
        done = talking.type(*words)
        assert done.code == ExitCode.USAGE
        assert "not fit to be trained on:\n  hu-range: the 1st percentile is 7 HU" in done.said
        assert 'data.accept_findings = ["hu-range"]' in done.said
        assert not talking.run.exists()
    done = talking.type("data", "check", "tiny.toml")
    assert done.code == 1
    assert "refused   hu-range: the 1st percentile" in done.said
    assert "note      odd-series: a series has one slice" in done.said


def test_a_finding_that_is_accepted_is_said_and_the_run_starts(talking: Typed) -> None:
    accepted = ("--set", 'data.accept_findings=["hu-range"]')
    assert talking.type("data", "check", "tiny.toml", *accepted).code == 0
    done = talking.train(*accepted)
    assert done.code == 0, done.said
    events = talking.events("data-finding")
    assert [event["facts"]["finding"] for event in events] == ["odd-series", "hu-range"]
