"""A run's state, to and from a checkpoint.

Tensors go to `<part>.safetensors` (every child of the objective, the optimizer, frozen modules of plugins), facts to
`state.json`. No random generator is saved: all draws are functions of the seed and the step.
"""

from __future__ import annotations

import typing
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli
import torch
from torch import Tensor, nn

import bigrun
from bigrun.checkpoint.optimizer_state import flatten, restore
from bigrun.checkpoint.strict import load_strict
from bigrun.errors import CheckpointError, RunDirectoryError, UsageError
from bigrun.rules import EngineConfig
from bigrun.strategy import is_meta
from bigrun.values import as_lists, did_you_mean

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["check_same_run", "restore_state", "save_state"]


def save_state(run: Run) -> Path:
    """Write and publish a checkpoint of the run as it is after `run.step`."""
    optimizer_tensors, optimizer_facts = flatten(run.optimizer, parameter_names(run))
    parts = {name: dict(module.state_dict()) for name, module in run.objective.parts().items()}
    tensors = {**parts, "optimizer": optimizer_tensors, "frozen": frozen_tensors(run)}
    state = {
        "step": run.step,
        "position": run.position,
        "images": len(run.dataset),
        "seed": run.config.run.seed,
        "skipped_in_a_row": run.skipped_in_a_row,
        "schedules": dict(run.schedules.now),
        "optimizer": optimizer_facts,
        "metrics": run.metrics.state_dict(),
        "plugins": run.plugins.state_dict(),
        "versions": {"bigrun": bigrun.__version__, "torch": str(torch.__version__)},
    }
    return run.checkpoints.save(run.step, tensors, {"state": state}, run.config.to_toml())


def restore_state(run: Run, path: Path, drop_plugins: Collection[str] = ()) -> None:
    """Put a checkpoint's state into a built run.

    Raises:
        CheckpointError: tensors are missing, extra or of another shape; a critical plugin of the checkpoint is not
            active and not dropped.
    """
    state = run.checkpoints.load_facts(path, "state")
    check_images(run, state["images"], path)
    check_dropped(run, state["plugins"], drop_plugins)
    check_plugins(run, state["plugins"], drop_plugins)
    for name, module in run.objective.parts().items():
        load_strict(module, run.checkpoints.load_tensors(path, name), f"{path.name}/{name}.safetensors")
    restore_frozen(run, path, drop_plugins)
    restore(run.optimizer, parameter_names(run), run.checkpoints.load_tensors(path, "optimizer"), state["optimizer"])
    run.step = run.saved_step = run.plugins.step = state["step"]
    run.position = state["position"]
    run.skipped_in_a_row = state["skipped_in_a_row"]
    run.metrics.load_state_dict(state["metrics"])
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
    saved: dict[str, dict[str, Tensor]] = {}
    for key, tensor in run.checkpoints.load_tensors(path, "frozen").items():
        name, _, inner = key.partition("/")
        saved.setdefault(name, {})[inner] = tensor
    for name, tensors in saved.items():
        if name not in run.frozen:
            if drop_plugins:
                continue
            raise CheckpointError(f"{path}: has the frozen module {name!r}, which no active plugin offers")
        if is_meta(run.frozen[name]):
            run.materialise(run.frozen[name])
        load_strict(run.frozen[name], tensors, f"{path.name}/frozen.safetensors: {name}")


def check_images(run: Run, saved: int, path: Path) -> None:
    """The order of the images is a function of their number: with another, the run would see some twice, some never."""
    if len(run.dataset) != saved:
        raise RunDirectoryError(
            f"the data set has {len(run.dataset):,} images, but {saved:,} when {path} was saved; "
            "the order of the images depends on their number: put back what is missing (any image in its place will "
            "do), or start beside it with --fresh"
        )


def check_dropped(run: Run, saved: dict[str, Any], drop_plugins: Collection[str]) -> None:
    for name in drop_plugins:
        if name not in saved:
            raise UsageError(f"--drop-plugin {name}: the checkpoint has no such plugin{did_you_mean(name, saved)}")
        if name in run.plugins.active:
            raise UsageError(f"--drop-plugin {name}: it is active; switch it off with --no-plugin {name} as well")


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
                f"or continue without it with --drop-plugin {name}"
            )
    for name in run.plugins.active:
        if name not in saved:
            run.event("plugin-fresh", f"plugin {name} is new in this run and begins fresh", plugin=name)


def check_same_run(config: Config, saved_toml: str, checkpoint: Path) -> list[str]:
    """Compare a resumed run's configuration with its checkpoint's; returns the changes that are allowed, as text.

    An option of the engine that the checkpoint does not have is younger than it, and was what its default is; one that
    a rule chooses has none, and is a change.

    Raises:
        RunDirectoryError: a value changed that a resumed run must keep.
    """
    new = _leaves(config.tables())
    old = {path: _default(path) for path in new} | _leaves(tomli.loads(saved_toml))
    allowed: list[str] = []
    refused: list[str] = []
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            text = f"{'.'.join(path)}: {_shown(old.get(path))} -> {_shown(new.get(path))}"
            (refused if _fixed(path) else allowed).append(text)
    if refused:
        raise RunDirectoryError(
            f"{checkpoint} is of a run with another configuration:\n"
            + "\n".join(f"  {line}" for line in refused)
            + "\nrestore these values to continue it, or start beside it with --fresh"
        )
    return allowed


def _leaves(tables: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for key, value in tables.items():
        here = (*path, key)
        leaves |= _leaves(value, here) if isinstance(value, dict) else {here: value}
    return leaves


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)


def _fixed(path: tuple[str, ...]) -> bool:
    """Whether an engine option must keep its value; plugins judge their own state."""
    option = _option(path)
    return option is not None and bool(option.metadata["fixed"])  # an option that is no more cannot be kept


def _default(path: tuple[str, ...]) -> Any:
    """An engine option's default as TOML has it; None where there is none."""
    option = _option(path)
    return None if option is None or option.default is attrs.NOTHING else as_lists(option.default)


def _option(path: tuple[str, ...]) -> attrs.Attribute[Any] | None:
    section = typing.get_type_hints(EngineConfig).get(path[0])
    return attrs.fields_dict(section).get(path[1]) if section and len(path) > 1 else None
