"""Calls that may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Bounded"]

T = TypeVar("T")


class Bounded:
    """Calls functions in threads of their own and waits for each so long: a driver whose device is gone and a network
    disk do not answer, and nobody can end a thread that waits for them."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last call has not come back yet."""
        return self._thread is not None and self._thread.is_alive()

    def call(self, function: Callable[[], T]) -> T:
        """What the function returns or raises.

        Raises:
            TimeoutError: it did not come back in time, or the one before has not yet.
        """
        if self.is_busy:
            raise TimeoutError("still does not answer")
        answers: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                answers.append(function())
            except BaseException as error:
                errors.append(error)

        self._thread = threading.Thread(target=work, name=self._name, daemon=True)
        self._thread.start()
        self._thread.join(self._seconds)
        if errors:
            raise errors[0]
        if not answers:
            raise TimeoutError(f"did not answer within {self._seconds:g} s")
        return answers[0]
