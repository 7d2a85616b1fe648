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

__all__ = ["MONITOR", "outcome_folder", "require_outside", "require_same"]

MONITOR = "monitor.json"
IDENTITY = ("checkpoint", "step", "manifest_sha256")


def require_outside(out: Path, run: Path) -> None:
    """Raises: UsageError when `out` is inside `run`, or inside any other run directory, also behind a link."""
    for place in (out.resolve(), *out.resolve().parents):
        if place == run.resolve() or ((place / CONFIG).is_file() and (place / CHECKPOINTS).is_dir()):
            raise UsageError(
                f"{out}: is inside the run directory {place}, which is only read here: choose another with --out"
            )


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

    Raises:
        UsageError: the disk refuses.
    """
    temporary = out.with_name(f".{out.name}-{uuid4().hex}.tmp")
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    is_published = False
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.is_dir():
            replace_files(out, temporary)
        else:
            temporary.rename(out)
        is_published = True
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}; choose another with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in () if is_published else made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def replace_files(out: Path, new: Path) -> None:
    """Remove what the earlier visit has written, and nothing else; then move the new files there."""
    home = out.resolve()
    names = (read_outcome(out) or {}).get("files", [])
    for name in [name for name in names if isinstance(name, str)]:
        old = out / name
        if old.parent.resolve().is_relative_to(home) and (old.is_symlink() or old.is_file()):
            old.unlink()
    for file in sorted(file for file in new.rglob("*") if file.is_file()):
        target = out / file.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)  # noqa: PTH105 - one rename
