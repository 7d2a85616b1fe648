"""What the samples of a whole process come to, in little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bigrun.events import Level
from bigrun_telemetry.board import LEVELS, Change
from bigrun_telemetry.sample import Sample

__all__ = ["Distribution", "Summary"]

JOULES_PER_KWH = 3.6e6


class Distribution:
    """Values, rounded to whole units and counted: of 15 days that is a few hundred numbers."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.last: float | None = None

    def add(self, value: float | None) -> None:
        if value is not None:
            self._counts[round(value)] += 1
            self.last = value

    def quantile(self, fraction: float) -> float | None:
        """The smallest value that at least this fraction does not exceed."""
        left = fraction * self._counts.total()
        for value in sorted(self._counts):
            left -= self._counts[value]
            if left <= 1e-9:
                return float(value)
        return None

    @property
    def mean(self) -> float | None:
        total = self._counts.total()
        return sum(value * count for value, count in self._counts.items()) / total if total else None


class Summary:
    """Feed it with every sample and every change of a flag."""

    def __init__(self) -> None:
        self.celsius, self.watts, self.clock_mhz = Distribution(), Distribution(), Distribution()
        self.fan_percent = Distribution()
        self.samples_with_throttle = 0
        self.throttle: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.worst: dict[str, Level] = {}
        self.last: Sample | None = None
        self._counter_joules: float | None = None
        self._joules = 0.0

    def add(self, sample: Sample, changes: Sequence[Change]) -> None:
        self.celsius.add(sample.gpu_temperature_celsius)
        self.watts.add(sample.gpu_power_watts)
        self.clock_mhz.add(sample.gpu_clock_mhz)
        self.fan_percent.add(None if sample.gpu_fan_fraction is None else 100 * sample.gpu_fan_fraction)
        if sample.gpu_throttle is not None:
            self.samples_with_throttle += 1
            self.throttle.update(sample.gpu_throttle)
        for change in changes:
            flag, level = change.finding.flag, change.finding.level
            self.flags[flag] += change.state == "began"
            self.worst[flag] = max(self.worst.get(flag, "info"), level, key=LEVELS.index)
        self._add_energy(sample)
        self.last = sample

    def _add_energy(self, sample: Sample) -> None:
        """By the driver's counter, or else power times time."""
        if sample.gpu_energy_joules is not None:
            if self._counter_joules is not None:  # a driver that was loaded again counts from 0
                self._joules += max(sample.gpu_energy_joules - self._counter_joules, 0.0)
            self._counter_joules = sample.gpu_energy_joules
        elif self.last is not None and sample.gpu_power_watts is not None:
            seconds = (sample.elapsed_seconds or 0.0) - (self.last.elapsed_seconds or 0.0)
            self._joules += sample.gpu_power_watts * seconds

    @property
    def energy_kwh(self) -> float:
        """That the GPU has used since telemetry began."""
        return self._joules / JOULES_PER_KWH
