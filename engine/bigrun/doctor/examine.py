"""The whole examination: checks in a process of their own, for a broken driver ends a process, or never answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import attrs

from bigrun.doctor.check import Check
from bigrun.doctor.checks import CHECKS
from bigrun.doctor.row import Row
from bigrun.doctor.subject import Subject

__all__ = ["examine"]

END_SECONDS = 5.0
"""For a process that was interrupted to clean up; one that waits for a dead disk cannot be ended at all."""


def examine(subject: Subject, checks: Sequence[Check] = CHECKS) -> Iterator[Row]:
    """Rows as they are found.

    A check that ends its process, or exceeds its limit, is a row `fail`, and the others go on in a new process.
    """
    left = [check for check in checks if check.in_quick or not subject.is_quick]
    while left:
        with Examiner(subject, left) as examiner:
            done, why = 0, None
            try:
                for line in examiner.lines():
                    done += "end" in line
                    if "row" in line:
                        yield Row(**line["row"])
            except TimeoutError as error:
                why = str(error)
                examiner.interrupt()
            if done < len(left):
                yield broken(left[done], why or examiner.last_words())
        left = left[done + 1 :]


def broken(check: Check, why: str) -> Row:
    remedy = (
        "a driver, a library or a disk is at fault: look into `dmesg` and `journalctl -k`, update the driver, and "
        "look at the rows above"
    )
    return Row(check.name, "fail", why, f"an answer within {check.limit_seconds:g} s", remedy)


class Examiner:
    """A process that makes checks, as a context."""

    def __init__(self, subject: Subject, checks: Sequence[Check]) -> None:
        self.checks = checks
        order = {"subject": subject.as_facts(), "checks": [attrs.asdict(check) for check in checks]}
        self._pipe, theirs = os.pipe()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bigrun.doctor.child", json.dumps(order), str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends.

        Raises:
            TimeoutError: the check that it makes takes longer than that check's limit.
        """
        pending, current = b"", 0
        deadline = time.monotonic() + self.checks[0].limit_seconds
        while True:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer after {self.checks[current].limit_seconds:g} s")
            piece = os.read(self._pipe, 1 << 16)
            if not piece:
                return
            *whole, pending = (pending + piece).split(b"\n")
            for text in whole:
                line = json.loads(text)
                if "end" in line and current + 1 < len(self.checks):
                    current += 1
                    deadline = time.monotonic() + self.checks[current].limit_seconds
                yield line

    def last_words(self) -> str:
        """How it ended, and the last line that it printed."""
        code = self._process.wait(END_SECONDS)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._output.seek(0)
        said = self._output.read().decode(errors="replace").strip().splitlines()
        return f"the process that made this check was {how}" + (f": {said[-1]}" if said else "")

    def __enter__(self) -> Examiner:
        return self

    def interrupt(self) -> None:
        """Ask it to clean up and end."""
        self._process.send_signal(signal.SIGINT)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.interrupt()
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(END_SECONDS)
        os.close(self._pipe)
        self._output.close()
