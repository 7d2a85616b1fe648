"""The hook that this plugin declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bigrun.markers import hookspec

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["ReportHooks"]


class ReportHooks(Protocol):
    """What other plugins can answer: `@hookimpl(optionalhook=True)`, so that they load without this one too."""

    @hookspec
    def health_section(self, run: Run) -> list[Mapping[str, Any] | None]:
        """Say how you are, and show it: a section of the health report.

        When: after a step in which the report is due, and when the run ends, with an error too.
        Called: on the main process alone, so it must not wait for the others; one plugin after the other.
        Result: None, or JSON: `title`, `status` (ok, warn, fail; none: nothing was judged), and if you like
            `lines`, `table`, `curves`, `pictures` (docs/how-to/write-a-plugin.md has their form). What is not of that
            form is left out, and named in the report.
        If it raises: the report names it, and training goes on; an observer is quarantined as ever.
        """
