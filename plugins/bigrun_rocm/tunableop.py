"""TunableOp in a run: it measures for some steps, then only uses what it knows; results outlive the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.devices import DeviceFacts, Planned, Setting
from bigrun.errors import UsageError
from bigrun_rocm.results_file import disagreements, read_results, repair, results_key

__all__ = ["TunableOp", "prepare", "validators_now"]

COPY = "tunableop.csv"
"""In the plugin's folder of the run directory."""
FILENAME = "PYTORCH_TUNABLEOP_FILENAME"


def validators_now() -> dict[str, str]:
    """The versions that torch would write into a file; nothing where it cannot say yet."""
    import torch.cuda.tunable as tunable

    try:
        pairs: Any = tunable.get_validators()  # of names and values, whatever its annotation says
        return dict(pairs)
    except (AttributeError, RuntimeError):
        return {}


def prepare(path: Path, copy: Path, validators: Mapping[str, str]) -> list[str]:
    """Make the file one that torch will take; returns what was done, in words.

    Args:
        copy: what the run has kept of an earlier process, which serves where the file is gone or never was: on another
            machine with the same GPU and versions.
        validators: what torch says now.
    """
    done = []
    if path.exists() and repair(path):
        done.append(f"{path}: its last line was not written to its end, and is cut off")
    if path.exists() and (other := disagreements(read_results(path).validators, validators)):
        aside = path.with_suffix(".rejected")
        path.replace(aside)
        done.append(f"{path}: torch would not take it ({', '.join(other)}); it is now {aside.name}")
    if not path.exists() and copy.exists():
        results = read_results(copy)
        if results.solutions and not disagreements(results.validators, validators):
            shutil.copyfile(copy, path)
            repair(path)
            done.append(f"{len(results.solutions)} results of the run's own copy {copy} are taken")
    return done


class TunableOp:
    """Enables it for a run, and gives it back as it was.

    Results are kept in a cache of the user, in a folder for each GPU architecture and versions: they take minutes to
    measure, hold for every run of that machine, and for no other version. The run directory has a copy, so that a run
    that is moved, or whose cache was removed, goes on with the same kernels.
    """

    def __init__(self, facts: DeviceFacts, root: Path, copy_folder: Path) -> None:
        """
        Args:
            root: of the cache.
            copy_folder: of the run directory; made when there is something to copy.
        """
        self._validators = validators_now()
        self.path = root / "tunableop" / results_key(facts, self._validators) / f"results-{facts.index or 0}.csv"
        self._copy = copy_folder / COPY
        self._before: tuple[bool, bool, str] | None = None
        self._tunes = False
        self.is_ours = False
        """Whether results are kept in `path`; else TunableOp is off, or the environment says where."""
        self.notes: list[str] = []
        """What was done to files."""

    @property
    def tunes(self) -> bool:
        """Whether new shapes are measured, and this plugin is to end that."""
        return self._tunes

    def start(self, enabled: Planned, tuning: Planned) -> list[Setting]:
        """Set up what is not left alone; the file first, for torch reads it once."""
        import torch.cuda.tunable as tunable

        try:
            before = (tunable.is_enabled(), tunable.tuning_is_enabled(), tunable.get_filename())
        except AttributeError as error:
            told = f"this torch has no TunableOp: {error}"
            both = (enabled, tuning)
            return [Setting(p.name, None, p.value, False if p.is_on else None, told, p.is_custom) for p in both]
        self._before = before
        rows = []
        if enabled.is_on:
            rows.append(self._start_file())
        if not enabled.is_left_alone:
            tunable.enable(enabled.is_on)
        if not tuning.is_left_alone:
            tunable.tuning_enable(tuning.is_on)
        self._tunes = not tuning.is_left_alone and tuning.is_on
        now = (tunable.is_enabled(), tunable.tuning_is_enabled())
        for planned, was, is_now in zip((enabled, tuning), before, now, strict=False):
            took = None if planned.is_left_alone else is_now == planned.is_on
            evidence = f"torch.cuda.tunable says {_on(is_now)}; {planned.reason}"
            after = planned.value or _on(is_now)
            rows.append(Setting(planned.name, _on(bool(was)), after, took, evidence, planned.is_custom))
        return rows

    def _start_file(self) -> Setting:
        import torch.cuda.tunable as tunable

        before = tunable.get_filename()
        name = "TunableOp results"
        if FILENAME in os.environ:
            told = f"{FILENAME} is {os.environ[FILENAME]!r} in the environment"
            return Setting(name, before, before, None, told, is_custom=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.notes += prepare(self.path, self._copy, self._validators)
        except OSError as error:
            raise UsageError(
                f"TunableOp's results cannot be kept in {self.path.parent} ({error.strerror}): set "
                "plugins.rocm-tuning.cache_directory to a folder that you may write, or tunableop = false"
            ) from error
        tunable.set_filename(str(self.path), insert_device_ordinal=False)
        self.is_ours = True
        after, known = tunable.get_filename(), len(read_results(self.path).solutions)
        evidence = f"get_filename() is {Path(after).name}; {known} results are known"
        return Setting(name, before, str(self.path), after == str(self.path), evidence)

    def freeze(self) -> str:
        """Measure no more; returns what is known now, in words."""
        import torch.cuda.tunable as tunable

        tunable.tuning_enable(False)
        self._tunes = False
        told = f"TunableOp knows {len(tunable.get_results())} shapes and measures no more"
        if not self.is_ours:
            return told
        on_disk = read_results(self.path)
        told = f"{told}; {self.path} has {len(on_disk.solutions)}"
        other = disagreements(on_disk.validators, validators_now())
        return f"{told}. The next run will not take them: {', '.join(other)}" if other else told

    def keep_copy(self) -> None:
        """Copy the results to the run directory, where they changed; torch writes each as soon as it is measured."""
        if not self.path.is_file():
            return
        if self._copy.is_file() and self._copy.stat().st_size == self.path.stat().st_size:
            return
        self._copy.parent.mkdir(parents=True, exist_ok=True)
        beside = self._copy.with_suffix(".tmp")
        shutil.copyfile(self.path, beside)
        beside.replace(self._copy)

    def stop(self) -> None:
        """Give it back as it was."""
        if self._before is None:
            return
        import torch.cuda.tunable as tunable

        enabled, tuning, filename = self._before
        self._before, self._tunes = None, False
        tunable.enable(enabled)
        tunable.tuning_enable(tuning)
        tunable.set_filename(filename)


def _on(value: bool) -> str:
    return "on" if value else "off"
