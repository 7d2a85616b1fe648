"""What a run directory says of where its curves come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.checkpoint.layout import PROVENANCE
from bigrun.links import read_bytes
from bigrun.record.record import RunRecord

__all__ = ["data_of", "described"]

MOST_BYTES = 64 * 2**20


def described(record: RunRecord) -> dict[str, Any]:
    """What a file says of a run that it was made of; no path, no name of a machine."""
    packages = table(newest_start(record.directory), "packages")
    started = next((event for event in record.events if event.get("kind") == "started"), {})
    return {
        "seed": record.option("run", "seed"),
        "steps": record.step,
        "started_utc": word(started.get("time_utc")),
        "device": word(record.option("hardware", "device")),
        "precision": word(record.option("hardware", "precision")),
        "bigrun": word(packages.get("bigrun")),
        "torch": word(packages.get("torch")),
    }


def data_of(directory: Path) -> str | None:
    """The fingerprint of the images that the newest start of a run had; None where it has not written it down, or
    knows their number alone."""
    data = table(newest_start(directory), "data")
    return None if data.get("kind") == "count" else word(data.get("sha256"))


def newest_start(directory: Path) -> Mapping[str, Any]:
    """Empty where there is none that can be read."""
    try:
        start = json.loads(read_bytes(directory / f"{PROVENANCE}.json", MOST_BYTES))["starts"][-1]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return start if isinstance(start, dict) else {}


def table(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}


def word(value: Any) -> str | None:
    return value if isinstance(value, str) else None
