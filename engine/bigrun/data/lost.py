"""Why processes that decode are lost, and what to do about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bigrun.checkpoint.space import human_bytes

if TYPE_CHECKING:
    from bigrun.sections import Data

__all__ = ["STRIKES", "advice", "shared_memory"]

STRIKES = 3
SHM = "/dev/shm"


def advice(cause: str, data: Data) -> str:
    """The likely reason, and what to set, in a line or two."""
    lines = [reason(cause, data)]
    lines.append("  the same command continues from the last checkpoint; data.workers = 0 decodes in the main process")
    return "\n".join(lines)


def reason(cause: str, data: Data) -> str:
    if cause == "killed-by-SIGKILL":
        return (
            "  likely cause: too little memory, for which the kernel kills processes (`dmesg` tells), or somebody has "
            f"killed it. Lower data.workers ({data.workers}), data.prefetch ({data.prefetch}) or data.micro_batch "
            f"({data.micro_batch})"
        )
    if cause == "killed-by-SIGBUS":
        return (
            f"  likely cause: memory that has a file behind it could not be had: a file of the data set was cut short "
            f"while it was mapped, its disk does not answer, or {SHM} is full ({shared_memory()})"
        )
    if cause.startswith("killed-by"):
        return "  likely cause: the file above makes the library that decodes it crash: move it out of the data set"
    if cause == "stuck":
        return (
            f"  likely cause: a disk or a network that does not answer. Where one image takes longer than "
            f"data.worker_timeout_seconds = {data.worker_timeout_seconds:g}, raise that"
        )
    if cause == "failed":
        return f"  likely cause: above; memory and open files (`ulimit -n`) may be short; {SHM}: {shared_memory()}"
    return "  likely cause: an error in the data set's own code or in its start; its traceback is above"


def shared_memory() -> str:
    """Size and free bytes of /dev/shm, in words."""
    try:
        status = os.statvfs(SHM)
    except OSError as error:
        return f"not to be had: {error.strerror}"
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return f"{human_bytes(size)}, of which {human_bytes(free)} are free"
