"""Sizes of memory in words: what is typed, and what is printed. Torch-free."""

from __future__ import annotations

import re

from bigrun.errors import UsageError

__all__ = ["human_gib", "parse_bytes"]

UNITS = {"gib": 2**30, "mib": 2**20, "tib": 2**40, "gb": 10**9, "mb": 10**6, "tb": 10**12}


def parse_bytes(text: str, option: str) -> int:
    """Bytes of `24GiB`, `24 GB` or `900MiB`.

    Args:
        option: for which it was typed.

    Raises:
        UsageError: it is no such size, or none at all.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtKMGT]i?[bB])\s*", text)
    unit = UNITS.get(match[2].lower()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise UsageError(f"{option} {text}: expected a size above zero with its unit, as 24GiB, 24GB or 900MiB")
    return size


def human_gib(size: float) -> str:
    """Memory as its makers count it: 23.5 GiB, 0.71 GiB, 912 MiB below half a GiB."""
    if size < 2**29:
        return f"{size / 2**20:.0f} MiB"
    gib = size / 2**30
    return f"{gib:.2f} GiB" if gib < 10 else f"{gib:.1f} GiB"
