"""What plugins have said of their part of the run, as the health report has written it down last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bigrun.links import read_bytes

__all__ = ["read_sections"]

FILE = Path("report") / "sections.json"


def read_sections(run: Path) -> Sequence[Mapping[str, Any]]:
    """The sections; none where there is no such report, or it is damaged: it is written anew every few minutes."""
    try:
        found = json.loads(read_bytes(run / FILE))
    except (OSError, ValueError, RecursionError):
        return ()
    answers = found.get("sections") if isinstance(found, Mapping) else None
    return [answer for answer in answers if isinstance(answer, Mapping)] if isinstance(answers, list) else ()
