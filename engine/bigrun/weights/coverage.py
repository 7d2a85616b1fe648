"""How much of a network a file holds. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from bigrun.checkpoint.strict import shorten

__all__ = ["Coverage"]


@attrs.frozen
class Coverage:
    """What became of a network's parameters and of a file's tensors, by bigrun's names."""

    path: str
    layout: str
    parameters: Mapping[str, int]
    """Numbers in each parameter of the network."""
    loaded: frozenset[str]
    """Parameters that the file holds."""
    implied: Mapping[str, str]
    """Parameters that the file can do without, and what they begin as; the network's features are the file's."""
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    """Tensors of the file that the network has no use for."""
    misfits: tuple[str, ...]
    """Tensors of another shape or meaning: a sentence each."""

    @property
    def fraction(self) -> float:
        """Share of the network's numbers that are from the file, 0 to 1."""
        return sum(self.parameters[name] for name in self.loaded) / sum(self.parameters.values())

    @property
    def complete(self) -> bool:
        """Whether the network is the file's: nothing is missing, nothing is left over."""
        return not (self.missing or self.unused or self.misfits)

    def summary(self) -> str:
        """One line: tensors, percent, file and layout."""
        return (
            f"{len(self.loaded)} of {len(self.parameters)} tensors, {percent(self.fraction)} of parameters "
            f"from {self.path} (layout {self.layout})"
        )

    def details(self) -> list[str]:
        """A line for each kind of tensor that was not simply loaded, by name."""
        implied = [f"{name} ({start})" for name, start in self.implied.items()]
        kinds: dict[str, Iterable[str]] = {
            "not in the file": implied,
            "missing": self.missing,
            "unused": self.unused,
            "misfit": self.misfits,
        }
        return [f"{kind} ({len(list(names))}): {shorten(names)}" for kind, names in kinds.items() if names]

    def facts(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "path": self.path,
            "layout": self.layout,
            "loaded": sorted(self.loaded),
            "fraction": self.fraction,
            "implied": dict(self.implied),
            "missing": list(self.missing),
            "unused": list(self.unused),
            "misfits": list(self.misfits),
        }


def percent(fraction: float) -> str:
    """`99.98 %`; 100 % is said of the whole only."""
    return "100 %" if fraction == 1 else f"{int(fraction * 10_000) / 100:.2f} %"
