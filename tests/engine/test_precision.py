"""bf16, the precision that a preset has when it names none: what is half, what stays whole, and that it resumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.sections import Hardware
from bigrun.testing.runner import TINY, Runner, RunResult

BF16 = {"device": "cpu", "threads": 1, "precision": "bf16"}
GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "refresh_every_steps": 2}


class Types:
    """What has which type while the run trains."""

    def __init__(self) -> None:
        self.rows: set[torch.dtype] = set()
        self.products: set[torch.dtype] = set()
        self.terms: set[torch.dtype] = set()
        self.targets: set[torch.dtype] = set()
        self.gradients: set[torch.dtype] = set()
        self.teacher: set[torch.dtype] = set()

    @hookimpl
    def on_start(self, run: Any) -> None:
        layer = run.objective.teacher.backbone.blocks[0].attn.qkv
        layer.register_forward_hook(lambda module, inputs, output: self.teacher.add(output.dtype))

    @hookimpl
    def loss_terms(self, run: Any, outputs: Any) -> dict[str, torch.Tensor]:
        self.rows |= {outputs.global_rows.dtype, outputs.local_rows.dtype, outputs.patch_rows.dtype}
        for targets in (outputs.taught.classes, outputs.taught.patches):
            self.products |= {targets.bottlenecks.dtype, targets.prototypes.dtype}
            self.targets |= {targets.bias.dtype, targets.rows(slice(None)).dtype}
        self.terms |= {term.dtype for term in run.objective.loss_terms(outputs).values()}
        return {}

    @hookimpl
    def before_update(self, run: Any) -> None:
        self.gradients |= {p.grad.dtype for p in run.objective.student.parameters() if p.grad is not None}


def state_types(result: RunResult) -> set[torch.dtype]:
    """The types of weights and optimizer state at the end."""
    assert result.run is not None
    states: list[Mapping[str, Any]] = list(result.run.optimizer.state.values())
    assert states
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return {tensor.dtype for tensor in [*result.parameters.values(), *tensors]}


def test_it_is_the_default() -> None:
    assert Hardware().precision == "bf16"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_in_bf16_computes_in_half_and_keeps_its_state_whole(bigrunner: Runner, accumulate: int) -> None:
    types = Types()
    half = bigrunner.run(accumulate=accumulate, hardware=BF16, companions=[types])
    half.assert_finished()
    whole = bigrunner.run(accumulate=accumulate)
    assert all(math.isfinite(value) for row in half.metrics for value in row.values())
    assert half.losses[0] == pytest.approx(whole.losses[0], abs=1e-2)
    assert half.losses[0] != whole.losses[0]
    assert types.products == types.teacher == {torch.bfloat16}
    # A sum of small probabilities, or of small updates, loses most of them in 8 bits.
    assert types.rows == types.targets == types.terms == types.gradients == {torch.float32}
    assert state_types(half) == {torch.float32}
    assert not [e for e in half.events if e.kind == "anomaly"]


@pytest.mark.parametrize(
    ("at_step", "objective"),
    [
        pytest.param(1, {}, id="1", marks=pytest.mark.slow),
        pytest.param(2, {}, id="2"),
        pytest.param(3, {}, id="3", marks=pytest.mark.slow),
        pytest.param(2, {"centring": "softmax"}, id="centre"),
        pytest.param(2, {"queue_steps": 2}, id="queue"),
    ],
)
def test_resuming_in_bf16_equals_the_straight_run(bigrunner: Runner, at_step: int, objective: dict[str, Any]) -> None:
    tables = {"hardware": BF16, "objective": {**TINY["objective"], **objective}}
    straight = bigrunner.run("gram-anchoring", steps=4, accumulate=2, config=GRAM, **tables)
    straight.assert_finished()
    resumed = bigrunner.resume(straight, at_step)
    resumed.assert_finished()
    assert resumed.metrics == straight.metrics
    assert resumed.parameters.keys() == straight.parameters.keys()
    for name, tensor in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], tensor), name
    assert state_types(resumed) == {torch.float32}
