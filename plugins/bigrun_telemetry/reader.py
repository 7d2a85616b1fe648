"""What reads one source of telemetry."""

from __future__ import annotations

from typing import Any, Protocol

from bigrun_telemetry.sample import Sample

__all__ = ["Missing", "Reader", "Unavailable", "number"]


class Unavailable(Exception):
    """A source cannot be read on this machine; the message says why, and what would help."""


class Missing(Unavailable):
    """A library is not installed, or cannot be imported: while this process lives, it stays so."""


class Reader(Protocol):
    """One source. It is read by one thread at a time, which makes no CUDA call."""

    name: str

    def read(self) -> Sample:
        """What the source knows now. When it raises, it is closed, and opened again later."""

    def close(self) -> None:
        """Release what it holds; called once."""


def number(value: Any, factor: float = 1.0) -> float | None:
    """A reading times `factor`; None where a library answers with a text such as "N/A", with nothing, or with the
    largest number of its type, by which drivers say the same."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if value in (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else value * factor
