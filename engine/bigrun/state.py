"""A run's state, to and from a checkpoint.

Tensors go to `<part>.safetensors` (every child of the objective, the optimizer, frozen modules of plugins), facts to
`state.json`. No random generator is saved: all draws are functions of the seed and the step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

from bigrun.checkpoint.layout import PROVENANCE
from bigrun.checkpoint.optimizer_state import flatten, restore
from bigrun.checkpoint.pieces import divide
from bigrun.checkpoint.staging import count_bytes
from bigrun.checkpoint.strict import load_strict
from bigrun.data.split.apply import check_same_split, split_facts
from bigrun.errors import CheckpointError, RunDirectoryError, UsageError
from bigrun.machine import describe_machine, versions
from bigrun.same_run import IMAGES
from bigrun.strategy import is_meta
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.peers.peers import Peers
    from bigrun.run import Run

__all__ = ["State", "gather_state", "gather_tensors", "restore_state"]

NEEDED = ("step", "position", "images", "optimizer", "metrics", "plugins", "schedules", "skipped_in_a_row", "versions")
"""Facts without which a run cannot go on; the others are younger than the first checkpoints."""


@attrs.frozen(eq=False)
class State:
    """What this process has of a checkpoint; facts and configuration are the main one's to write."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]
    config_toml: str
    bytes: int
    """Of all tensors, those of other processes too."""

    def save(self, store: CheckpointStore, writers: Peers) -> Path:
        """Publish it, together with the others that have a part of it; see `CheckpointStore.save`."""
        return store.save(self.step, self.tensors, self.facts, self.config_toml, writers)


def gather_state(run: Run) -> State:
    """The run as it is after `run.step`. The tensors are its own, not copies."""
    from bigrun.data.tone import describe_tone

    tensors, optimizer_facts = gather_tensors(run)
    measured = run.metrics.measured(with_step=not run.is_in_step)
    facts = {
        "step": run.step,
        "position": run.position,
        "images": len(run.dataset),
        "split": split_facts(run),
        "seed": run.config.run.seed,
        "schedules": dict(run.schedules.at(max(run.step, 1)) if run.is_in_step else run.schedules.now),
        "optimizer": optimizer_facts,
        "metrics": run.metrics.state_dict(with_step=not run.is_in_step),
        "measured": {name: value for name, value in measured.items() if math.isfinite(value)},
        "plugins": run.plugins.state_dict(),
        "machine": describe_machine(run),
        "versions": versions(),
        **run.incidents.facts(),
        "bad_images": run.bad_images.facts(),
        "tone": describe_tone(run.views.tone),
    }
    origin = {PROVENANCE: run.provenance} if run.provenance is not None else {}
    size = count_bytes(tensor for members in tensors.values() for tensor in members.values())
    mine, pieces = divide(tensors, is_main=run.is_main)
    return State(run.step, mine, {"state": facts, **origin, **pieces}, run.config.to_toml(), size)


def gather_tensors(run: Run) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of a checkpoint by file, and what else the optimizer knows. They are the run's own, not copies."""
    optimizer, facts = flatten(run.optimizer, parameter_names(run))
    parts = {name: dict(module.state_dict()) for name, module in run.objective.parts().items()}
    return {**parts, "optimizer": optimizer, "frozen": frozen_tensors(run)}, facts


def restore_state(
    run: Run, path: Path, drop_plugins: Collection[str] = (), allowed_changes: Collection[str] = ()
) -> None:
    """Put a checkpoint's state into a built run.

    Raises:
        CheckpointError: tensors are missing, extra or of another shape; facts are missing.
        RunDirectoryError: the data set has another number of images, or a critical plugin of the checkpoint is not
            active and not dropped.
    """
    state = run.checkpoints.load_facts(path, "state")
    check_facts(state, path)
    check_same_split(run, state.get("split"), path, allowed_changes)
    check_images(run, state["images"], path, allowed_changes)
    check_dropped(run, state["plugins"], drop_plugins)
    check_plugins(run, state["plugins"], drop_plugins)
    for name, module in run.objective.parts().items():
        load_strict(module, run.checkpoints.load_tensors(path, name), f"{path.name}/{name}.safetensors")
    restore_frozen(run, path, drop_plugins)
    restore(run.optimizer, parameter_names(run), run.checkpoints.load_tensors(path, "optimizer"), state["optimizer"])
    run.step = run.saved_step = run.plugins.step = state["step"]
    run.position = state["position"]
    run.incidents.restore(state)
    run.bad_images.restore(state.get("bad_images", []))
    run.metrics.load_state_dict(state["metrics"])
    if "latest" not in state["metrics"]:  # of a checkpoint that is older than this fact
        run.metrics.latest = dict(state.get("measured", {}))
    for name in run.plugins.active:
        run.plugins.load_state(name, state["plugins"].get(name, {}).get("state"))
    run.resumed_from = path


def parameter_names(run: Run) -> dict[nn.Parameter, str]:
    """The trained parameters' names in the objective."""
    trained = {p for group in run.optimizer.param_groups for p in group["params"]}
    return {p: name for name, p in run.objective.named_parameters() if p in trained}


def frozen_tensors(run: Run) -> dict[str, Tensor]:
    """The tensors of every frozen module that has storage, as `<module>/<key>`."""
    return {
        f"{name}/{key}": tensor
        for name, module in run.frozen.items()
        if not is_meta(module)
        for key, tensor in module.state_dict().items()
    }


def restore_frozen(run: Run, path: Path, drop_plugins: Collection[str]) -> None:
    """Load frozen modules; one on the meta device that the checkpoint has gets storage first."""
    saved = run.checkpoints.load_tensors(path, "frozen")
    for name in dict.fromkeys(key.partition("/")[0] for key in saved):
        if name not in run.frozen:
            if drop_plugins:
                continue
            raise CheckpointError(f"{path}: has the frozen module {name!r}, which no active plugin offers")
        if is_meta(run.frozen[name]):
            run.materialise(run.frozen[name])
        load_strict(run.frozen[name], saved.part(f"{name}/"), f"{path.name}/frozen.safetensors: {name}")


def check_facts(state: Any, path: Path) -> None:
    """Of a checkpoint whose every byte is as it was saved: whoever saved it may have left something out."""
    missing = [name for name in NEEDED if name not in state] if isinstance(state, dict) else list(NEEDED)
    if missing:
        raise CheckpointError(f"{path.name}/state.json: missing ({len(missing)}): {', '.join(missing)}")


def check_images(run: Run, saved: int, path: Path, allowed_changes: Collection[str]) -> None:
    """The order of the images is a function of their number: with another, the run would see some twice, some never."""
    if len(run.dataset) == saved:
        return
    counts = f"the data set has {len(run.dataset):,} images, but {saved:,} when {path} was saved"
    if IMAGES not in allowed_changes:
        raise RunDirectoryError(
            f"{counts}; the order of the images depends on their number: put back what is missing (any image in its "
            f"place will do), say --allow-change {IMAGES} to go on in another order, or start beside it with --fresh"
        )
    run.event("config-changed", f"{counts}: from here on they come in another order", "warning", key=IMAGES)


def check_dropped(run: Run, saved: dict[str, Any], drop_plugins: Collection[str]) -> None:
    for name in drop_plugins:
        if name not in saved and not run.process.went_back:
            raise UsageError(f"--drop-plugin {name}: the checkpoint has no such plugin{did_you_mean(name, saved)}")
        if name in run.plugins.active:
            raise UsageError(f"--drop-plugin {name}: it is active; switch it off with --no-plugin {name} as well")


def before_leaving(facts: Mapping[str, Any]) -> str:
    """What a plugin, at the time of the save, has said is to be done before a run can do without it."""
    advice = facts.get("before_leaving")
    return f", but not from this checkpoint: {advice}" if isinstance(advice, str) else ""


def check_plugins(run: Run, saved: dict[str, Any], drop_plugins: Collection[str]) -> None:
    """Active and saved: loaded. Active only: begins fresh. Saved only: refused, unless an observer or dropped."""
    for name, facts in saved.items():
        if name in run.plugins.active:
            plugin = run.plugins.active[name]
            version = getattr(plugin, "state_version", 1)
            if facts["state"] is not None and facts["state_version"] > version:
                raise CheckpointError(
                    f"plugin {name}: the checkpoint's state has version {facts['state_version']}, this plugin reads "
                    f"up to {version}: install the plugin's newer version"
                )
        elif facts["observer"] or name in drop_plugins:
            run.event("plugin-state-dropped", f"plugin {name} was active in the checkpoint and is not now", plugin=name)
        else:
            raise RunDirectoryError(
                f"plugin {name} was active when the checkpoint was saved and is not now; add --plugin {name}, "
                f"or continue without it with --drop-plugin {name}{before_leaving(facts)}"
            )
    for name in run.plugins.active:
        if name not in saved:
            run.event("plugin-fresh", f"plugin {name} is new in this run and begins fresh", plugin=name)
