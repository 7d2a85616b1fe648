"""How a process of a run ends: what it says, what it lets go of, its exit code."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bigrun.errors import BigrunError, ExitCode, PluginError
from bigrun.events import Event
from bigrun.peers.errors import PeerLostError, SaidElsewhere
from bigrun.redaction import redact_error

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["ending", "exit_code", "finish", "is_told_here", "report", "tear_down"]


def finish(run: Run) -> None:
    """The run is over, with its last checkpoint. What happens on one process in this last hook is known to all."""
    run.plugins.hook.on_finish(run=run)
    run.exchange(run)


def ending(run: Run, error: BaseException) -> BaseException:
    """What is to be raised for an error; said to those that do not know it, before anything else that might hang."""
    shared = run.peers.shared(error)
    if shared is not None:
        return shared
    redact_error(error, run.config.redactor())
    if not run.peers.knows(error) and not isinstance(error, PeerLostError | SaidElsewhere):
        expected = isinstance(error, BigrunError)
        text = str(error) if expected else run.config.redactor().text(f"{type(error).__name__}: {error}")
        run.peers.say_end(text, int(error.exit_code) if isinstance(error, BigrunError) else ExitCode.ERROR)
    return error


def is_told_here(run: Run, error: BaseException) -> bool:
    """Whether this process's plugins hear of it: of what another one says the main process's, for the run's log."""
    return run.is_main or not isinstance(error, PeerLostError | SaidElsewhere)


def exit_code(run: Run) -> ExitCode | int:
    """What the process says when it ends without an error."""
    if run.stop_signal is not None and not run.finished:
        return 128 + run.stop_signal
    if run.stop_reason is not None and not run.finished:
        return ExitCode.STOPPED
    return ExitCode.QUARANTINED if run.plugins.failures else ExitCode.FINISHED


def tear_down(run: Run) -> None:
    """Stop the loader and let every plugin release what it holds."""
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: report(run, run.plugins.notify("teardown", run=run)))
        if hasattr(run, "saver"):
            stack.callback(run.saver.close, run)
        close = getattr(getattr(run, "loader", None), "close", None)
        if close:
            stack.callback(close)


def report(run: Run, errors: list[tuple[str, BaseException]]) -> None:
    """Say which plugins have failed at the end: as events on the main process; on another one, which the main one hears
    no more, on standard error."""
    from bigrun.terminal import say

    for name, error in errors:
        event = run.config.redactor().event(event_of(run, name, error))
        if run.is_main:
            run.plugins.notify("on_event", run=run, event=event)
        else:
            say(f"process {run.peers.rank}: {event.level}: {event.message}", error=True)


def event_of(run: Run, name: str, error: BaseException) -> Event:
    if isinstance(error, PluginError):
        return Event("plugin-error", str(error), run.step, "error", {"plugin": name, "hook": error.hook})
    return Event("plugin-error", f"{name}: {error!r}", run.step, "error", {"plugin": name})
