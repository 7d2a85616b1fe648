"""How the tensors of two checkpoints differ, with the memory of one tensor of each. Imports torch when called."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["Change", "FileDifference", "compare_tensors", "group_of"]

PIECE = 1 << 22  # elements that are compared at once, in float64


@attrs.define
class Change:
    """What has become of the tensors of one part of a network."""

    group: str
    tensors: int = 0
    changed: int = 0
    """Those of which any bit differs."""
    square_before: float = 0.0
    square_change: float = 0.0
    largest: float = 0.0
    """Largest absolute difference of two numbers; NaN where it is of numbers that are not finite."""

    @property
    def relative(self) -> float:
        """L2 norm of the difference by that of the first checkpoint, over all tensors of the group."""
        if self.square_before == 0:
            return 0.0 if self.square_change == 0 else math.inf
        return math.sqrt(self.square_change / self.square_before)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Compare two tensors of one shape and dtype."""
        import torch

        self.tensors += 1
        differs = False
        flat_a, flat_b = a.reshape(-1), b.reshape(-1)
        for start in range(0, flat_a.numel(), PIECE):
            x, y = flat_a[start : start + PIECE], flat_b[start : start + PIECE]
            wide = x.double()
            self.square_before += float(wide.square().sum())
            if torch.equal(x.view(torch.uint8), y.view(torch.uint8)):
                continue
            differs = True
            difference = (y.double() - wide).abs()
            self.square_change += float(difference.square().sum())
            largest = float(difference.max())
            if math.isnan(largest) or largest > self.largest:
                self.largest = largest
        self.changed += differs


@attrs.frozen
class FileDifference:
    """Two groups of the same name: which tensors only one has or have another form, and what the others are like."""

    misfits: tuple[str, ...]
    changes: tuple[Change, ...]
    """One for each part of the network, changed or not."""

    @property
    def is_equal(self) -> bool:
        return not self.misfits and not any(change.changed for change in self.changes)


def compare_tensors(a: Path, b: Path, stem: str) -> FileDifference:
    """Compare a group of two checkpoints tensor by tensor, whatever files it is in.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        first, second = load_tensors(a, stem), load_tensors(b, stem)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    misfits = [f"{name}: only in the first" for name in sorted(first.keys() - second.keys())]
    misfits += [f"{name}: only in the second" for name in sorted(second.keys() - first.keys())]
    changes: dict[str, Change] = {}
    for name in sorted(first.keys() & second.keys()):
        before, after = first.form(name), second.form(name)
        if before != after:
            misfits.append(f"{name}: {before} -> {after}")
            continue
        group = group_of(name)
        changes.setdefault(group, Change(group)).add(first[name], second[name])
    return FileDifference(tuple(misfits), tuple(changes.values()))


def group_of(name: str) -> str:
    """The part of a network that a tensor belongs to: a block, or the module where there is no number in the name.

    Of the optimizer, whose names are `<parameter>/<key>`, each key is a part of its own.
    """
    parameter, _, key = name.rpartition("/")
    if "." in key or not parameter:  # <module>/<key> of a frozen module, or no slash at all
        parameter, key = name.replace("/", "."), ""
    words = parameter.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdecimal()]
    words = words[: numbers[0] + 1] if numbers else words[:-1] or words
    return ".".join(words) + f" {key}" * bool(key)
