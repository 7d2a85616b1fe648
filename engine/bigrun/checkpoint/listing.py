"""What lies in the folders of a run where checkpoints are: good ones, damaged ones and whatever else. Torch-free."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import attrs

from bigrun.checkpoint import manifest
from bigrun.checkpoint.absence import no_checkpoint
from bigrun.checkpoint.layout import (
    CHECKPOINTS,
    EMERGENCY,
    MANIFEST,
    holds_checkpoint,
    is_place,
    is_real_directory,
    parse_stale,
    parse_step,
    step_name,
)
from bigrun.checkpoint.manifest import LITTER
from bigrun.checkpoint.pieces import pieces_of_file
from bigrun.checkpoint.records import Record, read_record
from bigrun.checkpoint.retention import Policy, reasons_to_stay
from bigrun.checkpoint.verified import find_problems
from bigrun.errors import CheckpointError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading, unreadable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Entry", "find_checkpoints", "find_step", "look", "verify_one"]


Condition = Literal["verified", "complete", "damaged", "newer", "unfinished", "foreign"]


@attrs.frozen
class Entry:
    """One name in a folder of checkpoints."""

    folder: str
    name: str
    condition: Condition
    """verified: every byte was read; complete: every file is there in its size; newer: this version of bigrun cannot
    read it; unfinished: being written or removed, or left by a killed process."""
    step: int | None = None
    created_utc: str | None = None
    bytes: int = 0
    anomalies: tuple[str, ...] = ()
    measured: Mapping[str, float] = attrs.field(factory=dict)
    problems: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    """Why nothing removes it; there may be other reasons, of the plugins of the run."""
    onset: int | None = None
    """The first step in which the anomalies showed."""
    pieces: int = 1
    """Into how many files its groups of tensors are divided: the shards of the processes that have written it."""

    @property
    def label(self) -> str:
        return self.name if self.folder == CHECKPOINTS else f"{self.folder}/{self.name}"


def folders(run: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of the folders of a run that are there.

    Raises:
        UsageError: none is, or the run may not be entered.
    """
    with reading(run):
        found = [(name, run / name) for name in (CHECKPOINTS, EMERGENCY) if (run / name).is_dir()]
        is_there = run.is_dir()
    if not found:
        if is_there:
            raise UsageError(no_checkpoint(run))
        hint = did_you_mean_path(run, is_place)
        raise UsageError(f"{run}: no such directory{hint}; expected a run directory, such as runs/my_run")
    return iter(found)


def refuse_closed(folder: Path, error: OSError) -> None:
    raise UsageError(unreadable(folder, error)) from None


def look(
    run: Path, *, verify: bool = False, on_refusal: Callable[[Path, OSError], None] = refuse_closed
) -> list[Entry]:
    """Everything in the folders of a run: checkpoints by step, then what is none by name.

    Args:
        verify: read every byte.
        on_refusal: called with a folder that cannot be read, and why; when it returns, the other one is looked at.

    Raises:
        UsageError: it is no run directory; a folder cannot be read, unless `on_refusal` is given.
    """
    entries = []
    for folder, directory in folders(run):
        try:
            found = [examine(path, folder, verify=verify) for path in directory.iterdir()]
        except OSError as error:
            on_refusal(directory, error)
            continue
        found.sort(key=lambda entry: (entry.step is None, entry.step, entry.name))
        entries += with_reasons(found) if folder == CHECKPOINTS else found
    return entries


def examine(path: Path, folder: str, *, verify: bool) -> Entry:
    """One name; nothing is followed out of the folder."""
    step = parse_step(path.name)
    if step is None or not holds_checkpoint(path):
        is_stale = parse_stale(path.name) is not None and is_real_directory(path)
        return Entry(folder, path.name, "unfinished" if is_stale else "foreign")
    try:
        saved = manifest.read(path)
        problems = find_problems(path, step) if verify else find_misfits(path, saved)
    except manifest.NewerFormatError as error:
        return Entry(folder, path.name, "newer", step, problems=(str(error),))
    except (CheckpointError, OSError) as error:
        return Entry(folder, path.name, "damaged", step, bytes=count_bytes(path), problems=(str(error),))
    record = Record(step)
    with contextlib.suppress(CheckpointError):
        record = read_record(path, step)
    condition: Condition = "damaged" if problems else ("verified" if verify else "complete")
    size = count_bytes(path)
    entry = Entry(folder, path.name, condition, step, saved.created_utc, size, problems=tuple(problems))
    pieces = max(map(pieces_of_file, saved.files), default=1)
    return attrs.evolve(entry, anomalies=record.anomalies, measured=record.measured, onset=record.onset, pieces=pieces)


def find_misfits(path: Path, saved: manifest.Manifest) -> list[str]:
    """The files that are not there in their size, or should not be there; nothing is read."""
    present = {file.name for file in path.iterdir()} - {MANIFEST, *LITTER}
    problems = [f"{name}: is not in {MANIFEST}" for name in sorted(present - saved.files.keys())]
    for name, record in sorted(saved.files.items()):
        try:
            status = (path / name).lstat()
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_size != record.bytes:
            problems.append(f"{name}: has {status.st_size} bytes, expected a file of {record.bytes}")
    return problems


def count_bytes(path: Path) -> int:
    """The sizes of the files in a directory; of what cannot be asked, nothing."""
    with contextlib.suppress(OSError):
        return sum(entry.lstat().st_size for entry in path.iterdir())
    return 0


def with_reasons(entries: list[Entry]) -> list[Entry]:
    """The same entries, each with what `reasons_to_stay` says without any wish of a user."""
    records = [
        Record(entry.step, entry.anomalies, entry.measured, entry.onset)
        for entry in entries
        if entry.step is not None and entry.condition in ("complete", "verified")
    ]
    reasons = reasons_to_stay(records, Policy())
    counted = {record.step for record in records}
    return [
        attrs.evolve(e, stays=tuple(reasons[e.step])) if e.step in counted and e.step is not None else e
        for e in entries
    ]


def find_checkpoints(place: Path, steps: Collection[int] = ()) -> list[Path]:
    """The checkpoints of a run, damaged ones too, in ascending order; or the one whose directory was given.

    Args:
        steps: only these; an emergency checkpoint is not meant then.

    Raises:
        UsageError: there is none, or not at one of `steps`; or a folder cannot be read.
    """
    with reading(place):
        if holds_checkpoint(place):
            if steps:
                raise UsageError(f"{place}: is one checkpoint: leave the steps out, or name the run directory")
            return [place]
        if steps:
            return [find_step(place, step) for step in steps]
        found = [
            [(step, path) for path in directory.iterdir() if (step := parse_step(path.name)) is not None]
            for _, directory in folders(place)
        ]
        paths = [path for group in found for _, path in sorted(group) if holds_checkpoint(path)]
    if not paths:
        raise UsageError(no_checkpoint(place))
    return paths


def find_step(run: Path, step: int) -> Path:
    """The directory of a run's checkpoint.

    Raises:
        UsageError: there is none of this step, or the folder cannot be read.
    """
    directory = run / CHECKPOINTS
    with reading(run):
        if step >= 0 and holds_checkpoint(directory / step_name(step)):
            return directory / step_name(step)
    there = [str(entry.step) for entry in look(run) if entry.folder == CHECKPOINTS and entry.step is not None]
    raise UsageError(f"{run}: has no checkpoint of step {step}; there are: {', '.join(there) or 'none'}")


def verify_one(checkpoint: Path) -> tuple[int, list[str]]:
    """Read every byte of a checkpoint: (its bytes, what is wrong with it, each naming the file)."""
    step = parse_step(checkpoint.name)
    try:
        problems = manifest.verify(checkpoint) if step is None else find_problems(checkpoint, step)
    except manifest.NewerFormatError as error:
        problems = [f"{MANIFEST}: {error}"]
    return count_bytes(checkpoint), problems
