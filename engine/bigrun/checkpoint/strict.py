"""Loading tensors into a module: all of them fit, or the error names every one that does not."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor, nn

__all__ = ["list_misfits", "load_strict"]

NAMES_SHOWN = 20


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into the module's parameters and buffers of the same names, converting to their dtype; of sharded
    ones this process's rows.

    What is put together for it, from pieces or as this process's rows, is there for the tensors of one module at a
    time, so what a module does when it is loaded (`_load_from_state_dict`, hooks) is done for each, and sees but these.

    Args:
        module: its `state_dict()` names and shapes are what is expected.
        tensors: what was saved.
        where: the file or directory that the tensors are from, for the message.

    Raises:
        CheckpointError: naming each key that is missing, unknown or of another shape. Nothing is copied then.
    """
    from bigrun.checkpoint.group import TensorGroup
    from bigrun.shards import is_sharded

    group = TensorGroup.of(tensors)
    expected = module.state_dict()
    shapes = [
        f"{name} has shape {group.shape(name)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in group and group.shape(name) != tuple(tensor.shape)
    ]
    misfits = list_misfits(expected.keys(), group.keys(), shapes)
    if misfits:
        raise CheckpointError("\n".join([f"{where}: does not fit {type(module).__name__}", *misfits]))
    if not group.is_in_pieces and not any(map(is_sharded, expected.values())):
        module.load_state_dict(tensors)
        return
    for _, names in groupby(expected, key=lambda name: name.rpartition(".")[0]):
        # Without a name for the tensors: it would keep them in memory while the next ones are read.
        done = module.load_state_dict({name: group.like(name, expected[name]) for name in names}, strict=False)
        if done.unexpected_keys:
            lost = ", ".join(done.unexpected_keys)
            raise CheckpointError(f"{where}: {type(module).__name__} does not take its own {lost}")


def list_misfits(expected: Collection[str], got: Collection[str], wrong: Collection[str] = ()) -> list[str]:
    """One line for each way in which names differ: missing, unknown, and what else the caller found wrong."""
    kinds = {
        "missing": [name for name in expected if name not in got],
        "unknown": [name for name in got if name not in expected],
        "wrong": wrong,
    }
    return [f"  {kind} ({len(names)}): {shorten(names)}" for kind, names in kinds.items() if names]


def shorten(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and how many more there are."""
    ordered = sorted(names)
    more = [f"and {len(ordered) - NAMES_SHOWN} more"] if len(ordered) > NAMES_SHOWN else []
    return ", ".join([*ordered[:NAMES_SHOWN], *more])
