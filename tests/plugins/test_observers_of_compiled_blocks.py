"""Whoever looks at features asks nothing of torch.compile: training keeps the graphs that it would have had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bigrun import hookimpl
from bigrun.evaluation.undisturbed import undisturbed
from bigrun.testing.runner import Runner, SyntheticImages

OBSERVERS: dict[str, dict[str, Any]] = {
    "feature-health": {"every_steps": 1, "images": 6},
    "attention-maps": {"every_steps": 1, "images": 3, "side_px": 48},
    "probes": {"every_steps": 1},
    "gram-anchoring": {"candidates_every_steps": 1, "start_step": 5},  # no observer, but until then it only looks
}


class Compiles:
    """As cuda-tuning does, without code of torch's own: what is traced and counted is the same."""

    @hookimpl(tryfirst=True)
    def on_start(self, run: Any) -> None:
        for network in (run.objective.student, run.objective.teacher):
            for block in network.backbone.blocks:
                block.compile(dynamic=False, backend="eager")


def graphs_of(bigrunner: Runner, plugins: dict[str, dict[str, Any]]) -> tuple[int, list[float]]:
    """Graphs that a run has compiled, and its losses."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    document = bigrunner.document(
        plugins, steps=3, model={"drop_path_fraction": 0.0}, objective={"teacher_temperature_warmup_steps": 1}
    )
    folder = bigrunner.tmp_path / "-".join(["run", *plugins])
    result = bigrunner._train(document, folder, [Compiles()], SyntheticImages(11))
    result.assert_finished()
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"]), result.losses


@pytest.mark.filterwarnings("default")  # torch warns of itself while it compiles
def test_training_compiles_as_many_graphs_as_without_observers(bigrunner: Runner) -> None:
    plain = graphs_of(bigrunner, {})
    assert plain[0] > 0
    assert graphs_of(bigrunner, OBSERVERS) == plain


def test_every_module_comes_back_as_it_was_also_after_an_error() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    network[1].eval()
    network[1]._compiled_call_impl = calls = lambda *_: 1 / 0
    with undisturbed(network):
        assert not any(part.training for part in network.modules())
        assert network(torch.ones(1, 2)).requires_grad is False
    with pytest.raises(RuntimeError, match="shapes"), undisturbed(network):
        network(torch.ones(1, 3))
    assert [part.training for part in network.modules()] == [True, True, False]
    assert network[1]._compiled_call_impl is calls
    with pytest.raises(ZeroDivisionError):
        network(torch.ones(1, 2))
