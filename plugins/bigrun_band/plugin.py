"""reference-band: says when the curves of a run go elsewhere than those of runs that went well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.config import find_preset
from bigrun.errors import UsageError
from bigrun_band.band import Band, read_band
from bigrun_band.comparison import Comparison, is_of
from bigrun_band.config import BandConfig
from bigrun_band.health import section
from bigrun_band.relevant import differences, relevant

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["ReferenceBand"]

SHOWN = 3
"""Differences that a message names."""


class ReferenceBand:
    """Compares every row of metrics with a band that earlier runs of the same configuration have made."""

    Config = BandConfig
    observer = True

    def __init__(self, config: BandConfig) -> None:
        """
        Raises:
            UsageError: the file that was named cannot be read, or is no band.
        """
        self.config = config
        self._band: Band | None = None if config.file is None else read_band(Path(config.file))
        self._why = ""
        """Why nothing is compared."""
        self._comparison: Comparison | None = None
        self._state: Mapping[str, Any] | None = None

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        self._choose(run)
        if self._why or self._band is None:
            return [f"band         {self._why}"]
        band = self._band
        about = f"{len(band.curves)} curves of {len(band.runs)} runs, to step {band.last_step}"
        return [f"band         {about} ({band.source})"]

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._choose(run)
        if self._band is None:
            return
        if self._why:
            run.event("band-does-not-apply", self._why, file=self._band.source)
            return
        if self._state is not None and not is_of(self._state, self._band):
            message = f"{self._band.source}: another band than before: the comparison begins anew"
            run.event("band-changed", message, file=self._band.source)
            self._state = None
        is_late = run.step > 0 and self._state is None
        from_step = run.step + self._band.smooth_steps if is_late else 0
        self._comparison = Comparison(self._band, self.config.hold_rows, from_step)
        if self._state is not None:
            self._comparison.load_state_dict(self._state)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if self._comparison is not None:
            for event in self._comparison.take(step, metrics):
                run.event(event.kind, event.message, event.level, **event.facts)

    @hookimpl(optionalhook=True)
    def health_section(self, run: Run) -> dict[str, Any] | None:
        """For a health report, if there is one."""
        return section(self._comparison, self._why) if self._band is not None else None

    def _choose(self, run: Run) -> None:
        """Find the band, and whether it holds for this run."""
        if self._band is None:
            path = beside_preset(run.config)
            if path is None or not path.is_file():
                self._why = f"none ships with preset {run.config.name}; `bigrun band` makes one of runs of yours"
                return
            self._band = read_band(path)
        self._why = self._misfit(run, self._band)

    def _misfit(self, run: Run, band: Band) -> str:
        """Why the band does not hold for this run; empty if it does."""
        if self.config.force:
            return ""
        found = differences(band.relevant, relevant(run.config.public_tables()), run.config.explicit)
        every = run.config.run.log_every_steps
        if every > band.smooth_steps:  # a row is an average over more than the band was smoothed by
            found.append(f"run.log_every_steps {band.log_every_steps} -> {every}")
        if not found:
            return ""
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"band does not apply: {', '.join(found[:SHOWN])}{more}"

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> Mapping[str, Any] | None:
        return self._state if self._comparison is None else self._comparison.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = state


def beside_preset(config: Config) -> Path | None:
    """Where the band of the preset would be that a run was started with; None without such a file."""
    try:
        preset = find_preset(config.source)
    except (UsageError, OSError):
        return None
    return preset.with_name(f"{config.name}.band.json") if isinstance(preset, Path) else None
