"""The parts of a run, built by hooks in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.answers import ask, merged

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["build_data", "build_objective", "build_optimizer"]


def build_device(run: Run) -> None:
    """The device, configured before there is anything on it, and what depends on it."""
    import torch

    from bigrun.devices.defaults import choose_for_device
    from bigrun.devices.read import read_facts
    from bigrun.micro_batch import take_noted_micro_batch
    from bigrun.peers.choose import choose_strategy
    from bigrun.peers.division import divide_batch
    from bigrun.peers.size import check_size

    check_size(run.config, run.peers.size)
    hardware = run.config.hardware
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    run.strategy = choose_strategy(hardware, run.config.parallel, run.peers)
    run.facts = read_facts(run.device, run.directory)
    run.hook.configure_device(run=run)
    choose_for_device(run)
    take_noted_micro_batch(run)
    divide_batch(run)


def build_data(run: Run) -> None:
    """Device, data set and views."""
    from bigrun.data.check.problems import refuse_problems
    from bigrun.data.spacing import require_spacing
    from bigrun.data.split.apply import split_dataset
    from bigrun.data.split.manifest import Split
    from bigrun.data.tone import ToneOfPart
    from bigrun.data.views import Views
    from bigrun.schedules import Schedules

    build_device(run)
    config = run.config
    run.split = Split.load(config.data.split) if config.data.split is not None else None
    run.dataset = run.undivided = run.hook.build_dataset(run=run)
    refuse_problems(run)
    tone = run.hook.build_tone(run=run)
    division = split_dataset(run) if len(run.dataset) else None
    if division is not None:
        training, validation = division
        run.validation_tone = ToneOfPart(tone, validation)
        tone = ToneOfPart(tone, training)
    if config.model.scale_embedding:
        require_spacing(run.dataset)
    run.extra_views = merged(run.hook.extra_views(run=run), "extra view")
    run.views = Views(
        config.views,
        config.model.in_channels,
        config.run.seed,
        run.extra_views,
        tone=tone,
        spacing_mm=getattr(run.dataset, "spacing_mm", None),
        pin_memory=config.hardware.pin_memory,
    )
    run.schedules = Schedules()


def build_objective(run: Run, *, fresh: bool) -> None:
    """Schedules, objective and frozen modules, configured and then placed on the device.

    `fresh`: the run begins, from `init.path` if there is one; else a checkpoint's state will replace everything.
    """
    from bigrun.schedules import TABLES, training_schedules
    from bigrun.weights.start import start_from_file

    for name, schedule in training_schedules(run.config).items():
        if TABLES.get(name) not in run.config.replaced:
            run.schedules.add(name, schedule)
    run.reseed(step=0, micro=-1)
    objective: Objective = run.hook.build_objective(run=run)
    run.objective = objective
    ask(run, "parts")  # raises what the first checkpoint would
    if fresh and run.config.init.path is not None:
        start_from_file(run)
    run.frozen = merged(run.hook.frozen_modules(run=run), "frozen module")
    run.hook.configure_model(run=run, objective=objective)
    run.strategy.place(objective)
    for module in run.frozen.values():
        run.strategy.place(module.requires_grad_(False))


def build_optimizer(run: Run) -> None:
    """Optimizer and metrics."""
    from bigrun.metrics import Metrics

    groups = ask(run, "parameter_groups", run.config.optimizer)
    run.optimizer = run.hook.build_optimizer(run=run, parameters=groups)
    run.metrics = Metrics(run.config.run.log_every_steps, run.max_steps, run.config.data.effective_batch, run.peers)
