"""A reason to look at a run."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

__all__ = ["Gravity", "Reason", "by_gravity", "one_line"]


class Gravity(enum.IntEnum):
    """What a person should read first."""

    ENDED = 0
    """What has ended the run."""
    STANDS = 1
    """It does not move."""
    LASTS = 2
    """An anomaly that lasts: what is learned is in danger."""
    UNSAVED = 3
    """A crash would cost more than it should."""
    PASSED = 4
    """Steps were skipped, or the run went back."""
    ALARM = 5
    """It is much slower than it could be, or the machine is in danger."""
    BROKEN = 6
    """Something has failed that training does not need."""
    BEGAN_AGAIN = 7
    """It crashed or hung, and goes on."""
    WARNING = 8
    """It is slower than it could be."""
    SECTION = 9
    """A section of the health report has failed."""
    NOTE = 10
    """Worth knowing, nothing to do: it leaves the level as it is."""


def one_line(text: str) -> str:
    """The text without line breaks and runs of blanks."""
    return " ".join(text.split())


@attrs.frozen
class Reason:
    """One thing that is wrong with a run, or was."""

    gravity: Gravity
    text: str = attrs.field(converter=one_line)
    """In plain words, the trouble first; one line."""
    advice: tuple[str, ...] = ()
    """What to try, likely ones first; where the run says so."""
    causes: tuple[str, ...] = ()
    """Where it may come from."""
    kind: str = ""
    """The kind of event or anomaly, or the name of the flag; "" for what was found otherwise."""
    step: int | None = None


def by_gravity(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The gravest first, in their order otherwise."""
    return tuple(sorted(reasons, key=lambda reason: reason.gravity))
