"""The processes of a dry run: `python -m bigrun.dry_run.child DESCRIPTOR`, with its order in a line of standard input.

Each of plan, train and resume is a process of its own, or as many as the run has: when the second begins to take steps
the first has given back all its memory, so that a dry run never needs more than the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.errors import CheckpointError
from bigrun.peers.place import Place
from bigrun.tuner.child import document_of, main, with_data
from bigrun.tuner.tether import tethered

if TYPE_CHECKING:
    from bigrun.dry_run.watching import Watching
    from bigrun.run import Run

__all__ = ["WORK"]

Tell = Callable[..., None]


def plan(document: Mapping[str, Any], directory: str, processes: int, tell: Tell) -> dict[str, Any]:
    """What `bigrun plan` predicts of the run; memory is that of the first of its processes."""
    from bigrun.planner.sharing import PlannedPeers, Sharing

    peers = PlannedPeers(processes) if processes > 1 else None
    with with_data(document_of(document), Path(directory), peers=peers) as run:
        from bigrun.planner.host_memory import of_first_process
        from bigrun.planner.images import mean_bytes
        from bigrun.planner.predict import predict

        found = predict(run, image_bytes=mean_bytes(run.dataset), sharing=Sharing(processes))
        host = of_first_process(found.host.by_category, found.sharing)
        return {
            "device_peak_bytes": found.memory.peak_bytes,
            "device_need_bytes": found.need_bytes,
            "process_bytes": host + (found.need_bytes if found.device == "cpu" else 0),
            "checkpoint_bytes": found.checkpoint_bytes,
            "notes": list(found.notes),
        }


def train(
    document: Mapping[str, Any], directory: str, stop_at: int, save_at: int, compare_at: int, tell: Tell
) -> dict[str, Any]:
    """The first steps of the run, with a checkpoint after one of them."""
    from bigrun.dry_run.watching import Watching

    watching = Watching(stop_at, save_at, compare_at, tell)
    return watching.answer(watched(document, directory, watching))


def watched(document: Mapping[str, Any], directory: str, watching: Watching) -> Run:
    """The run, to its end; this is one of its processes, as the environment says."""
    from bigrun.session import run_training

    place = Place.of_environment()
    run, _ = run_training(document_of(document), Path(directory), companions={"dry-run": watching}, place=place)
    return run


def resume(document: Mapping[str, Any], directory: str, checkpoint: str, last: int, tell: Tell) -> dict[str, Any]:
    """The steps after the checkpoint once more, from what it holds; the main process reads every byte of it before."""
    from bigrun.checkpoint import manifest
    from bigrun.dry_run.watching import Watching

    begun = time.perf_counter()
    problems = manifest.verify(Path(checkpoint)) if Place.of_environment().rank == 0 else []
    verified = time.perf_counter() - begun
    if problems:
        raise CheckpointError(f"the checkpoint that was saved is damaged: {'; '.join(problems)}")
    watching = Watching(last, None, last, tell)
    run = watched(document, directory, watching)
    if run.resumed_from is None:
        raise CheckpointError("the run did not continue from the checkpoint that was saved")
    return watching.answer(run) | {"verify_seconds": verified}


WORK: dict[str, Callable[..., dict[str, Any]]] = {"plan": plan, "train": train, "resume": resume}


if __name__ == "__main__":
    main(tethered(), int(sys.argv[1]), WORK)
