"""`bigrun report`. Imports when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bigrun_report.parts import Report

__all__ = ["report", "write_report"]

SUFFIXES = {"html": "html", "md": "md", "json": "json"}


@click.command(short_help="Say how a run is: a page, Markdown or JSON.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "is_opened", is_flag=True, help="Show the page in a browser.")
@click.option(
    "--format", "form", type=click.Choice([*SUFFIXES]), default="html", show_default=True,
    help="A page for a browser, Markdown for a ticket or a terminal, JSON for programs.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE",
    help="Where to write; `-` is the terminal.  [default: report-<run>.html here; md and json: the terminal]",
)  # fmt: skip
@click.option("--compare", "other", type=click.Path(path_type=Path), metavar="RUN2", help="Compare with another run.")
def report(run: Path, is_opened: bool, form: str, out: Path | None, other: Path | None) -> None:
    """Say how a run is, in the first line, and show all that its files tell.

    RUN is a run directory, of a run that trains or has ended; nothing is written there, unless --out says so. The
    plugin health-report writes the same page into report/index.html of its run every few minutes.
    """
    from bigrun.errors import UsageError
    from bigrun.evaluation.outcome import require_outside
    from bigrun.out_file import require_place
    from bigrun.record.record import RunRecord
    from bigrun.terminal import say
    from bigrun_report.comparison import Axis, compared
    from bigrun_report.gather import gather

    if is_opened and (form != "html" or out == Path("-")):
        raise UsageError("--open shows the page: expected --format html, and a file for it")
    record = RunRecord(run)
    if out is None and form == "html":
        out = Path(f"report-{run.resolve().name or 'run'}.html")
        require_outside(out, run)
    is_shown = out is None or out == Path("-")
    if out is not None and not is_shown:
        require_place(out)
    others = [] if other is None else compared([record, RunRecord(other)], Axis.STEP, ()).as_parts()
    is_replaced = out is not None and out.resolve() == (run / "report" / "index.html").resolve()
    found = gather(record, others=others, is_replaced=is_replaced)
    text = written(found, form)
    if out is None or is_shown:
        click.echo(text, nl=False)
        return
    write_report(out, text)
    say(found.headline)
    say(f"report: {out}")
    if is_opened:
        show(out)


def written(found: Report, form: str) -> str:
    from bigrun_report.page import page_of
    from bigrun_report.texts import json_of, markdown_of

    return {"html": page_of, "md": markdown_of, "json": json_of}[form](found)


def write_report(path: Path, text: str) -> None:
    """Write a page. Raises RunDirectoryError, a UsageError: it cannot be written."""
    from bigrun.directory import replace_file  # the plugin's own page comes here too: no word of --out

    replace_file(path, text.encode("utf-8"))


def show(path: Path) -> None:
    """Open a page in the user's browser; without one the path is all there is to say."""
    import webbrowser

    from bigrun.terminal import say

    why = ""
    try:
        if webbrowser.open(path.resolve().as_uri()):
            return
    except (webbrowser.Error, OSError, ValueError, IndexError) as error:
        # A BROWSER of a blank is an IndexError, of an open quote a ValueError.
        why = f": {type(error).__name__}: {error}"
    say(f"--open: no browser could be started here{why} (see BROWSER); open {path} yourself", error=True)
