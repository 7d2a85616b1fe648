"""The files of a run's data set that cannot be used: told once each, counted, kept in checkpoints, and too many."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.data.faults import BadImageError, Fault, allowed
from bigrun.directory import replace_file
from bigrun.errors import DataError, RunDirectoryError
from bigrun.links import open_append

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.files.entry import Files
    from bigrun.run import Run

__all__ = ["BAD_IMAGES", "METRIC", "BadImages"]

BAD_IMAGES = "bad-images.jsonl"
"""The list in a run directory: one JSON object per file."""
METRIC = "bad_images"
SHOWN = 20


class BadImages:
    """Every file that could not be used so far, by its path in the data set."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self._new: list[Fault] = []
        """Other processes do not know of them yet."""
        self._list_failed = False

    def begin(self, run: Run) -> None:
        """Before the first step: count what is known of the data set, and forget what a checkpoint says of files that
        have been repaired since.

        Raises:
            DataError: more of it is bad than may be.
        """
        at_start = self._at_start(run)
        before = self.faults
        self.faults = {path: fault for path, fault in before.items() if path in at_start or is_still_bad(run, fault)}
        repaired = [path for path in before if path not in self.faults]
        if repaired:
            names = ", ".join(repaired[:3]) + (", ..." if len(repaired) > 3 else "")
            text = f"{len(repaired):,} files that could not be used can be now, or are gone: {names}"
            run.event("images-repaired", text, files=len(repaired))
        self._begin_list(run)
        self._add(run, at_start.values())
        self.check(run)
        self._new = []  # all processes have read the same

    def meet(self, run: Run, faults: Iterable[Fault]) -> None:
        """Tell of each file that is new, write it down, and stop the run when there are too many.

        Raises:
            DataError: more than `data.max_bad_fraction` of the data set's files cannot be used.
        """
        if self._add(run, faults):
            self.check(run)

    def take_new(self) -> list[Fault]:
        """Those that were met here since this was asked last."""
        new, self._new = self._new, []
        return new

    def learn(self, run: Run, faults: Iterable[Fault]) -> None:
        """Count what another process has met, and has told of; see `check`."""
        new = [fault for fault in faults if fault.path not in self.faults]
        self.faults.update({fault.path: fault for fault in new})
        self._append(run, new)

    def _add(self, run: Run, faults: Iterable[Fault]) -> bool:
        """Whether there are new ones among them."""
        new: dict[str, Fault] = {}
        for fault in faults:
            if (path := key(run, fault.path)) not in self.faults:
                new[path] = self.faults[path] = attrs.evolve(fault, path=path)
        for fault in new.values():
            taken = "" if fault.replacement is None else f"; {name_of(run, fault.replacement)} takes its place"
            facts = {name: value for name, value in attrs.asdict(fault).items() if name != "message"}
            run.event("image-skipped", f"skipped {fault.message}{taken}", "warning", **facts)
        self._append(run, new.values())
        self._new += new.values()
        return bool(new)

    def check(self, run: Run) -> None:
        """Raises: DataError: more than `data.max_bad_fraction` of the data set's files cannot be used."""
        if len(self.faults) > limit(run):
            raise DataError(too_many(run, self.faults.values()))

    def record(self, run: Run) -> None:
        """Record their number as a metric, once there are any."""
        if self.faults:
            run.metrics.record(METRIC, len(self.faults))

    def facts(self) -> list[dict[str, Any]]:
        """What a checkpoint says of them."""
        return [attrs.asdict(fault) for fault in self.faults.values()]

    def restore(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Take over a checkpoint's facts."""
        self.faults = {fact["path"]: Fault(**fact) for fact in facts}

    def line(self, run: Run) -> str | None:
        """What the header says of them; None where none is known."""
        faults = list({**self._at_start(run), **self.faults}.values())
        if not faults:
            return None
        most = limit(run)
        text = f"{len(faults):,} cannot be used ({by_cause(faults)}; first {faults[0].path}), at most {most:,} may be"
        stops = ", so that a run stops at its start" if len(faults) > most else ""
        return f"{text}{stops} (data.max_bad_fraction)"

    def outcome(self, run: Run) -> str | None:
        """What is said of them when the run is over; None where there was none."""
        if not self.faults:
            return None
        return f"{len(self.faults):,} cannot be used ({by_cause(self.faults.values())}); {run.directory / BAD_IMAGES}"

    def _at_start(self, run: Run) -> dict[str, Fault]:
        return {(path := key(run, fault.path)): attrs.evolve(fault, path=path) for fault in known_bad(run)}

    def _begin_list(self, run: Run) -> None:
        path = run.directory / BAD_IMAGES
        if run.is_main and (self.faults or path.exists()):
            lines = "".join(line_of(run, fault) for fault in self.faults.values())
            with self._told(run):
                replace_file(path, lines.encode())

    def _append(self, run: Run, faults: Collection[Fault]) -> None:
        if faults and run.is_main and run.directory.is_dir():
            with self._told(run), open_append(run.directory / BAD_IMAGES) as file:
                file.write("".join(line_of(run, fault) for fault in faults))

    @contextlib.contextmanager
    def _told(self, run: Run) -> Any:
        """No run ends because its list of bad files cannot be written."""
        try:
            yield
        except (OSError, RunDirectoryError) as error:
            if not self._list_failed:
                run.event("bad-images-unwritten", f"{BAD_IMAGES} cannot be written: {error}", "warning")
            self._list_failed = True


def known_bad(run: Run) -> list[Fault]:
    """Files that the whole data set knew to be bad when it was made; those of a packed form have numbers."""
    from bigrun.data.subset import known_faults

    whole = undivided(run)
    numbered: Mapping[int, BadImageError] = getattr(getattr(whole, "files", None), "bad", {})
    return [Fault.of(fault) for fault in (*known_faults(whole), *numbered.values())]


def undivided(run: Run) -> Dataset:
    return run.dataset if run.undivided is None else run.undivided


def count_files(run: Run) -> int:
    """Of the whole data set: its files, or its samples where it has none, and those that have no number."""
    from bigrun.data.subset import known_faults

    whole = undivided(run)
    files: Files | None = getattr(whole, "files", None)
    return (len(whole) if files is None else len(files)) + len(known_faults(whole))


def limit(run: Run) -> int:
    """So many files may be bad: a fraction of all of them, and one of however few."""
    return allowed(run.config.data.max_bad_fraction, count_files(run))


def key(run: Run, path: str) -> str:
    """A file's path in the data set, wherever that lies."""
    root = run.config.data.path
    return path if root is None else path.removeprefix(root.rstrip("/") + "/")


def is_still_bad(run: Run, fault: Fault) -> bool:
    from bigrun.data.decoder import usable

    if fault.number is None or fault.number >= len(run.dataset):
        return False
    try:
        usable(run.dataset, fault.number, run.config.model.in_channels)
    except DataError as error:
        return key(run, Fault.of(error, name_of(run, fault.number)).path) == fault.path
    return False


def name_of(run: Run, number: int) -> str:
    from bigrun.data.decoder import name_of

    return name_of(run.dataset, number)


def line_of(run: Run, fault: Fault) -> str:
    return json.dumps(run.config.redactor().value(attrs.asdict(fault))) + "\n"


def by_cause(faults: Iterable[Fault]) -> str:
    counts = Counter(fault.cause for fault in faults)
    return ", ".join(f"{count:,} {cause}" for cause, count in counts.most_common())


def too_many(run: Run, faults: Collection[Fault]) -> str:
    """The message of a run that stops."""
    shown = [f"  {fault.message}" for fault in list(faults)[:SHOWN]]
    more = [f"  and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return "\n".join(
        [
            f"{len(faults):,} of {count_files(run):,} files cannot be used ({by_cause(faults)}), more than the "
            f"{limit(run):,} that data.max_bad_fraction = {run.config.data.max_bad_fraction:g} allows:",
            *shown,
            *more,
            f"all that were met so far are in {run.directory / BAD_IMAGES}. Repair them, or put other images in the "
            "place of those that have a number (with more or fewer images a run does not go on), or raise "
            "data.max_bad_fraction; the same command continues",
        ]
    )
