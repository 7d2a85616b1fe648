"""What is trained, and in what the methods differ.

Equal for all methods are the images, the network's shape, the crops and their distortions, heads and prototypes, the
batch and the number of steps: they stand in `recipes/<task>.toml`, which is bigrun's preset. Each method has its own
losses, targets and optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from bigrun.architectures import from_architecture
from bigrun.config import read_preset
from bigrun.sections import Model, Views
from bigrun.values import structure

__all__ = ["METHODS", "TASKS", "Method", "known_methods", "section", "specification"]

T = TypeVar("T", Model, Views)

RECIPES = Path(__file__).resolve().parent / "recipes"
TASKS = ("photos", "fashion")
GRAM = "gram-anchoring"
QUICK = ["run.max_steps=4", "data.effective_batch=16"]
QUICK_GRAM = [f"plugins.{GRAM}.{name}={value}" for name, value in
              {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "refresh_every_steps": 1}.items()]  # fmt: skip
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the steps, at which features are scored


@attrs.frozen
class Method:
    """A library, and how it differs from the recipe."""

    library: str
    """bigrun or lightly-train."""
    sets: tuple[str, ...] = ()
    """bigrun: overrides of the recipe."""
    without: tuple[str, ...] = ()
    """bigrun: plugins of the recipe that are off."""
    same_optimizer: bool = False
    """lightly-train: with bigrun's learning rate, decay, temperatures and Sinkhorn-Knopp instead of its defaults."""


METHODS = {
    "bigrun": Method("bigrun"),
    "bigrun without Gram": Method("bigrun", without=(GRAM,)),
    "bigrun, DINO alone": Method("bigrun", ("objective.ibot_weight=0.0", "objective.koleo_weight=0.0"), (GRAM,)),
    "lightly-train": Method("lightly-train"),
    "lightly-train, our settings": Method("lightly-train", same_optimizer=True),
}


def specification(task: str, name: str, seed: int, folder: Path, quick: bool) -> dict[str, Any]:
    """What the worker of the method's library reads, but for the paths of its output and of the probe's images."""
    method, preset = METHODS[name], str(RECIPES / f"{task}.toml")
    short = QUICK if quick else []
    tables = read_preset(preset, short).tables
    steps, batch = tables["run"]["max_steps"], tables["data"]["effective_batch"]
    common = {
        "record_steps": sorted({round(share * steps) for share in SHARES}),
        "batch": batch,
        "views": attrs.asdict(section(tables, "views", Views)),
    }
    if method.library == "lightly-train":
        return {**common, **lightly(tables, method, seed, str(folder))}
    gram = QUICK_GRAM if quick and GRAM not in method.without else []
    sets = [*short, *gram, *method.sets, f"run.seed={seed}", f'data.path="{folder}"']
    # The recipe's text makes the key of a finished run depend on it.
    return {**common, "preset": preset, "tables": tables, "sets": sets, "without": list(method.without)}


def section(tables: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A table of a preset with its defaults."""
    problems: list[tuple[str, str]] = []
    table = dict(tables.get(name, {}))
    if name == "model":
        table |= from_architecture(table)
    found = structure(table, kind, name, problems)
    assert found is not None, problems
    return found


def lightly(tables: Mapping[str, Any], method: Method, seed: int, folder: str) -> dict[str, Any]:
    """What peers/lightly_dinov2.py reads.

    Its defaults are for 125,000 steps: warm-ups and freezing keep their share of the run. The number of prototypes is
    the recipe's, and so is the second head: its 65,536 would take most of the time of so small a network.
    """
    objective, steps = tables["objective"], tables["run"]["max_steps"]
    arguments: dict[str, Any] = {
        "output_dim": objective["prototypes"],
        "hidden_dim": objective["head_hidden"],
        "dino_bottleneck_dim": objective["head_bottleneck"],
        "ibot_bottleneck_dim": objective["head_bottleneck"],
        "ibot_separate_head": True,
        "warmup_steps": round(0.1 * steps),
        "student_freeze_last_layer_steps": round(0.01 * steps),
        "teacher_temp_warmup_steps": round(0.3 * steps),
    }
    optimizer: dict[str, Any] = {}
    if method.same_optimizer:
        arguments |= {
            "center_method": "sinkhorn_knopp",
            "teacher_temp_end": objective["teacher_temperature"],
            "teacher_temp_warmup_steps": round(0.2 * steps),
            "momentum_start": momentum(steps, tables["data"]["effective_batch"]),
            "layerwise_decay": tables["optimizer"]["layer_decay"],
            "weight_decay_end": 0.04,
        }
        optimizer = {"lr": 4 * tables["optimizer"]["base_lr"]}  # bigrun's rule has the factor 4, its own has not
    return {
        "images": folder,
        "model": attrs.asdict(section(tables, "model", Model)),
        "steps": steps,
        "seed": seed,
        "threads": 1,
        "precision": "32-true",
        "method_args": arguments,
        "optim_args": optimizer,
    }


def momentum(steps: int, batch: int) -> float:
    """The teacher's momentum at the start that bigrun's rule chooses for a run of this length."""
    return 1 - 1 / max(min(256_000 / batch, steps / 50), 10.0)


def known_methods(names: Sequence[str], peer: bool) -> list[str]:
    """Those of the names that can be run."""
    return [name for name in names if METHODS[name].library == "bigrun" or peer]
