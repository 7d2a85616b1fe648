"""What a drill trains: the user's preset, with a small network and few images per step."""

from __future__ import annotations

import copy
from typing import Any

from bigrun.architectures import from_architecture
from bigrun.config import Document
from bigrun.drill.faults import FAULTS

__all__ = ["EVERY", "STEPS", "full_size", "small"]

STEPS = 8
EVERY = 2
"""Steps between checkpoints."""
MODEL = {"width": 64, "depth": 2, "heads": 2, "ffn_hidden": 128}
HEADS = {"head_hidden": 64, "head_bottleneck": 32}
BATCH = {"effective_batch": 4, "micro_batch": 2}  # two micro-batches: accumulation is part of what is proven


def small(document: Document, *, has_objective: bool = True) -> dict[str, Any]:
    """The tables of a run of seconds that is like the preset's in everything else: images, views, plugins, device.

    Args:
        has_objective: whether [objective] has a meaning; a plugin's own objective takes its options from its table.
    """
    tables = without_length(document)
    model = tables.setdefault("model", {})
    model |= from_architecture(model) | MODEL
    model.pop("architecture", None)
    tables["data"] = tables.get("data", {}) | BATCH
    tables["data"]["workers"] = min(tables["data"].get("workers", 1), 1)
    tables.pop("init", None)
    if has_objective:
        objective = tables.setdefault("objective", {})
        objective |= HEADS | {"prototypes": 64 if "prototypes" not in objective else min(objective["prototypes"], 64)}
        objective.pop("koleo_group", None)
    return with_faults(tables, every=EVERY, steps=STEPS)


def full_size(document: Document) -> dict[str, Any]:
    """The tables of three steps of the preset's own network, with one micro-batch each: its state has its real size."""
    tables = without_length(document)
    data = tables.setdefault("data", {})
    data["effective_batch"] = data["micro_batch"] = data.get("micro_batch", min(data.get("effective_batch", 8), 8))
    tables.pop("init", None)
    if "objective" in tables:
        tables["objective"].pop("koleo_group", None)
    return with_faults(tables, every=1, steps=3)


def without_length(document: Document) -> dict[str, Any]:
    tables = copy.deepcopy(dict(document.tables))
    for option in ("max_steps", "max_hours"):
        tables.setdefault("run", {}).pop(option, None)
    return tables


def with_faults(tables: dict[str, Any], *, every: int, steps: int) -> dict[str, Any]:
    tables["run"] |= {"log_every_steps": 1, "checkpoint_every_steps": every}
    tables["plugins"] = {**tables.get("plugins", {}), FAULTS: {"stop_step": steps}}
    return tables
