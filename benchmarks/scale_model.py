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

__all__ = ["Kind", "Prediction", "kind_of", "predict_row"]

Kind = tuple[str, int]


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

    def seconds(self, each: Mapping[Kind, float]) -> float:
        """Of all collectives, one after the other.

        Args:
            each: seconds of one, by kind.
        """
        return sum(one.count * each[kind_of(one)] for one in self.collectives)


def kind_of(collective: Collective) -> Kind:
    """What one of them is like: its operation and the bytes of its payload, a mean over those of one line of a plan."""
    return collective.operation, collective.payload_bytes // collective.count


def predict_row(setup: Setup, device: str) -> Prediction:
    preset = read_preset(setup.preset, [*setup.sets, "hardware.device=cpu"])
    document = Document(preset.source, preset.name, {**preset.tables, "plugins": {}})
    sharing = Sharing(1 if setup.alone else setup.processes)
    found = rehearse(document, device, None, sharing)
    return Prediction(found.memory.peak_bytes, traffic_of(found))
