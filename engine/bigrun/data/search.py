"""Which files below a folder are images, and which should be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import attrs

from bigrun.data.faults import BadImageError
from bigrun.data.formats.contents import HEAD_BYTES, IMAGE_SUFFIXES, cause_of_foreign, describe_foreign, kind_of
from bigrun.data.formats.opening import fault_of_system, open_regular

__all__ = ["Found", "find_images", "names_hash"]


@attrs.define
class Found:
    """What a search has found: paths that begin with its root, sorted."""

    images: list[str] = attrs.field(factory=list)
    """Files whose first bytes are those of an image."""
    others: list[str] = attrs.field(factory=list)
    """Files that are none and are not called so."""
    faults: list[BadImageError] = attrs.field(factory=list)
    """Files that are called like an image and are none, and files that cannot be read."""
    closed: dict[str, str] = attrs.field(factory=dict)
    """Folders that cannot be searched, and why: how many images are in them is not known."""


def find_images(root: str) -> Found:
    """All images below a folder, by the first bytes of every file; nothing is decoded.

    Symbolic links are followed, and a folder that is reached twice is searched once: loops end. Pipes, sockets and
    devices are never opened. Hidden files whose contents are no image are left alone whatever they are called: macOS
    puts a `._photo.jpg` beside each photo on foreign disks.
    """
    found = Found()
    for path in regular_files(root, found.faults, found.closed):
        try:
            with open_regular(path) as file:
                head = read_head(path, file.fileno())
        except BadImageError as fault:
            found.faults.append(fault)
            continue
        if kind_of(head) is not None:
            found.images.append(path)
        elif is_called_image(path):
            found.faults.append(fault_of_content(path, head))
        else:
            found.others.append(path)
    found.images.sort()
    found.others.sort()
    found.faults.sort(key=lambda fault: fault.path)
    return found


def names_hash(root: str, ignored: str, closed: dict[str, str] | None = None) -> str:
    """SHA-256 over the names of all files below a folder: another when a file was added, renamed or removed.

    Nothing is opened: a start from an index of a million files took 3.5 s of CPU time, most of it here.

    Args:
        ignored: beginning of the names of files that may come and go.
        closed: gets the folders that cannot be searched, and why.
    """
    digest = hashlib.sha256()
    start = len(os.path.join(root, ""))  # noqa: PTH118 - every path begins with it, and pathlib costs 5 us a file
    for path in regular_files(root, closed=closed):
        if not path.startswith(ignored, path.rfind("/") + 1):
            digest.update(os.fsencode(path[start:]) + b"\0")
    return digest.hexdigest()


def regular_files(
    root: str, faults: list[BadImageError] | None = None, closed: dict[str, str] | None = None
) -> Iterator[str]:
    """Every regular file below a folder.

    Args:
        faults: gets what is gone by now, and what is called like an image but is no file.
        closed: gets the folders that cannot be searched, and why.
    """
    faults, closed = [] if faults is None else faults, {} if closed is None else closed
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            fault = fault_of_system(folder, error)
            if fault.cause == "unreadable":
                closed[folder] = fault.message
            else:
                faults.append(fault)
            continue
        for entry in entries:
            kind = kind_of_entry(entry)
            if kind == "folder":
                waiting.append(entry.path)
            elif kind == "file":
                yield entry.path
            elif is_called_image(entry.path):
                faults.append(fault_of_entry(entry.path))


def kind_of_entry(entry: os.DirEntry[str]) -> str:
    """`folder`, `file`, or `neither`: a link to nothing or to itself, a pipe, a socket, a device."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "neither"
    except OSError:  # a link that leads back to itself
        return "neither"


def is_called_image(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def read_head(path: str, descriptor: int) -> bytes:
    try:
        return os.read(descriptor, HEAD_BYTES)
    except OSError as error:
        raise fault_of_system(path, error) from error


def fault_of_entry(path: str) -> BadImageError:
    """Of what is no regular file."""
    try:
        open_regular(path).close()
    except BadImageError as fault:
        return fault
    return BadImageError(path, "other", "was no file when it was found, and is one now")


def fault_of_content(path: str, head: bytes) -> BadImageError:
    """Of a file that is called like an image."""
    if not head:
        return BadImageError(path, "empty", "empty: it has no bytes")
    foreign = describe_foreign(head)
    cause = cause_of_foreign(foreign)
    what = "an image that is not read" if cause == "unsupported" else "called like an image, but it is none"
    return BadImageError(path, cause, f"{what}: {foreign}; convert it, or take it away")
