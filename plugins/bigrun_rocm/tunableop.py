"""TunableOp in a run: it measures for some steps, then only uses what it knows; results outlive the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigrun.devices import DeviceFacts, Planned, Setting
from bigrun.errors import UsageError
from bigrun_rocm.numerical_check import apply_check
from bigrun_rocm.results_file import disagreements, read_results, repair, results_key
from bigrun_rocm.warm_up import WarmUp

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
        done.append(put_aside(path, ", ".join(other)))
    if not path.exists() and copy.exists():
        results = read_results(copy)
        if results.solutions and not disagreements(results.validators, validators):
            shutil.copyfile(copy, path)
            repair(path)
            done.append(f"{len(results.solutions)} results of the run's own copy {copy} are taken")
    return done


def put_aside(path: Path, why: str) -> str:
    """Out of torch's way, which would add to it, and take nothing of it the next time; returns what was done."""
    aside = path.with_suffix(".rejected")
    path.replace(aside)
    return f"{path}: torch would not take it ({why}); it is now {aside.name}"


def write_results(path: Path) -> None:
    """Where torch itself does not write each result at once: before 2.10, which has a function for it."""
    import torch.cuda.tunable as tunable

    write: Callable[[str], bool] | None = getattr(tunable, "write_file", None)
    if write is not None:
        write(str(path))


class TunableOp:
    """Enables it for a run, and gives it back as it was.

    Results are kept in a cache of the user, in a folder for each GPU architecture and versions: they take minutes to
    measure, hold for every run of that machine, and for no other version. The run directory has a copy, so that a run
    that is moved, or whose cache was removed, goes on with the same kernels.
    """

    def __init__(self, facts: DeviceFacts, root: Path, copy_folder: Path, warm_up: WarmUp) -> None:
        """
        Args:
            root: of the cache.
            copy_folder: of the run directory; made when there is something to copy.
            warm_up: how long new shapes are measured.
        """
        self._validators = validators_now()
        self.path = root / "tunableop" / results_key(facts, self._validators) / f"results-{facts.index or 0}.csv"
        self._copy = copy_folder / COPY
        self._warm_up = warm_up
        self._before: tuple[bool, bool, str] | None = None
        self._undo_check: Callable[[], None] | None = None
        self._tunes = False
        self.is_ours = False
        """Whether results are kept in `path`; else TunableOp is off, or the environment says where."""
        self.notes: list[str] = []
        """What was done to files."""

    def start(self, enabled: Planned, tuning: Planned, check: Planned, precision: str) -> list[Setting]:
        """Set up what is not left alone; the file first, for torch reads it once.

        Raises:
            UsageError: results cannot be kept.
        """
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
            row, self._undo_check = apply_check(check, precision)
            rows.append(row)
        if not enabled.is_left_alone:
            tunable.enable(enabled.is_on)
        if not tuning.is_left_alone:
            tunable.tuning_enable(tuning.is_on)
        self._tunes = not tuning.is_left_alone and tuning.is_on
        if self._tunes:
            self._warm_up.known = len(tunable.get_results())
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
            known = len(read_results(self.path).solutions)
            tunable.set_filename(str(self.path), insert_device_ordinal=False)
            if known and not tunable.read_file(str(self.path)):
                self.notes.append(put_aside(self.path, "read_file() is False"))
                known = 0
        except OSError as error:
            raise UsageError(
                f"TunableOp's results cannot be kept in {self.path.parent} ({error.strerror}): set "
                "plugins.rocm-tuning.cache_directory to a folder that you may write, or tunableop = false"
            ) from error
        self.is_ours = True
        after = tunable.get_filename()
        evidence = f"get_filename() is {Path(after).name}, of which torch has taken {known} results"
        return Setting(name, before, str(self.path), after == str(self.path), evidence)

    def is_warm_after_step(self) -> bool:
        """To be asked once after each step: whether new shapes have been measured so far, and no more shall be."""
        import torch.cuda.tunable as tunable

        return self._tunes and self._warm_up.after_step(len(tunable.get_results()))

    def freeze(self) -> tuple[str, dict[str, Any]]:
        """Measure no more; returns what is known now, in words and as facts.

        Raises:
            OSError: the file cannot be written.
        """
        import torch.cuda.tunable as tunable

        tunable.tuning_enable(False)
        self._tunes = False
        warm_up, known = self._warm_up, len(tunable.get_results())
        facts = {"shapes": known, "steps": warm_up.steps, "shapes_of_last_step": warm_up.added_last}
        steps = "a step" if warm_up.steps == 1 else f"{warm_up.steps} steps"
        told = f"TunableOp knows {known} shapes after {steps} and measures no more"
        if warm_up.was_cut_short:
            told += f", although {warm_up.added_last} of them came in the last one: others have torch's default kernels"
        if not self.is_ours:
            return told, facts
        write_results(self.path)
        on_disk = read_results(self.path)
        told = f"{told}; {self.path} has {len(on_disk.solutions)}"
        other = disagreements(on_disk.validators, validators_now()) if on_disk.solutions else []
        return (f"{told}. The next run will not take them: {', '.join(other)}" if other else told), facts

    def keep_copy(self) -> None:
        """Copy the results to the run directory, where they changed.

        Raises:
            OSError: a file cannot be written.
        """
        if self._tunes:
            write_results(self.path)
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
        if self._undo_check is not None:
            self._undo_check()


def _on(value: bool) -> str:
    return "on" if value else "off"
