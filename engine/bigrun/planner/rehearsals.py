"""Rehearsals of one preset with several micro-batches, and the largest that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Document, override
from bigrun.errors import ConfigError
from bigrun.planner.plan import DeviceKind, Fit
from bigrun.planner.search import largest_fitting

if TYPE_CHECKING:
    from bigrun.planner.rehearsal import Rehearsal

__all__ = ["Rehearsals"]


class Rehearsals:
    """Rehearsals of one preset with other micro-batches and activation checkpointing, each made once."""

    def __init__(self, document: Document, device: DeviceKind, tell: Callable[[str], None]) -> None:
        """`tell` hears what is rehearsed, before it is."""
        self.document = Document(document.source, document.name, override(document.tables, ["hardware.device='cpu'"]))
        self.device = device
        self.tell = tell
        self.made: dict[tuple[str, int], Rehearsal] = {}

    def own(self) -> Rehearsal:
        """As the preset says."""
        from bigrun.planner.rehearsal import rehearse

        self.tell("rehearsing a step of the preset as it is")
        found = rehearse(self.document, self.device)
        assert found.config.data.micro_batch is not None
        self.made[found.config.hardware.activation_checkpointing, found.config.data.micro_batch] = found
        return found

    def changed(self, mode: str, micro_batch: int) -> Document:
        sets = [f"data.micro_batch={micro_batch}", f"hardware.activation_checkpointing='{mode}'"]
        return attrs.evolve(self.document, tables=override(self.document.tables, sets))

    def micro_batches(self, effective_batch: int) -> list[int]:
        """Those with which the preset is valid: divisors of the effective batch."""
        from bigrun.activation import activate

        valid = []
        for size in (d for d in range(1, effective_batch + 1) if effective_batch % d == 0):
            try:
                activate(self.changed("none", size))
            except ConfigError:
                continue
            valid.append(size)
        return valid

    def need_bytes(self, mode: str, micro_batch: int) -> int:
        from bigrun.planner.rehearsal import rehearse

        key = (mode, micro_batch)
        if key not in self.made:
            self.tell(f"rehearsing micro-batch {micro_batch} with activation checkpointing {mode}")
            self.made[key] = rehearse(self.changed(mode, micro_batch), self.device)
        return self.made[key].memory.need_bytes(self.device)

    def fit(self, mode: str, memory_bytes: int) -> Fit:
        """The largest micro-batch that fits."""
        data = next(iter(self.made.values())).config.data
        sizes = self.micro_batches(data.effective_batch)
        asked = [micro for made_mode, micro in self.made if made_mode == mode]
        start = asked[0] if asked else max(micro for _, micro in self.made)
        best = largest_fitting(sizes, lambda micro: self.need_bytes(mode, micro), memory_bytes, start)
        if best is None:
            return Fit(mode, None, None, self.need_bytes(mode, sizes[0]))
        return Fit(mode, best, data.effective_batch // best, self.need_bytes(mode, best))
