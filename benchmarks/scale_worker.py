"""One process of a run whose steps are taken on demand, on crops of random numbers: `scale_worker.py SPEC.json`,
called by scale.py; what torchrun sets says which process this is. The payloads of the second step's collectives are
in the file that the specification names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from collectives import Collectives
from turns import Turns

from bigrun import hookimpl
from bigrun.config import Document, read_preset
from bigrun.data.dataset import Batch, Samples
from bigrun.peers.place import Place
from bigrun.session import run_training
from bigrun.testing.runner import SyntheticImages

if TYPE_CHECKING:
    from bigrun.run import Run

COUNTED_STEP = 2


class OnDemand:
    """A companion of the run: its loader waits for orders, its views are there already."""

    def __init__(self, traffic: Path) -> None:
        self.traffic = traffic
        self.turns = Turns()
        self.collectives = Collectives()

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> SyntheticImages:
        return SyntheticImages()

    @hookimpl
    def on_start(self, run: Run) -> None:
        ready = random_batch(run)
        views: Any = lambda *arguments: ready  # noqa: E731
        run.views = views

    @hookimpl(tryfirst=True)
    def before_step(self, step: int) -> None:
        if step == COUNTED_STEP:
            self.collectives.__enter__()

    @hookimpl(trylast=True)
    def after_update(self, step: int) -> None:
        if step == COUNTED_STEP:
            self.collectives.__exit__(None, None, None)
            self.traffic.write_text(json.dumps(self.collectives.found), encoding="utf-8")

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        size = run.config.data.micro_batch
        assert size is not None
        pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
        samples = Samples.pack([pixel] * size, torch.arange(size), torch.zeros(size, dtype=torch.int64))
        return self._orders(run, samples)

    def _orders(self, run: Run, samples: Samples) -> Iterator[Samples]:
        self.turns.gpu = run.device.type == "cuda"
        self.turns.say(start_rss_bytes=self.turns.start_rss_bytes)
        for _ in self.turns:
            for _ in range(run.accumulate):
                yield samples
        os._exit(0)  # the others hear of the end in the same way, and there is nothing to save


def random_batch(run: Run) -> Batch:
    """Crops of the run's sizes on its device, of one micro-batch: (G*b, 3, s, s) and (S*b, 3, t, t)."""
    views, size = run.config.views, run.config.data.micro_batch
    assert size is not None
    generator = torch.Generator().manual_seed(run.strategy.rank)

    def crops(number: int, side: int) -> torch.Tensor:
        return torch.randn(number * size, 3, side, side, generator=generator).to(run.device)

    far = crops(views.local_crops, views.local_size_px)
    indices = torch.arange(size)
    return Batch(crops(views.global_crops, views.global_size_px), far, {}, indices, torch.zeros_like(indices))


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    preset = read_preset(spec["preset"], spec["sets"])
    document = Document(preset.source, preset.name, {**preset.tables, "plugins": {}})
    place = Place.of_environment()
    companion = OnDemand(Path(f"{spec['traffic']}-{place.rank}.json"))
    run_training(document, Path(spec["run"]), companions={"on-demand": companion}, place=place)


if __name__ == "__main__":
    main()
