"""This process among those of its run, as torchrun says by environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from bigrun.errors import UsageError

__all__ = ["Place", "refuse_several"]

START = "start them with `bigrun launch ...` or `torchrun --nproc-per-node N -m bigrun run ...`"


@attrs.frozen
class Place:
    """One of `size` processes; a process alone is number 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of this machine: which of its GPUs is this one's."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """As torchrun, or whoever does what it does, has set it.

        Raises:
            UsageError: there are several processes, and the variables do not say which one this is, or where the
                others are; or they say which one this is, and not of how many.
        """
        none = ("", "-1")  # as some launchers say that there is none
        names = [name for name in ("RANK", "LOCAL_RANK") if environment.get(name, "") not in none]
        ranks = [f"{name}={environment[name]}" for name in names]
        if ranks and "WORLD_SIZE" not in environment:  # alone it would train what the others train, beside them
            raise UsageError(
                f"{' and '.join(ranks)}: this is one of the processes of a run, but WORLD_SIZE, their number, is not "
                f"set: {START}, or unset RANK and LOCAL_RANK for a run in one"
            )
        if environment.get("WORLD_SIZE", "1") == "1":
            return cls()
        rank, size, local = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        port = _number(environment, "MASTER_PORT")
        if not environment.get("MASTER_ADDR"):
            raise _misfit("MASTER_ADDR is not set")
        if not 0 < port < 2**16:
            raise _misfit(f"MASTER_PORT={port} is no port: expected 1 to 65535")
        if not 0 <= rank < size:
            raise _misfit(f"RANK={rank} is none of WORLD_SIZE={size}")
        name = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in environment else "WORLD_SIZE"
        here = _number(environment, name)
        if not 0 <= local < here:
            raise _misfit(f"LOCAL_RANK={local} is none of {name}={here}")
        return cls(rank, size, local)


def refuse_several(what: str) -> None:
    """Raises: UsageError: this is one of several processes, for which there is no `what`."""
    if (size := Place.of_environment().size) > 1:
        raise UsageError(f"{what} is for one process; this is one of {size} (WORLD_SIZE)")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise _misfit(f"{name} is not set")
    if not text.isdecimal():
        raise _misfit(f"{name}={text!r} is no number")
    return int(text)


def _misfit(problem: str) -> UsageError:
    return UsageError(
        f"WORLD_SIZE says that this is one of several processes of a run, but {problem}: {START}, "
        "or unset WORLD_SIZE for a run in one"
    )
