"""Several processes with a shard of every network each: the same run as one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training import Training

from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import ExitCode

EXACT: dict[str, Any] = {
    "data": {"effective_batch": 8, "micro_batch": 2, "workers": 1},
    "objective": {"koleo_weight": 0.1, "koleo_group": 2},
}
CLOSE = 2e-4
ONE_STEP = ("--set", "run.max_hours=1e-9")
FSDP = ("--set", "parallel.strategy=fsdp")
GRADS = (*FSDP, "--set", "parallel.shard=grads")


def numbers(training: Training) -> list[dict[str, float]]:
    """What was trained in each step."""
    names = ("loss", "loss/ibot", "loss/koleo", "grad_norm", "grad_norm/ibot_head", "class_spread", "learning_rate")
    return [{name: row[name] for name in ("step", *names)} for row in training.metrics()]


def newest(training: Training) -> Path:
    return max((training.run / "checkpoints").iterdir())


def test_a_run_goes_from_shards_to_one_process_to_copies_to_shards(tmp_path: Path) -> None:
    for name in ("alone", "changing"):
        (tmp_path / name).mkdir()
    alone, changing = Training(tmp_path / "alone", **EXACT), Training(tmp_path / "changing", **EXACT)
    assert alone().returncode == 0
    main, other = changing.together(2, *FSDP, *ONE_STEP)
    assert (main.returncode, other.returncode) == (ExitCode.STOPPED, ExitCode.STOPPED), main.stderr + other.stderr
    assert "parallel     fsdp over 2 processes" in main.stdout
    first = newest(changing)
    halves = [load_file(first / f"student-0000{n}-of-00002.safetensors") for n in (1, 2)]
    whole = load_tensors(first, "student")
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert [half[name].shape[0] * 2 for half in halves] == [whole[name].shape[0]] * 2
    assert changing(*ONE_STEP).returncode == ExitCode.STOPPED
    assert (newest(changing) / "student.safetensors").is_file()
    assert {done.returncode for done in changing.together(2, *ONE_STEP)} == {ExitCode.STOPPED}
    assert {done.returncode for done in changing.together(2, *GRADS)} == {0}
    for mine, others in zip(numbers(alone), numbers(changing), strict=True):
        assert mine == pytest.approx(others, rel=CLOSE)
    for stem in ("student", "teacher", "optimizer"):
        expected, got = load_tensors(newest(alone), stem), load_tensors(newest(changing), stem)
        assert set(expected) == set(got)
        for key in expected:
            assert (expected[key] - got[key]).abs().max() <= 1e-3 * max(float(expected[key].abs().max()), 1e-3), key
