"""From a preset to an exit code: activate plugins, build the parts, restore, train, tear down."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from bigrun.activation import activate
from bigrun.announcements import announce, announce_jumps, announce_recovery
from bigrun.build import build_data, build_objective, build_optimizer
from bigrun.checkpoint.facts import read_config
from bigrun.checkpoint.layout import CHECKPOINTS, EMERGENCY
from bigrun.config import Document
from bigrun.directory import check_directory, check_unused, choose_directory, make_directory, write_config
from bigrun.ending import ending, exit_code, finish, is_told_here, report, tear_down
from bigrun.errors import ExitCode, NoImagesError, UsageError
from bigrun.lock import RunLock
from bigrun.peers.peers import Peers
from bigrun.peers.place import Place
from bigrun.peers.same_directory import check_same_directory
from bigrun.peers.start import join, newest_checkpoint, together
from bigrun.process import (
    Process,
    kept_memory,
    listening,
    preserved_random_state,
    preserved_threads,
    release_memory,
)
from bigrun.refused_run import nothing_left_of_a_refused_run
from bigrun.rollback import RollBack, go_back
from bigrun.room import check_room
from bigrun.run import Run
from bigrun.same_run import check_allowed, check_same_run
from bigrun.saved import check_not_lost
from bigrun.switched_off import switched_off

__all__ = ["prepare", "run_training", "tear_down"]


@attrs.frozen
class Start:
    """How a run is to begin, apart from its configuration."""

    drop_plugins: Collection[str]
    allowed_changes: Collection[str]
    source: Path | None


def run_training(
    document: Document,
    directory: Path | None = None,
    *,
    fresh: bool = False,
    drop_plugins: Collection[str] = (),
    allowed_changes: Collection[str] = (),
    source: Path | None = None,
    companions: Mapping[str, Any] | None = None,
    place: Place | None = None,
) -> tuple[Run, ExitCode | int]:
    """Train, or continue training, what a document describes; returns the run and its exit code.

    Args:
        allowed_changes: options, as `model.depth`, that may differ from the checkpoint's although they are fixed.
        source: the checkpoint of another run at which a new directory begins.
        place: this process among those of the run; absent: it is alone.

    Raises:
        BigrunError: the run could not start or ended with an error; `on_error` and `teardown` were called.
    """
    config, plugins = activate(document, companions)
    check_allowed(allowed_changes)
    directory = choose_directory(config, directory, fresh=fresh)
    check_directory(directory)
    lock, process, back = RunLock(directory), Process(Peers(place)), True
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        stack.enter_context(nothing_left_of_a_refused_run(process, lock))
        stack.callback(process.peers.leave)
        # a run that may not use it touches nothing in it, plugins included
        if process.peers.is_main and directory.is_dir():
            lock.acquire()
        stack.enter_context(listening(process))
        if process.peers.size > 1:
            process.failures.update(switched_off(directory, plugins.observers()))
        while back:
            run = Run(config, directory, plugins, process)
            plugins.failures.update(process.failures)
            back = attempt(run, lock, Start(drop_plugins, allowed_changes, source))
            if back:  # everything is made anew: two runs do not fit into a device's memory
                del run, config, plugins
                release_memory()
                config, plugins = activate(document, companions)
    return run, exit_code(run)


def attempt(run: Run, lock: RunLock, start: Start) -> bool:
    """Train from the newest checkpoint to the end; True when the run has gone back to an older one instead."""
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, run)
        try:
            run.plugins.hook.configure_runtime(run=run)
            join(run)
            stack.enter_context(preserved_random_state())
            stack.enter_context(preserved_threads())
            together(run, lambda: prepare(run, lock, start))
            run.process.made.clear()
            back = train(run)
            run.activity = "end"
            if not back:
                finish(run)
        except BaseException as error:
            run.activity, ended = "end", ending(run, error)
            if is_told_here(run, ended):
                report(run, run.plugins.notify("on_error", run=run, error=ended))
            if ended is not error:
                raise ended from error
            raise
    return back


def prepare(run: Run, lock: RunLock, asked: Start) -> None:
    """Build every part, restore the newest checkpoint or the one to begin at, and announce the run."""
    from bigrun.branch import begin_branch, starting_point
    from bigrun.compute import begin_compute
    from bigrun.state import restore_state

    build_data(run)
    if len(run.dataset) == 0:
        raise NoImagesError("the data set is empty: there is nothing to train on")
    if lock.died is not None:
        announce_recovery(run, lock.died)
        lock.died = None
    open_stores(run, lock)
    check_same_directory(run, lock)
    newest = newest_checkpoint(run)
    start = starting_point(run, newest, asked.source)
    if start is None:
        check_not_lost(run.directory)
    changes = same_run(run, start, asked.allowed_changes) if start else {}
    build_objective(run, fresh=start is None)
    build_optimizer(run)
    if start:
        restore_state(run, start, asked.drop_plugins, asked.allowed_changes)
    elif asked.drop_plugins:
        raise UsageError("--drop-plugin: there is no checkpoint whose plugins could be dropped")
    if not run.finished:  # a run that is refused, cannot be built or has nothing left to do leaves it as it was
        run.peers.by_main(lambda: take_directory(run, lock))
        check_same_directory(run, lock)
        run.peers.by_main(lambda: begin_directory(run))
        run.bad_images.begin(run)
    announce(run, start, changes)
    if start != newest and start is not None:
        begin_branch(run, start)
    run.loader = run.hook.build_loader(run=run, dataset=run.dataset, position=run.position)
    if not run.finished:
        begin_compute(run)
    header = run.peers.by_main(lambda: [line for lines in run.hook.header_lines(run=run) for line in lines])
    run.header = header if run.is_main else []
    run.hook.on_start(run=run)
    if start:
        announce_jumps(run, start)
    run.metrics.restart_clock()


def open_stores(run: Run, lock: RunLock) -> None:
    """The checkpoints, without what a killed process has left among them, and what is to be written into them."""
    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.flight import FlightRecorder
    from bigrun.saver import Saver

    section = run.config.run
    run.checkpoints = CheckpointStore(run.directory / CHECKPOINTS, before_publishing=lock.check)
    run.saver = Saver(section.checkpoint_every_steps, background=section.background_checkpoints)
    run.flight = FlightRecorder()
    if not run.is_main:
        return
    for store in (run.checkpoints, CheckpointStore(run.directory / EMERGENCY, before_publishing=lock.check)):
        for line in store.sweep():
            run.event("checkpoint-swept", f"left by a killed process: {line}", "warning")


def take_directory(run: Run, lock: RunLock) -> None:
    """From here on the directory is this run's."""
    from bigrun.provenance import gather

    run.provenance = gather(run)
    run.room = check_room(run)
    made = make_directory(run.directory)
    if not lock.is_held:
        lock.acquire()
        check_unused(run.directory)
    run.process.made = made


def begin_directory(run: Run) -> None:
    """What the main process writes before the first step of a process."""
    from bigrun.data.split.apply import copy_split
    from bigrun.provenance import record

    write_config(run.directory, run.config)
    copy_split(run)
    if run.provenance is not None:
        record(run, run.provenance)


def same_run(run: Run, checkpoint: Path, allowed_changes: Collection[str]) -> dict[str, str]:
    """The configuration's changes since the checkpoint; refuses those that a resumed run may not have."""
    return check_same_run(run.config, read_config(checkpoint), checkpoint, allowed_changes)


def train(run: Run) -> bool:
    """Run the loop in the mode of training; True when it ended in a roll back, which is then made."""
    from bigrun import loop
    from bigrun.out_of_memory import is_out_of_memory, relieve

    run.objective.train()
    try:
        with kept_memory(run.device):
            loop.train(run)
    except RollBack as rollback:
        go_back(run, rollback)
        return True
    except Exception as error:
        if not run.is_in_step or not is_out_of_memory(error):
            raise
        failure = relieve(run, error)
    else:
        return False
    if failure is None:  # it was asked to stop in that step, and has saved
        return False
    raise failure
