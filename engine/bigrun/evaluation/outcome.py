"""The directory of one visit: never inside a run, complete or not there, and of one checkpoint for good."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from bigrun.checkpoint.facts import read_facts
from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG
from bigrun.errors import CheckpointError, UsageError
from bigrun.interruption import conclude
from bigrun.lock import LOCK
from bigrun.logs import METRICS

__all__ = ["MONITOR", "outcome_folder", "require_outside", "require_same"]

MONITOR = "monitor.json"
IDENTITY = ("checkpoint", "step", "manifest_sha256")
RUN = (LOCK, METRICS)
"""In no visit."""


def require_outside(out: Path, run: Path) -> None:
    """Raises: UsageError when `out` is inside `run`, or inside any other run directory, also behind a link."""
    for place in (out.resolve(), *out.resolve().parents):
        if place == run.resolve() or is_run(place):
            raise UsageError(
                f"{out}: is inside the run directory {place}, which is only read here: choose another with --out"
            )


def is_run(place: Path) -> bool:
    """Whether a folder is a run's, which may have saved nothing yet. A visit has a configuration as well."""
    if any(os.path.lexists(place / name) for name in RUN):
        return True
    is_visit = (place / MONITOR).is_file() and not (place / CHECKPOINTS).is_dir()
    return os.path.lexists(place / CONFIG) and not is_visit


def require_same(out: Path, identity: Mapping[str, Any]) -> None:
    """Accept a directory that is not there, is empty, or is of an earlier visit of the same checkpoint.

    Raises:
        UsageError: it is something else.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is there and is no folder; choose another with --out")
    if not any(out.iterdir()):
        return
    before = read_outcome(out)
    if before is None:
        raise UsageError(f"{out}: is there, and holds something else than a visit; choose another with --out")
    if any(before.get(key) != identity[key] for key in IDENTITY):
        raise UsageError(
            f"{out}: holds the visit of another checkpoint, {before.get('checkpoint')} of manifest sha256 "
            f"{before.get('manifest_sha256')}; choose another with --out"
        )


def read_outcome(out: Path) -> dict[str, Any] | None:
    """`monitor.json`, or None."""
    try:
        facts = read_facts(out / MONITOR)
    except CheckpointError:
        return None
    return facts if isinstance(facts, dict) else None


@contextlib.contextmanager
def outcome_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` whose files become those of `out` when the block ends; if it raises, `out` is as before.
    From then on no signal ends the command (`interrupting`): it has written all, or nothing.

    Raises:
        UsageError: the disk refuses.
    """
    temporary = out.with_name(f".{out.name}-{uuid4().hex}.tmp")
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    is_published = False
    try:
        (temporary / "new").mkdir(parents=True)
        yield temporary / "new"
        conclude()
        if out.is_dir():
            replace_files(out, temporary / "new", temporary / "old")
        else:
            (temporary / "new").rename(out)
        is_published = True
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}; choose another with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in () if is_published else made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def replace_files(out: Path, new: Path, old: Path) -> None:
    """Put the new files in place of those that the earlier visit has written, and leave everything else.

    If it raises, the earlier ones are there again. `monitor.json` is there all the time, and the new one comes last: a
    process that is killed here leaves a folder that the next visit takes for what it is.

    Args:
        old: keeps the earlier files meanwhile.
    """
    home = out.resolve()
    known = {name for name in (read_outcome(out) or {}).get("files", []) if isinstance(name, str)} - {MONITOR}
    coming = {str(file.relative_to(new)) for file in new.rglob("*") if file.is_file()} - {MONITOR}
    with contextlib.ExitStack() as undo:
        for number, name in enumerate(sorted(known | coming)):
            path, kept = out / name, old / str(number)
            is_inside = path.parent.resolve().is_relative_to(home)
            if name in coming and not is_inside:
                raise UsageError(f"{path}: is behind a link that leads out of {out}; choose another with --out")
            if is_inside and (path.is_symlink() or path.is_file()):
                move(path, kept)
                undo.callback(move, kept, path)
        for name in sorted(coming):
            move(new / name, out / name)
            undo.callback((out / name).unlink)
        os.replace(new / MONITOR, out / MONITOR)  # noqa: PTH105 - one rename
        undo.pop_all()


def move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)
