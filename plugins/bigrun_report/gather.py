"""The report of a run, gathered once from the files of its directory; who writes it down decides how."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import attrs

from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict
from bigrun.redaction import Redactor
from bigrun_report.belongings import checkpoints_part, provenance_part
from bigrun_report.curves import FEATURES, Curves
from bigrun_report.figures import since
from bigrun_report.hardware import hardware_parts, older_rows
from bigrun_report.parts import Part, Picture, Report, Table, texts_changed
from bigrun_report.pictures import Album
from bigrun_report.progress import facts_of, fraction_of, next_page, progress_part
from bigrun_report.section import Section
from bigrun_report.sections_file import Sections, read_sections
from bigrun_report.story import markers_of, story_part

__all__ = ["gather", "redacted"]

FOUND_PICTURES = 6
"""Of the folders of plugins, where no process has told of its pictures."""


def gather(
    record: RunRecord, *, others: Iterable[Part] = (), redactor: Redactor | None = None, is_replaced: bool = False
) -> Report:
    """The report; files are read, and nothing is written.

    Args:
        others: parts for the end, such as a comparison.
        redactor: that of the run's configuration, where it is known.
        is_replaced: it becomes the page that the run draws again and again.
    """
    now = datetime.now(UTC)
    said = read_sections(record.directory)
    found = verdict(record, [section.as_json() for section in said.sections])
    curves = Curves(record.metrics, said.sections)
    album = Album(record.directory)
    telemetry = [*older_rows(record.directory), *record.telemetry]
    sections = [*section_parts(said, curves, album, now)]
    parts = [
        progress_part(record, now),
        *(curves.part(title) for title in ("Loss", "Learning rate and other schedules")),
        curves.part("Throughput and waiting for data"),
        *hardware_parts(telemetry),
        story_part(record.events),
        curves.part(FEATURES),
        *sections,
        pictures_part(record, said, album),
        curves.others(),
        with_refusals(checkpoints_part(record), record),
        provenance_part(record),
        *others,
    ]
    report = Report(
        title=record.directory.resolve().name,
        level=found.level,
        headline=found.headline,
        reasons=found.reasons,
        made=now,
        parts=tuple(part for part in parts if not part.is_empty),
        markers=markers_of(record.events),
        fraction=fraction_of(record),
        until=next_page(record, now) if is_replaced else "",
        facts=facts_of(record),
    )
    return redacted(report, redactor or Redactor.of_environment())


def redacted(report: Report, redactor: Redactor) -> Report:
    """The report without secrets."""
    changed: Report = texts_changed(report, lru_cache(maxsize=None)(redactor.text))
    return changed


def with_refusals(part: Part, record: RunRecord) -> Part:
    """The part about checkpoints; where a folder of them cannot be read it says so, and not that there is none."""
    if not record.unreadable:
        return part
    texts = [f"{text}: make it readable for the user of this command" for text in record.unreadable]
    return attrs.evolve(part, status="fail", lines=(*texts, *(part.lines if part.tables else ())))


def section_parts(said: Sections, curves: Curves, album: Album, now: datetime) -> Iterator[Part]:
    """What the plugins have said, and how old it is."""
    if said.problem:
        yield Part("What plugins say", "warn", lines=(said.problem,))
        return
    if said.sections:
        step = "" if said.step is None else f" at step {said.step:,}"
        age = f"What the plugins have said{step}, {since(said.time, now)}."
        parts = tuple(section_part(section, curves, album) for section in said.sections)
        yield Part("What plugins say", lines=(age,), parts=parts)


def section_part(section: Section, curves: Curves, album: Album) -> Part:
    charts = [chart for curve in section.curves if (chart := curves.of_section(curve)) is not None]
    missing = sum(1 for curve in section.curves if not curves.matching(curve.metrics))
    notes = [f"{missing} of its curves have no rows in metrics.jsonl yet"] if missing else []
    tables = (Table(section.columns, section.rows),) if section.rows else ()
    pictures = tuple(p for path, caption in section.pictures if (p := album.picture(path, caption)) is not None)
    lines = (*section.lines, *notes, *section.problems)
    return Part(section.title, section.status, lines, tables, tuple(charts), pictures)


def pictures_part(record: RunRecord, said: Sections, album: Album) -> Part:
    """The newest picture of each series that a process has told of; else the newest files of the plugins' folders."""
    named = said.pictures or found_pictures(record.directory, sorted(record.config.get("plugins", {})))
    pictures: list[Picture] = []
    for caption, path in named.items():
        picture = album.picture(path, caption)
        if picture is not None:
            pictures.append(picture)
    return Part("Pictures", pictures=tuple(pictures))


def found_pictures(directory: Path, plugins: Sequence[str]) -> dict[str, str]:
    """The newest PNG files of the folders of plugins, the first one of each folder."""
    found: dict[str, str] = {}
    for plugin in plugins:
        folder = directory / plugin
        if "/" in plugin or plugin in (".", "..") or folder.is_symlink() or not folder.is_dir():
            continue
        newest = sorted(dated_pictures(folder), key=lambda each: (-each[0], each[1].name))[:2]
        found |= {str(path.relative_to(directory)): str(path.relative_to(directory)) for _, path in newest}
    return dict([*found.items()][:FOUND_PICTURES])


def dated_pictures(folder: Path) -> Iterator[tuple[float, Path]]:
    """When each PNG file of a plugin's folder was written; its plugin may remove some meanwhile."""
    for pattern in ("*.png", "*/*.png"):
        with contextlib.suppress(OSError):
            for path in folder.glob(pattern):
                with contextlib.suppress(OSError):
                    yield path.lstat().st_mtime, path
