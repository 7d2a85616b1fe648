"""variance-penalty: keeps the class token's features from becoming the same for every image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.errors import UsageError
from bigrun.options import above, at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.objective.base import Outputs
    from bigrun.run import Run

__all__ = ["PenaltyConfig", "VariancePenalty"]


@attrs.frozen
class PenaltyConfig:
    """How strong the penalty is, and how it begins."""

    weight: float = option(1.0, check=above(0), help="Weight of the penalty after the ramp.")
    target_std: float = option(
        1.0, check=above(0), help="A feature is penalised while its standard deviation over images is below this."
    )
    ramp_steps: int = option(
        100,
        check=at_least(1),
        help="Linear ramp of the weight, from the first step that is taken with the plugin.",
    )


class VariancePenalty:
    """Adds the variance hinge of the student's class tokens over each micro-batch, crop by crop.

    The ramp counts the steps taken with the plugin, not the run's, so that it also begins gently in a run that is
    older. A resumed run can only know this number from the plugin's state.
    """

    Config = PenaltyConfig
    state_version = 1

    def __init__(self, config: PenaltyConfig) -> None:
        self.config = config
        self.steps = 0

    @hookimpl
    def configure_runtime(self, run: Run) -> None:
        micro_batch = run.config.data.micro_batch
        if micro_batch is not None and micro_batch < 2:
            raise UsageError(
                "plugins.variance-penalty: one image has no variance; set data.micro_batch to 2 or more, not 1"
            )

    @hookimpl
    def before_step(self, run: Run) -> None:
        self.steps += 1
        run.metrics.record("variance/weight", self._weight())

    @hookimpl
    def loss_terms(self, run: Run, outputs: Outputs) -> Mapping[str, Tensor]:
        from bigrun_acme.hinge import feature_std, variance_hinge

        features = outputs.global_features.cls  # (G*b, D), crop-major
        std = feature_std(features.view(run.config.views.global_crops, -1, features.shape[-1]))  # (G, D)
        run.metrics.record("variance/std", std.mean())
        return {"variance": self._weight() * variance_hinge(std, self.config.target_std)}

    def _weight(self) -> float:
        return self.config.weight * min(self.steps / self.config.ramp_steps, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
