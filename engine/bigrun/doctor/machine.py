"""The machine around the device."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from bigrun.checkpoint.space import human_bytes
from bigrun.devices import CpuFacts
from bigrun.devices.host import read_host
from bigrun.devices.limits import cpu_limit, memory_limit
from bigrun.devices.text import text_of
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["cores_row", "file_row", "load_row", "machine_rows", "memory_file_rows", "ram_rows", "shared_memory_row"]

OPEN_FILES = 1024
"""What most systems give a process; a run with 8 decoding processes has some 100 open."""
FREE_FRACTION = 0.2
"""Of the machine's memory, for decoding and for a checkpoint that is being staged."""
SHARED_BYTES = 64 * 10**6
"""What a container has of /dev/shm by default. bigrun needs none: NCCL does, and compilers."""


def machine_rows(subject: Subject) -> Iterator[Row]:
    host = read_host(subject.run_dir, subject.root)
    yield Row("system", "info", host.system)
    yield cpu_row(host.cpu)
    yield cores_row(host.cpu.cores, len(os.sched_getaffinity(0)), cpu_limit(subject.root))
    yield load_row(text_of(subject.root / "proc/loadavg"), host.cpu.usable_cores)
    limit = memory_limit(subject.root)
    yield from ram_rows(host.ram_total_bytes, host.ram_free_bytes, None if limit is None else limit.bytes)
    yield shared_memory_row(subject)
    yield file_row(*resource.getrlimit(resource.RLIMIT_NOFILE))


def cpu_row(cpu: CpuFacts) -> Row:
    features = ", ".join(cpu.features) or "none of those that matter"
    return Row("processor", "info", f"{cpu.name or cpu.architecture}: {features}")


def cores_row(cores: int, allowed: int, limit: float | None) -> Row:
    """Threads that take turns on less processor time than there are of them stand still for most of it.

    Args:
        cores: of the machine.
        allowed: on which this process may run.
        limit: for how many its control group has time, or None.
    """
    found = f"{allowed} of {cores}" + (f", time for {limit:g}" if limit is not None else "")
    whole = max(1, int(limit or 1))
    remedy = (
        f"the container's limit is below the number of processors that it sees: set hardware.threads = {whole}, "
        f"data.workers to at most {whole}, or bind it to processors (docker --cpuset-cpus) instead of limiting its time"
    )
    good = limit is None or limit >= allowed
    return judged(
        "usable processors",
        good,
        found,
        "time for all of them",
        remedy,
        facts={"allowed_cores": allowed, "limit": limit},
    )


def load_row(text: str, cores: int) -> Row:
    """From /proc/loadavg: processes that run or want to."""
    if not text:
        return Row("load", "info", "not said")
    load, most = float(text.split()[0]), max(1.0, cores / 2)
    remedy = "others compute on this machine: speeds below are what they leave; end them, or measure again later"
    return judged("load", load <= most, f"{load:g} in the last minute", f"at most {most:g}", remedy)


def ram_rows(total: int, free: int, limit: int | None) -> Iterator[Row]:
    """
    Args:
        total, free: as a run sees them.
        limit: of the control group, or None.
    """
    remedy = "end what else needs memory (`ps aux --sort=-rss | head`), or make micro-batch and data.workers small"
    expected = f"a fifth free, {human_bytes(FREE_FRACTION * total)}"
    found = f"{human_bytes(total)}, {human_bytes(free)} free"
    yield judged(
        "memory",
        free >= FREE_FRACTION * total,
        found,
        expected,
        remedy,
        facts={"total_bytes": total, "free_bytes": free},
    )
    if limit is not None:
        yield Row(
            "memory limit", "info", f"{human_bytes(limit)} for this process's group", facts={"limit_bytes": limit}
        )


def shared_memory_row(subject: Subject) -> Row:
    expected = "64 MB; 1 GB for several GPUs"
    remedy = "docker run --shm-size=1g, or mount a tmpfs on /dev/shm: NCCL and compilers need it"
    try:
        status = os.statvfs(subject.root / "dev/shm")
    except OSError as error:
        return Row("/dev/shm", "warn", f"not to be had: {error.strerror}", expected, remedy)
    free = status.f_bavail * status.f_frsize
    return judged(
        "/dev/shm", free >= SHARED_BYTES, f"{human_bytes(free)} free", expected, remedy, facts={"free_bytes": free}
    )


def file_row(soft: int, hard: int) -> Row:
    """From getrlimit(2)."""
    good = soft == resource.RLIM_INFINITY or soft >= OPEN_FILES
    found = "no limit" if soft == resource.RLIM_INFINITY else str(soft)
    remedy = f"`ulimit -n {OPEN_FILES}` before the run" + ("" if hard >= OPEN_FILES or hard < 0 else ", as root")
    return judged("open files", good, found, f"at least {OPEN_FILES}", remedy)


def memory_file_rows(subject: Subject) -> Iterator[Row]:
    """memfd_create(2): images come from the processes that decode in such files."""
    text, name = b"bigrun", "memory files"
    descriptor = os.memfd_create("bigrun-doctor", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, 1 << 20)
        os.pwrite(descriptor, text, 0)
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - a descriptor's name
            good = file.read(len(text)) == text
    finally:
        os.close(descriptor)
    remedy = "allow memfd_create and /proc in the sandbox, or set data.workers = 0"
    yield judged(name, good, "made, opened by name" if good else "not what was written", "both", remedy)
