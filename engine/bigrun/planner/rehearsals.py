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
from bigrun.planner.regrouping import regrouping
from bigrun.planner.room import Room
from bigrun.planner.search import largest_fitting
from bigrun.planner.sharing import ALONE, Sharing

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
        sharing: Sharing = ALONE,
    ) -> None:
        """
        Args:
            tell: hears what is rehearsed, before it is.
            facts: of a device that is not here.
            image_bytes: of a decoded image.
            sharing: for how many processes.
        """
        self.document = Document(document.source, document.name, override(document.tables, ["hardware.device='cpu'"]))
        self.device = device
        self.tell = tell
        self.facts = facts
        self.image_bytes = image_bytes
        self.sharing = sharing
        self.made: dict[tuple[str, int], Rehearsal] = {}
        """The preset's own is the first."""

    def own(self) -> Rehearsal:
        """As the preset says."""
        self.tell("rehearsing a step of the preset as it is")
        found = self.rehearse(self.document)
        assert found.config.data.micro_batch is not None
        self.made[found.config.hardware.activation_checkpointing, found.config.data.micro_batch] = found
        return found

    def rehearse(self, document: Document) -> Rehearsal:
        from bigrun.planner.rehearsal import rehearse

        return rehearse(document, "cpu" if self.device == "cpu" else "cuda", self.facts, self.sharing)

    def changed(self, mode: str, micro_batch: int) -> Document:
        sets = [f"data.micro_batch={micro_batch}", f"hardware.activation_checkpointing='{mode}'"]
        return attrs.evolve(self.document, tables=override(self.document.tables, sets))

    def micro_batches(self, effective_batch: int) -> list[int]:
        """Those with which the preset is valid: divisors of the images of a process."""
        from bigrun.activation import activate

        valid, own = [], effective_batch // self.sharing.processes
        for size in (d for d in range(1, own + 1) if own % d == 0):
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
        return self.made_with(mode, micro_batch).need_bytes(self.device)

    def host_bytes(self, found: Rehearsal) -> dict[str, int]:
        """Of the machine's memory, by what it holds, for all processes of a machine."""
        is_shared = self.device == "cpu" or found.facts.is_unified
        return host_categories(
            found.config,
            self.device,
            found.copy_bytes,
            found.moved,
            self.image_bytes,
            found.sharing,
            built_bytes=found.built_bytes,
            device_bytes=found.need_bytes(self.device) if is_shared else 0,
        )

    def taken_bytes(self, mode: str, micro_batch: int) -> int:
        """Of the memory that the device has."""
        found = self.made_with(mode, micro_batch)
        host = sum(self.host_bytes(found).values()) if self.device == "cpu" else 0
        return found.need_bytes(self.device) + host

    def excess_bytes(self, mode: str, micro_batch: int, memory_bytes: int, ram_bytes: int) -> int:
        """Beyond what there is."""
        found = self.made_with(mode, micro_batch)
        room = Room(self.device, memory_bytes, ram_bytes, found.facts.is_unified)
        return room.excess_bytes(found.need_bytes(self.device), sum(self.host_bytes(found).values()))

    def fit(self, mode: str, memory_bytes: int, ram_bytes: int) -> Fit:
        """The largest micro-batch that fits.

        Args:
            memory_bytes: of the device.
            ram_bytes: of the machine; counts where a GPU shares it.
        """
        config = next(iter(self.made.values())).config
        effective = config.data.effective_batch
        sizes = self.micro_batches(effective)
        asked = [micro for made_mode, micro in self.made if made_mode == mode]
        start = asked[0] if asked else max(micro for _, micro in self.made)
        best = largest_fitting(sizes, lambda micro: self.excess_bytes(mode, micro, memory_bytes, ram_bytes), 0, start)
        if best is None:
            return Fit(mode, None, None, self.taken_bytes(mode, sizes[0]))
        return Fit(
            mode,
            best,
            effective // (best * self.sharing.processes),
            self.taken_bytes(mode, best),
            regrouping(config, best),
        )
