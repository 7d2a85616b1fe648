"""The run's side of a plugin that hands everything to a library: metrics, events, pictures and checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bigrun.errors import UsageError
from bigrun.markers import hookimpl
from bigrun.scribe.log import LOG, redact_log
from bigrun.scribe.scribe import Scribe

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["LibraryLogger", "environment_without"]

BEHIND_SECONDS = 300.0
"""A library that has not written for so long is said to be behind."""


class LibraryLogger:
    """Base of such plugins, which say `observer = True` themselves, and have:

    Attributes:
        plugin: entry-point name, also of the folder in the run directory.
        library: the module that must be installed.
        extra: of bigrun, which installs it.
        writer: the module that `Scribe` starts.
    """

    plugin: ClassVar[str]
    library: ClassVar[str]
    extra: ClassVar[str]
    writer: ClassVar[str]

    def __init__(self, finish_seconds: float) -> None:
        """
        Args:
            finish_seconds: how long the end of the run waits for the library.

        Raises:
            UsageError: the library is not installed.
        """
        self._finish_seconds = finish_seconds
        self._scribe: Scribe | None = None
        self._early: list[tuple[str, dict[str, Any]]] = []
        """What was told before the start: order, and what."""
        self._has_started = False
        self._status = "rolled-back"  # teardown alone comes then
        self._is_behind = False
        self._lost = 0
        spec = find_spec(self.library)
        if spec is None or spec.origin is None:  # a folder of that name without code is no library
            raise UsageError(
                f"plugins.{self.plugin}: the library {self.library} is not installed: "
                f"pip install 'bigrun[{self.extra}]', or leave the plugin out with --no-plugin {self.plugin}"
            )

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        """What the writer is opened with; JSON."""
        raise NotImplementedError

    def environment(self, run: Run, folder: Path) -> dict[str, str]:
        """The environment of the writer's process."""
        raise NotImplementedError

    def is_on(self) -> bool:
        """Whether there is anything to write."""
        return True

    # -- the run ----------------------------------------------------------------------------------------------

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._has_started = True
        early, self._early = self._early, []
        if not run.is_main or not self.is_on():
            return
        if run.is_rehearsal:  # somebody else's server is no place for it
            run.event("logger-off", f"{self.library}: a rehearsal is not recorded", plugin=self.plugin)
            return
        folder = run.path_for(self.plugin).resolve()
        redact_log(folder / LOG, run.config.redactor())  # of a start that was killed
        shared = {
            "directory": str(run.directory.resolve()),
            "step": run.step,
            "config": run.config.public_tables(),
            "header": run.header,
        }
        settings = shared | self.settings(run, folder)
        self._scribe = Scribe(self.writer, settings, self.environment(run, folder), folder)
        for order, what in early:
            self._scribe.tell(order, **what)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if self._scribe is None:
            return
        self._scribe.tell("metrics", step=step, values=dict(metrics), time_seconds=time.time())
        self._repeat(run, self._scribe.hear())
        self._say_when_behind(run, self._scribe)

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        what = {"kind": event.kind, "level": event.level, "message": event.message, "time_utc": event.time_utc}
        self._tell("event", step=event.step, **what)

    @hookimpl
    def on_picture(self, run: Run, step: int, name: str, path: Path) -> None:
        self._tell("picture", step=step, name=run.config.redactor().text(name), path=str(path.resolve()))

    @hookimpl
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        self._tell("checkpoint", step=step, path=str(path))

    @hookimpl
    def on_finish(self, run: Run) -> None:
        self._status = "finished" if run.finished else "stopped"

    @hookimpl
    def on_error(self) -> None:
        self._status = "failed"

    @hookimpl
    def teardown(self, run: Run) -> None:
        scribe, self._scribe = self._scribe, None
        if scribe is None:
            return
        self._repeat(run, scribe.finish(self._status, self._finish_seconds))
        redact_log(run.path_for(self.plugin) / LOG, run.config.redactor())
        missing = scribe.unwritten + scribe.lost
        if missing or scribe.fault is not None:
            why = scribe.fault or "they were too many to keep"
            run.event(
                "logger-incomplete",
                f"{missing:,} messages of this start are not in the records of {self.library}: {why}; what it said is "
                f"in {self.plugin}/{LOG}",
                "warning",
                plugin=self.plugin,
            )

    # -- details ----------------------------------------------------------------------------------------------

    def _tell(self, order: str, **what: Any) -> None:
        if self._scribe is not None:
            self._scribe.tell(order, **what)
        elif not self._has_started:
            self._early.append((order, what))

    def _repeat(self, run: Run, said: Collection[Mapping[str, Any]]) -> None:
        for event in said:
            run.event("logger-said", f"{self.library}: {event['message']}", event["level"], plugin=self.plugin)

    def _say_when_behind(self, run: Run, scribe: Scribe) -> None:
        """Once when it begins, once when it is over."""
        is_behind = scribe.behind_seconds > BEHIND_SECONDS or scribe.lost > self._lost
        if is_behind and not self._is_behind:
            run.event(
                "logger-behind",
                f"{self.library} does not keep up: {scribe.unwritten:,} messages wait, the oldest for "
                f"{scribe.behind_seconds:.0f} s; training goes on",
                "warning",
                plugin=self.plugin,
                lost=scribe.lost,
            )
        elif self._is_behind and not is_behind:
            lost = f"; {scribe.lost:,} messages were too many to keep, and are lost" if scribe.lost else ""
            message = f"{self.library} has written what had waited{lost}"
            run.event("logger-caught-up", message, plugin=self.plugin, lost=scribe.lost)
        self._is_behind, self._lost = is_behind, scribe.lost


def environment_without(prefix: str, kept: Collection[str] = ()) -> dict[str, str]:
    """This process's environment without the variables of a library, but for those named: what one shell has exported
    for another run must not steer this one."""
    return {k: v for k, v in os.environ.items() if not k.startswith(prefix) or k in kept}
