"""The engine's own answers: one plugin that always answers last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.anomaly import Action, Anomaly
from bigrun.data.wait import DataWait
from bigrun.errors import NoImagesError, UsageError
from bigrun.markers import hookimpl
from bigrun.peers.straggler import Straggler
from bigrun.time_limit import TimeLimit

if TYPE_CHECKING:
    import torch

    from bigrun.data.dataset import Dataset, Samples
    from bigrun.data.tone import Tone
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["Defaults"]


class Defaults(TimeLimit, DataWait, Straggler):
    """A folder of images, DINO, AdamW; skip a bad step and halt after several."""

    @hookimpl(trylast=True)
    def build_dataset(self, run: Run) -> Dataset:
        from bigrun.data.folder import ImageFolder

        if run.config.data.path is None:
            raise NoImagesError(
                "no images: set data.path to a folder of images (--set data.path=/folder), "
                "or activate a plugin that brings a data set"
            )
        return ImageFolder.search(run.config.data.path, run.config.data.index, run.config.model.in_channels)

    @hookimpl(trylast=True)
    def build_tone(self, run: Run) -> Tone:
        from bigrun.data.tone import FullRange

        return FullRange()

    @hookimpl(trylast=True)
    def build_objective(self, run: Run) -> Objective:
        from bigrun.objective.dino import DinoObjective

        for table, plugin in run.config.replaced.items():
            raise UsageError(f"plugins.{plugin}: it replaces [{table}], but has built no objective")
        return DinoObjective(run.config, run.schedules)

    @hookimpl(trylast=True)
    def configure_model(self, run: Run, objective: Objective) -> None:
        mode = run.config.hardware.activation_checkpointing
        if mode != "none":
            objective.student.backbone.checkpoint_activations(mode)

    @hookimpl(trylast=True)
    def build_optimizer(self, run: Run, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        from bigrun.optimizer import build_adamw

        return build_adamw(parameters, run.config.optimizer)

    @hookimpl(trylast=True)
    def build_loader(self, run: Run, dataset: Dataset, position: int) -> Iterator[Samples]:
        from bigrun.data.loader import build_loader
        from bigrun.data.order import order_of

        order = order_of(dataset, run.config.run.seed, run.config.data.effective_batch)
        return build_loader(
            dataset,
            order,
            run.config.data,
            run.config.model.in_channels,
            position,
            seed=run.config.run.seed,
            rank=run.strategy.rank,
            processes=run.strategy.world_size,
            on_restart=lambda restart: run.event(
                "worker-restarted",
                restart.message,
                "warning",
                cause=restart.cause,
                position=restart.position,
                strike=restart.strike,
            ),
        )

    @hookimpl(tryfirst=True)
    def header_lines(self, run: Run) -> list[str]:
        from bigrun.summary import header

        return header(run)

    @hookimpl(trylast=True)
    def on_anomaly(self, run: Run, anomaly: Anomaly) -> Action:
        limit = run.config.run.halt_after_skips
        return Action.HALT if run.incidents.skipped_in_a_row + 1 >= limit else Action.SKIP
