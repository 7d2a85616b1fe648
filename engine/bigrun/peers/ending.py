"""How a process ends with an error, of which the others of its run are to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.errors import BigrunError, ExitCode
from bigrun.peers.peers import PeerLostError, SaidElsewhere
from bigrun.redaction import redact_error

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["ending", "is_told_here"]


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
