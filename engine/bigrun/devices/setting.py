"""One thing that was set on a process or a device, and whether that had an effect."""

from __future__ import annotations

import attrs

__all__ = ["Setting", "settings_table"]


@attrs.frozen
class Setting:
    """A row of the banner and of the run's records."""

    name: str
    """As its users know it: `float32 matmul precision`, `PYTORCH_CUDA_ALLOC_CONF`."""
    before: str | None
    after: str | None
    took_effect: bool | None
    """By what was read back; None where that cannot be told."""
    evidence: str
    """What was read back, or why it cannot be, or was not set."""
    is_custom: bool = False
    """Set by the user, and left as it is."""

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.is_custom:
            return "custom"
        return {True: "yes", False: "NO", None: "unknown"}[self.took_effect]


def settings_table(settings: list[Setting]) -> list[str]:
    """Lines: name, before, after, whether it took effect, how that is known."""
    from bigrun.listing import table

    titles = ("setting", "before", "after", "took effect", "evidence")
    rows = ((s.name, s.before or "-", s.after or "-", s.verdict, s.evidence) for s in settings)
    return table(titles, rows).splitlines() if settings else []
