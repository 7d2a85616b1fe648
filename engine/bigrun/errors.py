"""What can go wrong, and the exit code that says so."""

from __future__ import annotations

import enum
import traceback
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "BigrunError",
    "CheckpointError",
    "ConfigError",
    "DamagedCheckpointError",
    "DataError",
    "DataIndexError",
    "ExitCode",
    "NoImagesError",
    "NotSavedError",
    "PluginError",
    "RunDirectoryError",
    "TornError",
    "TrainingHalted",
    "UnfitDataError",
    "UsageError",
]


class ExitCode(enum.IntEnum):
    """Exit codes of the command line. A stop by signal n exits with 128 + n (SIGINT 130, SIGTERM 143)."""

    FINISHED = 0
    ERROR = 1
    USAGE = 2
    STOPPED = 3
    QUARANTINED = 4
    HALTED = 5
    HUNG = 6
    NO_PROGRESS = 7


class BigrunError(Exception):
    """An error with one clear message for the user; the command line prints it without a traceback."""

    exit_code = ExitCode.ERROR


class UsageError(BigrunError):
    """The command, its options or the configuration cannot be used."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """Problems of a configuration, all at once: (TOML path, what is wrong)."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {path}: {text}" for path, text in problems)]))


class RunDirectoryError(UsageError):
    """The run directory holds something that this run may not touch or cannot continue."""


class DataError(BigrunError):
    """Images cannot be found or read."""


class DataIndexError(DataError):
    """The index or the packed form of a data set cannot be used or cannot be made."""

    exit_code = ExitCode.USAGE


class UnfitDataError(DataError):
    """The data set itself says that it is not fit to be trained on."""

    exit_code = ExitCode.USAGE


class NoImagesError(DataError):
    """The configuration names no images, or none are where it says."""

    exit_code = ExitCode.USAGE


class CheckpointError(BigrunError):
    """A checkpoint is missing, damaged or does not fit."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that a command was given cannot be read, or is not what was written."""

    exit_code = ExitCode.USAGE


class NotSavedError(CheckpointError):
    """The disk has refused a checkpoint: nothing was published, the older ones are as they were."""


class TornError(BigrunError):
    """What all processes do together has failed on one of them."""


class TrainingHalted(BigrunError):
    """An anomaly ended the run."""

    exit_code = ExitCode.HALTED


class PluginError(BigrunError):
    """A critical plugin raised."""

    def __init__(self, plugin: str, hook: str, step: int, cause: BaseException) -> None:
        self.plugin = plugin
        self.hook = hook
        self.step = step
        frames = traceback.extract_tb(cause.__traceback__)
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        text = f"{plugin} failed in {hook} at step {step}: {type(cause).__name__}: {cause}"
        super().__init__(text.rstrip(": ") + place)
