"""MANIFEST.json: what a checkpoint holds, so that damage is named before anything is loaded. Torch-free."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint import disk, facts
from bigrun.checkpoint.disk import FileRecord
from bigrun.checkpoint.headers import find_contradictions
from bigrun.checkpoint.layout import CONFIG, FORMAT_VERSION, MANIFEST, is_file_name
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

__all__ = ["Manifest", "NewerFormatError", "find_difference", "find_differences", "read", "verify", "write"]

LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What macOS and Windows leave in a folder that somebody looks at."""
SHA256 = re.compile(r"[0-9a-f]{64}")


class NewerFormatError(CheckpointError):
    """A newer version wrote the checkpoint: it is not damaged and must not be passed over."""


@attrs.frozen
class Manifest:
    """The contents of MANIFEST.json: every file of the checkpoint but itself, by name."""

    step: int
    config_sha256: str
    files: Mapping[str, FileRecord]
    created_utc: str
    format_version: int = FORMAT_VERSION


def write(directory: Path, manifest: Manifest) -> None:
    """Write MANIFEST.json into `directory`; OSError when the disk refuses."""
    path = directory / MANIFEST
    disk.write(path, [facts.encode_facts(attrs.asdict(manifest), str(path))])


def read(directory: Path) -> Manifest:
    """The manifest of the checkpoint in `directory`.

    Raises:
        NewerFormatError: a newer version of bigrun wrote it.
        CheckpointError: it is missing, is not JSON, or is no manifest (all that is wrong with it, at once).
    """
    path = directory / MANIFEST
    document = facts.read_facts(path)
    if isinstance(document, dict):
        version = document.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"{path}: has checkpoint format {version}, this bigrun reads up to {FORMAT_VERSION}: "
                "resume with the version of bigrun that wrote it, or a newer one"
            )
    problems = list(find_problems(document))
    if problems:
        raise CheckpointError(f"{path}: is not a valid manifest: " + "; ".join(problems))
    assert isinstance(document, dict)
    fields: dict[str, Any] = document
    files = {name: FileRecord(**record) for name, record in fields["files"].items()}
    return Manifest(**{**fields, "files": files})


def find_problems(document: object) -> Iterator[str]:
    """What makes `document` no manifest of this format."""
    if not isinstance(document, dict):
        yield f"expected an object, got {type(document).__name__}"
        return
    checks: dict[str, Callable[[object], bool]] = {
        "format_version": lambda value: type(value) is int and value == FORMAT_VERSION,
        "step": is_count,
        "config_sha256": is_sha256,
        "created_utc": lambda value: isinstance(value, str),
        "files": lambda value: isinstance(value, dict),
    }
    yield from (f"unknown key '{key}'" for key in sorted(document.keys() - checks.keys()))
    for key, is_valid in checks.items():
        if key not in document:
            yield f"'{key}' is missing"
        elif not is_valid(document[key]):
            yield f"'{key}' cannot be {document[key]!r:.80}"
        elif key == "files":
            yield from find_file_problems(document["files"], document.get("config_sha256"))


def find_file_problems(files: dict[str, Any], config_sha256: object) -> Iterator[str]:
    """What is wrong with the table of files: names that leave the directory, records that are none."""
    for name, record in files.items():
        if not is_file_name(name) or name == MANIFEST:
            yield f"'{name:.80}' is not a name that a checkpoint's file can have"
        elif not (
            isinstance(record, dict)
            and record.keys() == {"bytes", "sha256"}
            and is_count(record["bytes"])
            and is_sha256(record["sha256"])
        ):
            yield f"the record of '{name}' cannot be {record!r:.80}"
        elif name == CONFIG and record["sha256"] != config_sha256:
            yield f"'config_sha256' is not the sha256 of {CONFIG}"
    if CONFIG not in files:
        yield f"{CONFIG} is not listed"


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def is_sha256(value: object) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def verify(directory: Path) -> list[str]:
    """Everything in which `directory` differs from its manifest, each naming the file; empty if nothing does. Where
    nothing differs, what the indices of groups in pieces contradict.

    Raises: as `find_differences` does.
    """
    problems, names = compared(directory)
    return problems or find_contradictions(directory, names)


def find_differences(directory: Path, read_elsewhere: Collection[str] = ()) -> list[str]:
    """Everything in which `directory` differs from its manifest, each naming the file.

    Reads every byte: about 1.5 GB/s per core.

    Args:
        read_elsewhere: files that others have read, of which only the size is looked at.

    Raises:
        NewerFormatError: a newer version of bigrun wrote it, so that this one cannot tell.
    """
    return compared(directory, read_elsewhere)[0]


def compared(directory: Path, read_elsewhere: Collection[str] = ()) -> tuple[list[str], Collection[str]]:
    """The differences, and the names in the manifest: it is read once, for a run may remove it meanwhile."""
    try:
        manifest = read(directory)
        present = {path.name for path in directory.iterdir()} - {MANIFEST, *LITTER}
    except NewerFormatError:
        raise
    except (CheckpointError, OSError) as error:
        return [str(error)], ()
    foreign = sorted(present - manifest.files.keys())
    problems = [f"{name}: is not in {MANIFEST}: remove it, if the checkpoint is to count" for name in foreign]
    for name, record in sorted(manifest.files.items()):
        problem = find_difference(directory / name, record, read=name not in read_elsewhere)
        if problem:
            problems.append(f"{name}: {problem}")
    return problems, manifest.files.keys()


def find_difference(path: Path, record: FileRecord, *, read: bool = True) -> str | None:
    """How a file differs from its record, in its bytes too if it is `read`; None when it does not."""
    try:
        disk.require_regular(path)
        size = path.stat().st_size
        if size != record.bytes:
            return f"has {size} bytes, expected {record.bytes}"
        sha256 = disk.hash_file(path) if read else record.sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    return None if sha256 == record.sha256 else f"has sha256 {sha256}, expected {record.sha256}: its contents changed"
