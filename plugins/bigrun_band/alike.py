"""Whether runs are of one configuration and of the same images, so that one band can be made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bigrun.errors import UsageError
from bigrun.record.record import RunRecord
from bigrun_band.origin import data_of
from bigrun_band.relevant import differences, relevant

__all__ = ["check_alike", "check_data", "whole_option"]


def check_alike(records: Sequence[RunRecord]) -> None:
    """
    Raises:
        UsageError: they differ in more than their seed, or two have the same.
    """
    first = records[0]
    seeds: dict[int, Path] = {}
    for record in records:
        found = differences(relevant(first.config), relevant(record.config))
        every = [whole_option(r, "log_every_steps", least=1) for r in (first, record)]
        if every[0] != every[1]:
            found.append(f"run.log_every_steps {every[0]} -> {every[1]}")
        if found:
            raise UsageError(
                f"{first.directory} and {record.directory} are not runs of one configuration: {', '.join(found[:5])}"
            )
        seed = whole_option(record, "seed")
        if seed in seeds:
            raise UsageError(
                f"{seeds[seed]} and {record.directory} have the same run.seed, {seed}: they are one run twice, which "
                "says nothing about how far another may be from it"
            )
        seeds[seed] = record.directory


def check_data(records: Sequence[RunRecord]) -> None:
    """Compare the images of those runs that have written down what they were.

    Raises:
        UsageError: two have seen others.
    """
    known = [(record, data) for record in records if (data := data_of(record.directory)) is not None]
    for record, data in known[1:]:
        first, before = known[0]
        if data != before:
            raise UsageError(
                f"{first.directory} and {record.directory} have seen other images (sha256 {before[:12]} and "
                f"{data[:12]}): a band of both is no measure for either; --allow-other-data makes one all the same"
            )


def whole_option(record: RunRecord, name: str, least: int = 0) -> int:
    """An option of `run` that is a whole number.

    Raises:
        UsageError: the configuration has none, or another thing.
    """
    value = record.option("run", name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        got = "nothing" if value is None else f"{value!r:.40}"
        raise UsageError(
            f"{record.directory / 'config.toml'}: run.{name}: expected a whole number of at least {least}, got {got}: "
            "this is not the configuration that a run writes"
        )
    return value
