"""The names inside a checkpoint directory, and the version of what they hold. Torch-free.

checkpoints/
    step-00012000/               a published checkpoint: complete, hashed, never changed in place
        model.safetensors  ...   one file per group of tensors
        state.json  ...          one file per group of facts
        config.toml              the resolved configuration
        MANIFEST.json            bytes and sha256 of every other file
    .tmp-00012500-<uuid>/        being written
    .aside-00012000-<uuid>/      an older save of a step, set aside for the moment its replacement is renamed
    .trash-00000500-<uuid>/      deleted; being removed
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "EMERGENCY",
    "FORMAT_VERSION",
    "MANIFEST",
    "PROVENANCE",
    "Stale",
    "holds_checkpoint",
    "is_file_name",
    "is_place",
    "is_real_directory",
    "is_run",
    "parse_stale",
    "parse_step",
    "stale_name",
    "step_name",
]

CHECKPOINTS = "checkpoints"
"""Folder of a run directory; a run continues from the newest one in it."""
EMERGENCY = "emergency"
"""Folder beside it with the same layout; a run continues from nothing in it by itself."""
FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
CONFIG = "config.toml"
PROVENANCE = "provenance"
"""Facts about the start that saved a checkpoint: what it was trained on, by which code, where."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
STALE_NAME = re.compile(r"\.(tmp|aside|trash)-([0-9]{8,})-[0-9a-f]{32}")


class Stale(enum.Enum):
    """Directories that only an interrupted save or delete leaves behind, in the order of a sweep.

    `ASIDE` and `TRASH` differ so that a sweep can bring back what a kill between two renames took away, and
    never what was deleted on purpose (after a rollback that would be a checkpoint of the broken run).
    """

    TEMPORARY = "tmp"
    ASIDE = "aside"
    TRASH = "trash"


def step_name(step: int) -> str:
    """The directory name of a published checkpoint: `step-` and at least eight digits."""
    if step < 0:
        raise ValueError(f"a step is not negative: {step}")
    return f"step-{step:08d}"


def parse_step(name: str) -> int | None:
    """The step in a published checkpoint's name; None for any other name (`step-999`, `old-step-100`)."""
    digits = name.removeprefix("step-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    step = int(digits)
    return step if step_name(step) == name else None


def stale_name(kind: Stale, step: int) -> str:
    """A fresh name for a directory of `kind` that belongs to `step`."""
    return f".{kind.value}-{step:08d}-{uuid4().hex}"


def parse_stale(name: str) -> tuple[Stale, int] | None:
    """The kind and step of a name that `stale_name` made; None for any other name."""
    match = STALE_NAME.fullmatch(name)
    return (Stale(match[1]), int(match[2])) if match else None


def is_file_name(name: str) -> bool:
    """Whether a checkpoint's file may have this name: ASCII letters, digits, `_`, `-`, `.`; none hidden."""
    return FILE_NAME.fullmatch(name) is not None


def is_real_directory(path: Path) -> bool:
    """Whether `path` is a directory itself, not a link to one: links are never followed."""
    return path.is_dir() and not path.is_symlink()


def holds_checkpoint(path: Path) -> bool:
    """Whether a directory with a checkpoint's name is one, however damaged; an empty or foreign one is not.

    One that lost its manifest but has tensors counts, and so does one that cannot be listed: were they
    ignored, a run whose only checkpoint is damaged would start again from step 0 without a word.
    """
    if not is_real_directory(path):
        return False
    try:
        return any(entry.name == MANIFEST or entry.suffix == ".safetensors" for entry in path.iterdir())
    except OSError:
        return True


def is_run(directory: Path) -> bool:
    """Whether a run was begun there: its configuration is written before anything else."""
    return (directory / CONFIG).is_file()


def is_place(path: Path) -> bool:
    """Whether checkpoints can be looked at there: in a run, or the one that it is."""
    return (path / CHECKPOINTS).is_dir() or holds_checkpoint(path)
