"""What a run is, in lines for people: parameters by part, batch, images and epochs, values chosen by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["count_parameters", "duration", "header", "plan"]


def count_parameters(objective: nn.Module, trained: dict[str, nn.Module]) -> dict[str, int]:
    """Parameters of each trained part; the teacher, a copy that is not trained, counts under its own name."""
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in trained.items()}
    everything = sum(p.numel() for p in objective.parameters())
    others = everything - sum(counts.values())
    return counts | ({"not trained (teacher)": others} if others else {})


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
    lines = [f"parameters   {name} {count:,}" for name, count in counts.items()]
    lines += [
        f"batch        effective {config.data.effective_batch} = micro {config.data.micro_batch} x accumulate "
        f"{run.accumulate} x processes {run.strategy.world_size}",
        f"length       {duration(config, len(run.dataset))}",
    ]
    summary = getattr(run.dataset, "summary", None)
    lines += [f"images       {summary()}"] if summary else []
    lines += [f"by rule      {c.path} = {_short(c.value)} ({c.why})" for c in config.choices]
    lines += [f"warning      {text}" for text in config.warnings]
    return lines


def header(run: Run) -> list[str]:
    """The engine's own header lines."""
    precision = run.config.hardware.precision
    start = f"resumed after step {run.step}, from {run.resumed_from}" if run.resumed_from else "from step 0"
    return [
        f"run          {run.directory} ({start})",
        f"device       {run.device} in {precision}",
        f"plugins      {', '.join(run.plugins.active) or 'none'}",
        *plan(run),
        "configuration, resolved:",
        *("  " + line for line in run.config.to_toml().strip().splitlines()),
    ]


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
