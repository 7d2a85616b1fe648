"""Bar 29: no false alarm in a healthy run. 10,000 recorded steps: tests/plugins/test_anomaly_guard_curves.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigrun import hookimpl
from bigrun.config import read_preset
from bigrun.errors import ExitCode
from bigrun.events import Event
from bigrun.session import run_training

RECIPE = Path(__file__).parents[2] / "benchmarks" / "recipes" / "curves.toml"


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.kind == "anomaly":
            self.said.append(event.message)


@pytest.mark.slow
def test_bar_29_real_photographs_and_warm_ups_raise_no_alarm(tmp_path: Path) -> None:
    """The recorded training again, in 500 steps: warm-ups of 50 and 100, everything judged from step 151 on."""
    preset = read_preset(str(RECIPE), ["run.max_steps=500", "run.seed=1"], ["anomaly-guard"])
    listener = Listener()
    _, code = run_training(preset, tmp_path / "run", companions={"listener": listener})
    assert code == ExitCode.FINISHED
    assert listener.said == []
