"""The start of a run from weights that exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.errors import ConfigError, UsageError
from bigrun.weights.coverage import Coverage
from bigrun.weights.fit import Fit, fit
from bigrun.weights.layouts import layout_named, recognise
from bigrun.weights.read import backbone_of, is_checkpoint, read_weights

if TYPE_CHECKING:
    from collections.abc import Collection

    from bigrun.events import Level
    from bigrun.objective.base import Network
    from bigrun.run import Run
    from bigrun.sections import Init, Model
    from bigrun.weights.layout import Layout

__all__ = ["announce_weights", "fit_file", "start_from_file"]


def start_from_file(run: Run) -> None:
    """Give student and teacher the weights of `init.path`; they are equal before and after.

    What became of them is kept with `run.put` as a `Coverage`. An objective on the meta device (`bigrun check`) is
    matched by names and shapes and stays as it is.

    Raises:
        ConfigError: the file cannot be read, or it does not fit and `init.allow_partial` is not set.
    """
    init, objective = run.config.init, run.objective
    if init.freeze_backbone_steps and list(objective.trained_modules()) == ["backbone"]:
        text = "without heads nothing learns while the backbone is frozen: set 0"
        raise ConfigError(run.config.source, [("init.freeze_backbone_steps", text)])
    meta = any(p.is_meta for p in objective.student.parameters())
    try:
        fitted = fit_file(init, objective.student, run.config.model, meta=meta)
        refuse(fitted.coverage, init)
    except UsageError as error:
        raise ConfigError(run.config.source, [("init.path", str(error))]) from error
    run.put(fitted.coverage)
    if not meta:
        for network in (objective.student, objective.teacher):
            network.load_state_dict(fitted.tensors, strict=False)


def announce_weights(run: Run) -> None:
    """Tell what a run that begins with a file has from it."""
    coverage = run.get(Coverage)
    if coverage is not None:
        level: Level = "info" if coverage.complete else "warning"
        run.event("initialised", f"init: {coverage.summary()}", level, **coverage.facts())


def fit_file(init: Init, network: Network, model: Model, *, meta: bool = False) -> Fit:
    """Match the file of `init.path` with a freshly initialised network.

    Raises:
        UsageError: the file cannot be read, or holds no backbone of a known layout.
    """
    assert init.path is not None
    path = Path(init.path)
    if init.heads and not is_checkpoint(path):
        raise UsageError(f"{path}: is no checkpoint of bigrun's, and no other has heads for init.heads = true")
    weights = backbone_of(read_weights(path, meta=meta), path)
    try:
        layout = recognise(weights.backbone)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if init.layout != "auto":
        layout = require(layout_named(init.layout), weights.backbone, f"{path}: its names are of {layout.name}")
    own = layout.to_own(weights.backbone, model)
    found = {f"backbone.{name}": tensor for name, tensor in own.items()}
    return fit(
        {**found, **weights.others} if init.heads else found,
        network,
        model,
        path=path,
        layout=layout.name,
        heads=init.heads,
        resample=init.resample_patch_embedding,
    )


def require(layout: Layout, keys: Collection[str], why: str) -> Layout:
    """The layout. Raises UsageError: the names are not of it."""
    if not layout.matches(keys):
        raise UsageError(f"{why}, not of init.layout = '{layout.name}'")
    return layout


def refuse(coverage: Coverage, init: Init) -> None:
    """Raises UsageError: nothing fits, or something does not and that was not asked for."""
    if coverage.complete or (init.allow_partial and coverage.loaded):
        return
    lines = [f"{coverage.path} does not fit: it gives {coverage.summary()}", *(f"  {d}" for d in coverage.details())]
    if not coverage.loaded:
        lines.append("nothing fits: is it the layout that init.layout says, and [model] the file's?")
    else:
        lines.append("make [model] the file's, or start from what fits with init.allow_partial = true")
    if any(text.startswith("patch_embed.proj.weight ") for text in coverage.misfits):
        lines.append("init.resample_patch_embedding = true fits a kernel to another model.patch_size_px")
    raise UsageError("\n    ".join(lines))
