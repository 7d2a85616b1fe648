"""What a run is, in lines for people: parameters by part, batch, images and epochs, values chosen by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from bigrun.compute import compute_line
from bigrun.data.split.apply import split_line, split_warnings
from bigrun.devices.setting import settings_table
from bigrun.devices.warnings import device_warnings
from bigrun.prototypes import image_warnings
from bigrun.weights.coverage import Coverage

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["count_parameters", "duration", "header", "plan"]


def count_parameters(objective: nn.Module, trained: dict[str, nn.Module]) -> dict[str, int]:
    """Parameters of each trained part, and what is not trained of each child of the objective: a teacher."""
    children = {f"not trained ({name})": child for name, child in objective.named_children()}
    counts: dict[str, int] = {}
    seen: set[nn.Parameter] = set()  # two parts may share one
    for name, module in (trained | children).items():
        own = set(module.parameters()) - seen
        seen |= own
        counts |= {name: sum(p.numel() for p in own)} if own else {}
    return counts


def duration(config: Config, images: int) -> str:
    """The run's length in steps, images and epochs."""
    batch, steps = config.data.effective_batch, config.run.max_steps
    epoch = (
        f"an epoch of {images:,} images is {images / batch:,.1f} steps" if images else "epochs unknown without images"
    )
    if steps is None:
        return f"until stopped; {epoch}"
    seen = f"{steps:,} optimizer steps x {batch} images = {steps * batch:,} images"
    return f"{seen} = {steps * batch / images:,.1f} epochs of {images:,}" if images else f"{seen}; {epoch}"


def plan(run: Run) -> list[str]:
    """Parameters, batch, length and rule-chosen values of a built run."""
    config = run.config
    counts = count_parameters(run.objective, run.objective.trained_modules())
    lines = [f"objective    {type(run.objective).__name__}, of plugin {name}" for name in set(config.replaced.values())]
    lines += [f"parameters   {name} {count:,}" for name, count in counts.items()]
    lines += [
        f"batch        effective {config.data.effective_batch} = micro {config.data.micro_batch} x accumulate "
        f"{run.accumulate} x processes {run.strategy.world_size}",
        *([f"parallel     {run.strategy.line()}"] if run.strategy.world_size > 1 else []),
        f"length       {duration(config, len(run.dataset))}",
    ]
    summary = getattr(run.dataset, "summary", None)
    lines += [f"images       {summary()}"] if summary else []
    lines += [f"data         {finding.kind}: {finding.message}" for finding in run.findings]
    lines += [f"split        {line}"] if (line := split_line(run)) else []
    lines += [f"bad images   {line}"] if (line := run.bad_images.line(run)) else []
    lines += [f"init         {line}" for line in init_lines(run)]
    lines += [f"by rule      {c.path} = {_short(c.value)} ({c.why})" for c in config.choices]
    warnings = (
        *config.warnings,
        *image_warnings(config, len(run.dataset)),
        *split_warnings(run),
        *device_warnings(config.hardware, run.facts),
    )
    lines += [f"warning      {text}" for text in warnings]
    return lines


def init_lines(run: Run) -> list[str]:
    """What student and teacher began with, when the run began with a file."""
    coverage = run.get(Coverage)
    return [] if coverage is None else [coverage.summary(), *coverage.details()]


def header(run: Run) -> list[str]:
    """The engine's own header lines."""
    precision = run.config.hardware.precision
    start = "from step 0"
    if run.resumed_from:
        how = "resumed" if run.resumed_from.is_relative_to(run.directory) else "branched"
        start = f"{how} after step {run.step}, from {run.resumed_from}"
    return [
        f"run          {run.directory} ({start})",
        f"device       {run.device} in {precision}: {run.facts.line()}",
        *(f"setting      {line}" for line in settings_table(run.settings)),
        f"plugins      {', '.join(run.plugins.active) or 'none'}",
        *plan(run),
        *([f"compute      {line}"] if (line := compute_line(run)) else []),
        *([f"checkpoints  {run.room.line(run.config.run.checkpoint_every_steps)}"] if run.room else []),
        "configuration, resolved:",
        *("  " + line for line in run.config.to_toml().strip().splitlines()),
    ]


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
