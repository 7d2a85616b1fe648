"""The page of metrics has what runs record, all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fenced import ROOT
from metrics_page import BY_NAME, PAGE, RECORDED, ROWS, Row, sections
from PIL import Image

from bigrun.config import Document
from bigrun.entry_points import installed
from bigrun.errors import ExitCode
from bigrun.session import run_training
from bigrun.testing.runner import Runner

NEEDS_A_GPU = {"mfu_of_measured_fraction"}

# -- form -----------------------------------------------------------------------------------------------------


def test_every_metric_stands_once() -> None:
    assert len(ROWS) > 50
    assert len(BY_NAME) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_metric_has_a_definition_a_unit_and_a_healthy_range(row: Row) -> None:
    assert row.definition
    assert row.unit
    assert re.search(r"\d|\bnone: \w|\bas `", row.healthy)
    if row.healthy.startswith("none"):
        assert re.match(r"none: \w+ \w+", row.healthy), "why is there none?"
    for other in re.findall(r"\bas \[?`([^`]+)`", row.definition + row.healthy):
        assert other in BY_NAME


@pytest.mark.parametrize("title", sections())
def test_a_section_says_who_records_when_and_over_what_it_is_averaged(title: str) -> None:
    paragraphs = [p for p in sections()[title].split("\n\n") if RECORDED.match(p.strip())]
    assert len(paragraphs) == 1
    assert re.search(r"; (not )?averaged over", " ".join(paragraphs[0].split()))
    assert re.search(r" in (every|the) (step|row)", " ".join(paragraphs[0].split()))


# -- what runs record -----------------------------------------------------------------------------------------


def recorders() -> set[str]:
    """The built-in plugins whose code records metrics."""
    plugins = ROOT / "plugins"
    files = [path for path in plugins.rglob("*.py") if re.search(r"metrics\.record", path.read_text(encoding="utf-8"))]
    packages = {path.relative_to(plugins).parts[0] for path in files}
    return {plugin.name for plugin in installed().values() if plugin.target.partition(".")[0] in packages}


def write_images(folder: Path, masks: Path) -> None:
    """Two classes of six images with a mask each, and a file that is no image."""
    draw = np.random.default_rng(0)
    for number in range(12):
        for place in (folder, masks):
            (place / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"class{number % 2}" / f"{number}.png")
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(masks / f"class{number % 2}" / f"{number}.png")
    (folder / "page.jpg").write_text("<!doctype html><html>404</html>", encoding="utf-8")


def recorded(document: Document, directory: Path) -> set[str]:
    """The names in the rows that a run has written."""
    _, code = run_training(document, directory)
    assert code == ExitCode.FINISHED
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name for line in lines for name in json.loads(line)} - {"step"}


def options(masks: Path) -> dict[str, dict[str, Any]]:
    """Of every plugin that records metrics, such that it records all it can in 12 steps."""
    return {
        "attention-maps": {"images": 1, "side_px": 16, "heights": [1.0], "every_steps": 6},
        "feature-health": {"images": 6, "every_steps": 6, "settle_steps": 0},
        "gram-anchoring": {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1},
        "probes": {"labels": "folder", "masks": str(masks), "k": 1},
    }


def test_the_page_has_the_metrics_that_runs_record_and_no_others(bigrunner: Runner, tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    write_images(images, masks)
    plugins = options(masks)
    assert plugins.keys() == recorders(), "a plugin records metrics, or does so no more"
    document = bigrunner.document(
        {**plugins, "metrics-log": {}},
        steps=12,
        run={"checkpoint_every_steps": 12},
        data={"path": str(images)},
        objective={"koleo_weight": 0.1},
        hardware={"precision": "bf16", "peak_tflops": 1.0},
    )
    names = recorded(document, tmp_path / "run")
    assert not [name for name in names if not any(row.stands_for(name) for row in ROWS)], "a metric is not described"
    silent = {row.name for row in ROWS if not any(row.stands_for(name) for name in names)}
    assert silent == NEEDS_A_GPU, "nobody has recorded it"


def test_what_a_bare_run_lacks_is_said_to_be_absent_at_times(bigrunner: Runner, tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, tmp_path / "masks")
    (images / "page.jpg").unlink()
    document = bigrunner.document(
        {"metrics-log": {}},
        steps=1,
        accumulate=4,  # a micro-batch has one image
        data={"path": str(images)},
        views={"local_crops": 0, "local_size_px": None},
        objective={"koleo_weight": 0.0, "ibot_weight": 0.0},
    )
    names = recorded(document, tmp_path / "run")
    by_engine = {title for title, text in sections().items() if "Recorded by the engine" in text}
    lacking = [row for row in ROWS if row.section in by_engine and not any(row.stands_for(name) for name in names)]
    assert {"loss/dino_local", "class_spread", "bad_images"} <= {row.name for row in lacking}
    for row in lacking:
        assert "absent" in row.definition.lower(), row.name


def test_who_is_said_to_record_does_so() -> None:
    said = {name.strip("`") for name in RECORDED.findall(PAGE)}
    assert said == recorders() | {"the engine"}
