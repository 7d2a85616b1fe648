"""Libraries that talk when they are imported."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Collection, Iterator
from types import ModuleType

__all__ = ["failure_text", "import_quietly"]


def import_quietly(name: str) -> ModuleType:
    """Import a module that is built upon torch; what the library and torch log and warn of meanwhile reaches nobody,
    unless the import fails.

    torchao, for one, logs every one of its libraries of kernels that does not fit this machine, used or not, and calls
    what torch has announced to remove.

    Raises:
        Exception: whatever the import raises; its notes have what was said.
    """
    import torch  # noqa: F401 - it says where its messages go when it is imported

    said: list[str] = []
    try:
        with listening((name.partition(".")[0], "torch"), said):
            return importlib.import_module(name)
    except Exception as error:
        for line in said:
            error.add_note(line)
        raise


def failure_text(error: BaseException) -> str:
    """The error of `import_quietly` and what was said before it, in one line."""
    said = "; ".join(getattr(error, "__notes__", []))
    text = f"{type(error).__name__}: {error}"
    return f"{text} (before it: {said})" if said else text


class Listener(logging.Handler):
    """Keeps the first lines of messages."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(first_line(record.getMessage()))


@contextlib.contextmanager
def listening(packages: Collection[str], said: list[str]) -> Iterator[None]:
    """Add what packages log (warnings and worse) to `said`, and in the end all warnings, instead of showing them."""
    with warnings.catch_warnings(record=True) as warned, contextlib.ExitStack() as stack:
        warnings.simplefilter("default")
        for package in packages:
            stack.enter_context(only_handler(logging.getLogger(package), Listener(said)))
        try:
            yield
        finally:
            said += [first_line(str(warning.message)) for warning in warned or []]


@contextlib.contextmanager
def only_handler(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    """Let a logger's messages, and those of the loggers below it, go to one handler alone."""
    handlers, propagates = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        added = [each for each in logger.handlers if each is not handler]
        logger.handlers, logger.propagate = [*handlers, *added], propagates


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
