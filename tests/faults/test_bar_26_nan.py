"""Bar 26: a loss that is not a number costs its step, and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.testing.runner import Runner

BAD, LATER = 30, 90


class Trouble:
    """A loss of NaN in one step, and one ten times too large 60 steps later; what the weights were around the first."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        term = outputs.global_features.cls.float().sum() * 0
        return {"trouble": term + {BAD: float("nan"), LATER: 60.0}.get(step, 0.0)}

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if BAD - 1 <= step <= BAD + 1:
            self.weights[step] = {name: t.detach().clone() for name, t in run.objective.state_dict().items()}


def test_bar_26_a_nan_is_skipped_and_the_detector_works_60_steps_later(bigrunner: Runner) -> None:
    trouble = Trouble()
    every = {"log_every_steps": 10, "checkpoint_every_steps": 10, "max_steps": 100}
    result = bigrunner.run("anomaly-guard", steps=100, companions=[trouble], run=every)
    result.assert_finished()
    before, at, after = (trouble.weights[step] for step in (BAD - 1, BAD, BAD + 1))
    assert all(torch.equal(at[name], tensor) for name, tensor in before.items())  # student, teacher and centres
    assert not all(torch.equal(after[name], tensor) for name, tensor in at.items())
    found = [(e.step, e.facts["anomaly"], e.facts["action"]) for e in result.events if e.kind == "anomaly"]
    assert found == [(BAD, "nonfinite", "skip"), (LATER, "loss-spike", "skip")]
    assert len(result.losses) == 10
    assert all(loss < 10 for loss in result.losses)
    check_checkpoints(result.directory / "checkpoints", before)


def check_checkpoints(folder: Any, before: dict[str, torch.Tensor]) -> None:
    """What was saved after the bad step is the state from before it; no window has the two steps."""
    store = CheckpointStore(folder)
    student = store.load_tensors(store.path(BAD), "student")
    assert all(torch.equal(tensor, before[f"student.{name}"]) for name, tensor in student.items())
    windows = store.load_facts(store.path(100), "state")["plugins"]["anomaly-guard"]["state"]["spikes"]
    assert len(windows["loss"]) == len(windows["grad_norm"]) == 98
    assert max(windows["loss"]) < 10
