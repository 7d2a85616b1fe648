"""The trials that were made, one JSON object a line: what is finished is not done again. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.errors import UsageError

__all__ = ["LEDGER", "Ledger", "key_of"]

LEDGER = "trials.jsonl"
VOLATILE = ("free_bytes", "ram_free_bytes", "disk_free_bytes")
"""Facts of a device and its machine that are others at every moment."""


def key_of(facts: Mapping[str, Any]) -> str:
    """The same for the same facts, in whatever order; those that are others at every moment do not count."""
    text = json.dumps(lasting(facts), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def lasting(facts: Any) -> Any:
    if isinstance(facts, Mapping):
        return {key: lasting(value) for key, value in facts.items() if key not in VOLATILE}
    return [lasting(value) for value in facts] if isinstance(facts, list | tuple) else facts


class Ledger:
    """A file of answers by key, for one process at a time. A line that a killed process has not finished does not
    count."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            UsageError: the directory cannot be written to, or another process uses it.
        """
        self.path = directory / LEDGER
        self.answers: dict[str, dict[str, Any]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
            lock(self._file.fileno())
            self._file.seek(0)
            text = self._file.read()
            if text and not text.endswith(b"\n"):
                self._file.write(b"\n")
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"--out {directory}: another `bigrun tune` works there; trials beside each other would measure each "
                "other: wait for its end"
            ) from None
        except OSError as error:
            raise UsageError(f"--out {directory}: cannot be written to ({error.strerror}): choose another") from None
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self.answers[row["key"]] = dict(row["answer"])

    def get(self, key: str) -> dict[str, Any] | None:
        return self.answers.get(key)

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            UsageError: the disk has refused it.
        """
        self.answers[key] = dict(answer)
        try:
            self._file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}): choose another --out") from None

    def close(self) -> None:
        self._file.close()


def lock(descriptor: int) -> None:
    """Until it is closed, or its process ends, however that ends.

    Raises:
        BlockingIOError: another process has locked the file.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError from None  # other errors: a file system that has no locks
