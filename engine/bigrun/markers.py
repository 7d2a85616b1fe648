"""How a hook is specified and implemented: pluggy's markers of this project, and bigrun's own."""

from __future__ import annotations

from typing import TypeVar

import pluggy

__all__ = ["GROUP", "changes_training", "hookimpl", "hookspec"]

GROUP = "bigrun"
"""Name of the hooks' project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

F = TypeVar("F")


def changes_training(spec: F) -> F:
    """Mark a hook whose answers change what is trained: an observer may not implement it."""
    spec.changes_training = True  # type: ignore[attr-defined]
    return spec
