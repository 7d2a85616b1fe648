"""`bigrun replay RUN --step N`: take a step again, from the checkpoint before it, and look at every operation.

Nothing is written into the run directory: the run that is replayed has a directory of its own, which is gone
afterwards. Observers are left out; whatever changes training is there.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.activation import activate
from bigrun.anomaly import Action, Anomaly
from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG, EMERGENCY, parse_step
from bigrun.checkpoint.store import CheckpointStore
from bigrun.config import Document, read_written
from bigrun.emergency import by_age
from bigrun.errors import CheckpointError, TrainingHalted, UsageError
from bigrun.flight import FLIGHT
from bigrun.links import refuse_links
from bigrun.markers import hookimpl
from bigrun.record.record import check_is_run
from bigrun.rollback import RollBack

if TYPE_CHECKING:
    from bigrun.replay.births import Birth
    from bigrun.run import Run

__all__ = ["Replayed", "replay"]


@attrs.frozen
class Replayed:
    """What a step did the second time."""

    step: int
    checkpoint: Path
    """Where the replay began."""
    images: list[list[str]]
    """Names of the images, by micro-batch."""
    values: dict[str, float | str]
    recorded: dict[str, float | str] | None
    """Values of the first time, where the flight record of an emergency checkpoint has them."""
    anomalies: list[Anomaly]
    births: list[Birth]
    bad_tensors: list[str]
    """Tensors of the checkpoint that are not finite."""


class Replaying:
    """Answers for the step that is replayed: go on, whatever it is."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.anomalies: list[Anomaly] = []

    @hookimpl(tryfirst=True)
    def on_anomaly(self, anomaly: Anomaly) -> Action | None:
        if anomaly.step != self.step:
            return None
        self.anomalies.append(anomaly)
        return Action.SKIP


def replay(
    directory: Path, step: int | None, sets: Sequence[str] = (), say: Callable[[str], None] = lambda text: None
) -> Replayed:
    """Take a step of a run again.

    Args:
        directory: the run directory; it is only read.
        step: None for the one behind the newest emergency checkpoint.
        sets: options to change, as `hardware.precision="fp32"`.
        say: hears a line when steps before it are to be taken, too.

    Raises:
        UsageError: there is no such run, no checkpoint before the step, or the run ends before it.
        CheckpointError: an earlier step went another way than the first time.
    """
    refuse_links(directory)
    step, checkpoint = starting_point(directory, step)
    document = read_written(checkpoint / CONFIG).overridden(sets=tuple(sets))
    config, everything = activate(document)
    if config.run.max_steps is not None and step > config.run.max_steps:
        raise UsageError(f"--step {step}: the run has {config.run.max_steps} steps (run.max_steps)")
    first = (parse_step(checkpoint.name) or 0) + 1
    if first < step:
        say(f"taking steps {first} to {step - 1} again first, from {checkpoint} ...")
    tables = {name: table for name, table in document.tables["plugins"].items() if name not in everything.observers()}
    document = attrs.evolve(document, tables={**document.tables, "plugins": tables})
    answering = Replaying(step)
    with tempfile.TemporaryDirectory(prefix="bigrun-replay-") as scratch:
        copy_folders(directory, Path(scratch), tables)
        with restored(document, Path(scratch), checkpoint, answering) as run:
            bad = bad_tensors(run)
            births = take_steps(run, step)
            entry = run.flight.dump()[-1]
            images = [[image_name(run, index) for _, index in micro] for micro in entry["images"]]
    recorded = recorded_values(directory, step)
    return Replayed(step, checkpoint, images, entry["values"], recorded, answering.anomalies, births, bad)


def starting_point(directory: Path, step: int | None) -> tuple[int, Path]:
    """The step to take, and the newest verified checkpoint before it, an emergency checkpoint first."""
    check_is_run(directory)
    emergency, regular = CheckpointStore(directory / EMERGENCY), CheckpointStore(directory / CHECKPOINTS)
    if step is None:
        kept = [number for number in by_age(emergency) if emergency.is_verified(number)]
        if not kept:
            raise UsageError(f"{directory}: there is no emergency checkpoint: say which step with --step N")
        step = kept[-1] + 1
    before = [(number, store) for store in (emergency, regular) for number in store.steps() if number < step]
    for number, store in sorted(before, key=lambda entry: -entry[0]):  # stable: emergency checkpoints first
        if store.is_verified(number):
            return step, store.path(number)
    raise UsageError(f"{directory}: there is no verified checkpoint before step {step}")


def copy_folders(directory: Path, scratch: Path, names: Any) -> None:
    """The files that plugins keep in the run directory, for them to find."""
    for name in names:
        if (directory / name).is_dir():
            shutil.copytree(directory / name, scratch / name)


@contextlib.contextmanager
def restored(document: Document, directory: Path, checkpoint: Path, companion: Any) -> Iterator[Run]:
    """The run as it was at a checkpoint, about to take the next step."""
    from bigrun.build import build_data, build_objective, build_optimizer
    from bigrun.flight import FlightRecorder
    from bigrun.process import Process, preserved_random_state, preserved_threads
    from bigrun.run import Run
    from bigrun.saver import Saver
    from bigrun.session import tear_down
    from bigrun.state import restore_state

    config, plugins = activate(document, {"replay": companion})
    run = Run(config, directory, plugins, Process(is_rehearsal=True))
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, run)
        plugins.hook.configure_runtime(run=run)
        stack.enter_context(preserved_random_state())
        stack.enter_context(preserved_threads())
        build_data(run)
        run.checkpoints = CheckpointStore(directory / CHECKPOINTS)
        run.saver = Saver(config.run.checkpoint_every_steps, background=False)
        run.flight = FlightRecorder()
        build_objective(run, fresh=False)
        build_optimizer(run)
        restore_state(run, checkpoint)
        run.loader = plugins.hook.build_loader(run=run, dataset=run.dataset, position=run.position)
        plugins.hook.on_start(run=run)
        run.objective.train()
        yield run


def take_steps(run: Run, last: int) -> list[Birth]:
    """Go to the step and take it, watched; returns what it made out of finite values that is not finite."""
    from bigrun.loop import take_step
    from bigrun.replay.births import Births, watched

    births = Births({"student": run.objective.student, "teacher": run.objective.teacher, **run.frozen})
    while run.step < last:
        step = run.step + 1
        try:
            if step == last:
                with watched(births):
                    take_step(run, step)
            else:
                take_step(run, step)
                run.end_step(step)
                run.hook.after_step(run=run, step=step)
                run.metrics.flush()
        except (RollBack, TrainingHalted) as end:
            raise CheckpointError(f"the replay ended at step {step}, before step {last}: {end}") from None
        run.step = step
    return births.found


def bad_tensors(run: Run) -> list[str]:
    import torch

    return [
        name
        for name, tensor in run.objective.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]


def recorded_values(directory: Path, step: int) -> dict[str, float | str] | None:
    """What a flight record of the run says of the step; None where none has it."""
    store = CheckpointStore(directory / EMERGENCY)
    for number in filter(store.is_verified, reversed(by_age(store))):
        for entry in store.load_facts(store.path(number), FLIGHT):
            if entry["step"] == step:
                values: dict[str, float | str] = entry["values"]
                return values
    return None


def image_name(run: Run, index: int) -> str:
    describe = getattr(run.dataset, "describe", None)
    return describe(index) if describe else f"image {index}"
