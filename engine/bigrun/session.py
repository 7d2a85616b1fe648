"""From a configuration to an exit code: activate plugins, build the parts, restore, train, tear down."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.config import Config, Document, build_config
from bigrun.defaults import Defaults
from bigrun.errors import BigrunError, ExitCode, PluginError, RunDirectoryError, UsageError
from bigrun.plugins import Plugins, load_classes
from bigrun.run import Run
from bigrun.values import Problem

if TYPE_CHECKING:
    from bigrun.objective.base import Objective

__all__ = ["activate", "build_data", "choose_directory", "run_training"]


def activate(document: Document, companions: Mapping[str, Any] | None = None) -> tuple[Config, Plugins]:
    """Interpret a document and register its plugins.

    Args:
        companions: plugin instances that no configuration names (the command line's own output, a test's recorder).

    Raises:
        ConfigError: with every problem of the document.
        UsageError: a plugin implements an unknown hook, or one that it may not implement.
        PluginError: a plugin cannot be created.
    """
    problems: list[Problem] = []
    tables = document.tables.get("plugins", {})
    classes = load_classes(tables if isinstance(tables, Mapping) else {}, problems)
    config = build_config(document, {n: getattr(cls, "Config", None) for n, cls in classes.items()}, problems)
    plugins = Plugins()
    plugins.manager.register(Defaults(), "engine")
    for name, cls in classes.items():
        plugins.activate(name, create(name, cls, config.plugins[name]))
    for name, companion in (companions or {}).items():
        plugins.manager.register(companion, name)
    plugins.hook.configure_hooks(plugins=plugins)
    plugins.check_hooks()
    return config, plugins


def create(name: str, cls: type, options: Any) -> Any:
    """A plugin instance; `options` is None for a plugin that has no options."""
    try:
        return cls(options) if options is not None else cls()
    except BigrunError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(name, "__init__", 0, error) from error


def choose_directory(config: Config, directory: Path | None, *, fresh: bool) -> Path:
    """The run directory: as asked, or `runs/<preset>`; with `fresh` the first of name, name-2, ... that is free."""
    wish = directory or Path("runs") / config.name
    if not fresh or not wish.exists():
        return wish
    number = 2
    while (candidate := wish.with_name(f"{wish.name}-{number}")).exists():
        number += 1
    return candidate


def claim_directory(directory: Path) -> None:
    """Make the run directory, or accept one that holds a run.

    Raises:
        RunDirectoryError: it is a file, or holds something that no run has made.
    """
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file; a run needs a directory: choose another with --run-dir")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "config.toml").is_file():
        raise RunDirectoryError(
            f"{directory} holds files but no run (there is no config.toml): choose another with --run-dir"
        )
    directory.mkdir(parents=True, exist_ok=True)


def run_training(
    document: Document,
    directory: Path | None = None,
    *,
    fresh: bool = False,
    drop_plugins: Collection[str] = (),
    companions: Mapping[str, Any] | None = None,
) -> tuple[Run, ExitCode | int]:
    """Train, or continue training, what a document describes; returns the run and its exit code.

    Raises:
        BigrunError: the run could not start or ended with an error; `on_error` and `teardown` were called.
    """
    config, plugins = activate(document, companions)
    directory = choose_directory(config, directory, fresh=fresh)
    run = Run(config, directory, plugins)
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, run)
        try:
            plugins.hook.configure_runtime(run=run)
            stack.enter_context(preserved_random_state())
            stack.enter_context(preserved_threads())
            stack.enter_context(listening(run))
            prepare(run, drop_plugins)
            train(run)
            plugins.hook.on_finish(run=run)
        except BaseException as error:
            report(run, plugins.notify("on_error", run=run, error=error))
            raise
    return run, exit_code(run)


def prepare(run: Run, drop_plugins: Collection[str]) -> None:
    """Build every part, restore the newest checkpoint if there is one, and announce the run."""
    from bigrun.checkpoint.store import CheckpointStore

    build_data(run)
    claim_directory(run.directory)
    run.checkpoints = CheckpointStore(run.directory / "checkpoints")
    run.checkpoints.sweep()
    newest = run.checkpoints.newest_verified(lambda path, bad: checkpoint_refused(run, path, bad))
    changes = same_run(run, newest) if newest else []
    build_objective(run)
    build_optimizer(run)
    if newest:
        resume(run, newest, changes, drop_plugins)
    (run.directory / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
    run.loader = run.hook.build_loader(run=run, dataset=run.dataset, position=run.position)
    if run.is_main:
        run.header = [line for lines in run.hook.header_lines(run=run) for line in lines]
    run.hook.on_start(run=run)
    run.metrics.restart_clock()


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
    run.extra_views = _merged(run.hook.extra_views(run=run), "extra view")
    run.views = Views(config.views, config.model.in_channels, config.run.seed, run.extra_views)
    run.schedules = Schedules()


def build_objective(run: Run) -> None:
    """Schedules, objective and frozen modules, on the device and configured."""
    from bigrun.schedules import training_schedules

    config = run.config
    for name, schedule in training_schedules(
        config.run, config.optimizer, config.objective, config.teacher, config.data.effective_batch
    ).items():
        run.schedules.add(name, schedule)
    run.reseed(step=0, micro=-1)
    objective: Objective = run.hook.build_objective(run=run)
    run.strategy.place(objective)
    run.objective = objective
    run.frozen = _merged(run.hook.frozen_modules(run=run), "frozen module")
    for module in run.frozen.values():
        module.requires_grad_(False)
    run.hook.configure_model(run=run, objective=objective)


def build_optimizer(run: Run) -> None:
    """Optimizer and metrics."""
    from bigrun.metrics import Metrics

    groups = run.objective.parameter_groups(run.config.optimizer)
    run.optimizer = run.hook.build_optimizer(run=run, parameters=groups)
    run.metrics = Metrics(run.config.run.log_every_steps, run.max_steps, run.config.data.effective_batch)


def same_run(run: Run, checkpoint: Path) -> list[str]:
    """The configuration's changes since the checkpoint; refuses those that a resumed run may not have."""
    from bigrun.state import check_same_run

    return check_same_run(run.config, (checkpoint / "config.toml").read_text(encoding="utf-8"), run.directory)


def resume(run: Run, checkpoint: Path, changes: list[str], drop_plugins: Collection[str]) -> None:
    """Continue from a checkpoint, and say so."""
    from bigrun.state import restore_state

    restore_state(run, checkpoint, drop_plugins)
    run.event("resumed", f"resumed from {checkpoint} after step {run.step}", path=str(checkpoint))
    for change in changes:
        run.event("config-changed", f"since the checkpoint: {change}")


def checkpoint_refused(run: Run, path: Path, problems: list[str]) -> None:
    run.event(
        "checkpoint-refused", f"{path} is damaged and was passed over: {'; '.join(problems)}", "error", path=str(path)
    )


def train(run: Run) -> None:
    """Run the loop in the mode of training."""
    from bigrun import loop

    run.objective.train()
    loop.train(run)


def exit_code(run: Run) -> ExitCode | int:
    """What the process says when it ends without an error."""
    if run.stop_signal is not None and not run.finished:
        return 128 + run.stop_signal
    if run.stop_reason is not None and not run.finished:
        return ExitCode.STOPPED
    return ExitCode.QUARANTINED if run.plugins.failures else ExitCode.FINISHED


def tear_down(run: Run) -> None:
    """Stop the loader and let every plugin release what it holds."""
    close = getattr(getattr(run, "loader", None), "close", None)
    if close:
        close()
    report(run, run.plugins.notify("teardown", run=run))


def report(run: Run, errors: list[tuple[str, BaseException]]) -> None:
    for name, error in errors:
        run.plugins.notify("on_event", run=run, event=_event_of(run, name, error))


def _event_of(run: Run, name: str, error: BaseException) -> Any:
    from bigrun.events import Event

    if isinstance(error, PluginError):
        return Event("plugin-error", str(error), run.step, "error", {"plugin": name, "hook": error.hook})
    return Event("plugin-error", f"{name}: {error!r}", run.step, "error", {"plugin": name})


def _merged(answers: list[Mapping[str, Any]], what: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for answer in answers:
        for name, value in answer.items():
            if name in merged:
                raise UsageError(f"two plugins offer the {what} {name!r}: switch one off with --no-plugin")
            merged[name] = value
    return merged


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the process's global random generators as they were found."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def preserved_threads() -> Iterator[None]:
    """Leave torch's number of CPU threads, which `hardware.threads` sets, as it was found."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def listening(run: Run) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a request to stop after the step; handlers only set a flag."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, _frame: Any) -> None:
        run.stop_signal = number
        run.stop_reason = run.stop_reason or signal.Signals(number).name

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
