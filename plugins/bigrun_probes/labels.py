"""Where labels come from: folders, what the data set knows of its samples, or a table."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bigrun.data.files.paths import locate
from bigrun.data.formats.opening import open_regular
from bigrun.data.split.groups import known_groups, levels_of
from bigrun.data.split.rule import normal
from bigrun.errors import DataError, UsageError
from bigrun_probes.config import FOLDER, TABLE
from bigrun_probes.names import are_files, root_of, sample_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bigrun.data.dataset import Dataset
    from bigrun_probes.config import ProbesConfig

__all__ = ["labels_of", "level_of_each", "read_table"]

COLUMNS = ["path", "label"]
SHOWN = 3


def labels_of(
    config: ProbesConfig, dataset: Dataset, names: Sequence[str], whole: Dataset | None
) -> list[str | None] | None:
    """The label of each sample, None for one that has none and is left out; None where no labels are asked for.

    Args:
        names: of the samples.
        whole: the data set that `dataset` is a part of; a table may name all its samples.

    Raises:
        UsageError: they cannot be had.
    """
    if config.labels_file is not None:
        require_files(dataset, "labels_file")
        return table_labels(Path(config.labels_file), names, names if whole is None else sample_names(whole))
    if config.labels == FOLDER:
        require_files(dataset, "labels")
        home = Path(root_of(dataset) or "").resolve().name
        return [PurePosixPath(name).parent.name or home for name in names]
    if config.labels is not None:
        return level_of_each(dataset, config.labels, "labels")
    return None


def level_of_each(dataset: Dataset, level: str, option: str) -> list[str | None]:
    """The patient, study or series of each sample.

    Raises:
        UsageError: the data set does not know it.
    """
    known = levels_of(dataset)
    if level not in known:
        has = ", ".join(name for name in known if name not in (FOLDER, "image")) or "none of patient, study and series"
        raise UsageError(
            f"{TABLE}.{option}: {type(dataset).__name__} does not know the {level} of its samples, but {has}"
        )
    return list(known_groups(dataset, level, f"{TABLE}.{option}"))


def require_files(dataset: Dataset, option: str) -> None:
    if not are_files(dataset):
        raise UsageError(
            f"{TABLE}.{option}: the samples of {type(dataset).__name__} are no files that lie in a folder; use labels "
            "that the data set knows (patient, study, series), or a folder of images of your own (path)"
        )


def table_labels(file: Path, names: Sequence[str], known: Sequence[str]) -> list[str | None]:
    table = read_table(file)
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise UsageError(
            f"{file}: {len(unknown):,} of {len(table):,} paths are no image of the data set, the first: "
            f"{', '.join(unknown[:SHOWN])}; expected paths relative to its folder, as {known[0] if known else '-'}"
        )
    return [table.get(name) for name in names]


def read_table(file: Path) -> dict[str, str]:
    """Path -> label of a CSV file with a first line `path,label`, UTF-8. No path in it is ever opened.

    Raises:
        UsageError: it cannot be read; naming the line, a path leaves the folder, a label is missing or contradicts
            another.
    """
    labels: dict[str, str] = {}
    for number, path, label in rows(file):
        where = f"{file}, line {number}"
        try:
            locate(Path(), path, confined=False)
        except DataError as error:
            raise UsageError(f"{where}: {error}; expected a path relative to the folder of the images") from None
        key = normal(str(PurePosixPath(path)))
        if not path or not label:
            raise UsageError(f"{where}: expected a path and a label, got {path!r} and {label!r}; leave the line out")
        if labels.setdefault(key, label) != label:
            raise UsageError(f"{where}: {path} is {label!r} here and {labels[key]!r} in an earlier line")
    if not labels:
        raise UsageError(f"{file}: no labels: there is nothing below its first line")
    return labels


def rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, path and label of each row."""
    try:
        with open_regular(str(file)) as raw:
            lines = csv.reader((line.decode("utf-8") for line in raw), strict=True)
            header = [name.strip().removeprefix("\ufeff").lower() for name in next(lines, [])]
            if any(name not in header for name in COLUMNS):
                got = ",".join(header)[:80]
                raise UsageError(f"{file}: expected the first line {','.join(COLUMNS)}, got {got!r}")
            path, label = (header.index(name) for name in COLUMNS)
            for row in lines:
                if not row:
                    continue
                if len(row) <= max(path, label):
                    raise UsageError(f"{file}, line {lines.line_num}: expected {len(header)} values, got {len(row)}")
                yield lines.line_num, row[path].strip(), row[label].strip()
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: no CSV file in UTF-8: {error}") from None
    except (DataError, OSError) as error:
        raise UsageError(f"{TABLE}.labels_file: {error}") from None
