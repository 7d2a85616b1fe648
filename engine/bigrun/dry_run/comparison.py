"""Whether a run that was saved and continued is the run that went on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = ["Comparison", "compare"]

COMPARED = ("loss", "grad_norm")
"""Metrics of these names, and those below them (`loss/ibot`): what the step's state decides, and nothing of time."""
NEAR = 1e-3
"""Losses of a GPU, whose sums may come in another order, may be so far apart."""
NEAR_NORM = 1e-2
"""Norms of gradients as well: they have a larger part of what is rounded."""


@attrs.frozen
class Comparison:
    """A state that was restored, and steps that were taken twice: without a break, and from the checkpoint."""

    steps: tuple[int, ...]
    """None of them where the resumed process has stopped before."""
    loss: float | str | None
    """Of the last of them, without a break; a text where it is not finite, None where the step was left out."""
    resumed_loss: float | str | None
    differing: tuple[str, ...]
    """Metrics that are not the same bit for bit."""
    plugins: tuple[str, ...]
    """Whose state differs afterwards."""
    apart: float
    """The largest difference of a loss, as a share of it; infinity where one is no number."""
    norm_apart: float
    """The same of the norm of all gradients."""
    parts: tuple[str, ...]
    """Groups of the checkpoint (teacher, optimizer) whose tensors are others after the restore than when they were
    saved: exact, on any device. Where this is so on some processes only these are named."""

    @property
    def is_exact(self) -> bool:
        return bool(self.steps) and not (self.differing or self.plugins or self.parts)

    def is_good(self, *, is_gpu: bool) -> bool:
        """Bit for bit, in any number of processes (gloo sums in one order, and DDP, asked to find parameters that are
        not in use, keeps its buckets as they are); on a GPU nearly."""
        is_near = self.apart <= NEAR and self.norm_apart <= NEAR_NORM
        return self.is_exact or (is_gpu and is_near and bool(self.steps) and not (self.plugins or self.parts))


def compare(straight: Mapping[str, Any], resumed: Mapping[str, Any]) -> Comparison:
    """Compare what two runs have answered (`merged`), at the steps that both have taken."""
    steps = sorted(set(straight["rows"]) & set(resumed["rows"]), key=int)
    differing, apart = list[str](), dict.fromkeys(COMPARED, 0.0)
    for step in steps:
        before, after = straight["rows"][step], resumed["rows"][step]
        for name in sorted(name for name in before.keys() | after.keys() if is_compared(name)):
            if before.get(name) != after.get(name):
                differing.append(name)
                if name in apart:
                    apart[name] = max(apart[name], distance(before.get(name), after.get(name)))
    last = steps[-1] if steps else None
    return Comparison(
        tuple(map(int, steps)),
        straight["rows"].get(last, {}).get("loss"),
        resumed["rows"].get(last, {}).get("loss"),
        tuple(dict.fromkeys(differing)),
        unlike(straight, resumed, "states", "states"),
        apart["loss"],
        apart["grad_norm"],
        lost_parts(straight["by_rank"], resumed["by_rank"]),
    )


def unlike(straight: Mapping[str, Any], resumed: Mapping[str, Any], before: str, after: str) -> tuple[str, ...]:
    """Names whose hashes differ; none where a process has not come so far."""
    one, other = straight.get(before), resumed.get(after)
    if one is None or other is None:
        return ()
    return tuple(name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name))


def lost_parts(straight: Sequence[Mapping[str, Any]], resumed: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of each process's own fingerprints."""
    lost = [unlike(*pair, "saved", "restored") for pair in zip(straight, resumed, strict=True)]
    found = list[str]()
    for part in dict.fromkeys(part for parts in lost for part in parts):
        ranks = [str(rank) for rank, parts in enumerate(lost) if part in parts]
        found.append(part if len(ranks) == len(lost) else f"{part} of process {', '.join(ranks)}")
    return tuple(found)


def is_compared(name: str) -> bool:
    return name.partition("/")[0] in COMPARED


def distance(one: Any, other: Any) -> float:
    if not isinstance(one, float) or not isinstance(other, float):
        return float("inf")
    return abs(one - other) / max(abs(one), 1e-12)
