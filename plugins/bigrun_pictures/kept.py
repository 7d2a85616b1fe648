"""The looks that are kept: what strips are made of and later colours are aligned to, in a folder of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bigrun.directory import replace_file

__all__ = ["Kept", "KeptLook", "thinned"]

NAME = re.compile(r"step_(\d{9,})\.(?:safetensors|png)")


def thinned(steps: Iterable[int], keep: int) -> list[int]:
    """At most `keep` of the steps, in order: the first, the newest, and some between them.

    What is taken away is the one whose neighbours are nearest to each other, the oldest of equals. Of looks at equal
    distances, four or more of which are kept, a gap is then at most twice the mean one.
    """
    left = sorted(set(steps))
    while len(left) > keep:
        inner = min(range(1, len(left) - 1), key=lambda n: left[n + 1] - left[n - 1])
        del left[inner]
    return left


@attrs.frozen(eq=False)
class KeptLook:
    """What is kept of a look."""

    step: int
    tiles: Mapping[int, Tensor]  # by position of the sample: (4, T, T, 3) uint8
    scores: Mapping[int, Tensor]  # (blocks, P, 3)
    facts: Mapping[str, Any]
    """JSON: `key` of what is shown and how, `names`, `metrics`, ..."""

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        tensors = {f"{position}.tiles": tiles for position, tiles in self.tiles.items()}
        tensors |= {f"{position}.scores": scores.half() for position, scores in self.scores.items()}
        return save({n: t.contiguous() for n, t in tensors.items()}, {"facts": json.dumps(dict(self.facts))})

    @classmethod
    def read(cls, step: int, path: Path) -> KeptLook:
        """Raises ValueError: it is none, or damaged."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                names = [name.partition(".") for name in file.keys()]  # noqa: SIM118 - no mapping
                tensors = {(int(at), kind): file.get_tensor(f"{at}.{kind}") for at, _, kind in names}
            require_facts(facts)
            tiles = {at: tensor for (at, kind), tensor in tensors.items() if kind == "tiles"}
            scores = {at: tensor.float() for (at, kind), tensor in tensors.items() if kind == "scores"}
            require_tiles(tiles.values())
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no look that could be read ({error!r})") from error
        return cls(step, tiles, scores, facts)


class Kept:
    """`kept/step_N.safetensors` in a plugin's folder, and pictures called `step_N.png` beside it and in its folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: list[str] = []
        """What could not be read so far."""

    def path(self, step: int) -> Path:
        return self.folder / "kept" / f"step_{step:09d}.safetensors"

    def steps(self) -> list[int]:
        """Of the looks that are kept, ascending."""
        return sorted(steps_of((self.folder / "kept").glob("step_*.safetensors")))

    def save(self, look: KeptLook) -> None:
        self.path(look.step).parent.mkdir(exist_ok=True)
        replace_file(self.path(look.step), look.to_bytes())

    def looks(self, key: str | None = None) -> list[KeptLook]:
        """Ascending; with `key`, those at the same images in the same way. One that cannot be read is removed."""
        found = []
        for step in self.steps():
            try:
                look = KeptLook.read(step, self.path(step))
            except ValueError as error:
                self.unreadable.append(str(error))
                self.path(step).unlink(missing_ok=True)
                continue
            if key is None or look.facts.get("key") == key:
                found.append(look)
        return found

    def drop_after(self, step: int) -> None:
        """Remove the looks of steps that the run has not taken: it has gone back."""
        self._remove(lambda found: found > step)

    def thin(self, keep: int) -> None:
        """Remove looks and pictures but those of `keep` steps."""
        left = set(thinned(self.steps(), keep))
        self._remove(lambda found: found not in left)

    def _remove(self, unwanted: Callable[[int], bool]) -> None:
        for path in [*self.folder.glob("step_*.png"), *self.folder.glob("*/step_*")]:
            for step in steps_of([path]):
                if unwanted(step):
                    path.unlink(missing_ok=True)


FACTS: Mapping[str, Any] = {
    "key": str,
    "names": dict,
    "missing": list,
    "blocks": list,
    "depth": int,
    "entropies": list,
    "prefix_shares": list,
    "differences": dict,
}


def require_facts(facts: Any) -> None:
    """Raises ValueError: something is missing, or is something else."""
    for name, kind in FACTS.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name), kind):
            raise ValueError(f"`{name}` is no {kind}")


def require_tiles(stacks: Iterable[Tensor]) -> None:
    """Raises ValueError: they are no pictures."""
    for stack in stacks:
        if stack.dtype is not torch.uint8 or stack.ndim != 4 or stack.shape[0] != 4 or stack.shape[3] != 3:
            raise ValueError(f"tiles are {stack.dtype} of shape {tuple(stack.shape)}")


def steps_of(paths: Iterable[Path]) -> list[int]:
    return [int(match[1]) for path in paths if (match := NAME.fullmatch(path.name))]
