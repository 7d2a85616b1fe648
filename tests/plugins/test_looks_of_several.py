"""Plugins that look at images in two processes of a run, one of which cannot read all of them: a network that is spread
over them makes its passes together or not at all."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from training import Training, merge

from bigrun.errors import ExitCode

LOOKING: dict[str, Any] = {
    "run": {"first_step_limit_seconds": 20.0, "save_limit_seconds": 20.0, "max_steps": 4},
    "parallel": {"strategy": "fsdp"},
    "plugins": {
        "attention-maps": {"images": 5, "every_steps": 2},
        "feature-health": {"images": 5, "every_steps": 2, "settle_steps": 0},
        "one_of_many.images:LooksAtSome": {},
    },
}
WHERE = f"on process 1 on {socket.gethostname()}"


def training(folder: Path, monkeypatch: pytest.MonkeyPatch, unseen: str, **tables: Any) -> Training:
    """`unseen`: as one_of_many.images.SeenByOne takes it."""
    monkeypatch.setenv("UNSEEN", unseen)
    return Training(folder, **merge(LOOKING, tables))


def warnings(two: Training) -> list[str]:
    kinds = ("attention-maps", "feature-health-incomplete", "feature-health-blind", "observer-failed", "quarantined")
    return [event["message"] for kind in kinds for event in two.events(kind) if event["level"] != "info"]


def health(two: Training) -> dict[int, float]:
    return {row["step"]: row["health/class_spread"] for row in two.metrics() if "health/class_spread" in row}


def test_an_image_that_one_process_cannot_read_is_left_out_on_all_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alone in its batch: the process that lacks it would make a pass less, and the other wait for that."""
    two = training(tmp_path, monkeypatch, "missing 4", run={"max_steps": 2})
    done = two.together(2)
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert warnings(two) == [
        f"kept/4.png cannot be read {WHERE}: it is not in the pictures",
        f"feature-health: 1 of 5 images cannot be read (kept/4.png {WHERE}): the numbers are of the others, until they "
        "can",
    ]
    assert list(health(two)) == [2]


@pytest.mark.parametrize(
    ("unseen", "code", "message"),
    [
        (
            "missing 4",
            0,
            f"1 of the 5 images that candidates are scored on cannot be read (kept/4.png {WHERE}): the scores of this "
            "one are of the others",
        ),
        (
            "missing 0 1 2 3 4",
            1,
            f"none of the images of the data set that candidates are scored on can be read (kept/0.png {WHERE}, ",
        ),
    ],
)
def test_the_process_that_lacks_images_of_candidates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: str, code: int, message: str
) -> None:
    gram = {"candidates_every_steps": 2, "start_step": 3, "ramp_steps": 1, "max_refreshes": 0}
    plugins = {"gram-anchoring": gram, "one_of_many.images:LooksAtTrained": {}, "attention-maps": {"images": 1}}
    two = training(tmp_path, monkeypatch, unseen, run={"max_steps": 2}, plugins=plugins)
    done = two.together(2)
    assert [each.returncode for each in done] == [code, code], [each.stderr for each in done]
    told = [event["message"] for kind in ("gram-candidate", "error") for event in two.events(kind)]
    assert any(message in text for text in told), told


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("keep_gib", [0.0, 2.0])
def test_what_is_measured_is_that_of_one_process_that_lacks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, keep_gib: float
) -> None:
    """A whole batch is missing at the first looks, and is back at the last one, wherever what was read is kept."""
    options = {"parallel": {"strategy": strategy}, "plugins": {"feature-health": {"keep_gib": keep_gib}}}
    found = {}
    for name, unseen in (("until", "until 0 1 2 3"), ("never", "missing 5")):
        (tmp_path / name).mkdir()
        two = training(tmp_path / name, monkeypatch, unseen, **options)
        done = two.together(2)
        assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
        found[name] = health(two)
    assert list(found["until"]) == [4]  # of a single image there is no spread
    assert found["until"][4] == pytest.approx(found["never"][4], rel=1e-5)


@pytest.mark.slow
def test_of_images_that_one_process_lacks_all_of_some_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = training(tmp_path, monkeypatch, "missing 0 1 2 3 4")
    assert [each.returncode for each in two.together(2)] == [0, 0]
    *pictures, blind = warnings(two)
    assert pictures == [f"kept/{n}.png cannot be read {WHERE}: it is not in the pictures" for n in range(5)]
    named = ", ".join(f"kept/{n}.png {WHERE}" for n in range(3))
    assert (
        blind == f"feature-health: none of its images can be read ({named}, and 2 more); it says nothing until one can"
    )


@pytest.mark.slow
def test_a_process_that_can_read_nothing_more_ends_the_look_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no fault of an image switches the plugins off, on all processes at once, and the run goes on."""
    two = training(tmp_path, monkeypatch, "memory 4")
    done = two.together(2)
    assert [each.returncode for each in done] == [ExitCode.QUARANTINED] * 2, [each.stderr for each in done]
    failed = [event["message"] for event in two.events("observer-failed")]
    said = f"FailedElsewhereError: process 1 on {socket.gethostname()} has failed here: MemoryError: no memory"
    assert sum(said in message for message in failed) == 2  # of the main process, of each plugin
    assert [row["step"] for row in two.metrics()] == [1, 2, 3, 4]


@pytest.mark.slow
def test_probes_ask_about_what_all_processes_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = training(tmp_path, monkeypatch, "missing 1 4", plugins={"probes": {"every_steps": 2}})
    done = two.together(2)
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    messages = [event["message"] for event in two.events("probes-incomplete")]
    assert f"2 of 5 images cannot be read (kept/1.png {WHERE}, kept/4.png {WHERE})" in messages[0]
    assert len([row for row in two.metrics() if "probe/retrieval_top1" in row]) == 2


@pytest.mark.slow
def test_a_set_of_probes_that_cannot_be_chosen_switches_them_off_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process finds out when nobody else is there."""
    probes = {"probes": ["knn"], "labels_file": "labels.csv"}
    two = training(tmp_path, monkeypatch, "missing 4", plugins={"probes": probes})
    (tmp_path / "labels.csv").write_text("path,label\nnothing.png,a\n")
    done = two.together(2)
    assert [each.returncode for each in done] == [ExitCode.QUARANTINED] * 2, [each.stderr for each in done]
    assert [event["facts"]["plugin"] for event in two.events("quarantined")] == ["probes"]


@pytest.mark.slow
def test_photographs_that_one_process_lacks_are_left_out_of_the_learning_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = {"learning-report": {"patch_px": 200}, "one_of_many.images:FewerPhotos": {}}
    two = training(tmp_path, monkeypatch, "missing", plugins=plugins)
    done = two.together(2)
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    said = [event["message"] for event in two.events("learning-report") if event["level"] == "warning"]
    assert said == [f"learning-report: the photograph china is not {WHERE} as on the others: it is left out"]
