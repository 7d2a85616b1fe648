"""The process of one trial: `python -m bigrun.tuner.child DESCRIPTOR`, with its order in a line of standard input.

The run is the preset's own, with its plugins and its images. It saves nothing: `loop.take_steps` is what `bigrun run`
calls, and what follows it there is the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.config import Document
from bigrun.errors import BigrunError, NoImagesError
from bigrun.peers.peers import Peers
from bigrun.tuner.tether import tethered

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun.tuner.timing import Timing

__all__ = ["as_facts", "describe", "document_of", "main", "with_data"]

SLACK_STEPS = 100_000
"""Of a trial beyond those that it is to measure: how many it takes depends on the machine."""
Tell = Callable[..., None]


def main(order: str, descriptor: int, work: Mapping[str, Callable[..., dict[str, Any]]] | None = None) -> None:
    """Do what is ordered, and write lines of JSON: `step` for each step, and one `answer` or `error`.

    Args:
        order: JSON: `what`, and the arguments of `look`, `measure` or `find_largest`. It may have secrets of the
            configuration, and so does not come among the words of the command.
        descriptor: of a pipe; what libraries print does not get there.
        work: what can be ordered, by name; that of this module if not given.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as the command line does: --plugin my_module:MyPlugin
    os.set_inheritable(descriptor, False)
    wanted = json.loads(order)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:

        def tell(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")
            file.flush()

        try:
            tell(answer=(work or WORK)[wanted.pop("what")](tell=tell, **wanted))
        except (Exception, SystemExit) as error:
            tell(error=describe(error))


def describe(error: BaseException) -> dict[str, Any]:
    """What the parent is told of an error."""
    from bigrun.out_of_memory import is_out_of_memory
    from bigrun.peers.errors import PeerLostError, SaidElsewhere
    from bigrun.redaction import Redactor

    no_memory = is_out_of_memory(error) or isinstance(error, MemoryError)
    text = str(error) if isinstance(error, BigrunError) else f"{type(error).__name__}: {error}"
    return {
        "status": "out-of-memory" if no_memory else "error",
        "message": Redactor.of_environment().text(text.strip()),
        "exit_code": int(error.exit_code) if isinstance(error, BigrunError) else 1,
        "is_of_another": isinstance(error, PeerLostError | SaidElsewhere),
    }


def as_facts(document: Document) -> dict[str, Any]:
    """What an order says of it, as JSON."""
    return {"source": document.source, "name": document.name, "tables": document.tables}


def document_of(facts: Mapping[str, Any]) -> Document:
    return Document(facts["source"], facts["name"], facts["tables"])


@contextlib.contextmanager
def with_data(
    document: Document, directory: Path, companions: Mapping[str, Any] | None = None, peers: Peers | None = None
) -> Iterator[Run]:
    """A run that has a device and its images; torn down at the end.

    Args:
        peers: the processes of the run; this one alone if not given.
    """
    from bigrun.activation import activate

    config, plugins = activate(document, companions)

    from bigrun.process import Process
    from bigrun.run import Run
    from bigrun.session import tear_down

    run = Run(config, directory, plugins, Process(peers or Peers(), is_rehearsal=True))
    try:
        run.hook.configure_runtime(run=run)

        from bigrun.build import build_data

        build_data(run)
        yield run
    finally:
        tear_down(run)


def look(document: Mapping[str, Any], directory: str, tell: Tell) -> dict[str, Any]:
    """The device, how many images there are, and what plugins have chosen for the device."""
    import torch

    with with_data(document_of(document), Path(directory)) as run:
        if len(run.dataset) == 0:
            raise NoImagesError("the data set is empty: there is nothing to train on")
        data, hardware = run.config.data, run.config.hardware
        return {
            "device": run.facts.as_facts(),
            "threads": torch.get_num_threads(),
            "images": len(run.dataset),
            "has_order": getattr(run.dataset, "order", None) is not None,
            "data": {"micro_batch": data.micro_batch, "workers": data.workers},
            "hardware": {
                "activation_checkpointing": hardware.activation_checkpointing,
                "pin_memory": hardware.pin_memory,
            },
        }


def find_largest(
    document: Mapping[str, Any], device: Mapping[str, Any], mode: str, sizes: list[int], tell: Tell
) -> dict[str, Any]:
    """The largest of the micro-batches that should fit, as `bigrun plan` predicts it; 0 if none does.

    Args:
        device: its facts.
    """
    from bigrun.devices import DeviceFacts
    from bigrun.planner.rehearsals import Rehearsals
    from bigrun.planner.search import largest_fitting

    facts = DeviceFacts.from_facts(device)
    rehearsals = Rehearsals(document_of(document), facts.backend, lambda line: None, facts)

    def excess_bytes(size: int) -> int:
        return rehearsals.excess_bytes(mode, size, facts.total_bytes, facts.host.ram_total_bytes)

    return {"largest": largest_fitting(sizes, excess_bytes, 0, start=sizes[-1]) or 0}


def measure(
    document: Mapping[str, Any],
    directory: str,
    length: Mapping[str, Any],
    micro_batches: int,
    inflate: int,
    tell: Tell,
) -> dict[str, Any]:
    """Some steps of the run, after a warm-up.

    Args:
        length: of the trial (`Length`).
        micro_batches: of a step at most.
    """
    from bigrun.activation import activate
    from bigrun.tuner.recipe import shorten
    from bigrun.tuner.timing import Length, Timing

    whole, _ = activate(document_of(document))
    timing = Timing(Length(**length), lambda step: tell(step=step))
    short = shorten(whole, timing.length.warm_up_steps + timing.length.steps + SLACK_STEPS, micro_batches)
    with with_data(short, Path(directory), {"timing": timing}) as run:
        build(run, inflate)
        take_steps(run)
        if run.stop_reason != "measured":
            stopped = run.stop_reason or "it took all its steps"
            raise BigrunError(f"the run ended after step {run.step}, before all was measured: {stopped}")
        return {"effective_batch": whole.data.effective_batch} | measurements(run, timing)


def build(run: Run, inflate: int) -> None:
    """What `bigrun.session.prepare` builds of a new run, without room for checkpoints."""
    from bigrun.build import build_objective, build_optimizer
    from bigrun.checkpoint.layout import CHECKPOINTS
    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.directory import make_directory, write_config
    from bigrun.flight import FlightRecorder
    from bigrun.tuner.inflate import inflated
    from bigrun.tuner.unsaved import UnsavedSaver

    run.dataset = inflated(run.dataset, inflate)
    run.checkpoints = CheckpointStore(run.directory / CHECKPOINTS)
    run.saver, run.flight = UnsavedSaver(run.config.run.checkpoint_every_steps, background=False), FlightRecorder()
    build_objective(run, fresh=True)
    build_optimizer(run)
    make_directory(run.directory)
    write_config(run.directory, run.config)
    run.bad_images.begin(run)
    run.loader = run.hook.build_loader(run=run, dataset=run.dataset, position=0)
    run.header = [line for lines in run.hook.header_lines(run=run) for line in lines]
    run.hook.on_start(run=run)
    run.metrics.restart_clock()


def take_steps(run: Run) -> None:
    from bigrun import loop
    from bigrun.process import kept_memory

    run.objective.train()
    with kept_memory(run.device):
        loop.take_steps(run)


def measurements(run: Run, timing: Timing) -> dict[str, Any]:
    data, totals = run.config.data, timing.milliseconds()
    return {
        "totals": totals,
        "decoded_per_second": decoded_per_second(run),
        "steps": timing.measured,
        "warm_up_steps": timing.warmed_up,
        "trial_batch": data.effective_batch,
        "peak_memory_bytes": peak_memory_bytes(run),
    }


def decoded_per_second(run: Run) -> float | None:
    from bigrun.tuner import timing

    data = run.config.data
    if data.workers == 0:
        return None
    assert data.micro_batch is not None
    return timing.decoded_per_second(run.loader, data.micro_batch, data.workers * data.prefetch)


def peak_memory_bytes(run: Run) -> int:
    if run.device.type != "cuda":
        import resource

        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    import torch

    return torch.cuda.max_memory_allocated(run.device)


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "look": look,
    "measure": measure,
    "find_largest": find_largest,
}


if __name__ == "__main__":
    main(tethered(), int(sys.argv[1]))
