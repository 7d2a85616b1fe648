"""Rehearsals of one preset with several micro-batches, and the largest that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Document
from bigrun.errors import ConfigError
from bigrun.overrides import override
from bigrun.planner.host_memory import host_categories
from bigrun.planner.plan import Fit
from bigrun.planner.search import largest_fitting

if TYPE_CHECKING:
    from bigrun.devices import DeviceFacts
    from bigrun.devices.facts import Backend
    from bigrun.planner.rehearsal import Rehearsal

__all__ = ["Rehearsals"]


class Rehearsals:
    """Rehearsals of one preset with other micro-batches and activation checkpointing, each made once."""

    def __init__(
        self,
        document: Document,
        device: Backend,
        tell: Callable[[str], None],
        facts: DeviceFacts | None = None,
        image_bytes: int | None = None,
    ) -> None:
        """
        Args:
            tell: hears what is rehearsed, before it is.
            facts: of a device that is not here.
            image_bytes: of a decoded image.
        """
        self.document = Document(document.source, document.name, override(document.tables, ["hardware.device='cpu'"]))
        self.device = device
        self.tell = tell
        self.facts = facts
        self.image_bytes = image_bytes
        self.made: dict[tuple[str, int], Rehearsal] = {}

    def own(self) -> Rehearsal:
        """As the preset says."""
        self.tell("rehearsing a step of the preset as it is")
        found = self.rehearse(self.document)
        assert found.config.data.micro_batch is not None
        self.made[found.config.hardware.activation_checkpointing, found.config.data.micro_batch] = found
        return found

    def rehearse(self, document: Document) -> Rehearsal:
        from bigrun.planner.rehearsal import rehearse

        return rehearse(document, "cpu" if self.device == "cpu" else "cuda", self.facts)

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

    def made_with(self, mode: str, micro_batch: int) -> Rehearsal:
        key = (mode, micro_batch)
        if key not in self.made:
            self.tell(f"rehearsing micro-batch {micro_batch} with activation checkpointing {mode}")
            self.made[key] = self.rehearse(self.changed(mode, micro_batch))
        return self.made[key]

    def need_bytes(self, mode: str, micro_batch: int) -> int:
        """Of the device."""
        return self.made_with(mode, micro_batch).memory.need_bytes(self.device)

    def host_bytes(self, found: Rehearsal) -> dict[str, int]:
        """Of the machine's memory, by what it holds."""
        return host_categories(found.config, self.device, found.checkpoint_bytes, found.moved, self.image_bytes)

    def taken_bytes(self, mode: str, micro_batch: int) -> int:
        """Of the memory that the device has, or shares with the machine."""
        found = self.made_with(mode, micro_batch)
        host = sum(self.host_bytes(found).values()) if found.facts.is_unified else 0
        return found.memory.need_bytes(self.device) + host

    def fit(self, mode: str, memory_bytes: int) -> Fit:
        """The largest micro-batch that fits."""
        data = next(iter(self.made.values())).config.data
        sizes = self.micro_batches(data.effective_batch)
        asked = [micro for made_mode, micro in self.made if made_mode == mode]
        start = asked[0] if asked else max(micro for _, micro in self.made)
        best = largest_fitting(sizes, lambda micro: self.taken_bytes(mode, micro), memory_bytes, start)
        if best is None:
            return Fit(mode, None, None, self.taken_bytes(mode, sizes[0]))
        return Fit(mode, best, data.effective_batch // best, self.taken_bytes(mode, best))
