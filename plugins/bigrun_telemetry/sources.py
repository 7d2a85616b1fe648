"""All sources of telemetry that this machine has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bigrun.events import Event
from bigrun_telemetry.amd_smi import AmdSmi
from bigrun_telemetry.bounded import Bounded
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.host import Host
from bigrun_telemetry.nvml import Nvml
from bigrun_telemetry.reader import Reader, Unavailable
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.sysfs import Sysfs

__all__ = ["Sources", "openers"]

READ_SECONDS = 5.0
"""A driver answers in milliseconds; one whose GPU has fallen off the bus may not answer at all."""

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
    """Reads every source. One that cannot be opened, fails or does not answer is said once, and left out."""

    def __init__(self, openers: dict[str, Opener], say: Callable[[Event], None]) -> None:
        self._say = say
        self._readers: list[Reader] = []
        self._calls: dict[str, Bounded[Sample]] = {}
        missing = []
        for name, open_reader in openers.items():
            try:
                self._readers.append(open_reader())
            except Unavailable as why:
                missing.append((name, str(why)))
            except Exception as error:  # of a library, which may raise anything
                missing.append((name, f"{type(error).__name__}: {error}"))
        for name, reason in missing:
            others = ", ".join(self.names) or "none"
            self._left_out(name, f"telemetry reads no {name}: {reason}. What is read: {others}")

    @property
    def names(self) -> Sequence[str]:
        """Of the sources that are read."""
        return [reader.name for reader in self._readers]

    def read(self) -> Sample:
        """What all of them know; of a quantity that several know, what the first says."""
        sample = Sample()
        for reader in list(self._readers):
            call = self._calls.setdefault(reader.name, Bounded(f"telemetry-{reader.name}", READ_SECONDS))
            try:
                sample = sample.filled(call.call(reader.read))
            except Exception as error:  # of a driver, a library or a file of the kernel: anything
                self._readers.remove(reader)
                self._left_out(
                    reader.name,
                    f"telemetry reads {reader.name} no longer, it failed: {type(error).__name__}: {error}",
                )
                if not isinstance(error, TimeoutError):  # its library still works at the last call
                    close(reader)
        return sample

    def _left_out(self, name: str, message: str) -> None:
        self._say(Event("telemetry-source", message, 0, "warning", {"source": name}))

    def close(self) -> None:
        """Release what the sources hold."""
        for reader in self._readers:
            close(reader)
        self._readers = []


def close(reader: Reader) -> None:
    """A library that does not even close changes nothing any more."""
    try:
        reader.close()
    except Exception:
        return
