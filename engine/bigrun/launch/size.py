"""How many processes a machine gets, and on how many machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs

from bigrun.devices.limits import usable_cores
from bigrun.errors import UsageError
from bigrun.peers.size import check_size

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.sections import Hardware

__all__ = ["Nodes", "processes_here", "rehearsed_here", "threads_each"]

PER_CORE = 4
"""Processes on a CPU: each takes some 400 MiB before it has a network, and one zero too many would fill the memory."""


@attrs.frozen
class Nodes:
    """The machines of a run, and this one among them."""

    count: int
    rank: int
    host: str
    """Of the machine number 0, as all of them know it."""
    port: int

    @classmethod
    def of_options(cls, count: int, rank: int | None, rendezvous: str | None) -> Nodes:
        """
        Raises:
            UsageError: several machines would not find each other, or one was told of others.
        """
        if count == 1:
            if rank is not None or rendezvous is not None:
                raise UsageError("--node-rank and --rendezvous are for several machines: add --nodes N")
            return cls(1, 0, "127.0.0.1", 0)
        if rank is None:
            job = os.environ.get("SLURM_NODEID", "")
            if not job.isdecimal():
                raise UsageError(
                    f"--nodes {count}: which of them is this one? Give --node-rank 0 on the first machine, 1 on the "
                    "next, and so on"
                )
            rank = int(job)
        if not 0 <= rank < count:
            raise UsageError(f"--node-rank {rank} is none of --nodes {count}: they are 0 to {count - 1}")
        host, colon, port = (rendezvous or "").rpartition(":")
        if not colon or not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
            raise UsageError(
                f"--rendezvous {rendezvous or 'is missing'}: expected HOST:PORT, the name of machine 0 as the others "
                "know it, and a port that is free there, as gpu-1:29500"
            )
        return cls(count, rank, host, int(port))


def on_cores(processes: int) -> int:
    """The same number. Raises UsageError: there are too few cores for so many, which would fill the memory first."""
    cores = usable_cores()
    if processes > PER_CORE * cores:
        raise UsageError(
            f"{processes} processes are too many for the {cores} cores of this machine: expected at most "
            f"{PER_CORE * cores}, and more than {cores} make nothing faster"
        )
    return processes


def processes_here(hardware: Hardware, gpus: int | None, processes: int | None) -> int:
    """How many processes this machine gets; on GPUs each has one.

    Args:
        gpus: `--gpus`.
        processes: `--processes`.

    Raises:
        UsageError: there are too few GPUs, or the number is not said.
    """
    wanted = gpus if processes is None else processes
    if hardware.device == "cpu":
        if wanted is None:
            raise UsageError(
                "hardware.device is 'cpu': say with --processes N how many processes are to share the work"
            )
        return on_cores(wanted)
    import torch

    visible = torch.cuda.device_count()  # of ROCm, too
    if visible == 0:
        if processes is not None and hardware.device == "auto":
            return on_cores(processes)
        raise UsageError("torch sees no GPU on this machine; to train on its CPU instead: --processes N --device cpu")
    if wanted is not None and wanted > visible:
        raise UsageError(
            f"{wanted} processes need a GPU each, and torch sees {visible} on this machine (CUDA_VISIBLE_DEVICES or "
            "HIP_VISIBLE_DEVICES may hide some); to train on its CPU instead: --processes N --device cpu"
        )
    return visible if wanted is None else wanted


def rehearsed_here(config: Config, *, gpus: int | None, processes: int | None) -> int:
    """How many processes a run on this machine alone has.

    Raises:
        UsageError: as `processes_here`, or so many cannot train what is configured.
    """
    count = processes_here(config.hardware, gpus, processes)
    check_size(config, count)
    return count


def threads_each(processes: int) -> dict[str, str]:
    """The environment variable by which processes share the cores of this machine; none where somebody has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(usable_cores() // processes, 1))}
