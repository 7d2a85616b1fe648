"""The parts of a run, built by hooks in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.answers import merged

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["build_data", "build_objective", "build_optimizer"]


def build_data(run: Run) -> None:
    """Device, data set and views."""
    import torch

    from bigrun.data.views import Views
    from bigrun.schedules import Schedules
    from bigrun.strategy import SingleProcess

    config = run.config
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    run.strategy = SingleProcess(config.hardware)
    run.dataset = run.hook.build_dataset(run=run)
    run.extra_views = merged(run.hook.extra_views(run=run), "extra view")
    run.views = Views(config.views, config.model.in_channels, config.run.seed, run.extra_views)
    run.schedules = Schedules()


def build_objective(run: Run) -> None:
    """Schedules, objective and frozen modules, configured and then placed on the device."""
    from bigrun.schedules import training_schedules

    config = run.config
    for name, schedule in training_schedules(
        config.run, config.optimizer, config.objective, config.teacher, config.data.effective_batch
    ).items():
        run.schedules.add(name, schedule)
    run.reseed(step=0, micro=-1)
    objective: Objective = run.hook.build_objective(run=run)
    run.objective = objective
    run.frozen = merged(run.hook.frozen_modules(run=run), "frozen module")
    run.hook.configure_model(run=run, objective=objective)
    run.strategy.place(objective)
    for module in run.frozen.values():
        run.strategy.place(module.requires_grad_(False))


def build_optimizer(run: Run) -> None:
    """Optimizer and metrics."""
    from bigrun.metrics import Metrics

    groups = run.objective.parameter_groups(run.config.optimizer)
    run.optimizer = run.hook.build_optimizer(run=run, parameters=groups)
    run.metrics = Metrics(run.config.run.log_every_steps, run.max_steps, run.config.data.effective_batch)
