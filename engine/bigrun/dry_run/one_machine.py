"""A dry run is one command on one machine, and starts its processes itself. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from bigrun.errors import UsageError

__all__ = ["refuse_others"]

WORLD = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables of launchers that say how many processes there are."""
INSTEAD = (
    "rehearse on one machine, outside of any launcher: bigrun launch PRESET --processes N --dry-run, or bigrun run "
    "PRESET --dry-run for a run in one process"
)


def refuse_others(environment: Mapping[str, str], nodes: int) -> None:
    """
    Args:
        nodes: machines that the command names.

    Raises:
        UsageError: a launcher has started several processes, or there are to be several machines.
    """
    if nodes > 1:
        raise UsageError(f"--dry-run: stays on this machine, and --nodes says that there are {nodes}; {INSTEAD}")
    for name in WORLD:
        count = environment.get(name, "1")
        if count.isdigit() and int(count) > 1:
            raise UsageError(
                f"--dry-run: starts its processes itself, and {name}={count} says that a launcher has started {count}; "
                f"{INSTEAD}"
            )
