"""health-report: one page that says how the run is, drawn again every few minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.options import above
from bigrun_report.hooks import ReportHooks

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.plugins import Plugins
    from bigrun.run import Run
    from bigrun_report.drawing import Drawing
    from bigrun_report.section import Section

__all__ = ["HealthReport", "ReportConfig"]

FOLDER, PAGE = "report", "index.html"
FIRST_SECONDS = 60.0
"""After its start a run has its first page by then: what is wrong with a run is often wrong from its beginning."""
PAUSE_SECONDS = 60.0
"""Between two pages at least, whatever happens."""
MOST_SECONDS = 600.0
"""For one page, at the lowest priority: one of 100,000 rows takes some 3 s of an idle processor."""
ALARMS = ("anomaly", "rolled-back", "emergency-saved")


@attrs.frozen
class ReportConfig:
    """How often the page is drawn."""

    every_minutes: float = option(
        10.0, check=above(0), help="Time between two pages; after an anomaly one is drawn sooner, and one at the end."
    )


class HealthReport:
    """Asks all plugins for their section (`health_section`), keeps the answers in `report/sections.json`, and has
    `report/index.html` drawn from the files of the run; while it trains, by another process."""

    Config = ReportConfig
    observer = True

    def __init__(self, config: ReportConfig) -> None:
        self.config = config
        self._due = 0.0
        self._drawing: Drawing | None = None
        self._drawn_at: float | None = None
        self._pictures: dict[str, str] = {}
        self._problems: set[str] = set()
        self._has_ended = False

    @hookimpl
    def configure_hooks(self, plugins: Plugins) -> None:
        plugins.add_hooks(ReportHooks)

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        return [f"report       {run.directory / FOLDER / PAGE}, every {self.config.every_minutes:g} minutes"]

    @hookimpl
    def on_start(self) -> None:
        self._due = time.monotonic() + min(FIRST_SECONDS, self.config.every_minutes * 60)

    @hookimpl
    def on_picture(self, run: Run, name: str, path: Path) -> None:
        if path.is_relative_to(run.directory):
            self._pictures[name] = str(path.relative_to(run.directory))

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.kind in ALARMS and self._due:
            earliest = 0.0 if self._drawn_at is None else self._drawn_at + PAUSE_SECONDS
            self._due = min(self._due, max(time.monotonic(), earliest))

    @hookimpl(trylast=True)
    def after_step(self, run: Run) -> None:
        if not run.is_main:
            return
        self._hear(run)
        if self._drawing is None and time.monotonic() >= self._due:
            self._ask(run)
            self._start(run)

    @hookimpl(trylast=True)
    def on_finish(self, run: Run) -> None:
        self._ask_at_end(run)
        if run.is_main:
            path = run.directory / FOLDER / PAGE
            run.event("health-report", f"report           {path}", path=str(path))

    @hookimpl
    def on_error(self, run: Run) -> None:
        self._ask_at_end(run)

    @hookimpl(trylast=True)
    def teardown(self, run: Run) -> None:
        """Draw the last page, when the other plugins have written down how the run ended."""
        drawing, self._drawing = self._drawing, None
        if drawing is not None:
            drawing.close()
        has_ended, self._has_ended = self._has_ended, False
        if has_ended:
            draw(run)

    # -- drawing ----------------------------------------------------------------------------------------------

    def _start(self, run: Run) -> None:
        from bigrun_report.drawing import Drawing

        self._drawing = Drawing(run.directory, run.path_for(FOLDER) / PAGE)
        self._drawn_at = time.monotonic()
        self._due = self._drawn_at + self.config.every_minutes * 60

    def _hear(self, run: Run) -> None:
        """Say what the process has failed of, once for each reason."""
        if self._drawing is None or (self._drawing.is_running and self._drawing.seconds < MOST_SECONDS):
            return
        if self._drawing.is_running:
            self._drawing.end()
            self._complain(run, f"the page was not drawn within {MOST_SECONDS / 60:g} minutes: its process was ended")
        failure, drawing, self._drawing = self._drawing.failure, self._drawing, None
        drawing.close()
        self._complain(run, f"the page could not be drawn: {failure}" if failure else "")

    def _ask_at_end(self, run: Run) -> None:
        if run.is_main and self._due:  # else the run had not begun, and the directory may be another's
            self._ask(run)
            self._has_ended = True

    # -- sections ---------------------------------------------------------------------------------------------

    def _ask(self, run: Run) -> None:
        """Ask all plugins, and write down what they say."""
        from bigrun.errors import RunDirectoryError
        from bigrun_report.sections_file import write_sections

        sections = list(sections_of(run))
        for section in sections:
            for problem in section.problems:
                self._complain(run, f"a section is not what was expected: {problem}")
        run.path_for(FOLDER)
        try:
            write_sections(run.directory, sections, self._pictures, run.step)
        except RunDirectoryError as error:  # a full disk
            self._complain(run, f"what the plugins say could not be written: {error}")

    def _complain(self, run: Run, problem: str) -> None:
        """Say it once in this process."""
        if problem and problem not in self._problems:
            self._problems.add(problem)
            run.event("report-problem", problem, "warning")


def sections_of(run: Run) -> Iterator[Section]:
    """What every plugin answers, one after the other: what one of them raises keeps nobody else from answering."""
    from bigrun_report.section import Section, read_section

    manager = run.plugins.manager
    redactor = run.config.redactor()
    answering = {impl.plugin_name for impl in manager.hook.health_section.get_hookimpls()}
    for name in sorted(answering):
        others = [plugin for other, plugin in manager.list_name_plugin() if other != name and plugin is not None]
        try:
            answers = manager.subset_hook_caller("health_section", others)(run=run)
            sections = [read_section(name, redactor.value(answer)) for answer in answers]
        except Exception as error:  # also of an answer that holds itself
            yield Section(name, name, "warn", problems=(redactor.text(f"{name}: raised {error}"),))
            continue
        yield from sections


def draw(run: Run) -> None:
    """Draw the page here and now, where nothing trains any more."""
    from bigrun.record.record import RunRecord
    from bigrun_report.command import write_report
    from bigrun_report.gather import gather
    from bigrun_report.page import page_of

    record = RunRecord(run.directory, is_own=True)
    write_report(run.path_for(FOLDER) / PAGE, page_of(gather(record, redactor=run.config.redactor())))
