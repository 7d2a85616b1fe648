"""What an import has done, for a person and for a program; nothing in it leads to a patient."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

import bigrun
from bigrun.listing import table
from bigrun_ct_import.skips import REASONS, Skip
from bigrun_ct_import.store import Record

__all__ = ["Report"]

TILTED_DEGREES = 1.0


@attrs.frozen
class Report:
    """An import that has come to its end.

    Attributes:
        records: every series of the data set.
        made: names of those that this import has made; the others were there.
        skips: what was left out, but for single slices, which are in the records.
        outdated: names of volumes whose file holds something else now.
    """

    records: Sequence[Record]
    made: frozenset[str]
    skips: Sequence[Skip]
    outdated: frozenset[str] = frozenset()

    def to_json(self) -> str:
        """`import-report.json`."""
        facts = {
            "format": 1,
            "bigrun_version": bigrun.__version__,
            "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset": self.totals(self.records),
            "this_import": self.totals([record for record in self.records if record.series in self.made]),
            "skipped": self.skipped(),
            "notes": {note: len(names) for note, names in self.notes().items()},
            "series": {record.series: series_facts(record) for record in self.records},
        }
        return json.dumps(facts, indent=1) + "\n"

    def totals(self, records: Sequence[Record]) -> dict[str, int]:
        return {
            "patients": len({record.patient for record in records} - {""}),
            "studies": len({record.study for record in records}),
            "series": len(records),
            "slices": sum(len(record.numbers) for record in records),
            "values": sum(record.values for record in records),
            "values_clipped_low": sum(record.low for record in records),
            "values_clipped_high": sum(record.high for record in records),
            "values_not_a_number": sum(record.unknown for record in records),
        }

    def skipped(self) -> dict[str, dict[str, Any]]:
        """Counts by reason, in the order of `REASONS`."""
        found: dict[str, dict[str, Any]] = {}
        for reason, meaning in REASONS.items():
            skips = [skip for skip in self.skips if skip.reason == reason]
            slices = sum(record.left.get(reason, 0) for record in self.records)
            if skips or slices:
                images, series = slices + sum(skip.images for skip in skips), sum(skip.series for skip in skips)
                found[reason] = {"images": images, "series": series, "meaning": meaning}
        return found

    def notes(self) -> Mapping[str, list[str]]:
        """Names of series that somebody may want to look at, by what is special about them."""
        rules = {
            "gaps": [r for r in self.records if r.missing],
            "irregular": [r for r in self.records if r.is_irregular],
            "tilted": [r for r in self.records if r.plane == "axial" and r.tilt_degrees > TILTED_DEGREES],
            "turned": [r for r in self.records if r.is_turned],
            "not-axial": [r for r in self.records if r.plane != "axial"],
            "lossy": [r for r in self.records if r.is_lossy],
            "clipped": [r for r in self.records if r.high or (r.low and r.modality != "CT")],
            "no-air": [r for r in self.records if not r.has_air],
            "no-patient": [r for r in self.records if not r.patient],
            "outdated": [r for r in self.records if r.series in self.outdated],
        }
        return {note: [record.series for record in records] for note, records in rules.items() if records}

    def lines(self) -> Iterator[str]:
        """The table at the end."""
        all_, new = self.totals(self.records), self.totals([r for r in self.records if r.series in self.made])
        keys = ("patients", "studies", "series", "slices")
        totals = {"imported now": new, "in the data set": all_}
        rows = ((name, *(f"{counts[key]:,}" for key in keys)) for name, counts in totals.items())
        yield from table(("", *keys), rows).splitlines()
        yield from self.note_lines()
        skipped = self.skipped()
        if skipped:
            yield ""
            cells = ((why, f"{c['images']:,}", f"{c['series']:,}", c["meaning"]) for why, c in skipped.items())
            yield from table(("skipped", "images", "whole series", "meaning"), cells).splitlines()
        for form in sorted({skip.detail for skip in self.skips if skip.reason == "no-decoder"}):
            yield f"no-decoder   {form}"

    def note_lines(self) -> Iterator[str]:
        notes = self.notes()
        missing = sum(record.missing for record in self.records)
        texts = {
            "gaps": f"slices are missing between others ({missing:,}); their numbers are left out in slice_index",
            "irregular": "distances between slices are not regular; only slices at the usual one are neighbours",
            "tilted": f"tilted by more than {TILTED_DEGREES:g} degree against the body's axis",
            "turned": "turned or flipped, so that columns go to the left, rows to the back, slices to the head",
            "not-axial": "not axial, left as stored",
            "lossy": "were compressed with loss before they came here",
            "clipped": f"values out of range, such as metal, were clipped ({self.clipped_share()})",
            "no-air": "hardly any value below -500, where air is: are these Hounsfield units?",
            "no-patient": "nobody knows of which patient: --patient-from folder, or file, says it; a split needs it",
            "outdated": "their files have changed, and are imported beside them; to be rid of the old ones, remove "
            f"their folders and import again: {', '.join(notes.get('outdated', []))}",
        }
        for note, names in notes.items():
            yield f"{note:<12} {len(names):,} series: {texts[note]}"

    def clipped_share(self) -> str:
        low = sum(record.low for record in self.records if record.modality != "CT")
        totals = self.totals(self.records)
        return f"{(totals['values_clipped_high'] + low) / max(totals['values'], 1):.2g} of all values"


def series_facts(record: Record) -> dict[str, Any]:
    """A series in the report."""
    return {
        "patient": record.patient,
        "slices": len(record.numbers),
        "missing": record.missing,
        "shape": record.shape,
        "spacing_mm": [float(f"{mm:.6g}") for mm in record.spacing_mm],
        "plane": record.plane,
        "tilt_degrees": record.tilt_degrees,
        "is_irregular": record.is_irregular,
        "is_turned": record.is_turned,
        "is_lossy": record.is_lossy,
        "clipped_low": record.low,
        "clipped_high": record.high,
        "left_out": record.left,
    }
