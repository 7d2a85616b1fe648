"""variance-penalty: its promises as a plugin, its mathematics, its ramp."""

from __future__ import annotations

import pytest
import torch
from bigrun_acme.hinge import feature_std, variance_hinge

from bigrun.errors import ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner

RAMP = {"weight": 8.0, "ramp_steps": 8}  # 1, 2, 3, ...: longer than the runs, so that every step has its own weight


class TestContract(PluginContract):
    plugin = "variance-penalty"
    config = RAMP


def test_equal_features_cost_the_target_and_spread_ones_nothing() -> None:
    equal = torch.ones(2, 4, 3)
    spread = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 100
    assert variance_hinge(feature_std(equal), 1.0).item() == pytest.approx(1.0 - 1e-2)  # epsilon is 1e-4
    assert variance_hinge(feature_std(spread), 1.0).item() == 0.0


def test_the_gradient_moves_images_apart() -> None:
    features = torch.tensor([[[-0.1], [0.1]]], requires_grad=True)  # one crop of two images, one feature
    (gradient,) = torch.autograd.grad(variance_hinge(feature_std(features), 1.0), features)
    assert gradient[0, 0, 0] > 0 > gradient[0, 1, 0]  # descent: down, and up


def test_it_adds_one_term_to_the_loss(bigrunner: Runner) -> None:
    result = bigrunner.run("variance-penalty", steps=2, accumulate=2, config=RAMP)
    result.assert_finished()
    for row in result.metrics:
        terms = {name: value for name, value in row.items() if name.startswith("loss/")}
        assert terms["loss/variance"] > 0
        assert row["loss"] == pytest.approx(sum(terms.values()))


def test_the_ramp_counts_steps_with_the_plugin(bigrunner: Runner) -> None:
    before = bigrunner.run(steps=2)
    added = bigrunner.run("variance-penalty", steps=5, config=RAMP, directory=before.directory)
    added.assert_finished()
    assert [(row["step"], row["variance/weight"]) for row in added.metrics] == [(3, 1.0), (4, 2.0), (5, 3.0)]


def test_micro_batches_of_one_image_are_refused(bigrunner: Runner) -> None:
    result = bigrunner.run("variance-penalty", accumulate=4)
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    assert "data.micro_batch" in str(result.error)
