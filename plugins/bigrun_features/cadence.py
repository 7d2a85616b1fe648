"""How many images are looked at, and how often, so that it costs little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bigrun.compute import pass_flops
from bigrun.evaluation.part import Part
from bigrun.planner.flops import step_flops as flops_of_an_image
from bigrun_features.config import HealthConfig
from bigrun_features.look import shows_student
from bigrun_features.measured import ENOUGH

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["SHARE", "image_count", "interval_steps", "judged_looks", "look_flops", "step_flops"]

SHARE = 0.01
"""Of a step's FLOPs."""
HOST_FACTOR = 10_000
"""An operation of RankMe, in float64 on the host, costs as much as so many on the device: 5 to 25 GFLOP/s were measured
on one core, beside 50 to 300 TFLOP/s of a GPU."""


def image_count(config: HealthConfig, run: Run) -> int:
    """Images that are to be looked at; while no images are named yet (`bigrun check`), those that would be."""
    wanted = config.images or max(ENOUGH, run.config.model.width)
    return min(wanted, len(Part.of(run).dataset) or wanted)


def judged_looks(settled_step: int, every_steps: int, max_steps: int) -> int:
    """Looks after the step with which everything has settled, that of the last step included."""
    first = max(settled_step, 0)
    return max(max_steps // every_steps - first // every_steps, 0) + (max_steps % every_steps > 0 and max_steps > first)


def interval_steps(config: HealthConfig, run: Run) -> int:
    """Steps between two looks: those asked for, or the smallest multiple of `run.log_every_steps` at which a look
    costs at most `SHARE` of them. By the configuration alone, so that a resumed run looks at the same steps."""
    if config.every_steps is not None:
        return config.every_steps
    every = run.config.run.log_every_steps
    steps = look_flops(run, image_count(config, run)) / (SHARE * step_flops(run))
    return max(math.ceil(steps / every), 1) * every


def look_flops(run: Run, images: int) -> float:
    """Forward passes of the teacher, and of the student where it is looked at; 2 n D^2 + 4/3 D^3 of RankMe.

    Heads are left out here as they are in a step.
    """
    side_px = run.config.views.pairs[0][0]
    patch, width = run.config.model.patch_size_px, run.config.model.width
    side_px = max(side_px // patch, 1) * patch
    one = pass_flops(run.objective.teacher.backbone, 1, run.config.model.in_channels, side_px, side_px)
    small, large = sorted((images, width))
    rank = 2 * large * small**2 + 4 / 3 * small**3
    return images * (2 if shows_student(run.objective) else 1) * one + HOST_FACTOR * rank


def step_flops(run: Run) -> float:
    """Of a step on one device. What an objective of somebody else's computes is not known: at least it goes forward
    and backward on the global crops."""
    config = run.config
    if "objective" not in config.replaced:
        image = flops_of_an_image(config.model, config.views, kept_fraction=1 - config.model.drop_path_fraction)
    else:
        side_px = config.views.pairs[0][0]
        one = pass_flops(run.objective.student.backbone, 1, config.model.in_channels, side_px, side_px)
        image = 3 * config.views.global_crops * one
    return config.data.effective_batch * image / run.strategy.world_size
