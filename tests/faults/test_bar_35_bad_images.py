"""Bar 35: files that cannot be used are skipped, told, counted and replaced by the same others in every run; too many
of them stop it with the list."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from spoiled import AT_START, IN_THE_RUN, TURNED, add_images, copy_beside, cut, image, spoil
from torch import Tensor
from training import Training, merge
from typed import Done, Typed

from bigrun.data.files import Entry, open_files
from bigrun.errors import ExitCode
from bigrun.testing.runner import Runner

ALL = AT_START | IN_THE_RUN | TURNED
TOLERANT: dict[str, Any] = {"data": {"max_bad_fraction": 0.5}}
EPOCH = {"run": {"max_steps": 12, "checkpoint_every_steps": 4}}  # 48 images


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A folder of 40 images and of one bad file of every kind, in a run of one epoch."""
    typed = Typed(tmp_path, monkeypatch, **merge(TOLERANT, EPOCH))
    add_images(tmp_path / "images", range(10, 40))
    spoil(tmp_path / "images")
    return typed


def skipped(training: Training) -> dict[str, str]:
    """Cause by path; each told once."""
    facts = [event["facts"] for event in training.events("image-skipped")]
    assert len({fact["path"] for fact in facts}) == len(facts), "a file was told twice"
    return {fact["path"]: fact["cause"] for fact in facts}


def listed(training: Training) -> dict[str, str]:
    lines = (training.run / "bad-images.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["path"]: row["cause"] for row in map(json.loads, lines)}


def losses(directory: Path) -> list[tuple[int, str]]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["step"], row["loss"].hex()) for row in map(json.loads, lines)]


def test_bar_35_every_kind_is_skipped_told_counted_and_replaced(typed: Typed) -> None:
    copy_beside(typed.folder)
    done = typed.train("--plugin", "spoiled:TurnsBad")
    assert done.code == 0, done.said
    assert skipped(typed) == listed(typed) == ALL
    assert typed.metrics()[-1]["bad_images"] == len(ALL)
    assert typed.metrics()[0]["bad_images"] >= len(AT_START)
    replaced = {event["facts"]["path"]: event["facts"]["replacement"] for event in typed.events("image-skipped")}
    assert all((replaced[path] is None) == (path in AT_START) for path in ALL)
    assert f"bad images   {len(AT_START)} cannot be used (" in done.said
    (line,) = [line for line in done.said.splitlines() if line.startswith(f"bad images: {len(ALL)} cannot be used (")]
    assert all(f"{count} {cause}" in line for cause, count in Counter(ALL.values()).items())
    cut_said = f"skipped {typed.folder}/images/cut.png: truncated: the PNG file ends too early"
    assert cut_said in " ".join(done.said.split())
    assert "takes its place" in done.said


def test_bar_35_the_samples_are_the_same_for_any_workers_and_after_a_resume(typed: Typed) -> None:
    ways = {"0": ["data.workers=0"], "3": ["data.workers=3", "data.prefetch=1"]}
    ways["2"] = ["data.workers=2", "data.micro_batch=2"]
    runs = {}
    for name, sets in ways.items():
        typed.run = typed.folder / "runs" / name
        words = [word for option in sets for word in ("--set", option)]
        done = typed.train("--run-dir", typed.run, *words)
        assert done.code == 0, done.said
        runs[name] = losses(typed.run)
        assert skipped(typed) == listed(typed) == AT_START | IN_THE_RUN
    assert runs["0"] == runs["3"]
    assert images_of(typed.folder / "runs/0") == images_of(typed.folder / "runs/2")
    continued = Path(shutil.copytree(typed.folder / "runs/0", typed.folder / "runs/continued"))
    for step in (8, 12):
        shutil.rmtree(continued / f"checkpoints/step-{step:08d}")
    typed.run = continued
    done = typed.train("--run-dir", continued)
    assert done.code == 0, done.said
    assert "(resumed after step 4, " in done.said
    assert losses(continued)[-8:] == runs["0"][-8:]
    final = "checkpoints/step-00000012/student.safetensors"
    assert (continued / final).read_bytes() == (typed.folder / "runs/0" / final).read_bytes()


def images_of(directory: Path) -> list[Any]:
    """What took the places of the bad ones."""
    events = map(json.loads, (directory / "events.jsonl").read_text(encoding="utf-8").splitlines())
    facts = (event["facts"] for event in events if event["kind"] == "image-skipped")
    return sorted((fact["path"], fact["replacement"] or 0) for fact in facts)


def test_bar_35_a_resumed_run_neither_tells_nor_counts_a_file_twice(typed: Typed) -> None:
    typed.train("--set", "run.max_steps=8", "--set", "optimizer.warmup_steps=0")
    before = skipped(typed)
    assert len(before) > len(AT_START), "no bad file was met in 8 steps"
    done = typed.train("--allow-change", "data.images")
    assert done.code == 0, done.said
    assert skipped(typed) == listed(typed) == AT_START | IN_THE_RUN
    counts = [row["bad_images"] for row in typed.metrics()]
    assert counts == sorted(counts)
    assert counts[7] == len(before)
    assert counts[-1] == len(AT_START | IN_THE_RUN)


def test_bar_35_too_many_stop_the_run_with_the_list_and_repaired_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = Typed(tmp_path, monkeypatch, **EPOCH)
    add_images(tmp_path / "images", range(10, 40))
    bad = [tmp_path / "images" / f"{number}.png" for number in (7, 17, 27)]
    for path in bad:
        cut(path)
    done = typed.train()
    assert done.code == ExitCode.ERROR, done.said
    said = stopped(done)
    assert "2 of 40 files cannot be used (2 truncated), more than the 1 that data.max_bad_fraction = 0.001" in said
    met = skipped(typed)
    assert len(met) == 2
    assert all(f"{tmp_path}/images/{name}: truncated: the PNG file ends too early" in said for name in met)
    assert listed(typed) == met
    taken = typed.metrics()[-1]["step"]
    assert [path.name for path in (typed.run / "checkpoints").iterdir()][-1] == f"step-{taken:08d}", "steps are lost"

    again = typed.train()  # nothing was repaired: it does not begin
    assert again.code == ExitCode.ERROR
    assert "2 of 40 files cannot be used" in stopped(again)
    assert typed.metrics()[-1]["step"] == taken
    assert skipped(typed) == met

    for path in bad:
        image(int(path.stem)).save(path)
    done = typed.train()
    assert done.code == 0, done.said
    assert f"(resumed after step {taken}, " in done.said
    (event,) = typed.events("images-repaired")
    assert event["facts"]["files"] == 2
    assert listed(typed) == {}
    assert [step for step, _ in losses(typed.run)] == list(range(1, 13))


def stopped(done: Done) -> str:
    """The message of a run that stops, in one line."""
    return " ".join(done.said[done.said.index("error: ") :].split())


def test_bar_35_a_broken_data_set_does_not_start_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch)
    for number in range(30):
        (tmp_path / "images" / f"empty-{number}.jpg").touch()
    checked = typed.type("check", "tiny.toml")
    assert checked.code == 0, checked.said
    assert "bad images   30 cannot be used (30 empty; first empty-0.jpg), at most 1 may be, so that a run stops" in (
        " ".join(checked.said.split()).replace("bad images 30", "bad images   30")
    )
    done = typed.train()
    assert done.code == ExitCode.ERROR
    assert "30 of 40 files cannot be used (30 empty)" in done.said
    assert done.said.count(".jpg: empty: it has no bytes") == 30 + 20  # as events, and the first in the message
    assert "and 10 more" in done.said
    assert len(listed(typed)) == 30
    assert typed.metrics() == []
    assert not (typed.run / "checkpoints").exists()
    for path in (tmp_path / "images").glob("*.jpg"):
        path.unlink()
    assert typed.train().code == 0
    assert not typed.events("images-repaired")


def with_three_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Of the ten images 2, 3 and 5 are truncated."""
    typed = Typed(folder, monkeypatch)
    for number in (2, 3, 5):
        cut(folder / "images" / f"{number}.png")
    return typed


def test_bar_35_what_a_packed_form_knows_to_be_broken_does_not_start_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the folder's index does not."""
    typed = with_three_cut(tmp_path, monkeypatch)
    assert typed.type("data", "pack", "images", "packed", "--workers", "0").code == 0
    done = typed.train("--set", "data.path=packed")
    assert done.code == ExitCode.ERROR
    assert "3 of 10 files cannot be used (3 truncated)" in done.said
    assert typed.metrics() == []
    done = typed.train("--set", "data.path=packed", "--set", "data.max_bad_fraction=0.3")
    assert done.code == 0, done.said
    assert listed(typed) == {f"{number}.png": "truncated" for number in (2, 3, 5)}


def test_bar_35_what_an_index_knows_to_be_broken_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = with_three_cut(tmp_path, monkeypatch)
    index = ("data", "index", "images", "--decode", "--workers", "0")
    assert typed.type(*index).code == 0
    assert "3 of 10 files cannot be used (3 truncated)" in typed.train().said
    for number in (2, 3, 5):
        image(number).save(tmp_path / "images" / f"{number}.png")
    done = typed.train()
    assert done.code == ExitCode.USAGE
    assert "3 files that it leaves out are not as they were" in " ".join(done.said.split())
    assert typed.type(*index).code == 0
    assert typed.train().code == 0
    assert listed(typed) == {}


class Thirds:
    """Samples of three files each."""

    def __init__(self, root: Path) -> None:
        names = [f"{number}.png" for number in range(12)]
        self.files = open_files(root, lambda: map(Entry, names))

    def __len__(self) -> int:
        return len(self.files) // 3

    def __getitem__(self, index: int, /) -> Tensor:
        return torch.cat([self.files[3 * index + k][:1, :40] for k in range(3)])


def test_bar_35_the_fraction_is_of_files_where_there_are_files(bigrunner: Runner, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    add_images(tmp_path / "images", range(12))
    bad = [tmp_path / "images" / f"{number}.png" for number in (2, 3, 6)]
    for path in bad:
        cut(path)
    dataset, options = Thirds(tmp_path / "images"), {"max_bad_fraction": 0.25, "micro_batch": 4, "effective_batch": 4}
    bigrunner.run(dataset=dataset, data=options).assert_finished()
    result = bigrunner.run(dataset=dataset, data=options | {"max_bad_fraction": 0.2})
    assert "3 of 12 files cannot be used (3 truncated), more than the 2 that data.max" in str(result.error)


def test_bar_35_one_bad_file_never_stops_a_run_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch, data={"max_bad_fraction": 0.0})
    cut(tmp_path / "images" / "3.png")
    done = typed.train()
    assert done.code == 0, done.said
    assert skipped(typed) == {"3.png": "truncated"}


def test_bar_35_a_list_that_cannot_be_written_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = Typed(tmp_path, monkeypatch)
    typed.run.mkdir(parents=True)
    cut(tmp_path / "images" / "3.png")
    done = typed.train("--set", "run.max_steps=1")
    assert done.code == 0, done.said
    (typed.run / "bad-images.jsonl").unlink(missing_ok=True)
    (typed.run / "bad-images.jsonl").mkdir()
    done = typed.train()
    assert done.code == 0, done.said
    assert skipped(typed) == {"3.png": "truncated"}
    (event,) = typed.events("bad-images-unwritten")
    assert "bad-images.jsonl cannot be written" in event["message"]


@pytest.mark.slow
def test_bar_35_a_fifo_in_place_of_an_image_does_not_hang(tmp_path: Path) -> None:
    """In processes that decode, as a user types it."""
    training = Training(tmp_path, data={"workers": 2})
    copy_beside(tmp_path)
    spoil(tmp_path / "images")
    training.configure(data={"workers": 2, "max_bad_fraction": 1.0}, run={"max_steps": 12})
    done = training("--plugin", "spoiled:TurnsBad")
    assert done.returncode == 0, done.stderr
    assert skipped(training) == ALL
