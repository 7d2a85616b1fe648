"""What the processes of a rehearsed run have answered, in one. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PEAKS", "merged"]

PEAKS = ("before_bytes", "before_save_bytes", "peak_bytes", "device_peak_bytes", "device_reserved_bytes")
PRINTS = ("saved", "restored")
"""Fingerprints of what a process has saved, and of what it has restored."""


def merged(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The main process's answer (`Watching.answer`), which tells of all, with the peaks of the processes that took most
    memory, observers that failed anywhere, and as `by_rank` what each process has of its own."""
    by_rank = [{name: facts[name] for name in (*PEAKS, *PRINTS) if name in facts} for facts in answers]
    failures = {name: error for facts in reversed(answers) for name, error in facts["failures"].items()}
    peaks = {name: max(facts[name] for facts in by_rank) for name in PEAKS if name in by_rank[0]}
    shared = {name: value for name, value in answers[0].items() if name not in PRINTS}
    return shared | peaks | {"failures": failures, "by_rank": by_rank}
