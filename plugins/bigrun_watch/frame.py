"""One picture of a run, as lines of text: everything as it was at one reading of its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bigrun.record.verdict import Verdict, verdict
from bigrun.record.words import duration
from bigrun_watch import parts
from bigrun_watch.block import Block, beside, cut, fit, stack
from bigrun_watch.sections import read_sections
from bigrun_watch.sparkline import ASCII, BLOCKS

if TYPE_CHECKING:
    from rich.text import Text

    from bigrun.record.record import RunRecord

__all__ = ["frame"]

WIDE = 150
"""Columns from which on there are two of them beside each other."""
COLOURS = {"healthy": "bold green", "look": "bold yellow", "stopped": "bold red"}
HEADLINE_LINES = 3
PLAIN_BAR = 30


def frame(
    record: RunRecord, width: int | None, height: int | None, *, skipped: int = 0, is_unicode: bool = True
) -> list[Text]:
    """The lines of the dashboard.

    Args:
        width, height: of the terminal, in characters; no line is longer, and there are never more. None: as many as
            there is to say.
        skipped: so many of the first metrics are passed over.
    """
    found = verdict(record, read_sections(record.directory))
    shades = BLOCKS if is_unicode else ASCII
    head = [*headline(found, width, height), progress(record, width, is_unicode=is_unicode), standing(record)]
    head = [cut(line, width) for line in head]
    left = None if height is None else max(height - len(head), 0)
    if width is not None and width >= WIDE:
        half = (width - 2) // 2
        one = [parts.curves(record, half, skipped, shades), parts.speed(record, half, shades), parts.machine(record)]
        two = [parts.reasons(found.reasons), parts.checkpoints(record), parts.events(record)]
        columns = [stack(fit(present(blocks), left), half) for blocks in (one, two)]
        body = beside(columns[0], columns[1], half)
    else:
        body = stack(fit(single(record, found, width, height, skipped, shades), left), width)
    return (head + body)[:height]


def present(blocks: Sequence[Block | None]) -> list[Block]:
    return [block for block in blocks if block is not None]


def single(
    record: RunRecord, found: Verdict, width: int | None, height: int | None, skipped: int, shades: str
) -> list[Block]:
    """Below each other; the reasons where there is a place for them."""
    blocks: list[Block | None] = [
        parts.curves(record, width, skipped, shades),
        parts.speed(record, width, shades),
        parts.machine(record),
        parts.checkpoints(record),
        parts.events(record),
        parts.reasons(found.reasons) if height is None or height > 30 else None,
    ]
    return present(blocks)


def headline(found: Verdict, width: int | None, height: int | None) -> list[Text]:
    """The verdict, in up to three lines, of which a low terminal has one."""
    from rich.console import Console

    text = parts.plain(found.headline, COLOURS[found.level])
    if width is None:
        return [text]
    most = HEADLINE_LINES if height is None else max(min(HEADLINE_LINES, height // 8), 1)
    wrapped = text.wrap(Console(width=width), width, no_wrap=False)
    lines = list(wrapped)[:most]
    lines[-1].rstrip()
    if len(wrapped) > most:
        lines[-1].append(" " + wrapped[most].plain)
    return lines


def progress(record: RunRecord, width: int | None, *, is_unicode: bool) -> Text:
    """`step 12,300 of 50,000  ████▌      25 %  2 d 4 h left`."""
    from rich.text import Text

    last, left = record.max_steps, record.seconds_left
    if last is None or last <= 0:
        return Text(f"step {record.step:,}, without end")
    share = min(record.step / last, 1.0)
    before, after = f"step {record.step:,} of {last:,}  ", f"  {share:.0%}"
    after += "" if left is None else f"  {duration(left)} left"
    room = PLAIN_BAR if width is None else max(width - len(before) - len(after), 0)
    full, rest = ("█", "░") if is_unicode else ("#", "-")
    done = int(share * room)
    return Text(before) + Text(full * done, style="green") + Text(rest * (room - done), style="dim") + Text(after)


def standing(record: RunRecord) -> Text:
    """Whether it runs and where, how old the newest row is, images and epochs."""
    age, images = record.row_age_seconds, record.images_seen
    texts = [str(record.status)]
    texts += [f"newest row {duration(age)} ago"] if age is not None else []
    texts += [f"{images:,} images seen"] if images else []
    return parts.plain("; ".join(texts))
