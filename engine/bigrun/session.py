"""From a preset to an exit code: activate plugins, build the parts, restore, train, tear down."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bigrun.activation import activate
from bigrun.announcements import announce, announce_jumps, announce_recovery, checkpoint_refused
from bigrun.build import build_data, build_objective, build_optimizer
from bigrun.checkpoint.layout import CONFIG
from bigrun.config import Document
from bigrun.directory import check_directory, check_unused, choose_directory, make_directory, write_config
from bigrun.errors import ExitCode, NoImagesError, PluginError, UsageError
from bigrun.lock import RunLock
from bigrun.process import kept_memory, listening, preserved_random_state, preserved_threads
from bigrun.run import Run

__all__ = ["prepare", "run_training", "tear_down"]


def run_training(
    document: Document,
    directory: Path | None = None,
    *,
    fresh: bool = False,
    drop_plugins: Collection[str] = (),
    source: Path | None = None,
    companions: Mapping[str, Any] | None = None,
) -> tuple[Run, ExitCode | int]:
    """Train, or continue training, what a document describes; returns the run and its exit code.

    Args:
        source: the checkpoint of another run at which a new directory begins.

    Raises:
        BigrunError: the run could not start or ended with an error; `on_error` and `teardown` were called.
    """
    config, plugins = activate(document, companions)
    directory = choose_directory(config, directory, fresh=fresh)
    check_directory(directory)
    run, lock = Run(config, directory, plugins), RunLock(directory)
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        if directory.is_dir():  # a run that may not use it touches nothing in it, plugins included
            lock.acquire()
        stack.callback(tear_down, run)
        try:
            plugins.hook.configure_runtime(run=run)
            stack.enter_context(preserved_random_state())
            stack.enter_context(preserved_threads())
            stack.enter_context(listening(run))
            prepare(run, lock, drop_plugins, source)
            train(run)
            plugins.hook.on_finish(run=run)
        except BaseException as error:
            report(run, plugins.notify("on_error", run=run, error=error))
            raise
    return run, exit_code(run)


def prepare(run: Run, lock: RunLock, drop_plugins: Collection[str], source: Path | None = None) -> None:
    """Build every part, restore the newest checkpoint or the one to begin at, and announce the run."""
    from bigrun.branch import begin_branch, starting_point
    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.state import restore_state

    build_data(run)
    if len(run.dataset) == 0:
        raise NoImagesError("the data set is empty: there is nothing to train on")
    if lock.died is not None:
        announce_recovery(run, lock.died)
    run.checkpoints = CheckpointStore(run.directory / "checkpoints", before_publishing=lock.check)
    for line in run.checkpoints.sweep():
        run.event("checkpoint-swept", f"left by a killed process: {line}", "warning")
    newest = run.checkpoints.newest_verified(lambda path, bad: checkpoint_refused(run, path, bad))
    start = starting_point(run, newest, source)
    changes = same_run(run, start) if start else []
    build_objective(run, fresh=start is None)
    build_optimizer(run)
    if start:
        restore_state(run, start, drop_plugins)
    elif drop_plugins:
        raise UsageError("--drop-plugin: there is no checkpoint whose plugins could be dropped")
    if not run.finished:  # a run that is refused, cannot be built or has nothing left to do leaves it as it was
        make_directory(run.directory)
        if not lock.is_held:
            lock.acquire()
            check_unused(run.directory)
        write_config(run.directory, run.config)
    announce(run, start, changes)
    if start != newest and start is not None:
        begin_branch(run, start)
    run.loader = run.hook.build_loader(run=run, dataset=run.dataset, position=run.position)
    if run.is_main:
        run.header = [line for lines in run.hook.header_lines(run=run) for line in lines]
    run.hook.on_start(run=run)
    if start:
        announce_jumps(run, start)
    run.metrics.restart_clock()


def same_run(run: Run, checkpoint: Path) -> list[str]:
    """The configuration's changes since the checkpoint; refuses those that a resumed run may not have."""
    from bigrun.state import check_same_run

    return check_same_run(run.config, (checkpoint / CONFIG).read_text(encoding="utf-8"), checkpoint)


def train(run: Run) -> None:
    """Run the loop in the mode of training."""
    from bigrun import loop

    run.objective.train()
    with kept_memory(run.device):
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
    try:
        if close:
            close()
    finally:
        report(run, run.plugins.notify("teardown", run=run))


def report(run: Run, errors: list[tuple[str, BaseException]]) -> None:
    for name, error in errors:
        run.plugins.notify("on_event", run=run, event=_event_of(run, name, error))


def _event_of(run: Run, name: str, error: BaseException) -> Any:
    from bigrun.events import Event

    if isinstance(error, PluginError):
        return Event("plugin-error", str(error), run.step, "error", {"plugin": name, "hook": error.hook})
    return Event("plugin-error", f"{name}: {error!r}", run.step, "error", {"plugin": name})
