"""What is wrong with a reading."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bigrun_memory.reading import Reading

__all__ = ["HOST", "Limits", "Shortage", "judge"]

GIB = 2**30
HOST = "host-memory"
SMALLER = (
    "a smaller data.micro_batch (the effective batch and the objective stay the same), or "
    'hardware.activation_checkpointing = "selective" or "full", makes room'
)


@attrs.frozen
class Limits:
    """From where on somebody is told."""

    device_free_fraction: float
    host_free_fraction: float
    fragmentation_fraction: float


@attrs.frozen
class Shortage:
    """One thing that is wrong; its `kind` lasts as long as that is so."""

    kind: str
    message: str


def judge(now: Reading, before: Reading | None, limits: Limits) -> Iterator[Shortage]:
    """
    Args:
        before: the reading before.
    """
    yield from judge_device(now, limits)
    if now.retries is not None and before is not None and now.retries > (before.retries or 0):
        yield Shortage(
            "allocator-retries",
            f"torch's allocator had to give memory back and ask again {now.retries - (before.retries or 0)} times "
            f"since the last look, which takes time and ends in an error one day: {SMALLER}",
        )
    free, total = now.host.free_bytes, now.host.total_bytes
    if total and free < limits.host_free_fraction * total:
        yield Shortage(
            HOST,
            f"{gib(free)} of {gib(total)} of the machine's memory are free: next it swaps, or the kernel ends a "
            "process; fewer data.workers, a smaller data.prefetch, or less of another process",
        )


def judge_device(now: Reading, limits: Limits) -> Iterator[Shortage]:
    if now.total_bytes is None or now.free_bytes is None or now.reserved_bytes is None or now.peak_bytes is None:
        return
    full = what_is_full(now, limits)
    if full is not None:
        yield Shortage(
            "device-memory",
            f"{full}; torch has {gib(now.reserved_bytes)}, of which tensors took {gib(now.peak_bytes)} at most: "
            f"{SMALLER}",
        )
    share = now.fragmentation
    if full is not None and share is not None and share > limits.fragmentation_fraction:
        yield Shortage(
            "fragmentation",
            f"{share:.0%} of what torch has is in pieces that no tensor uses: on NVIDIA "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True mends that, on ROCm garbage_collection_threshold:0.8",
        )
    foreign = now.foreign_bytes or 0
    if foreign > 0.1 * now.total_bytes + GIB:
        yield Shortage(
            "others-on-the-device",
            f"{gib(foreign)} of the device's memory are not this process's tensors: another process uses the device, "
            "or a process of an earlier run has not ended",
        )


def what_is_full(now: Reading, limits: Limits) -> str | None:
    """The device, or what the process itself may take of it; None while there is room in both."""
    free, total, most = now.free_bytes or 0, now.total_bytes or 0, now.limit_bytes
    if free < limits.device_free_fraction * total:
        shared = ", which it shares with the host," if now.is_of_host else ""
        return f"{gib(free)} of {gib(total)} of the device's memory{shared} are free"
    if most is not None and (now.room_bytes or 0) < limits.device_free_fraction * most:
        may = "that this process may take of the device (torch.cuda.set_per_process_memory_fraction)"
        return f"{gib(now.room_bytes or 0)} are left of the {gib(most)} {may}"
    return None


def gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
