"""The files of a checkpoint, written one by one. Torch-free until tensors are written."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.facts import encode_facts
from bigrun.checkpoint.layout import CONFIG, MANIFEST, is_file_name
from bigrun.checkpoint.tensors import encode_tensors
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["copy_contents", "seal", "write_facts", "write_tensors"]


def write_tensors(directory: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, disk.FileRecord]:
    """Write a file for each group of tensors; returns what was meant, by file name."""
    files = {}
    for stem, group in tensors.items():
        name = check_name(f"{stem}.safetensors")
        files[name] = disk.write(directory / name, encode_tensors(group, name))
    return files


def write_facts(directory: Path, facts: Mapping[str, Any], config_toml: str) -> dict[str, disk.FileRecord]:
    """Write a file for each group of facts, and the configuration; returns what was meant, by file name."""
    files = {}
    for stem, document in facts.items():
        name = check_name(f"{stem}.json")
        files[name] = disk.write(directory / name, [encode_facts(document, name)])
    return files | {CONFIG: disk.write(directory / CONFIG, [config_toml.encode()])}


def copy_contents(source: Path, directory: Path, facts: Mapping[str, Any]) -> manifest.Manifest:
    """Write a checkpoint that is `source` but for some facts; returns the manifest that was meant."""
    old = manifest.read(source)
    new = {check_name(f"{stem}.json"): document for stem, document in facts.items()}
    files = dict(old.files)
    for name in old.files.keys() - new.keys():
        link_or_copy(source / name, directory / name)
    for name, document in new.items():
        files[name] = disk.write(directory / name, [encode_facts(document, name)])
    return seal(directory, old.step, files)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)


def seal(directory: Path, step: int, files: Mapping[str, disk.FileRecord]) -> manifest.Manifest:
    """Write the manifest of a checkpoint, the last of its files; returns what was meant."""
    meant = manifest.Manifest(
        step=step,
        config_sha256=files[CONFIG].sha256,
        files=files,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    manifest.write(directory, meant)
    return meant


def check_name(name: str) -> str:
    if not is_file_name(name) or name == MANIFEST:
        raise CheckpointError(f"'{name}' cannot be the name of a checkpoint's file: use letters, digits, '_', '-', '.'")
    return name
