"""Features of a network at some steps of its training, with the time that the training took until then.

Imported by every library's worker, in that library's environment: it needs torch and numpy and nothing else. What it
writes, `learning.py` scores.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Embedding", "FeatureLog"]

Embedding = tuple[Tensor, Tensor, Tensor | None]
"""Class tokens (n, D), patch tokens (n, P, D) and prototype logits (n, K), where there are any."""

ROWS = 250


class FeatureLog:
    """Writes `<out>/features.jsonl` and `<out>/features-<step>.npz`.

    CPU time is that of this process, all its threads included: training decodes images and makes views in the process
    that trains. The time spent in here is not counted.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.out = Path(spec["out"])
        self.steps = set(spec["record_steps"])
        self.batch = spec["batch"]
        with np.load(spec["probe"]) as probe:
            pixels = torch.from_numpy(probe["images"])  # (n, 3, s, s) uint8
        mean, std = (torch.tensor(spec["views"][name]).view(3, 1, 1) for name in ("mean", "std"))
        self.crops = (pixels.float() / 255 - mean) / std
        self.prototypes = 0
        self._cpu = self._wall = 0.0

    def start(self) -> None:
        """The training begins."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def record(self, step: int, embed: Callable[[Tensor], Embedding]) -> None:
        """After `step` steps, 0 for none: write the features of the probe's images if they are wanted."""
        if step not in self.steps:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.no_grad():
            parts = [self._summary(embed(crops)) for crops in torch.split(self.crops, ROWS)]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        line = {"step": step, "images": step * self.batch, "cpu_seconds": cpu - self._cpu, "seconds": wall - self._wall}
        line |= self._indicators(found)
        np.savez(self.out / f"features-{step}.npz", cls=found["cls"].numpy(), patches=found["patches"].numpy())
        with (self.out / "features.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._cpu += time.process_time() - cpu
        self._wall += time.perf_counter() - wall

    def _summary(self, embedding: Embedding) -> dict[str, Tensor]:
        """Per image: class token, mean patch token, the two cosines, and the prototype it is nearest to."""
        cls, patches, logits = embedding
        tokens = F.normalize(patches.float(), dim=-1)  # (n, P, D)
        count = tokens.shape[1]
        total = tokens.sum(1)  # the sum of all cosines is the squared length of the sum
        among = (total.square().sum(-1) - count) / (count * (count - 1))
        with_cls = (F.normalize(cls.float(), dim=-1)[:, None] * tokens).sum(-1).mean(1)
        found = {"cls": cls.float(), "patches": patches.float().mean(1), "among": among, "with_cls": with_cls}
        if logits is not None:
            found["nearest"] = logits.argmax(-1)
            self.prototypes = logits.shape[-1]
        return found

    def _indicators(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """[spec 10.4]; NaN where the library has no prototypes."""
        used = math.nan
        if "nearest" in found:
            used = len(torch.unique(found["nearest"])) / min(self.prototypes, len(found["nearest"]))
        return {
            "s_patch": float(found["among"].mean()),
            "cls_patch_cosine": float(found["with_cls"].mean()),
            "prototypes_used": used,
        }
