"""Options that other projects call by another name, or that stand in another table: for who writes them here first."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import attrs

__all__ = ["OTHER_NAMES", "whereabouts"]

OTHER_NAMES = {
    "learning_rate": "optimizer.base_lr",
    "lr": "optimizer.base_lr",
    "min_lr": "optimizer.lr_end_fraction",
    "grad_clip": "optimizer.clip_norm",
    "clip_grad": "optimizer.clip_norm",
    "batch_size": "data.effective_batch",
    "batch_size_per_gpu": "data.micro_batch",
    "num_workers": "data.workers",
    "dataset_path": "data.path",
    "epochs": "run.max_steps",
    "num_epochs": "run.max_steps",
    "iterations": "run.max_steps",
    "embed_dim": "model.width",
    "num_heads": "model.heads",
    "patch_size": "model.patch_size_px",
    "num_register_tokens": "model.storage_tokens",
    "drop_path_rate": "model.drop_path_fraction",
    "teacher_temp": "objective.teacher_temperature",
    "student_temp": "objective.student_temperature",
    "momentum_teacher": "teacher.momentum",
    "pretrained_weights": "init.path",
}
SURE = 0.8
"""Of 1, how alike two words are that may be the same, one of them mistyped."""


def whereabouts(path: str, text: str, sections: Mapping[str, type]) -> str:
    """What to add to the problem of an option or table that is unknown and is like no other of its table."""
    if text not in ("unknown option", "unknown table"):
        return ""
    word = path.rpartition(".")[2]
    known = {field.name: f"{name}.{field.name}" for name, cls in sections.items() for field in attrs.fields(cls)}
    near = difflib.get_close_matches(word, [*known, *OTHER_NAMES], n=1, cutoff=SURE)
    return f" - did you mean {(known | OTHER_NAMES)[near[0]]!r}?" if near else ""
