"""A check of a data set, from its images to a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bigrun.data.check.duplicates import find_copies
from bigrun.data.check.examine import examine_all
from bigrun.data.check.finding import Finding, Intensity
from bigrun.data.check.images import Images
from bigrun.data.check.judge import bad_images, constant_images, duplicates, kinds_of_images, left_out
from bigrun.data.check.parts import division_of, people_of, split_findings
from bigrun.data.check.problems import accept, ask_problems
from bigrun.data.check.report import Report
from bigrun.data.check.tally import Tally
from bigrun.data.faults import allowed
from bigrun.data.split.groups import groups_of
from bigrun.data.split.manifest import Split
from bigrun.data.subset import known_faults

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.dataset import Dataset
    from bigrun.data.split.make import Division
    from bigrun.run import Run

__all__ = ["Checked", "check_data"]


@attrs.frozen(eq=False)
class Checked:
    """A report, and what more of it could be shown."""

    report: Report
    images: Images
    tally: Tally


def check_data(run: Run, source: str, *, sample: int | None = None, workers: int | None = None) -> Checked:
    """Decode the images of a run's data set and judge them.

    Args:
        run: with its data set whole, as `bigrun.data.source.data_run` makes it.
        source: what the report calls it.
        sample: so many images instead of all.
        workers: processes; None: one for each core.

    Raises:
        BigrunError: the split cannot be read or applied, a process died.
    """
    from bigrun.parallel import default_workers
    from bigrun.progress import progress

    began, dataset, config = time.perf_counter(), run.dataset, run.config.data
    split = None if config.split is None else Split.load(config.split)
    keys = None if split is None else groups_of(dataset, split.level, "data.split")
    division = None if split is None or keys is None else division_of(split, keys)
    images = Images(dataset, run.config.model.in_channels)
    numbers = images.sample(len(images) if sample is None else sample)
    names, sets = images.sets()
    tally = Tally(names, [intensity_of(dataset, name) for name in names])
    processes = default_workers(len(numbers)) if workers is None else workers
    with progress("checking", len(numbers)) as advance:
        for examined in examine_all(images, numbers.tolist(), sets, processes):
            tally.add(examined, sets)
            advance(len(examined.seen))
    copies = find_copies(images, tally, sets, processes)
    known = faults_below(dataset)
    bad = [*known, *((images.describe(seen.number), seen.cause or "other", seen.message) for seen in tally.bad)]
    report = Report(
        source=source,
        root=None if images.files is None else str(images.files.root),
        samples=len(dataset),
        images=len(images),
        checked=len(numbers),
        sets=dict(zip(tally.names, np.bincount(sets, minlength=len(names)).tolist(), strict=True)),
        kinds=tally.rows(),
        bad=bad,
        division=division,
        people={} if split is None or keys is None else people_of(dataset, split, keys),
        findings=list(accept(judge(run, images, tally, copies, bad, division, keys), config.accept_findings)),
        seconds=time.perf_counter() - began,
    )
    return Checked(report, images, tally)


def judge(
    run: Run,
    images: Images,
    tally: Tally,
    copies: tuple[list[npt.NDArray[np.int64]], str],
    bad: Sequence[tuple[str, str, str]],
    division: Division | None,
    keys: npt.NDArray[np.object_] | None,
) -> list[Finding]:
    """All findings, those that refuse first.

    Args:
        copies: groups of equal images, and how they were found.
        keys: (samples,) the group of each sample at the split's level.
    """
    split = None if division is None else division.split
    of_images = None if split is None or keys is None else images.groups(split.level, keys)
    checked = tally.checked + len(bad) - len(tally.bad)  # what is known to be bad was looked at before
    findings = [
        *bad_images(bad, checked, allowed(run.config.data.max_bad_fraction, checked)),
        *([] if tally.checked < len(images) else left_out(images.left_out_wrongly())),
        *ask_problems(run.dataset),
        *duplicates(*copies, images.describe, split, of_images),
        *constant_images(tally.constant, images.describe),
        *kinds_of_images(tally.rows()),
        *([] if division is None or keys is None else split_findings(run.dataset, division, keys)),
    ]
    return sorted(findings, key=lambda finding: not finding.refuses)


def intensity_of(dataset: Dataset, name: str) -> Intensity | None:
    """What the data set says of the stored values of one of its parts."""
    intensity: Any = getattr(dataset, "intensity", None)
    answer: Intensity | None = None if intensity is None else intensity(name)
    return answer


def faults_below(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Path, cause and message of files that were bad when the data set was opened, paths below its root."""
    files = getattr(dataset, "files", None)
    return [(below(fault.path, files), fault.cause, fault.message) for fault in known_faults(dataset)]


def below(path: str, files: Any) -> str:
    if files is not None and Path(path).is_relative_to(files.root):
        return str(Path(path).relative_to(files.root))
    return path
