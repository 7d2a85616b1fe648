"""What `bigrun plan` says of a row of scale.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Document, read_preset
from bigrun.planner.communication import Collective
from bigrun.planner.predict import traffic_of
from bigrun.planner.rehearsal import rehearse
from bigrun.planner.sharing import Sharing

if TYPE_CHECKING:
    from scale_groups import Setup

__all__ = ["Prediction", "predict_row"]


@attrs.frozen
class Prediction:
    """Of one process in a step."""

    peak_bytes: int
    collectives: tuple[Collective, ...]

    @property
    def payloads(self) -> dict[str, int]:
        """By operation."""
        found: Counter[str] = Counter()
        for one in self.collectives:
            found[one.operation] += one.payload_bytes
        return dict(found)

    def largest(self, operation: str) -> int:
        """The bytes of a collective of this kind, on average over those that send most."""
        of_kind = [one for one in self.collectives if one.operation == operation]
        most = max(of_kind, key=lambda one: one.payload_bytes, default=None)
        return most.payload_bytes // most.count if most else 0

    def seconds(self, speeds: Mapping[str, float]) -> float:
        """Of all collectives, one after the other.

        Args:
            speeds: by operation, bytes per second that a process sends.
        """
        return sum(one.sent_bytes / speeds[one.operation] for one in self.collectives)


def predict_row(setup: Setup, device: str) -> Prediction:
    preset = read_preset(setup.preset, [*setup.sets, "hardware.device=cpu"])
    document = Document(preset.source, preset.name, {**preset.tables, "plugins": {}})
    sharing = Sharing(1 if setup.alone else setup.processes)
    found = rehearse(document, device, None, sharing)
    return Prediction(found.memory.peak_bytes, traffic_of(found))
