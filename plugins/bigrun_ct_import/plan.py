"""What of an import is still to be done, given what is there. Nothing that is there is replaced by less of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from bigrun.errors import UsageError
from bigrun_ct_import.convert import Task
from bigrun_ct_import.find import Found
from bigrun_ct_import.skips import Skip
from bigrun_ct_import.store import Record

__all__ = ["outdated", "remaining", "replaced"]


def remaining(tasks: Sequence[Task], known: Mapping[str, Record]) -> Iterator[Task | Skip]:
    """The tasks that were not done before, and parts of series of which more is there.

    Raises:
        UsageError: a volume's name that stays is that of another one.
    """
    given = images_by_origin((task.origin, dict(task.images)) for task in tasks)
    names = {task.names.series for task in tasks}
    others: dict[str, list[Record]] = defaultdict(list)
    for record in known.values():
        if record.origin and record.series not in names:
            others[record.origin].append(record)
    for task in tasks:
        there = known.get(task.names.series)
        if isinstance(task.source, Found):
            yield from volume_remaining(task, there)
        elif is_part(task, there, others[task.origin], given[task.origin]):
            yield Skip("part-of-series", task.paths, series=True, images=len(task.images))
        elif there is None or there.how != task.how or not is_within(task, there):
            yield attrs.evolve(task, before=frozenset(there.images if there else ()))


def volume_remaining(task: Task, there: Record | None) -> Iterator[Task]:
    ((place, content),) = task.images
    if there is not None and content not in there.images.values() and place not in there.images:
        raise UsageError(
            f"{task.paths[0]}: would be {task.names.series}, as another volume of an earlier import is: rename the "
            "file, or import it without --keep-names"
        )
    if there is not None and not task.names.patient:  # what an earlier import was told is not forgotten
        task = attrs.evolve(task, names=attrs.evolve(task.names, patient=there.patient))
    made = (there.how, there.patient, content in there.images.values()) if there else ()
    if made != (task.how, task.names.patient, True):
        yield task


def is_part(task: Task, there: Record | None, others: Sequence[Record], given: set[str]) -> bool:
    """Whether a series that is there has images that this import lacks, so that it would lose them or be there twice.

    Args:
        there: the series of the same name.
        others: those of the same DICOM series whose names this import does not give.
        given: all images that it has of the DICOM series.
    """
    if there is not None and there.how == task.how and is_within(task, there):
        return False
    own = {name for name, _ in task.images}
    return (there is not None and not there.images.keys() <= own) or any(
        own & other.images.keys() and not other.images.keys() <= given for other in others
    )


def is_within(task: Task, record: Record) -> bool:
    """Whether a series was made of all these images as they are now, and perhaps of more."""
    return dict(task.images).items() <= record.images.items()


def replaced(tasks: Iterable[Task], records: Mapping[str, Record]) -> list[Record]:
    """Series that are in twice now: their images are in others, made of more of the same DICOM series."""
    names = {task.names.series for task in tasks}
    made = [record for name, record in records.items() if name in names]
    written = images_by_origin((record.origin, record.images) for record in made)
    rest = (record for name, record in records.items() if name not in names and record.origin)
    return [record for record in rest if record.images.keys() <= written[record.origin]]


def outdated(tasks: Iterable[Task], records: Mapping[str, Record]) -> list[Record]:
    """Volumes at whose place there is a file that holds something else now."""
    here = dict(task.images[0] for task in tasks if isinstance(task.source, Found))
    volumes = (record for record in records.values() if not record.origin)
    return [r for r in volumes if any(here.get(place, held) != held for place, held in r.images.items())]


def images_by_origin(pairs: Iterable[tuple[str, Mapping[str, str]]]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for origin, images in pairs:
        found[origin] |= images.keys()
    return found
