"""The presets that checks train, and their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.config import Document, read_preset

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_checks.subject import Subject

__all__ = ["COMPARABLE", "TINY", "TINY_BATCH", "TINY_PROTOTYPES", "batch_of", "document", "write_images"]

TINY = [
    *("model.width=32", "model.depth=2", "model.heads=2", "model.ffn_hidden=64", "model.patch_size_px=8"),
    *("views.global_size_px=32", "views.local_size_px=16", "objective.head_hidden=32", "objective.head_bottleneck=16"),
]
TINY_BATCH, TINY_PROTOTYPES = 4, 64
COMPARABLE = ("objective.koleo_weight=0.0", "model.layerscale=0.1", "optimizer.base_lr=1e-3")
"""For runs whose losses are compared: class tokens are all but equal at first, KoLeo's gradient is the inverse of their
distances, and those are roundings then."""
SMALL_GPU_BYTES = 22 * 2**30
"""A ViT-S with 64 images takes 13 GiB."""


def document(
    subject: Subject, preset: str, batch: int, sets: Sequence[str] = (), plugins: Mapping[str, Any] | None = None
) -> Document:
    """A shipped preset in one micro-batch, with these plugins alone, that learns from the first step on.

    Args:
        batch: images of a step; see `batch_of`.
    """
    batch = batch_of(subject, batch)
    tiny = [*TINY, f"objective.prototypes={TINY_PROTOTYPES}", "views.local_crops=2", "hardware.threads=1"]
    overrides = [
        *(tiny if subject.tiny else []),
        *(f"data.effective_batch={batch}", f"data.micro_batch={batch}", "data.workers=0"),
        *("run.log_every_steps=1", "run.checkpoint_every_steps=1000000", "run.background_checkpoints=false"),
        *("hardware.precision='bf16'", f"hardware.device='{'auto' if subject.is_gpu else 'cpu'}'"),
        *("model.drop_path_fraction=0.0", "optimizer.warmup_steps=1", "optimizer.freeze_last_layer_steps=0"),
        *sets,
    ]
    read = read_preset(preset, overrides)
    return Document(read.source, read.name, {**read.tables, "plugins": dict(plugins or {})})


def batch_of(subject: Subject, batch: int) -> int:
    """Of a step: fewer on a small GPU, and a few with `--tiny`."""
    if subject.tiny:
        return TINY_BATCH
    return batch if subject.facts.total_bytes >= SMALL_GPU_BYTES else batch // 4


def write_images(folder: Path, number: int, size_px: int) -> Path:
    """PNG files of smooth colours; returns their folder."""
    from PIL import Image

    from bigrun.testing.runner import SyntheticImages

    images = SyntheticImages(number, size_px)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.fromarray(images[index].permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")
    return folder
