"""Everything that a check has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bigrun.data.check.finding import Finding
from bigrun.data.check.tally import PERCENTILES, Kind
from bigrun.data.split.make import Division
from bigrun.listing import table

__all__ = ["Report"]

TITLES = ("data set", "images", "stored", "channels", "smallest", "median", "largest")
PLURALS = {"patient": "patients", "study": "studies", "series": "series"}
STORED = {"uint8": "8 bit", "uint16": "16 bit", "float32": "float"}


@attrs.frozen
class Report:
    """What was seen, and what follows from it."""

    source: str
    root: str | None
    samples: int
    images: int
    """Files, or samples of a data set that is not made of files."""
    checked: int
    sets: Mapping[str, int]
    """Images of each data set, whether checked or not."""
    kinds: Sequence[Kind]
    bad: Sequence[tuple[str, str, str]]
    """Path, cause and message of what cannot be used."""
    division: Division | None
    people: Mapping[str, tuple[int, int]]
    """Patients, studies and series in training and in validation."""
    findings: Sequence[tuple[Finding, bool]]
    """And whether training must not start with it."""
    seconds: float

    @property
    def may_start(self) -> bool:
        """Whether training may start."""
        return not any(refuses for _, refuses in self.findings)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        part = (
            f"{self.checked:,} of {self.images:,} images" if self.checked < self.images else f"{self.images:,} images"
        )
        rate = self.checked / max(self.seconds, 1e-9)
        yield f"{self.source}: {part} checked in {self.seconds:.1f} s, {rate:,.0f} images/s"
        yield ""
        yield from table(self.titles(), self.rows()).splitlines()
        others = [name for name in self.sets if name not in {kind.dataset for kind in self.kinds}]
        yield from (f"{name}: not one of its {self.sets[name]:,} images was decoded" for name in others)
        yield ""
        yield from self.division_lines()
        for finding, refuses in self.findings:
            yield f"{'refused' if refuses else 'note':<10}{finding.kind}: {finding.message}"
        yield f"{'result':<10}{self.verdict()}"

    def verdict(self) -> str:
        """In a sentence."""
        if self.may_start:
            return "training may start"
        kinds = dict.fromkeys(finding.kind for finding, refuses in self.findings if refuses)
        return f"training must not start: {', '.join(kinds)}"

    def titles(self) -> tuple[str, ...]:
        """Of the table."""
        names = {0: "lowest", 100: "highest"}
        return (*TITLES, *(names.get(percent, f"{percent} %") for percent in PERCENTILES), "unit")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Of the table."""
        for kind in self.kinds:
            channels = ", ".join(f"{count}" for count in kind.channels())
            sizes = (f"{width}x{height}" for height, width in kind.sizes())
            unit = kind.intensity.unit if kind.intensity else "as stored"
            values = (f"{value:,.6g}" for value in kind.percentiles().values())
            yield (kind.dataset, f"{kind.images:,}", STORED[kind.dtype], channels, *sizes, *values, unit)

    def division_lines(self) -> Iterator[str]:
        """How the split divides the samples."""
        if self.division is None:
            return
        level = self.division.split.level
        for place, (name, (groups, samples)) in enumerate(self.parts()):
            others = [f"{people[place]:,} {PLURALS[of]}" for of, people in self.people.items() if of != level]
            told = f", {', '.join(others)}" if others else ""
            yield f"{'split':<10}{name}: {samples:,} samples of {groups:,} {level} groups{told}"

    def parts(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Name, groups and samples of the split's parts."""
        if self.division is None:
            return ()
        return ("training", self.division.training), ("validation", self.division.validation)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "source": self.source,
            "root": self.root,
            "samples": self.samples,
            "images": self.images,
            "checked": self.checked,
            "data_sets": dict(self.sets),
            "kinds": [kind_json(kind) for kind in self.kinds],
            "bad": {
                "causes": dict(Counter(cause for _, cause, _ in self.bad)),
                "images": [{"path": path, "cause": cause, "message": text} for path, cause, text in self.bad],
            },
            "split": self.division
            and {
                "level": self.division.split.level,
                **{
                    name: {"groups": groups, "samples": samples}
                    | {PLURALS[of]: people[place] for of, people in self.people.items()}
                    for place, (name, (groups, samples)) in enumerate(self.parts())
                },
            },
            "findings": [{**attrs.asdict(finding), "refuses": refuses} for finding, refuses in self.findings],
            "may_start": self.may_start,
            "seconds": round(self.seconds, 3),
        }


def kind_json(kind: Kind) -> dict[str, Any]:
    smallest, median, largest = ({"width": width, "height": height} for height, width in kind.sizes())
    return {
        "data_set": kind.dataset,
        "dtype": kind.dtype,
        "images": kind.images,
        "channels": {str(count): images for count, images in kind.channels().items()},
        "smallest": smallest,
        "median": median,
        "largest": largest,
        "unit": kind.intensity.unit if kind.intensity else None,
        "percentiles": {str(percent): value for percent, value in kind.percentiles().items()},
    }
