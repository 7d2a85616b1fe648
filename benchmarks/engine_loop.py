"""The engine's own loop, ready to be stepped, and what can be read of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.session import run_training

if TYPE_CHECKING:
    from bigrun.config import Document
    from bigrun.data.dataset import Samples
    from bigrun.run import Run

__all__ = ["EngineLoop", "HookTime"]


class EngineLoop:
    """Runs a document as `bigrun run` does, on batches that are decoded already.

    Its companion has no hook that is called in every step, so the plugins of a step are those of the document.
    """

    def __init__(self, document: Document, directory: Path, images: Sequence[Any]) -> None:
        self.document = document
        self.directory = directory
        self.images = images
        self.losses: list[float] = []
        """One mean per `run.log_every_steps`."""
        self.run: Run
        self._batches: Iterator[Samples]

    def train(self, batches: Iterator[Samples]) -> None:
        self._batches = batches
        run_training(self.document, self.directory, companions={"benchmark": self})

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> Sequence[Any]:
        self.run = run
        return self.images

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        return self._batches

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self.losses.append(metrics["loss"])

    @contextmanager
    def timed_hooks(self) -> Iterator[HookTime]:
        """Measure hook calls while this is open. The measurement itself costs about 1 us a call."""
        spent = HookTime()
        undo = self.run.plugins.manager.add_hookcall_monitoring(spent.before, spent.after)
        try:
            yield spent
        finally:
            undo()


class HookTime:
    """Calls of hooks, and the wall time in them; one that is called inside another counts as a call only."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self._depth = 0
        self._since = 0.0

    def before(self, name: str, impls: Any, arguments: Any) -> None:
        self.calls += 1
        self._depth += 1
        if self._depth == 1:
            self._since = time.perf_counter()

    def after(self, outcome: Any, name: str, impls: Any, arguments: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._since
