"""A band in a few lines for people."""

from __future__ import annotations

from bigrun_band.band import Band

__all__ = ["description"]


def description(band: Band) -> str:
    """What it was made of, by which rule, and each curve's ends."""
    seeds = ", ".join(str(run.get("seed", "?")) for run in band.runs)
    width = max(map(len, band.curves))
    lines = [
        f"{band.source}: {len(band.curves)} curves of {len(band.runs)} runs (run.seed = {seeds})",
        f"rule         mean over {band.smooth_steps} steps; the runs' range, widened to either side by as many times "
        f"itself as stands below, and by {band.floor:g} of the value or of the curve's range at least",
        f"holds for    {len(band.relevant)} options as they stand in it, run.log_every_steps up to {band.smooth_steps}",
    ]
    for name, curve in band.curves.items():
        ends = (f"{curve.low[i]:.4g} to {curve.high[i]:.4g} at step {curve.steps[i]}" for i in (0, -1))
        lines.append(f"{name:<{width}}  {', '.join(ends)}; widened {band.widen.get(name, 0):g} x")
    return "\n".join(lines)
