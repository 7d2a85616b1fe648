"""A run that begins at a checkpoint of another run: `bigrun run PRESET --from CHECKPOINT --run-dir NEW`.

The new directory starts with a copy of the whole state (step, weights, optimizer, place in the data, plugins) and goes
its own way; the other run is only read. `branch.json` in the new directory says where it came from, so that the same
command continues it after a kill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.checkpoint import disk, facts, manifest
from bigrun.checkpoint.layout import MANIFEST, holds_checkpoint
from bigrun.directory import replace_file
from bigrun.errors import CheckpointError, DamagedCheckpointError, RunDirectoryError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.run import Run

__all__ = ["BRANCH", "begin_branch", "starting_point"]

BRANCH = "branch.json"


@attrs.frozen
class Branch:
    """The checkpoint that a run began at."""

    path: str
    """Absolute."""
    manifest_sha256: str
    """Of its MANIFEST.json, which has the hashes of all other files."""


def starting_point(run: Run, newest: Path | None, source: Path | None) -> Path | None:
    """The checkpoint to continue from: the directory's own newest, else the one that `--from` names.

    Raises:
        UsageError: `source` is no checkpoint, or has no step left to take.
        RunDirectoryError: the directory has checkpoints that do not come from `source`, or it was to be a branch and
            the start was cut short.
        DamagedCheckpointError: `source` is damaged.
    """
    record = read_branch(run.directory)
    if source is None:
        if newest is None and record is not None:
            raise RunDirectoryError(
                f"{run.directory} was to begin at {record.path}, and was cut short before it had: add --from "
                f"{record.path}, or choose another directory with --run-dir"
            )
        return newest
    if newest is not None:
        check_descent(run.directory, record, source)
        return newest
    check_source(run, source)
    return source


def begin_branch(run: Run, source: Path) -> None:
    """Write down where the run comes from, and save the state that it begins with as its own."""
    if run.is_main:
        replace_file(run.directory / BRANCH, facts.encode_facts(attrs.asdict(identify(source)), BRANCH))
    run.schedules.now = run.checkpoints.load_facts(source, "state")["schedules"]  # of the step that was taken there
    run.saver.save(run)
    written = run.saver.written(run, wait=True)
    if not run.peers.by_main(lambda: bool(written)):
        raise RunDirectoryError(f"{run.directory}: the state that the run begins with could not be saved there")


def identify(source: Path) -> Branch:
    return Branch(str(source.resolve()), disk.hash_file(source / MANIFEST))


def read_branch(directory: Path) -> Branch | None:
    """What `begin_branch` wrote; None in the directory of any other run."""
    path = directory / BRANCH
    if not path.exists():
        return None
    try:
        return Branch(**facts.read_facts(path))
    except (CheckpointError, TypeError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from None


def check_descent(directory: Path, record: Branch | None, source: Path) -> None:
    """Accept a directory that began at `source`, which may have been deleted since."""
    if record is not None:
        is_there = (source / MANIFEST).is_file()
        asked = identify(source).manifest_sha256 if is_there else str(source.resolve())
        if asked in (record.manifest_sha256, record.path):
            return
    origin = "of its own" if record is None else f"that come from {record.path}"
    raise RunDirectoryError(
        f"--from {source}: {directory} has checkpoints {origin}: choose a new directory with --run-dir, or leave "
        "--from out to continue the run there"
    )


def check_source(run: Run, source: Path) -> None:
    """Read every byte of a checkpoint before anything is built on it."""
    with reading(source):
        is_there, has_manifest = source.exists(), (source / MANIFEST).is_file()
    if not is_there:
        raise UsageError(f"--from {source}: no such directory{did_you_mean_path(source, holds_checkpoint)}")
    if not has_manifest:
        raise UsageError(
            f"--from {source}: no checkpoint (it has no {MANIFEST}); name a directory such as "
            "runs/my_run/checkpoints/step-00001000"
        )
    problems = manifest.verify(source)
    if problems:
        raise DamagedCheckpointError(f"--from {source}: the checkpoint is damaged: {'; '.join(problems)}")
    step = manifest.read(source).step
    if run.max_steps is not None and step >= run.max_steps:
        raise UsageError(
            f"--from {source}: the checkpoint is of step {step} and the run ends at run.max_steps = {run.max_steps}: "
            "set a larger one"
        )
