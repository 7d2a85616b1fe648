"""Numbers, errors and commands as a person reads them."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

__all__ = ["addressed", "duration", "first_words"]

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
COMMAND = re.compile(r"`bigrun [^`]*`")
YEARS, YEAR_SECONDS = 1000, 365 * 86_400


def duration(seconds: float) -> str:
    """Two units at most: `2 d 4 h`, `4 min 10 s`, `0 s`; from ten minutes on no seconds. What nobody will live to see,
    or is no number, is `over 1,000 years`."""
    if not seconds < YEARS * YEAR_SECONDS:
        return f"over {YEARS:,} years"
    rest = round(max(seconds, 0.0))
    for (name, size), (smaller, part) in pairwise(UNITS):
        if rest >= size:
            count, left = divmod(rest, size)
            more = left // part
            return f"{count} {name} {more} {smaller}" if more and (size > 60 or count < 10) else f"{count} {name}"
    return f"{rest} s"


def first_words(text: str) -> str:
    """The first line of an error of several; where that ends in a colon, what is said behind it, and how many lines
    more there are."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first, more = next(iter(lines), ""), lines[1:]
    if not first.endswith(":") or not more:
        return first.rstrip(": ")
    rest = f" (and {len(more) - 1:,} more)" if len(more) > 1 else ""
    return f"{first} {more[0]}{rest}".rstrip(": ")


def addressed(advice: str, run: Path, step: int | None) -> str:
    """A piece of advice whose commands name this run and step instead of RUN and N."""

    def filled(command: re.Match[str]) -> str:
        words = re.sub(r"\bRUN\b", lambda _: shlex.quote(str(run)), command[0])
        return words if step is None else re.sub(r"--step N\b", f"--step {step}", words)

    return COMMAND.sub(filled, advice)
