"""Where the disk of a run is, of what kind, and how much room it has."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.devices.text import text_of
from bigrun.doctor.check import REMEDIES
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["Mount", "filesystem_rows", "judge_mount", "mount_of"]

ROOM_BYTES = 50 * 10**9
"""Eight checkpoints of a ViT-L of 5.6 GB each; `bigrun plan` says what a preset needs."""
FILES = 10_000

LOST = "name a directory on a disk with --run-dir"
NETWORK = (
    "runs survive on it as long as the server keeps its word: do `bigrun drill` there, and mount it with `hard`, not "
    "`soft`; a local disk for the run and a copy elsewhere is safer"
)
CONTAINER = "mount a volume (docker -v /data/runs:/runs) and name it with --run-dir"
DOUBTS = {
    "tmpfs": ("in memory: gone when the machine restarts, and full when memory is", LOST),
    "ramfs": ("in memory: gone when the machine restarts", LOST),
    "overlay": ("of a container: gone with it", CONTAINER),
    "aufs": ("of a container: gone with it", CONTAINER),
    "vfat": ("without a journal: a power cut may lose names that were synced", LOST),
    "exfat": ("without a journal: a power cut may lose names that were synced", LOST),
    "9p": ("of another system: what is synced there is up to that", NETWORK),
    "virtiofs": ("of another system: what is synced there is up to that", NETWORK),
}
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "afs", "orangefs")
HARMFUL = {
    "nobarrier": "mount it without `nobarrier`: a power cut may lose what was synced",
    "barrier=0": "mount it without `barrier=0`: a power cut may lose what was synced",
    "volatile": "mount the overlay without `volatile`: nothing is ever synced",
    "soft": "mount it with `hard`: with `soft` a server that is slow makes writes fail",
}


@attrs.frozen
class Mount:
    """A line of /proc/self/mountinfo."""

    point: Path
    kind: str
    source: str
    options: frozenset[str]


def filesystem_rows(subject: Subject) -> Iterator[Row]:
    place = subject.place
    mount = mount_of(place, text_of(subject.root / "proc/self/mountinfo"))
    if mount is None:
        yield Row("file system", "info", f"{place}: the system does not say which")
    else:
        yield from judge_mount(mount)
    problem = subject.obstacle("disk")
    found, remedy = f"{place}: yes", next((text for number, text in REMEDIES.items() if has(problem, number)), LOST)
    yield judged("can be written", problem is None, problem or found, "yes", remedy, otherwise="fail")
    with contextlib.suppress(PermissionError):  # told already
        yield space_row(place)


def has(problem: str | None, number: int) -> bool:
    return problem is not None and f"[Errno {number}]" in problem


def mount_of(place: Path, text: str) -> Mount | None:
    """The file system on which a directory is, by the text of /proc/self/mountinfo (proc(5))."""
    found = None
    where = place.resolve()
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 2:
            continue
        point = Path(unescaped(fields[4]))
        # of several on one point the last was mounted over the others
        if where.is_relative_to(point) and (found is None or len(point.parts) >= len(found.point.parts)):
            options = frozenset(fields[5].split(",") + (rest[2].split(",") if len(rest) > 2 else []))
            found = Mount(point, rest[0], unescaped(rest[1]), options)
    return found


def unescaped(text: str) -> str:
    r"""`\040` is a blank."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def judge_mount(mount: Mount) -> Iterator[Row]:
    """What is known of this kind of file system, and of how it is mounted."""
    name, expected = "file system", "a local disk with a journal: ext4, xfs, btrfs, zfs"
    found = f"{mount.kind} at {mount.point} ({mount.source})"
    if mount.kind in NETWORKED:
        doubt, remedy = "over a network: locks, caches and what is synced are up to the server", NETWORK
    elif mount.kind.startswith("fuse"):
        doubt, remedy = "by a program (FUSE): renaming, syncing and locking are as good as that is", NETWORK
    else:
        doubt, remedy = DOUBTS.get(mount.kind, ("", ""))
    yield judged(name, not doubt, f"{found}, {doubt}" if doubt else found, expected, remedy, facts={"kind": mount.kind})
    if "ro" in mount.options:
        yield Row("mounted", "fail", "read-only", "for writing", f"mount -o remount,rw {mount.point}, or another disk")
    for option, advice in HARMFUL.items():
        if option in mount.options:
            yield Row("mounted", "warn", f"with `{option}`", "without", advice)


def space_row(place: Path) -> Row:
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    lacks_names = status.f_files > 0 and status.f_favail < FILES
    found = f"{human_bytes(free)}" + (f", for no more than {status.f_favail} files" if lacks_names else "")
    remedy = "make room, or name another disk with --run-dir; `bigrun plan PRESET` says what a run needs"
    expected = f"{human_bytes(ROOM_BYTES)}: eight checkpoints of a ViT-L"
    return judged(
        "free space", free >= ROOM_BYTES and not lacks_names, found, expected, remedy, facts={"free_bytes": free}
    )
