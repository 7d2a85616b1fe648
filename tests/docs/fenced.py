"""Fenced blocks of the project's pages, and what to do with each.

A comment directly above a block says how it differs from the rule:

    <!-- file: NAME -->             the block is a file of the page's directory
    <!-- fragment -->               a part of a preset: it is interpreted together with the engine's defaults
    <!-- output -->                 lines that the block before it has printed, in this order; ... stands for anything
    <!-- exits: N -->               the commands end with exit code N
    <!-- test: slow -->             the commands run in the slow suite only
    <!-- test: skip because WHY --> the commands never run

Commands (bash, sh, console) without a comment run; so does every other block that claims something. In a page that has

    <!-- page: slow -->             anywhere, they run in the slow suite only: several runs, one after the other
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["COMMANDS", "ROOT", "Block", "blocks_of", "is_slow", "page_name", "pages"]

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("bash", "sh", "console")
OTHERS = ("python", "toml", "text", "json", "{toctree}")
ACTIONS = ("file", "fragment", "output", "exits", "slow", "skip")

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[^`]*)$")
COMMENT = re.compile(r"^ *<!-- (?:test: )?(?P<action>[a-z]+)(?::| because)? ?(?P<argument>.*?) ?-->$")


@attrs.frozen
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    action: str | None = None
    argument: str = ""

    @property
    def where(self) -> str:
        return f"{page_name(self.page)}:{self.line}"

    @property
    def is_commands(self) -> bool:
        return self.language in COMMANDS

    def script(self) -> str:
        """The commands; of a console block the lines behind `$ `."""
        if self.language != "console":
            return self.text
        return "\n".join(line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ "))


def pages() -> list[Path]:
    """Every page whose blocks are tested."""
    top = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return top + sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)


def is_slow(page: Path) -> bool:
    """Whether the page says that its commands take long."""
    return "<!-- page: slow -->" in page.read_text(encoding="utf-8").splitlines()


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order.

    Raises:
        ValueError: a fence is not closed, its language is unknown, or a comment above it is.
    """
    return list(_parse(page, page.read_text(encoding="utf-8").splitlines()))


def _parse(page: Path, lines: list[str]) -> Iterator[Block]:
    comment: re.Match[str] | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = FENCE.match(line)
        if fence:
            end = next((i for i in range(number + 1, len(lines)) if lines[i].strip() == fence["ticks"]), None)
            if end is None:
                raise ValueError(f"{page_name(page)}:{number + 1}: this fence is not closed")
            yield _block(page, number + 1, fence, lines[number + 1 : end], comment)
            number, comment = end, None
        elif line.strip():
            comment = COMMENT.match(line)
        number += 1


def _block(page: Path, line: int, fence: re.Match[str], body: list[str], comment: re.Match[str] | None) -> Block:
    language = fence["language"].strip()
    where = f"{page_name(page)}:{line}"
    if language not in COMMANDS + OTHERS:
        raise ValueError(f"{where}: the language {language!r} is none of {', '.join(COMMANDS + OTHERS)}")
    action, argument = (comment["action"], comment["argument"]) if comment else (None, "")
    if action is not None and action not in ACTIONS:
        raise ValueError(f"{where}: the comment {comment[0]!r} means nothing" if comment else where)
    indent = len(fence["indent"])
    text = "".join(row[min(indent, len(row) - len(row.lstrip())) :] + "\n" for row in body)
    return Block(page, line, language, text, action, argument)
