"""Files of the kernel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["text_of"]


def text_of(path: Path) -> str:
    """Of a file that may not be there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
