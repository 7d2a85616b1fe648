"""What the supervisor writes into the run directory: a line for each start and end, and a report when it gives up."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint.layout import is_run, step_name
from bigrun.errors import ExitCode
from bigrun.events import utc_now
from bigrun.links import open_append
from bigrun.redaction import Redactor
from bigrun.supervisor.child import Start

__all__ = ["History", "describe_end", "describe_start"]

FOLDER = "supervisor"
SIGNAL_HINTS = {
    signal.SIGKILL: "often: out of memory",
    signal.SIGSEGV: "often: a driver or a native library",
    signal.SIGBUS: "often: a full /dev/shm, or a disk that is gone",
    signal.SIGABRT: "a driver or a native library gave up",
}
EXIT_HINTS = {ExitCode.ERROR: "an error", ExitCode.USAGE: "refused", ExitCode.HUNG: "it hung"}
ADVICE = {
    ExitCode.USAGE: "the last lines above say what was refused: correct it, or bring back what is missing.",
    ExitCode.ERROR: "the last lines above say what failed: remove the cause.",
    ExitCode.HUNG: "the last lines above name a file with the stacks of all threads: it shows what does not return.",
    -signal.SIGKILL: "`journalctl -k` says `Out of memory` if the kernel did it: lower data.micro_batch for a GPU that "
    "shares its memory, data.workers or data.prefetch otherwise.",
}


class History:
    """Everything this supervisor started.

    Nothing is written before the directory holds a run: a directory with other files in it would be refused. What the
    disk refuses is lost; the supervisor goes on.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.starts: list[Start] = []
        self._waiting: list[str] = []

    def began(self, number: int, pid: int) -> None:
        self._write({"what": "started", "start": number, "pid": pid})

    def ended(self, start: Start) -> None:
        self.starts.append(start)
        facts = attrs.asdict(start) | {"meaning": describe_end(start.returncode)}
        facts["start"] = facts.pop("number")
        self._write({"what": "ended", **facts})

    def give_up(self, why: str) -> str:
        """Write the report; returns its text, or the text with a last line that says why it could not be written."""
        text = Redactor.of_environment().text("\n".join(report_lines(self.directory, self.starts, why)) + "\n")
        path = self.directory / FOLDER / f"report-{utc_now().replace(':', '').partition('.')[0]}Z.txt"
        self._write({"what": "gave-up", "why": why, "report": path.name})
        try:
            if self._is_run():
                path.write_text(text, encoding="utf-8")
                return f"{text}report: {path}"
        except OSError as error:
            return f"{text}no report was written: {error}"
        return f"{text}no report was written: {self.directory} holds no run"

    def _is_run(self) -> bool:
        return is_run(self.directory)

    def _write(self, row: dict[str, Any]) -> None:
        public = Redactor.of_environment().value({"time_utc": utc_now(), **row})
        self._waiting.append(json.dumps(public) + "\n")
        try:
            if not self._is_run():
                return
            folder = self.directory / FOLDER
            folder.mkdir(exist_ok=True)
            with open_append(folder / "log.jsonl") as file:
                file.writelines(self._waiting)
        except OSError:
            return
        self._waiting.clear()


def describe_end(returncode: int) -> str:
    """A return code in words: `exit code 1 (an error)`, `killed by signal 9 (SIGKILL, often: out of memory)`."""
    if returncode < 0:
        number = -returncode
        names = [number.name for number in signal.Signals if number == -returncode]  # a real-time signal has none
        hints = [hint for killer, hint in SIGNAL_HINTS.items() if killer == number]
        return f"killed by signal {number}" + (f" ({', '.join(names + hints)})" if names else "")
    hints = [hint for code, hint in EXIT_HINTS.items() if code == returncode]
    return f"exit code {returncode}" + (f" ({hints[0]})" if hints else "")


def describe_start(start: Start) -> str:
    """How a start ended, how far it was, and what it left."""
    reached = "before training began" if start.step is None else f"after step {start.step}"
    newest = "no checkpoint" if start.newest is None else f"newest checkpoint: step {start.newest}"
    return f"{describe_end(start.returncode)} {reached}; {newest}"


def report_lines(directory: Path, starts: list[Start], why: str) -> Iterator[str]:
    """The report on a run that cannot go on."""
    yield f"gave up on {directory}: {why}"
    yield ""
    for start in starts:
        yield f"start {start.number}, {start.began_utc}, {start.seconds:.0f} s: {describe_start(start)}"
        yield from (f"    | {line}" for line in start.last_lines)
    last = starts[-1]
    yield ""
    if last.newest is None:
        yield "There is no checkpoint: a new start begins at step 0."
    else:
        yield f"Newest checkpoint: {directory / 'checkpoints' / step_name(last.newest)}"
    advice = ADVICE.get(last.returncode)
    if advice:
        yield f"What to do: {advice}"
    yield "Then give the same command again; it continues from the newest checkpoint."
