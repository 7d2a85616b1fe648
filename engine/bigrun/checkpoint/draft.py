"""A checkpoint without a name: a directory beside the others, until every byte of it is known to be on the disk."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.contents import copy_contents, seal, write_facts
from bigrun.checkpoint.headers import find_contradictions
from bigrun.checkpoint.layout import MANIFEST, Stale, stale_name
from bigrun.errors import NotSavedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from bigrun.checkpoint.share import Share

__all__ = ["begin_draft", "complete_draft", "copy_draft", "refusals"]


def begin_draft(directory: Path, step: int) -> Path:
    """A new directory among the checkpoints of `directory`, which is made if need be."""
    draft = directory / stale_name(Stale.TEMPORARY, step)
    with refusals(draft):
        if not directory.is_dir():
            directory.mkdir(parents=True)
            disk.sync_directory(directory.parent)
        draft.mkdir()
    return draft


def complete_draft(draft: Path, step: int, shares: Sequence[Share], facts: Mapping[str, Any], config_toml: str) -> None:
    """Add everything that is no tensor, and read it back.

    Args:
        shares: what each writer has written, this process's first.

    Raises:
        OSError, CheckpointError: what kept a writer from writing, or keeps this one.
    """
    for share in shares:
        share.check()
    files = {name: record for share in shares for name, record in share.files.items()}
    rest = write_facts(draft, facts, config_toml)
    meant = seal(draft, step, {**files, **rest})
    disk.sync_files(draft / name for name in (*rest, MANIFEST))
    disk.sync_directory(draft)
    check(draft, meant, read_already=files)


def copy_draft(source: Path, draft: Path, facts: Mapping[str, Any]) -> None:
    """Make it a copy of a checkpoint with other facts, and read it back."""
    meant = copy_contents(source, draft, facts)
    disk.sync(draft)
    check(draft, meant)


def check(draft: Path, meant: manifest.Manifest, read_already: Collection[str] = ()) -> None:
    changed = manifest.find_differences(draft, read_already)
    if not changed and manifest.read(draft) != meant:
        changed = [f"{MANIFEST}: is not what was written"]
    if changed:
        raise NotSavedError(f"{draft}: not saved: the disk gives back other bytes: {'; '.join(changed)}")
    if contradictions := find_contradictions(draft, meant.files):
        raise NotSavedError(f"{draft}: not saved: its files do not belong together: {'; '.join(contradictions)}")


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the disk refuses, as NotSavedError that names the checkpoint."""
    try:
        yield
    except OSError as error:
        raise NotSavedError(f"{path}: not saved: {error}") from error
