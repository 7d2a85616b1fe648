"""The page of metrics, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs
from fenced import ROOT

PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
HEADER = "| name | definition | unit | healthy range |"
RECORDED = re.compile(r"^Recorded by (the engine|`[\w-]+`)[,:]", re.MULTILINE)
PLACEHOLDER = re.compile(r"(?<=[/_])(NAME|MODULE|N)$")


@attrs.frozen
class Row:
    """A metric of the page."""

    section: str
    name: str
    definition: str
    unit: str
    healthy: str

    def stands_for(self, name: str) -> bool:
        """Whether it describes a metric of this name."""
        end = PLACEHOLDER.search(self.name)
        if end is None:
            return name == self.name
        return re.fullmatch(re.escape(self.name[: end.start()]) + r"[\w-]+", name) is not None


def sections() -> Mapping[str, str]:
    """The text below each heading that has a table of metrics."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return {title: text for title, text in zip(parts[1::2], parts[2::2], strict=True) if HEADER in text}


def read_rows() -> Iterator[Row]:
    for title, text in sections().items():
        for line in text.partition(f"{HEADER}\n|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines():
            name, *others = (cell.strip() for cell in line.strip("|").split("|"))
            yield Row(title, name.strip("`"), *others)


ROWS = list(read_rows())
BY_NAME = {row.name: row for row in ROWS}


def numbers(text: str) -> set[float]:
    return {float(found) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?", text.replace(" %", "e-2"))}
