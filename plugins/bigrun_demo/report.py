"""learning-report: did it learn? Scores before and after, a loss curve and a picture of what the patches know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.options import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run
    from bigrun_demo.probe import PatchProbe

__all__ = ["LearningReport", "ReportConfig"]


@attrs.frozen
class ReportConfig:
    """What is measured."""

    patch_px: int = option(96, check=at_least(8), help="Side of the patches that are recognised.")


class LearningReport:
    """Recognises patches of the demo photographs with the teacher before and after training, beside raw pixels, and
    draws the loss and the patch features; files in `learning-report/` of the run directory."""

    Config = ReportConfig
    observer = True
    state_version = 1

    def __init__(self, config: ReportConfig) -> None:
        self.config = config
        self.losses: list[tuple[int, float]] = []
        self.untrained: float | None = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.step == 0:  # a run that has begun without this plugin has no untrained teacher any more
            self.untrained = self._probe().score(lambda patches: self._features(run, patches))

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if "loss" in metrics:
            self.losses.append((step, metrics["loss"]))

    @hookimpl
    def on_finish(self, run: Run) -> None:
        from bigrun_demo.photos import load_photos
        from bigrun_demo.pictures import draw_loss, draw_patch_features

        probe, folder = self._probe(), run.path_for("learning-report")
        trained = probe.score(lambda patches: self._features(run, patches))
        scores: dict[str, Any] = {
            "raw_pixels": probe.raw_pixel_score(),
            "untrained": self.untrained,
            "trained": trained,
        }
        (folder / "scores.json").write_text(json.dumps({"step": run.step, **scores}, indent=2), encoding="utf-8")
        draw_loss(self.losses, folder / "loss.png")
        draw_patch_features(run, load_photos(), folder / "patch_features.png")
        run.event(
            "learning-report",
            f"k-NN on {self.config.patch_px}-px patches (which photograph is it?): raw pixels "
            f"{scores['raw_pixels']:.3f}, untrained {shown(self.untrained)}, trained {trained:.3f}; "
            f"pictures in {folder}",
            **scores,
        )

    def _probe(self) -> PatchProbe:
        from bigrun_demo.photos import load_photos
        from bigrun_demo.probe import PatchProbe

        return PatchProbe(load_photos(), self.config.patch_px)

    def _features(self, run: Run, patches: Tensor) -> Tensor:
        """Class tokens (n, D) of the teacher for patches (n, 3, p, p) in [0, 1], resized to the training size."""
        import torch
        import torch.nn.functional as F

        backbone: Any = run.objective.teacher.backbone
        views = run.config.views
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (views.mean, views.std))
        size = views.global_size_px
        x = F.interpolate(patches, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            return torch.cat([backbone(c.to(run.device)).cls.float().cpu() for c in torch.split((x - mean) / std, 256)])

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained, "losses": [list(pair) for pair in self.losses]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.untrained = state["untrained"]
        self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]


def shown(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.3f}"
