"""`bigrun doctor`: look at the machine before a run. Imports when it runs."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import click

__all__ = ["doctor"]


@click.command()
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="On the disk that the run will use; it need not be there.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "rocm", "cpu"]),
    default="auto",
    show_default=True,
    help="What to examine; `auto` takes a GPU where torch sees one.",
)
@click.option("--quick", is_flag=True, help="Measure no speed of the device, and less of the disk.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(run_dir: Path, device: str, quick: bool, as_json: bool) -> None:
    """Examine this machine, in half a minute: versions, driver, memory, numbers, speed and the disk of the runs.

    Every line is `ok`, `info`, `warn` or `fail`, with what was found, what was expected and what to do. Each check is
    made by itself: one that fails, crashes or hangs does not end the others. Nothing is changed, and nothing is left on
    the disk.

    Exit code 0: nothing failed. 1: something did.
    """
    import json

    from bigrun.doctor.examine import examine
    from bigrun.doctor.report import lines, summary, to_json
    from bigrun.doctor.row import worst
    from bigrun.doctor.subject import Subject
    from bigrun.terminal import say

    began = time.monotonic()
    subject = Subject(run_dir, device, quick)
    with contextlib.suppress(PermissionError):  # which is a finding
        if not subject.place.is_dir():
            raise click.UsageError(f"--run-dir {run_dir}: {subject.place} is not a directory")
    rows = []
    for row in examine(subject):
        rows.append(row)
        for line in () if as_json else lines(row):
            say(line)
    seconds = time.monotonic() - began
    say(json.dumps(to_json(subject, rows, seconds)) if as_json else summary(rows, seconds))
    sys.exit(1 if worst(rows) == "fail" else 0)
