"""Bars 23 and 25: a run that is continued with another configuration, or other images. What may change is said; what
may not is refused with both values and the way out; with the way out it goes on, and is that run from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import Training

from bigrun.checkpoint.store import CheckpointStore

pytestmark = pytest.mark.slow


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """Two of six steps are taken."""
    training = Training(tmp_path, run={"max_steps": 2})
    assert training().returncode == 0
    training.configure()
    return training


def snapshot(directory: Path) -> dict[Path, bytes]:
    """Every file but the story of the run, which tells of refusals too."""
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != "events.jsonl"}


def steps(training: Training) -> list[int]:
    return [row["step"] for row in training.metrics()]


def add_image(folder: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(folder / "new.png")


def test_bar_23_a_safe_key_passes_and_is_said(training: Training) -> None:
    done = training("--set", "optimizer.base_lr=5e-4")
    assert done.returncode == 0, done.stderr
    assert "since the checkpoint: optimizer.base_lr: 0.001 -> 0.0005" in done.stdout
    assert "since the checkpoint: run.max_steps: 2 -> 6" in done.stdout
    said = [event["message"] for event in training.events("config-changed")]
    assert any("optimizer.base_lr: 0.001 -> 0.0005" in message for message in said)
    assert steps(training) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "line", "key"),
    [
        ("model.depth=3", "model.depth: 2 -> 3", "model.depth"),
        ("run.seed=5", "run.seed: 0 -> 5", "run.seed"),
        ('data.path="others"', "data.path: ", "data.path"),
        ("data.effective_batch=2", "data.effective_batch: 4 -> 2", "data.effective_batch"),
    ],
)
def test_bar_23_data_architecture_and_seed_are_refused(training: Training, change: str, line: str, key: str) -> None:
    shutil.copytree(training.folder / "images", training.folder / "others")
    before = snapshot(training.run)
    done = training("--set", change)
    assert done.returncode == 2
    assert "step-00000002 is of a run with another configuration:" in done.stderr
    assert f"\n  {line}" in done.stderr
    assert (f"--allow-change {key}" in done.stderr) == (key != "model.depth"), "its weights would not fit"
    assert "--fresh" in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(training.run) == before


def test_bar_23_all_refused_keys_are_listed_and_one_flag_is_not_enough(training: Training) -> None:
    done = training("--set", "model.depth=3", "--set", "run.seed=5", "--allow-change", "run.seed")
    assert done.returncode == 2
    assert "model.depth: 2 -> 3" in done.stderr
    assert "run.seed" not in done.stderr
    done = training("--set", "model.depth=3", "--set", "run.seed=5")
    assert "--allow-change run.seed" in done.stderr
    assert done.stderr.strip().endswith("now: model.depth")
    done = training("--set", "views.local_crops=4", "--set", "run.seed=5")
    assert "--allow-change run.seed --allow-change views.local_crops" in done.stderr


@pytest.mark.parametrize(("change", "key"), [("run.seed=5", "run.seed"), ('data.path="others"', "data.path")])
def test_bar_23_with_the_way_out_it_goes_on_and_needs_it_no_more(training: Training, change: str, key: str) -> None:
    shutil.copytree(training.folder / "images", training.folder / "others")
    done = training("--set", change, "--allow-change", key, "--set", "run.max_steps=4")
    assert done.returncode == 0, done.stderr
    assert f"since the checkpoint: {key}: " in done.stdout
    again = training("--set", change)
    assert again.returncode == 0, again.stderr
    assert f"since the checkpoint: {key}: " not in again.stdout
    assert steps(training) == [1, 2, 3, 4, 5, 6]
    back = training("--set", "run.max_steps=8")
    assert back.returncode == 2, "to go back is a change too"
    assert key in back.stderr


def test_bar_23_another_architecture_names_the_tensors_that_do_not_fit(training: Training) -> None:
    before = snapshot(training.run)
    done = training("--set", "model.depth=3", "--allow-change", "model.depth")
    assert done.returncode == 1
    assert "student.safetensors: does not fit" in done.stderr
    assert "missing (" in done.stderr
    assert "backbone.blocks.2.attn.proj.bias" in done.stderr
    assert snapshot(training.run) == before
    done = training("--set", "model.width=64", "--allow-change", "model.width", "--allow-change", "model.ffn_hidden")
    assert done.returncode == 1
    assert "has shape (32,), expected (64,)" in done.stderr


@pytest.mark.parametrize(
    ("key", "answer"),
    [("model.dept", "did you mean 'model.depth'"), ("optimizer.base_lr", "is no option that a continued run has")],
)
def test_bar_23_a_key_that_is_none_is_refused(training: Training, key: str, answer: str) -> None:
    done = training("--allow-change", key)
    assert done.returncode == 2
    assert f"--allow-change {key}: " in done.stderr
    assert answer in done.stderr
    assert steps(training) == [1, 2]


# -- bar 25 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gained", [True, False], ids=["gained", "lost"])
def test_bar_25_a_data_set_that_gained_or_lost_files(training: Training, gained: bool) -> None:
    if gained:
        add_image(training.folder / "images")
    else:
        (training.folder / "images" / "3.png").unlink()
    now = 11 if gained else 9
    before = snapshot(training.run)
    done = training()
    assert done.returncode == 2
    assert f"the data set has {now} images, but 10 when runs/tiny/checkpoints/step-00000002 was saved" in done.stderr
    assert "--allow-change data.images" in done.stderr
    assert snapshot(training.run) == before
    done = training("--allow-change", "data.images", "--set", "run.max_steps=4")
    assert done.returncode == 0, done.stderr
    assert "from here on they come in another order" in done.stdout
    assert {"key": "data.images"} in [event["facts"] for event in training.events("config-changed")]
    state = CheckpointStore.load_facts(training.run / "checkpoints" / "step-00000004", "state")
    assert (state["images"], state["position"]) == (now, 16)
    again = training()
    assert again.returncode == 0, again.stderr
    assert "the data set has" not in again.stdout


def test_bar_25_an_image_in_the_place_of_a_lost_one_will_do(training: Training) -> None:
    (training.folder / "images" / "3.png").unlink()
    add_image(training.folder / "images")
    done = training()
    assert done.returncode == 0, done.stderr
