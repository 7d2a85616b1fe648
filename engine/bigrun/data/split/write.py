"""A manifest to its file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bigrun.data.fingerprint import Fingerprint
from bigrun.data.split.make import Division
from bigrun.data.split.read import read_document
from bigrun.directory import replace_file
from bigrun.errors import UsageError
from bigrun.version import __version__

__all__ = ["encode", "write_split"]


def encode(division: Division, source: Fingerprint) -> dict[str, Any]:
    """The JSON of a manifest without its time and version: what another one is compared with."""
    return division.split.decides() | {
        "counts": {
            "training": {"groups": division.training[0], "samples": division.training[1]},
            "validation": {"groups": division.validation[0], "samples": division.validation[1]},
        },
        "source": {"kind": source.kind, "sha256": source.sha256, "files": source.files},
    }


def write_split(path: Path, document: dict[str, Any], *, force: bool) -> bool:
    """Write a manifest; False when one that says the same is there already, and stays.

    Raises:
        UsageError: another one is there, or something else, and not `force`; or it cannot be written.
    """
    if path.exists() and not (force and path.is_file()):
        if not path.is_file():
            raise UsageError(f"{path}: is not a file: choose another --out")
        changes = differences(read_document(path)[1], document)
        if not changes:
            return False
        what = (f"{path}: is another manifest already:", *(f"  {change}" for change in changes), advice(changes))
        raise UsageError("\n".join(what))
    written = {"created_utc": datetime.now(UTC).isoformat(timespec="seconds"), "bigrun": __version__}
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent} to write it in")
    replace_file(path, (json.dumps(document | written, indent=2) + "\n").encode())
    return True


def advice(changes: list[str]) -> str:
    if all(change.startswith(("counts", "source")) for change in changes):
        return "it divides alike, and only the data are others: --force brings it up to date, and runs go on with it"
    return "choose another --out, or replace it with --force; runs that began with it do not go on with the new one"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of the new manifest is otherwise in the old one, in words."""
    changes = []
    for key, value in new.items():
        before = old.get(key)
        if before == value or (key == "source" and kind(before) != kind(value)):
            continue  # hashes of two kinds cannot be compared: of the same images, before and after `bigrun data index`
        if isinstance(before, list) and isinstance(value, list):
            gone, come = sorted(set(map(str, before)) - set(value)), sorted(set(value) - set(map(str, before)))
            changes += [f"{key}: without {some(gone)}"] if gone else []
            changes += [f"{key}: {some(come)} in addition"] if come else []
        else:
            changes.append(f"{key}: {json.dumps(before)} -> {json.dumps(value)}")
    return changes


def kind(source: Any) -> Any:
    return source.get("kind") if isinstance(source, dict) else None


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
