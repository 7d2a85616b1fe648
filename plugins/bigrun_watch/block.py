"""Parts of the dashboard: a title with lines, and how many of them a small terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Block", "beside", "fit", "stack"]

GAP = "  "


@attrs.frozen
class Block:
    """A part of the dashboard."""

    title: str
    lines: Sequence[Text]
    least: int
    """So many lines are shown before any other part has more than its own."""
    keeps_last: bool = False
    """Whether the last lines are shown where not all can be."""

    def cut(self, count: int) -> Block:
        if count >= len(self.lines):
            return self
        lines = self.lines[len(self.lines) - count :] if self.keeps_last else self.lines[:count]
        return attrs.evolve(self, lines=lines)


def fit(blocks: Sequence[Block], height: int | None) -> list[Block]:
    """The blocks in so many lines, titles counted: each has its least, then the first ones more. One for which there
    is no line beside its title is left out."""
    if height is None:
        return list(blocks)
    left, counts = height, []
    for block in blocks:
        count = min(block.least, len(block.lines), left - 1)
        counts.append(max(count, 0))
        left -= 1 + count if count > 0 else 0
    for number, block in enumerate(blocks):
        if counts[number]:
            more = min(len(block.lines) - counts[number], left)
            counts[number] += more
            left -= more
    return [block.cut(count) for block, count in zip(blocks, counts, strict=True) if count]


def stack(blocks: Sequence[Block], width: int | None) -> list[Text]:
    """The blocks below each other, a title above each."""
    from rich.text import Text

    lines: list[Text] = []
    for block in blocks:
        ruled = f"{block.title} ".ljust(width or 0, "─") if width else block.title
        lines += [Text(ruled, style="dim bold"), *block.lines]
    return [cut(line, width) for line in lines]


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two columns; the left one is `width` wide."""
    from rich.text import Text

    rows = []
    for number in range(max(len(left), len(right))):
        row = left[number].copy() if number < len(left) else Text()
        row.pad_right(width - row.cell_len)
        row.append(GAP)
        rows.append(row + right[number] if number < len(right) else row)
    return rows


def cut(line: Text, width: int | None) -> Text:
    if width is not None:
        line = line.copy()
        line.truncate(width, overflow="ellipsis")
    return line
