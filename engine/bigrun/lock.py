"""run.lock: one process at a time uses a run directory.

The kernel's lock on the file decides between processes of one machine, and is free the moment its holder dies, however
it dies. Between machines that share a disk, where such locks may not reach, a heartbeat does: the holder touches the
file every two seconds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import attrs

from bigrun.errors import RunDirectoryError

__all__ = ["LOCK", "Owner", "RunLock", "holder", "written_owner"]

LOCK = "run.lock"
LOOKING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
BEAT_SECONDS = 2.0
SILENCE_SECONDS = 7.0
"""So long the file of another machine must stay untouched before its holder counts as dead."""
LOOKER_SECONDS = 60.0
"""The same for one who only looks, once, with a clock that may be some seconds ahead or behind, and through the cache
of a network disk. It costs nothing that a run counts as alive for a minute more."""


@attrs.frozen
class Owner:
    """Who holds a run directory."""

    host: str
    pid: int
    started_utc: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started_utc}"

    @classmethod
    def this_process(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))


class RunLock:
    """The lock of one run directory; not held before `acquire`.

    The file is there while somebody holds the lock, and after somebody died who held it. A process may hold the lock of
    a directory once: POSIX locks belong to the process, not to the descriptor (`fcntl(2)`).
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self.died: Owner | None = None
        """Who held it before, and died without a word."""
        self._descriptor: int | None = None
        self._me: Owner | None = None
        self._released = threading.Event()

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    @property
    def owner(self) -> Owner | None:
        """This process as it is written in the file; None where it does not hold the lock."""
        return self._me if self.is_held else None

    def acquire(self) -> None:
        """Take the lock; `died` then says who had it last and died.

        Raises:
            RunDirectoryError: somebody else holds it (with a name), or the file cannot be written.
        """
        try:
            descriptor = self._locked()
        except OSError as error:
            raise self._refused(error) from None
        me, before = Owner.this_process(), read_owner(descriptor)
        try:
            if before is not None and before.host != me.host and is_alive(descriptor):
                raise self._in_use(before)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(attrs.asdict(me)).encode(), 0)
            os.fsync(descriptor)
        except OSError as error:  # a full disk
            os.close(descriptor)
            raise self._refused(error) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._me, self.died = descriptor, me, before
        self._released.clear()
        threading.Thread(target=self._beat, args=(descriptor,), name="run-lock", daemon=True).start()

    def check_free(self) -> None:
        """Leaves the file as it is. Raises: RunDirectoryError when somebody holds the lock, or nobody can."""
        if not self.path.exists():
            return
        try:
            descriptor = self._locked()
            try:
                owner = read_owner(descriptor)
                if owner is not None and owner.host != socket.gethostname() and is_alive(descriptor):
                    raise self._in_use(owner)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._refused(error) from None

    def release(self) -> None:
        """Give it back, and remove the file; harmless when it is not held."""
        if self._descriptor is None:
            return
        self._released.set()
        descriptor, self._descriptor = self._descriptor, None
        if self._is_file_of(descriptor):
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(descriptor)

    def check(self) -> None:
        """Raises: RunDirectoryError when somebody else has taken the directory: this process slept for long."""
        if self._descriptor is None:
            return
        if not self._is_file_of(self._descriptor) or read_owner(self._descriptor) != self._me:
            raise RunDirectoryError(f"{self.path}: is not the lock of this process any more: nothing more is written")

    def _locked(self) -> int:
        """A descriptor of the file with the kernel's lock on it. Who releases the lock removes the file: a lock on
        one that is gone is worth nothing, and another attempt follows."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                owner = read_owner(descriptor)
                os.close(descriptor)
                raise self._in_use(owner) from None
            except OSError:
                os.close(descriptor)
                raise
            if self._is_file_of(descriptor):
                return descriptor
            os.close(descriptor)

    def _is_file_of(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except OSError:
            return False

    def _in_use(self, owner: Owner | None) -> RunDirectoryError:
        who = owner or "a process that has not yet said its name"
        return RunDirectoryError(
            f"{self.path.parent} is in use by {who}: stop that run first, or choose another directory with --run-dir"
        )

    def _refused(self, error: OSError) -> RunDirectoryError:
        advice = {
            errno.ENOSPC: "; make room on its disk: without any, not even `bigrun checkpoints prune` can begin",
            errno.EROFS: "; mount its disk for writing",
            errno.EACCES: "; change its permissions",
        }.get(error.errno or 0, "")
        return RunDirectoryError(f"{self.path}: cannot be locked: {error.strerror}{advice}")

    def _beat(self, descriptor: int) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(descriptor)


def written_owner(directory: Path) -> Owner | None:
    """Who has last written the file of a run directory, alive or not; None where there is none, or another file. Not
    for the process that holds the lock, as `holder` is not."""
    try:
        descriptor = os.open(directory / LOCK, LOOKING)
    except OSError:
        return None
    try:
        return read_owner(descriptor)
    finally:
        os.close(descriptor)


def holder(directory: Path) -> Owner | None:
    """Who holds the lock of a run directory now; None when nobody does. Nothing is locked and nothing is written.

    Not for the process that holds it: closing the file would give its lock back (`fcntl(2)`).
    """
    try:
        descriptor = os.open(directory / LOCK, LOOKING)
    except OSError:
        return None
    try:
        owner, pid = read_owner(descriptor), locker(descriptor)
        if pid is not None:  # that process may not have written its name yet
            return owner or Owner(socket.gethostname(), pid, "")
        silent_seconds = time.time() - os.fstat(descriptor).st_mtime
        # Less certain than `is_alive`, which would take 7 s.
        is_beating = owner is not None and owner.host != socket.gethostname() and abs(silent_seconds) < LOOKER_SECONDS
        return owner if is_beating else None
    except OSError:  # no file that can be locked: a pipe
        return None
    finally:
        os.close(descriptor)


def locker(descriptor: int) -> int | None:
    """The process that has the kernel's lock on the file, None when no other does; 0 or less where it is one of another
    machine, or of another namespace of processes."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock of 64-bit Linux
    kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def read_owner(descriptor: int) -> Owner | None:
    """Who has written the file; None where it is empty or says something else."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(descriptor: int) -> bool:
    """Whether somebody touches the file while we watch: clocks of two machines may differ."""
    first, waited_since = os.fstat(descriptor).st_mtime_ns, time.monotonic()
    while time.monotonic() - waited_since < SILENCE_SECONDS:
        time.sleep(0.2)
        if os.fstat(descriptor).st_mtime_ns != first:
            return True
    return False
