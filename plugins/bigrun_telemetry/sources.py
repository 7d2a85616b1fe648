"""All sources of telemetry that this machine has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bigrun.events import Event
from bigrun_telemetry.amd_smi import AmdSmi
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.host import Host
from bigrun_telemetry.nvml import Nvml
from bigrun_telemetry.reader import Reader
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.source import Source
from bigrun_telemetry.sysfs import Sysfs

__all__ = ["Sources", "openers"]

Opener = Callable[[], Reader]


def openers(gpu: Gpu | None, directory: Path) -> dict[str, Opener]:
    """What to read, in the order in which sources are believed: sysfs first on an APU, of which amdsmi knows little."""
    host: dict[str, Opener] = {Host.name: lambda: Host(directory)}
    if gpu is None:
        return host
    if gpu.vendor == "nvidia":
        return {Nvml.name: lambda: Nvml(gpu), **host}
    sysfs: dict[str, Opener] = {Sysfs.name: lambda: Sysfs(gpu)}
    amdsmi: dict[str, Opener] = {AmdSmi.name: lambda: AmdSmi(gpu)}
    return {**sysfs, **amdsmi, **host} if gpu.is_integrated else {**amdsmi, **sysfs, **host}


class Sources:
    """Reads every source. One that cannot be opened, fails or does not answer is said once, and tried again."""

    def __init__(
        self, openers: dict[str, Opener], say: Callable[[Event], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources = [Source(name, opener, say, clock) for name, opener in openers.items()]
        missing = [(source, why) for source in self._sources if (why := source.open()) is not None]
        for source, why in missing:
            others = ", ".join(self.names) or "none"
            source.tell("missing", f"telemetry reads no {source.name}: {why}. What is read: {others}", "warning")

    @property
    def names(self) -> Sequence[str]:
        """Of the sources that give answers."""
        return [source.name for source in self._sources if source.is_there]

    def read(self) -> Sample:
        """What all of them know; of a quantity that several know, what the first says."""
        sample = Sample()
        for source in self._sources:
            sample = sample.filled(source.read())
        return sample

    def close(self) -> None:
        """Release what the sources hold."""
        for source in self._sources:
            source.close()
