"""Steps of bigrun's own loop on demand, on crops of random numbers: `step_bigrun.py SPEC.json`, called by step.py and
gpu.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from turns import Turns

from bigrun import hookimpl
from bigrun.config import Document, read_preset
from bigrun.data.dataset import Batch, Samples
from bigrun.objective.base import Objective, Outputs
from bigrun.objective.dino import DinoObjective
from bigrun.objective.network import DinoNetwork
from bigrun.session import run_training
from bigrun.testing.runner import SyntheticImages
from bigrun.version import __version__

if TYPE_CHECKING:
    from bigrun.run import Run


class OnDemand:
    """A companion of the run: its loader waits for orders, its views are there already."""

    def __init__(self, prototypes: int | None, compiled: bool, two_views: bool) -> None:
        """
        Args:
            prototypes: of both heads; the configuration refuses so many for so small a batch, rightly for a real run.
            compiled: every block through torch.compile.
            two_views: without a teacher, as `TwoViews` says.
        """
        self.prototypes = prototypes
        self.compiled = compiled
        self.two_views = two_views
        self.turns = Turns()

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> SyntheticImages:
        return SyntheticImages()

    @hookimpl(tryfirst=True)
    def build_objective(self, run: Run) -> Objective:
        config: Any = run.config
        if self.prototypes is not None:
            heads = attrs.evolve(config.objective, prototypes=self.prototypes, ibot_prototypes=self.prototypes)
            config = attrs.evolve(config, objective=heads)
        return TwoViews(config) if self.two_views else DinoObjective(config, run.schedules)

    @hookimpl(trylast=True)
    def configure_model(self, run: Run, objective: Objective) -> None:
        if self.compiled:
            for network in {objective.student, objective.teacher}:
                for block in network.backbone.blocks:
                    block.compile(dynamic=False)

    @hookimpl
    def on_start(self, run: Run) -> None:
        ready: Any = random_batch(run, local=not self.two_views)
        views: Any = lambda *arguments: ready  # noqa: E731
        run.views = views

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        size = run.config.data.effective_batch
        pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
        samples = Samples.pack([pixel] * size, torch.arange(size), torch.zeros(size, dtype=torch.int64))
        yield from self._orders(run, samples)

    def _orders(self, run: Run, samples: Samples) -> Iterator[Samples]:
        self.turns.gpu = run.device.type == "cuda"
        self.turns.say(
            software=f"bigrun {__version__}, torch {torch.__version__}",
            parameters=sum(p.numel() for p in run.objective.student.backbone.parameters()),
            start_rss_bytes=self.turns.start_rss_bytes,
        )
        for _ in self.turns:
            yield samples
        raise SystemExit


class TwoViews(Objective):
    """Two global crops that are to have the same bottleneck, without a teacher: what methods of two branches compute
    (arXiv 2103.03230, 2011.10566), for a speed that can be put beside theirs. It would collapse; nothing is learned
    here."""

    student: DinoNetwork

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.student = DinoNetwork(config.model, attrs.evolve(config.objective, ibot_weight=0.0))
        self.teacher = self.student

    def forward(self, batch: Batch, micro: int) -> Outputs:
        return Outputs(self.student.backbone(batch.global_crops), None)

    def loss_terms(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        first, second = self.student.dino_head.bottleneck(outputs.global_features.cls).float().chunk(2)
        return {"difference": 1 - (first * second).sum(-1).mean()}


def random_batch(run: Run, local: bool) -> Batch:
    """Crops of the run's sizes on its device: (G*b, 3, s, s) and, if wanted, (S*b, 3, t, t)."""
    views, size = run.config.views, run.config.data.effective_batch
    generator = torch.Generator().manual_seed(0)

    def crops(number: int, side: int) -> torch.Tensor:
        return torch.randn(number * size, 3, side, side, generator=generator).to(run.device)

    far = crops(views.local_crops, views.local_size_px) if local else None
    indices = torch.arange(size)
    return Batch(crops(views.global_crops, views.global_size_px), far, {}, indices, torch.zeros_like(indices))


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    preset = read_preset(spec["preset"], spec["sets"])
    document = Document(preset.source, preset.name, {**preset.tables, "plugins": {}})
    companion = OnDemand(spec["prototypes"], spec["compiled"], spec["two_views"])
    with tempfile.TemporaryDirectory(prefix="bigrun-") as scratch:
        run_training(document, Path(scratch) / "run", companions={"on-demand": companion})


if __name__ == "__main__":
    main()
