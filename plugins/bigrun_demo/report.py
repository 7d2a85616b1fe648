"""learning-report: did it learn? Scores before and after, a loss curve and a picture of what the patches know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
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
    draws the loss and the patch features; files in `learning-report/` of the run directory. Every process shows the
    photographs to the teacher, which may be spread over several of them; the main one writes."""

    Config = ReportConfig
    observer = True
    state_version = 1

    def __init__(self, config: ReportConfig) -> None:
        self.config = config
        self.losses: list[tuple[int, float]] = []
        self.untrained: float | None = None
        self._left_out: set[str] = set()

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.step == 0:  # a run that has begun without this plugin has no untrained teacher any more
            self.untrained = self._probe(self._photos(run)).score(lambda patches: self._features(run, patches))

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if "loss" in metrics:
            self.losses.append((step, metrics["loss"]))

    @hookimpl
    def on_finish(self, run: Run) -> None:
        from bigrun_demo.pictures import draw_loss, draw_patch_features, shown_photos

        loaded = self._photos(run)
        probe = self._probe(loaded)
        trained = probe.score(lambda patches: self._features(run, patches))
        photos = shown_photos(run, loaded)
        if not run.is_main:
            return
        scores: dict[str, Any] = {
            "raw_pixels": probe.raw_pixel_score(),
            "untrained": self.untrained,
            "trained": trained,
        }
        folder = run.path_for("learning-report")
        (folder / "scores.json").write_text(json.dumps({"step": run.step, **scores}, indent=2), encoding="utf-8")
        draw_loss(self.losses, folder / "loss.png")
        draw_patch_features(photos, run.step, folder / "patch_features.png")
        run.event("learning-report", "\n".join(self._lines(scores, folder)), **scores)

    def _lines(self, scores: Mapping[str, float | None], folder: Path) -> list[str]:
        """What a person wants to see at the end."""
        return [
            f"Which photograph is a {self.config.patch_px}-px patch from? Share of right answers, 0 to 1:",
            *(f"  {name.replace('_', ' '):<12} {shown(score)}" for name, score in scores.items()),
            f"loss curve       {folder / 'loss.png'}",
            f"patch features   {folder / 'patch_features.png'}",
            "next: your own images: bigrun run vit_small --set data.path=/folder (bigrun presets lists the others)",
        ]

    def _photos(self, run: Run) -> dict[str, Tensor]:
        """Those that are the same on all processes, which so make the same forward passes."""
        from bigrun.evaluation.common import done_by_all
        from bigrun_demo.photos import load_photos

        photos = done_by_all(run.peers, load_photos)
        everywhere = run.peers.gathered({name: list(photo.shape) for name, photo in photos.items()})
        for rank, theirs in enumerate(everywhere):
            for name in [name for name in photos if theirs.get(name) != everywhere[0].get(name)]:
                del photos[name]
                self._say_left_out(run, name, run.peers.name(rank))
        return photos

    def _say_left_out(self, run: Run, name: str, where: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            message = f"learning-report: the photograph {name} is not on {where} as on the others: it is left out"
            run.event("learning-report", message, "warning")

    def _probe(self, photos: dict[str, Tensor]) -> PatchProbe:
        from bigrun_demo.probe import PatchProbe

        return PatchProbe(photos, self.config.patch_px)

    def _features(self, run: Run, patches: Tensor) -> Tensor:
        """Features (n, 2D) of the teacher for patches (n, 3, p, p) in [0, 1], resized to the training size.

        Class token beside mean patch token, as in the linear probes of arXiv 2304.07193; each has length 1.
        """
        import torch
        import torch.nn.functional as F

        views = run.config.views
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (views.mean, views.std))
        size = views.pairs[0][0]
        x = F.interpolate(patches, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        with run.objective.evaluation() as backbone:
            found = [backbone(part.to(run.device)) for part in torch.split((x - mean) / std, 256)]
        halves = (torch.cat([f.cls for f in found]), torch.cat([f.patches.mean(1) for f in found]))
        return torch.cat([F.normalize(half.float(), dim=1) for half in halves], dim=1).cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained, "losses": [list(pair) for pair in self.losses]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.untrained = state["untrained"]
        self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]


def shown(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.3f}"
