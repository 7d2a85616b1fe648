"""`report/sections.json`: what the plugins of a running process have said, for reports that are made from files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from bigrun.directory import replace_file
from bigrun.links import read_bytes
from bigrun.record.pace import whole
from bigrun_report.figures import moment
from bigrun_report.section import Section, read_section

__all__ = ["FOLDER", "Sections", "read_sections", "write_sections"]

FOLDER = "report"
FILE = "sections.json"
MOST_BYTES = 64 * 2**20
MOST_SECTIONS = 100


@attrs.frozen
class Sections:
    """What the plugins have said, and when."""

    sections: tuple[Section, ...] = ()
    pictures: Mapping[str, str] = attrs.field(factory=dict)
    """The newest picture of each series: name -> path below the run directory."""
    time: datetime | None = None
    step: int | None = None
    problem: str = ""
    """Why the file could not be read."""


def write_sections(directory: Path, sections: Sequence[Section], pictures: Mapping[str, str], step: int) -> None:
    """Write the file. Raises RunDirectoryError: it cannot be written."""
    document = {
        "format_version": 1,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "sections": [section.as_json() for section in sections],
        "pictures": dict(pictures),
    }
    replace_file(directory / FOLDER / FILE, json.dumps(document, indent=1).encode())


def read_sections(directory: Path) -> Sections:
    """What the file says, in which nothing is trusted; empty where there is none."""
    try:
        document = json.loads(read_bytes(directory / FOLDER / FILE, MOST_BYTES))
    except FileNotFoundError:
        return Sections()
    except (OSError, ValueError, RecursionError) as error:
        return Sections(problem=f"{FOLDER}/{FILE} cannot be read ({error}): what plugins have said is not shown")
    if not isinstance(document, dict) or not isinstance(document.get("sections"), list):
        return Sections(problem=f"{FOLDER}/{FILE} has another form than expected: what plugins have said is not shown")
    answers = document["sections"][:MOST_SECTIONS]
    sections = tuple(read_section(plugin_of(answer), answer) for answer in answers)
    pictures = document.get("pictures")
    known = {k: v for k, v in pictures.items() if isinstance(v, str)} if isinstance(pictures, dict) else {}
    return Sections(sections, known, moment(document.get("time_utc")), whole(document.get("step")))


def plugin_of(answer: Any) -> str:
    return str(answer.get("plugin", "?")) if isinstance(answer, dict) else "?"
