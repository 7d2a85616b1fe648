"""All built-in plugins that suit each other, in two processes of one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from training import Training

from bigrun.entry_points import installed
from bigrun.errors import ExitCode
from bigrun.testing.agreement import CALLED, check_finished, check_hooks
from bigrun.testing.processes import Member, run_together
from bigrun.testing.runner import Runner, SyntheticImages

GOLDEN = Path(__file__).parents[1] / "engine" / "golden" / "hooks_accumulate_1.txt"
TOGETHER: dict[str, dict[str, Any]] = {
    "anomaly-guard": {},
    "attention-maps": {"images": 2, "every_steps": 2},
    "checkpoint-rotation": {"keep_last": 2, "milestone_steps": [1]},
    "console": {},
    "cuda-tuning": {},
    "feature-health": {"every_steps": 1, "images": 4},
    "gram-anchoring": {"start_step": 2, "candidates_every_steps": 1},
    "health-report": {},
    "memory-guard": {"host_free_fraction": 0.999},
    "memory-savers": {"optimizer_states": "bf16"},
    "metrics-log": {},
    "probes": {"images": 8},
    "rocm-tuning": {},
    "slurm-requeue": {},
    "telemetry": {"interval_seconds": 0.05},
    "tensorboard": {},
    "varlen-attention": {"otherwise": "default"},
    "watchdog": {},
    "xformers-attention": {"otherwise": "default"},
}
ALONE = {"ct-slices", "demo-photos", "learning-report", "mlflow", "reference-band", "wandb"}
"""They bring images, or need a second or a file of their own: their contracts have them in two processes."""


def run(bigrunner: Runner, plugins: dict[str, dict[str, Any]], strategy: str) -> tuple[list[Member], Path]:
    """Two steps, as those of the golden order."""
    tables = {"run": {"log_every_steps": 2, "checkpoint_every_steps": 2}, "parallel": {"strategy": strategy}}
    document, directory = bigrunner.document(plugins, steps=2, accumulate=2, **tables), bigrunner.tmp_path / "run"
    return run_together(document, directory, SyntheticImages(), processes=2, timeout_seconds=120), directory


def test_every_built_in_plugin_is_tried_in_two_processes() -> None:
    built_in = {name for name, plugin in installed().items() if plugin.distribution == "bigrun"}
    assert TOGETHER.keys() | ALONE == built_in


def test_images_that_cannot_be_sent_are_refused(bigrunner: Runner) -> None:
    class Local(SyntheticImages):
        pass

    with pytest.raises(TypeError, match="the data set is sent to other processes"):
        bigrunner.together("console", dataset=Local())


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_they_call_the_hooks_of_one_process_and_the_main_one_writes(bigrunner: Runner, strategy: str) -> None:
    members, directory = run(bigrunner, {**TOGETHER, "one_of_many.networks:Passes": {}}, strategy)
    check_finished(members)
    check_hooks(members, GOLDEN.read_text(encoding="utf-8").splitlines())
    main, other = ({call.partition(" ")[0] for call in member.hooks} & CALLED.keys() for member in members)
    assert main - other == {name for name, who in CALLED.items() if who == "the main one"} - {"measurements"}
    assert other <= main
    assert len(list((directory / "tensorboard").iterdir())) == 1
    assert {path.name for path in directory.glob("telemetry*.jsonl")} == {"telemetry.jsonl", "telemetry-rank-1.jsonl"}
    assert [event["kind"] for event in members[0].events].count("memory-low") == 1
    mine, others = ((directory / "passes" / f"rank-{rank}").read_text().splitlines() for rank in (0, 1))
    assert {"student", "teacher", "gram_teacher"} < {*mine}
    assert mine == others, "a network that is spread over processes would wait for ever"


@pytest.mark.slow
def test_a_job_is_requeued_once_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    done = Training(tmp_path).together(2, "--plugin", "slurm-requeue", "--set", "run.max_hours=1e-9")
    assert [each.returncode for each in done] == [ExitCode.STOPPED] * 2
    assert (tmp_path / "said").read_text() == "requeue 4711\n"


@pytest.mark.slow
def test_libraries_have_one_run(bigrunner: Runner) -> None:
    members, directory = run(bigrunner, {"mlflow": {}, "wandb": {}, "learning-report": {"patch_px": 160}}, "ddp")
    check_finished(members)
    assert len(list((directory / "wandb").glob("offline-run-*"))) == 1
    assert len(list((directory / "mlflow" / "store").glob("*/*/meta.yaml"))) == 1
