"""Some steps of bigrun's own loop in this process, and what can be read of them."""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from step_bigrun import random_batch
from turns import profiled

from bigrun import hookimpl
from bigrun.data.dataset import Batch, Samples
from bigrun.process import release_memory
from bigrun.session import run_training
from bigrun.testing.runner import SyntheticImages

if TYPE_CHECKING:
    from bigrun.config import Document
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["Steps", "Trained", "all_warnings", "median_seconds", "train", "wait"]


@attrs.define
class Trained:
    """What steps have shown."""

    losses: list[float] = attrs.field(factory=list)
    """Of every step, warm-up included."""
    gradient_norms: list[float] = attrs.field(factory=list)
    seconds_per_step: float = 0.0
    """Of the measured steps."""
    images_per_second: float = 0.0
    before_bytes: int = 0
    """Of torch's allocator on the GPU when the run had not begun."""
    peak_bytes: int | None = None
    """The most that tensors took in the measured steps beyond that; None where it is not measured."""
    reserved_bytes: int | None = None
    settings: list[dict[str, Any]] = attrs.field(factory=list)
    events: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """The facts of the last event of each kind."""

    def setting(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.settings if row["name"] == name), None)

    def figures(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {
            "losses": [round(loss, 5) for loss in self.losses],
            "gradient_norms": self.gradient_norms[:4],
            "images_per_second": self.images_per_second,
            "peak_mib": None if self.peak_bytes is None else round(self.peak_bytes / 2**20, 1),
            "reserved_mib": None if self.reserved_bytes is None else round(self.reserved_bytes / 2**20, 1),
        }


class Steps:
    """A companion of the run: random crops that are on the device already, and an end without a checkpoint."""

    def __init__(self, steps: int, warm_up: int = 3, *, ready: bool = True, profile: bool = False) -> None:
        """
        Args:
            steps: that are measured, after the warm-up.
            ready: crops are made before; else of images in every step, as in a run.
            profile: on a CPU the last step's memory is measured, and no honest times.
        """
        self.steps, self.warm_up = steps, warm_up
        self.ready, self.profile = ready, profile
        self.found = Trained()
        self._began = 0.0
        self._facts: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> SyntheticImages:
        return SyntheticImages(64, run.config.views.global_size_px + 32)

    @hookimpl
    def on_start(self, run: Run) -> None:
        if self.ready:
            run.views = ReadyViews(run.views, random_batch(run, local=run.config.views.local_crops > 0))  # type: ignore[assignment]

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        images, size = SyntheticImages(64, run.config.views.global_size_px + 32), run.config.data.effective_batch
        numbers = torch.arange(size)
        samples = Samples.pack([images[i % 64] for i in range(size)], numbers, torch.zeros_like(numbers))
        for step in range(1, self.warm_up + self.steps + 1):
            if step == self.warm_up + 1:
                wait(run.device, reset=True)
                self._began = time.perf_counter()
            if step == self.warm_up + self.steps and self.profile and run.device.type == "cpu":
                self._stack.enter_context(profiled(self._facts))
            yield samples
        self._end(run)
        raise SystemExit

    def _end(self, run: Run) -> None:
        wait(run.device)
        seconds = (time.perf_counter() - self._began) / self.steps
        self._stack.close()
        found = self.found
        found.seconds_per_step = seconds
        found.images_per_second = run.config.data.effective_batch / seconds
        found.peak_bytes = self._facts.get("torch_peak_bytes")
        if run.device.type == "cuda":
            found.peak_bytes = torch.cuda.max_memory_allocated() - found.before_bytes
            found.reserved_bytes = torch.cuda.max_memory_reserved()
        found.settings = [attrs.asdict(setting) for setting in run.settings]

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        self.found.losses.append(metrics["loss"])
        self.found.gradient_norms.append(metrics["grad_norm"])

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.found.events[event.kind] = {"message": event.message, **event.facts}


class ReadyViews:
    """Views of a run whose crops are always the same batch."""

    def __init__(self, views: Any, batch: Batch) -> None:
        self.views, self.batch = views, batch

    def __call__(self, *_: Any) -> Batch:
        return self.batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.views, name)


def wait(device: torch.device, *, reset: bool = False) -> None:
    if device.type != "cuda":
        return
    torch.cuda.synchronize(device)
    if reset:
        torch.cuda.reset_peak_memory_stats(device)


def train(document: Document, steps: Steps, companions: Sequence[Any] = ()) -> Trained:
    """Take them, and free all that the run had."""
    steps.found.before_bytes = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    everybody = {"steps": steps} | {f"companion-{i}": each for i, each in enumerate(companions)}
    with tempfile.TemporaryDirectory(prefix="bigrun-steps-") as scratch:
        try:
            run_training(document, Path(scratch) / "run", companions=everybody)
        except SystemExit as end:
            traceback.clear_frames(end.__traceback__)
    gc.collect()
    release_memory()
    return steps.found


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Of one call, each waited for, after two that are not counted."""
    spent = []
    for number in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        if number >= 2:
            spent.append(time.perf_counter() - began)
    return statistics.median(spent)


@contextlib.contextmanager
def all_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Every warning, each time it is raised."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found
