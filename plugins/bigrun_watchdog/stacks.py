"""What a process does at this moment, written to a file: every thread's stack, and the processes below it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

__all__ = ["below", "write_stacks"]


@attrs.frozen
class Below:
    """A process that this one has started, or one of its own has."""

    pid: int
    name: str
    state: str
    """As `ps` shows it: S sleeps, D waits for a device, R runs, T is stopped, Z is dead."""
    waits_in: str
    """The kernel's function in which it sleeps; `-` where that is not told."""

    def __str__(self) -> str:
        return f"{self.pid:>8}  {self.name:<16}  {self.state}  {self.waits_in}"


def write_stacks(path: Path, lines: Sequence[str]) -> None:
    """Write these lines, the stacks of all threads and what is known of the processes below, through to the disk."""
    names = [f"  0x{thread.ident or 0:016x}  {thread.name}" for thread in threading.enumerate()]
    head = [*lines, f"process {os.getpid()} on {socket.gethostname()}", "", "threads:", *names, "", "stacks:", ""]
    with path.open("w", encoding="utf-8") as file:
        file.write("\n".join(head) + "\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        file.write("\nprocesses below (pid, name, state, where in the kernel):\n")
        file.writelines(f"{process}\n" for process in below(os.getpid()))
        file.flush()
        os.fsync(file.fileno())


def below(pid: int) -> list[Below]:
    """All processes that descend from `pid`, without it, in the order of their numbers."""
    parents = dict(parents_of_all())
    found = {pid}
    grows = True
    while grows:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grows = bool(more)
    return [process for child in sorted(found - {pid}) if (process := look_at(child)) is not None]


def parents_of_all() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(folder.name), int(stat_of(folder)[2])


def stat_of(folder: Path) -> list[str]:
    """Name, state, parent and so on, of `/proc/PID/stat` (`proc_pid_stat(5)`); a name may contain anything."""
    before, _, after = (folder / "stat").read_text(errors="replace").rpartition(")")
    return [before.partition("(")[2], *after.split()]


def look_at(pid: int) -> Below | None:
    folder = Path(f"/proc/{pid}")
    try:
        name, state, *_ = stat_of(folder)
    except OSError:  # it has ended
        return None
    waits_in = "0"
    with contextlib.suppress(OSError):
        waits_in = (folder / "wchan").read_text().strip()
    return Below(pid, name, state, "-" if waits_in in ("0", "") else waits_in)
