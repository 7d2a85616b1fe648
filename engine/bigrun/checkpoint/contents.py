"""What one checkpoint is made of, written file by file. Torch-free until tensors are written."""

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
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["copy_contents", "write_contents"]


def write_contents(
    directory: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    config_toml: str,
) -> manifest.Manifest:
    """Write every file of a checkpoint, the manifest last; returns the manifest that was meant."""
    files = {name: disk.write(directory / name, chunks) for name, chunks in encode_files(tensors, facts, config_toml)}
    return seal(directory, step, files)


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
    """Write the manifest."""
    meant = manifest.Manifest(
        step=step,
        config_sha256=files[CONFIG].sha256,
        files=files,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    manifest.write(directory, meant)
    return meant


def encode_files(
    tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], config_toml: str
) -> Iterator[tuple[str, Iterator[bytes | memoryview]]]:
    """(file name, its bytes) of everything but the manifest."""
    for stem, group in tensors.items():
        name = check_name(f"{stem}.safetensors")
        yield name, encode_tensors(group, name)
    for stem, document in facts.items():
        name = check_name(f"{stem}.json")
        yield name, iter([encode_facts(document, name)])
    yield CONFIG, iter([config_toml.encode()])


def check_name(name: str) -> str:
    if not is_file_name(name) or name == MANIFEST:
        raise CheckpointError(f"'{name}' cannot be the name of a checkpoint's file: use letters, digits, '_', '-', '.'")
    return name
