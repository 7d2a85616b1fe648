"""The parts of a run, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.data.check.finding import Finding
    from bigrun.data.dataset import Dataset, Samples
    from bigrun.data.split.manifest import Split
    from bigrun.data.tone import Tone
    from bigrun.data.views import ExtraView, Views
    from bigrun.devices import DeviceFacts
    from bigrun.flight import FlightRecorder
    from bigrun.metrics import Metrics
    from bigrun.objective.base import Objective
    from bigrun.saver import Saver
    from bigrun.schedules import Schedules
    from bigrun.strategy import Strategy

__all__ = ["Parts"]


class Parts:
    """Set by the session before `on_start`, in this order."""

    strategy: Strategy
    facts: DeviceFacts
    """What the device and its machine are, read when the device was chosen."""
    split: Split | None = None
    """The manifest of `data.split`."""
    undivided: Dataset | None = None
    """The data set as it was built."""
    findings: Sequence[Finding] = ()
    """What the data set says of itself that does not keep the run from starting."""
    dataset: Dataset
    """What is trained on: with a split, its training part."""
    validation: Dataset | None = None
    """The samples that a split leaves out of training, for whoever evaluates; None where there are none."""
    validation_tone: Tone | None = None
    """What stored values mean in `validation`, by its indices."""
    views: Views
    extra_views: Mapping[str, ExtraView]
    schedules: Schedules
    objective: Objective
    frozen: Mapping[str, torch.nn.Module]
    optimizer: torch.optim.Optimizer
    metrics: Metrics
    checkpoints: CheckpointStore
    saver: Saver
    flight: FlightRecorder
    provenance: dict[str, Any] | None = None
    """What is written down of this start (`bigrun.provenance`); None where nothing is written."""
    loader: Iterator[Samples]
