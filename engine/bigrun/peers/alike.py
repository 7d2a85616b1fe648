"""Whether the processes of a run are about to train the same run: what each has read by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun.errors import UsageError
from bigrun.version import __version__

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["check_alike", "check_same_data"]

OF_A_HOST = ("hardware", "data.path", "data.index", "data.workers", "data.prefetch")
"""Tables and options that may be others on each machine."""


def check_alike(run: Run) -> None:
    """Raises: UsageError: processes were started with other configurations, or by other versions, or for other run
    directories."""
    import torch

    mine = {"bigrun": __version__, "torch": str(torch.__version__), "the run directory": str(run.directory)}
    compare(run, mine | {name: value for name, value in leaves(run.config.public_tables()).items() if is_of_run(name)})


def check_same_data(run: Run) -> None:
    """Raises: UsageError: processes have found other images, or chosen another micro-batch by rule."""
    compare(run, {"the number of images": len(run.dataset), "data.micro_batch": run.config.data.micro_batch})


def compare(run: Run, mine: Mapping[str, Any]) -> None:
    told = run.peers.gathered(dict(mine))
    problems = [
        f"  {name}: {first!r} on process 0, {other.get(name)!r} on process {rank}"
        for name, first in ({name: None for facts in told for name in facts} | told[0]).items()
        for rank, other in enumerate(told)
        if other.get(name) != first
    ]
    if problems:
        more = [f"  and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UsageError(
            "\n".join(
                [
                    "the processes of this run do not agree on what it is:",
                    *problems[:10],
                    *more,
                    "start all of them with one command, one preset and one version, on disks that all see",
                ]
            )
        )


def is_of_run(name: str) -> bool:
    return not any(name == local or name.startswith(f"{local}.") for local in OF_A_HOST)


def leaves(tables: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Options by path, as JSON has their values."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            found |= leaves(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, int | float | str | None) else str(value)
    return found
