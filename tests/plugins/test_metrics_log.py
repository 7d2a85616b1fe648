"""metrics-log: two files of strict JSON that a kill, a resume or a number that is none does not spoil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.errors import ExitCode
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner
from bigrun.throughput import TIMINGS


class TestContract(PluginContract):
    plugin = "metrics-log"


def strict_rows(path: Path) -> list[dict[str, Any]]:
    """The lines as JSON without the constants that JSON does not have."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics(directory: Path) -> list[dict[str, Any]]:
    rows = strict_rows(directory / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def events(directory: Path) -> list[dict[str, Any]]:
    return strict_rows(directory / "events.jsonl")


class StopAtTwo:
    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2:
            run.request_stop("enough")


class Spoil:
    """Makes the loss of step 2 NaN."""

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        return {"spoiled": outputs.global_features.cls.sum() * (float("nan") if step == 2 else 0.0)}


# -- metrics.jsonl --------------------------------------------------------------------------------------------


def test_every_flush_is_a_row_with_every_metric(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", steps=5, run={"log_every_steps": 2, "max_steps": 5})
    result.assert_finished()
    assert metrics(result.directory) == result.metrics  # floats come back bit for bit
    assert [row["step"] for row in result.metrics] == [2, 4, 5]
    timings = {"steps_per_second", "images_per_second", "data_wait_fraction", "model_tflops_per_second"}
    assert all(timings <= row.keys() for row in strict_rows(result.directory / "metrics.jsonl"))


def test_rows_are_on_disk_while_the_run_goes_on(bigrunner: Runner) -> None:
    seen: list[list[int]] = []

    class Look:
        @hookimpl
        def before_step(self, run: Any) -> None:
            seen.append([row["step"] for row in metrics(run.directory)])

    bigrunner.run("metrics-log", steps=3, companions=[Look()]).assert_finished()
    assert seen == [[], [1], [1, 2]]


def test_a_number_that_is_not_finite_is_a_string(bigrunner: Runner) -> None:
    class Odd:
        @hookimpl
        def before_step(self, run: Any) -> None:
            for name in ("nan", "inf", "-inf"):
                run.metrics.record(f"odd/{name}", float(name))
            run.event("odd", "numbers", deep={"list": [1.5, float("nan")], "tuple": (float("-inf"),)}, path=Path("a"))

    result = bigrunner.run("metrics-log", steps=1, companions=[Odd()])
    result.assert_finished()
    (row,) = metrics(result.directory)
    assert [row["odd/nan"], row["odd/inf"], row["odd/-inf"]] == ["nan", "inf", "-inf"]
    (event,) = [event for event in events(result.directory) if event["kind"] == "odd"]
    assert event["facts"] == {"deep": {"list": [1.5, "nan"], "tuple": ["-inf"]}, "path": "a"}


@pytest.mark.parametrize("at_step", [1, 3])
def test_a_resumed_run_cuts_the_rows_after_its_checkpoint(bigrunner: Runner, at_step: int) -> None:
    straight = bigrunner.run("metrics-log", steps=4)
    path = straight.directory / "metrics.jsonl"
    marked = [row | {"first_life": True} for row in strict_rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in marked), encoding="utf-8")
    rows = metrics(bigrunner.resume(straight, at_step).directory)
    assert [row.pop("first_life", False) for row in rows] == [step <= at_step for step in (1, 2, 3, 4)]
    assert rows == straight.metrics


def test_a_line_that_a_kill_has_cut_short_is_dropped(bigrunner: Runner) -> None:
    straight = bigrunner.run("metrics-log", steps=3)
    path = straight.directory / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:50]]), encoding="utf-8")  # killed in step 3, in the middle
    resumed = bigrunner.resume(straight, at_step=2)
    resumed.assert_finished()
    assert metrics(resumed.directory) == straight.metrics


def test_a_run_that_died_before_its_first_checkpoint_begins_its_rows_again(bigrunner: Runner) -> None:
    class Die:
        @hookimpl
        def before_step(self, step: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

    cadence = {"checkpoint_every_steps": 100, "max_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        bigrunner.run("metrics-log", run=cadence, companions=[Die()], directory=bigrunner.tmp_path / "run")
    assert [row["step"] for row in metrics(bigrunner.tmp_path / "run")] == [1, 2]
    again = bigrunner.run("metrics-log", run=cadence, directory=bigrunner.tmp_path / "run")
    assert [row["step"] for row in metrics(again.directory)] == [1, 2, 3, 4]
    assert metrics(again.directory) == again.metrics


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_file_that_cannot_be_written_costs_the_log_and_not_the_run(bigrunner: Runner, name: str) -> None:
    plain = bigrunner.run(steps=4)
    begun = bigrunner.run(steps=1, run={"max_steps": 1})
    (begun.directory / name).mkdir()  # also root cannot write to it
    result = bigrunner.run("metrics-log", steps=4, directory=begun.directory)
    assert result.exit_code == ExitCode.QUARANTINED
    assert result.quarantined == ["metrics-log"]
    assert "IsADirectoryError" in next(e.message for e in result.events if e.kind == "observer-failed")
    assert result.checkpoints == plain.checkpoints


# -- events.jsonl ---------------------------------------------------------------------------------------------


def test_the_story_of_a_run(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", steps=3, run={"checkpoint_every_steps": 2, "max_steps": 3})
    story = events(result.directory)
    assert [(event["kind"], event["step"]) for event in story] == [
        ("started", 0), ("checkpoint", 2), ("checkpoint", 3), ("finished", 3),
    ]  # fmt: skip
    assert result.run is not None
    assert story[0]["facts"]["header"] == result.run.header
    assert story[1]["facts"]["path"].endswith("step-00000002")
    assert all(event["time_utc"].endswith("+00:00") for event in story)


def test_an_anomaly_is_told_with_its_evidence(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", steps=3, companions=[Spoil()])
    (event,) = [event for event in events(result.directory) if event["kind"] == "anomaly"]
    assert (event["step"], event["level"]) == (2, "warning")
    assert event["facts"]["action"] == "skip"
    assert event["facts"]["evidence"]["loss/spoiled"] == "nan"
    assert "loss" not in next(row for row in metrics(result.directory) if row["step"] == 2)


def test_a_stop_and_a_resume_are_told_and_history_stays(bigrunner: Runner) -> None:
    stopped = bigrunner.run("metrics-log", steps=3, companions=[StopAtTwo()])
    assert stopped.exit_code == ExitCode.STOPPED
    resumed = bigrunner.run("metrics-log", steps=3, directory=stopped.directory)
    resumed.assert_finished()
    kinds = [event["kind"] for event in events(resumed.directory) if event["kind"] != "checkpoint"]
    assert kinds == ["started", "stop-requested", "stopped", "resumed", "started", "finished"]
    assert next(e for e in events(resumed.directory) if e["kind"] == "stopped")["facts"] == {"reason": "enough"}


def test_the_error_that_ends_a_run_is_told(bigrunner: Runner) -> None:
    class Broken:
        @hookimpl
        def after_update(self, step: int) -> None:
            if step == 2:
                raise ValueError("broken in step 2")

    with pytest.raises(ValueError, match="broken in step 2"):
        bigrunner.run("metrics-log", companions=[Broken()], directory=bigrunner.tmp_path / "run")
    last = events(bigrunner.tmp_path / "run")[-1]
    assert (last["kind"], last["level"], last["message"]) == ("error", "error", "broken in step 2")
    assert last["facts"]["type"] == "ValueError"
    assert 'raise ValueError("broken in step 2")' in last["facts"]["traceback"]
