"""All built-in plugins that suit each other, in two processes of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bigrun.entry_points import installed
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
    "memory-guard": {},
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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_they_call_the_hooks_of_one_process_and_the_main_one_writes(bigrunner: Runner, strategy: str) -> None:
    members, directory = run(bigrunner, TOGETHER, strategy)
    check_finished(members)
    check_hooks(members, GOLDEN.read_text(encoding="utf-8").splitlines())
    main, other = ({call.partition(" ")[0] for call in member.hooks} & CALLED.keys() for member in members)
    assert main - other == {name for name, who in CALLED.items() if who == "the main one"} - {"measurements"}
    assert other <= main
    assert len(list((directory / "tensorboard").iterdir())) == 1
