"""gram-anchoring: holds the student's patch similarities near those of an earlier teacher, the Gram teacher.

Long runs lose dense quality while the class token still improves (arXiv 2508.10104, section 4). A snapshot of the
teacher, taken when its patch features were good, anchors them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.errors import UsageError
from bigrun.options import above, at_least

if TYPE_CHECKING:
    import torch

    from bigrun.data.dataset import Batch
    from bigrun.model.vit import VisionTransformer
    from bigrun.objective.base import Outputs
    from bigrun.run import Run

__all__ = ["GramAnchoring", "GramConfig", "Plan"]

MODULE = "gram_teacher"


@attrs.frozen
class GramConfig:
    """When the Gram teacher is taken, when the loss begins, how strong it is. Open values follow the run's length."""

    snapshot_step: int | None = option(
        None,
        check=at_least(1),
        help="Step after which the teacher becomes the Gram teacher (at once in a run that is older when the plugin "
        "is added); absent: at 20 % of the run.",
    )
    start_step: int | None = option(
        None, check=at_least(2), help="First step with the Gram loss; absent: at 83 % of the run."
    )
    ramp_steps: int | None = option(
        None,
        check=at_least(1),
        help="Cosine ramp of the weight from 0; absent: 0.1 % of the run, at least 100, at most what is left.",
    )
    weight: float = option(
        2.0, check=above(0), help="Weight of the Gram loss (a mean over all entries) after the ramp."
    )
    refresh_every_steps: int | None = option(
        None,
        check=at_least(1),
        help="Steps between refreshes of the Gram teacher after the start; absent: 1 % of the run, at least 500.",
    )
    max_refreshes: int = option(3, check=at_least(0), help="The Gram teacher is refreshed at most so many times.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.snapshot_step is not None and self.start_step is not None and self.start_step <= self.snapshot_step:
            yield "start_step", f"{self.start_step} is not after snapshot_step = {self.snapshot_step}"


@attrs.frozen
class Plan:
    """The steps of one run, all known."""

    snapshot_step: int
    start_step: int
    ramp_steps: int
    weight: float
    refresh_every_steps: int
    max_refreshes: int

    @classmethod
    def of(cls, config: GramConfig, max_steps: int | None) -> Plan:
        """Fill open values from the run's length, in the proportions of the published 7B run.

        Raises:
            UsageError: the run has no end and a value is open, or the loss would begin before its teacher exists.

        A loss that would begin after the run's end is no error: a preset is often tried for a few steps.
        """
        if max_steps is None and None in (
            config.snapshot_step,
            config.start_step,
            config.ramp_steps,
            config.refresh_every_steps,
        ):
            raise UsageError(
                "plugins.gram-anchoring: a run without run.max_steps needs snapshot_step, start_step, ramp_steps and "
                "refresh_every_steps"
            )
        total = max_steps or 0
        snapshot = config.snapshot_step or max(round(0.2 * total), 1)
        start = config.start_step or max(round(0.83 * total), snapshot + 1)
        if start <= snapshot:
            raise UsageError(
                f"plugins.gram-anchoring: start_step {start} is not after snapshot_step {snapshot}; "
                f"the run has {max_steps} steps"
            )
        ramp = config.ramp_steps or max(min(max(100, round(0.001 * total)), total - start), 1)
        every = config.refresh_every_steps or max(500, round(0.01 * total))
        return cls(snapshot, start, ramp, config.weight, every, config.max_refreshes)

    def weight_at(self, step: int) -> float:
        """0 before the start, then a cosine ramp to the full weight."""
        done = min(max((step - self.start_step + 1) / self.ramp_steps, 0.0), 1.0)
        return self.weight * 0.5 * (1 - math.cos(math.pi * done))

    def is_refresh(self, step: int, refreshes: int) -> bool:
        """Whether the Gram teacher is replaced after this step."""
        since = step - self.start_step + 1
        return refreshes < self.max_refreshes and since > 0 and since % self.refresh_every_steps == 0


class GramAnchoring:
    """Snapshot, loss and refresh. The Gram teacher takes no forward pass while its weight is zero."""

    Config = GramConfig
    state_version = 1

    def __init__(self, config: GramConfig) -> None:
        self.config = config
        self.taken_at_step: int | None = None
        self.refreshes = 0
        self._weight = 0.0

    @hookimpl
    def frozen_modules(self, run: Run) -> Mapping[str, torch.nn.Module]:
        import torch

        from bigrun.model.vit import VisionTransformer

        self.plan = Plan.of(self.config, run.max_steps)
        with torch.device("meta"):  # it gets storage when it is taken
            self.teacher: VisionTransformer = VisionTransformer(run.config.model).eval()
        return {MODULE: self.teacher}

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        plan = self.plan
        taken = (
            f"taken at step {self.taken_at_step}" if self.taken_at_step else f"to be taken at step {plan.snapshot_step}"
        )
        lines = [
            f"gram         teacher {taken}; loss from step {plan.start_step}, weight {plan.weight} after "
            f"{plan.ramp_steps} steps; refresh every {plan.refresh_every_steps} steps, {plan.max_refreshes} at most"
        ]
        if run.max_steps is not None and plan.start_step > run.max_steps:
            lines.append(f"warning      the Gram loss has no part in this run, which ends at step {run.max_steps}")
        return lines

    @hookimpl
    def before_step(self, run: Run, step: int) -> None:
        self._weight = self.plan.weight_at(step) if self.taken_at_step else 0.0
        run.metrics.record("gram/weight", self._weight)

    @hookimpl
    def loss_terms(self, run: Run, batch: Batch, outputs: Outputs) -> Mapping[str, torch.Tensor]:
        if self._weight == 0:
            return {}
        import torch

        from bigrun_gram.loss import gram_loss

        with torch.no_grad():
            anchor = self.teacher(batch.global_crops).patches  # (G*b, P, D)
        loss = gram_loss(outputs.global_features.patches, anchor)
        run.metrics.record("gram/distance", loss)
        return {"gram": self._weight * loss}

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if self.taken_at_step is None and step >= self.plan.snapshot_step:
            run.materialise(self.teacher)
            self._take(run, step, "snapshot of the teacher taken")
        elif self.taken_at_step is not None and self.plan.is_refresh(step, self.refreshes):
            self.refreshes += 1
            self._take(run, step, f"refresh {self.refreshes} of {self.plan.max_refreshes}")

    def _take(self, run: Run, step: int, what: str) -> None:
        """Copy, never "scale by zero and add": 0 * NaN stays NaN."""
        backbone: Any = run.objective.teacher.backbone
        self.teacher.load_state_dict(backbone.state_dict())
        self.teacher.eval().requires_grad_(False)
        self.taken_at_step = step
        run.event("gram-teacher", f"Gram teacher: {what} after step {step}", refreshes=self.refreshes)

    def state_dict(self) -> dict[str, Any]:
        return {"taken_at_step": self.taken_at_step, "refreshes": self.refreshes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.taken_at_step = state["taken_at_step"]
        self.refreshes = state["refreshes"]
