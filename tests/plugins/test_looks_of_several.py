"""Plugins that look at images in two processes of a run, one of which cannot read all of them: a network that is spread
over them makes its passes together or not at all."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import one_of_many
import pytest
from training import Training, merge

from bigrun.errors import ExitCode

LOOKING: dict[str, Any] = {
    "run": {"first_step_limit_seconds": 20.0, "save_limit_seconds": 20.0, "max_steps": 4},
    "parallel": {"strategy": "fsdp"},
    "plugins": {
        "attention-maps": {"images": 5, "every_steps": 2},
        "feature-health": {"images": 5, "every_steps": 2, "settle_steps": 0},
        "one_of_many:LooksAtSome": {},
    },
}
WHERE = f"on process 1 on {socket.gethostname()}"
ALL_PASSES = 4
"""Images that both plugins show at once: the fifth has a pass of its own."""


def training(folder: Path, monkeypatch: pytest.MonkeyPatch, unseen: str, **tables: Any) -> Training:
    """`unseen`: as one_of_many.SeenByOne takes it."""
    monkeypatch.setenv("UNSEEN", unseen)
    shutil.copy(one_of_many.__file__, folder)
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
    two = training(tmp_path, monkeypatch, "missing 4")
    done = two.together(2)
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert warnings(two) == [
        f"kept/4.png cannot be read {WHERE}: it is not in the pictures",
        f"feature-health: 1 of 5 images cannot be read (kept/4.png {WHERE}): the numbers are of the others, until they "
        "can",
    ]
    assert list(health(two)) == [2, 4]
