"""console: plain lines in a file or a pipe, a bar on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bigrun import hookimpl
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_console.bar import Bar
from bigrun_console.plugin import describe, eta_text, format_seconds, mfu_text

MEASURED = r"loss \d+\.\d{4}  lr \d\.\d{2}e-\d{2}  \d+\.\d{2} steps/s  \d+ samples/s  data wait \d+%"


class TestContract(PluginContract):
    plugin = "console"


class Remark:
    """Makes an event of each level in step 2."""

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 2:
            run.event("remark", "[bold]markup[/bold] is text")
            run.event("remark", "look at this", "warning")
            run.event("remark", "a path " + "x" * 100, "error")


class StopAtTwo:
    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2:
            run.request_stop("enough")


# -- plain lines ----------------------------------------------------------------------------------------------


def test_a_pipe_gets_one_plain_line_per_flush(bigrunner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    bigrunner.run("console", steps=5, run={"log_every_steps": 2, "max_steps": 5}).assert_finished()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    for line in lines:
        assert re.fullmatch(rf"step \d/5  {MEASURED}  MFU n/a  ETA 00:\d\d:\d\d", line), line
    assert lines[-1].endswith("ETA 00:00:00")


def test_events_are_lines_with_their_level(bigrunner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    bigrunner.run("console", steps=2, companions=[Remark()]).assert_finished()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == ["[bold]markup[/bold] is text", "warning: look at this", "error: a path " + "x" * 100]


def test_a_run_without_end_has_no_eta(bigrunner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    bigrunner.run("console", run={"max_steps": False}, companions=[StopAtTwo()])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 2
    assert all(re.fullmatch(rf"step \d  {MEASURED}  MFU n/a", line) for line in lines)


def test_a_window_without_a_healthy_step_has_no_loss() -> None:
    idle = {"steps_per_second": 0.0, "images_per_second": 0.0, "data_wait_fraction": 0.0}
    assert describe(idle) == "0.00 steps/s  0 samples/s  data wait 0%"


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({}, "MFU n/a"),
        ({"mfu_fraction": 0.416}, "MFU 42%"),
        ({"mfu_fraction": 0.19, "mfu_of_measured_fraction": 0.334}, "MFU 19% (33% of GEMM)"),
        ({"mfu_of_measured_fraction": 0.334}, "MFU n/a (33% of GEMM)"),
    ],
)
def test_a_share_of_the_peak_is_told_where_there_is_one(metrics: dict[str, float], text: str) -> None:
    assert mfu_text(metrics) == text


def test_a_stated_peak_makes_a_share_of_it(bigrunner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    hardware = {"precision": "bf16", "peak_tflops": 1e-3}
    bigrunner.run("console", steps=1, hardware=hardware).assert_finished()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"step 1/1  {MEASURED}  MFU \d+%  ETA 00:00:00", line), line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00"),
        (59.4, "00:00:59"),
        (59.6, "00:01:00"),
        (3_725, "01:02:05"),
        (86_399, "23:59:59"),
        (86_400, "1d 00:00:00"),
        (20 * 86_400 + 3_600, "20d 01:00:00"),
    ],
)
def test_seconds_are_written_as_a_clock_with_days(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


# -- a terminal -----------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal that keeps what is written to it."""

    def __init__(self, columns: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.received = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                received = os.read(self.master, 65_536)
            except OSError:  # Linux: EIO when the other end is closed
                return
            if not received:
                return
            self.received += received

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
            self.reader.join()
            os.close(self.master)

    def shows(self, text: str) -> bool:
        """Whether a text stands, or stood, on the screen."""
        return text in without_control(self.received.decode(errors="replace"))

    def raw(self) -> str:
        """Everything, with control sequences. Closes the terminal."""
        self.close()
        return self.received.decode()

    def lines(self) -> list[str]:
        """Every line that stood on the screen at some time, in order. Closes the terminal."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", without_control(self.raw())) if line.strip()]


def without_control(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


RunOnTerminal = Callable[..., tuple[RunResult, Terminal]]


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """The test's terminals, the newest last."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.fixture
def run_on_terminal(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, terminals: list[Terminal]) -> RunOnTerminal:
    def run(columns: int = 80, term: str = "xterm", **options: Any) -> tuple[RunResult, Terminal]:
        terminals.append(Terminal(columns))
        with monkeypatch.context() as patch:
            patch.setenv("TERM", term)
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stdout", terminals[-1].stream)
            return bigrunner.run("console", **options), terminals[-1]

    return run


def test_a_terminal_of_80_columns_shows_everything(run_on_terminal: RunOnTerminal) -> None:
    result, terminal = run_on_terminal(columns=80, steps=4)
    result.assert_finished()
    lines = terminal.lines()
    assert re.fullmatch(r"step 4/4 ━{20,60} MFU n/a  ETA 00:00:00", lines[-2]), lines[-2]
    assert re.fullmatch(MEASURED, lines[-1]), lines[-1]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_the_longest_texts_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal(columns=80)
    bar = Bar(terminal.stream, 1_234_567, 1_250_000)
    metrics = {"loss": 1234.5678, "learning_rate": 1e-3, "steps_per_second": 123.45, "images_per_second": 123_456.0}
    metrics |= {"data_wait_fraction": 1.0, "mfu_fraction": 1.0, "mfu_of_measured_fraction": 1.0}
    bar.show(describe(metrics), f"{mfu_text(metrics)}  {eta_text(99 * 86_400)}")
    bar.stop()
    *_, first, second = terminal.lines()
    assert re.fullmatch(r"step 1234567/1250000 [━╸╺]{10,60} MFU 100% \(100% of GEMM\)  ETA 99d 00:00:00", first)
    assert second == "loss 1234.5678  lr 1.00e-03  123.45 steps/s  123456 samples/s  data wait 100%"


def test_the_bar_moves_with_every_step(run_on_terminal: RunOnTerminal, terminals: list[Terminal]) -> None:
    class WaitForRefresh:
        """The bar is drawn now and then by a thread of its own: a step lasts until it was."""

        @hookimpl(trylast=True)
        def after_step(self, step: int) -> None:
            deadline = time.monotonic() + 20
            while not terminals[-1].shows(f"step {step}/3") and time.monotonic() < deadline:
                time.sleep(0.01)

    _, terminal = run_on_terminal(steps=3, run={"log_every_steps": 3, "max_steps": 3}, companions=[WaitForRefresh()])
    shown = [int(line.split()[1].split("/")[0]) for line in terminal.lines() if line.startswith("step ")]
    assert {1, 2, 3} <= set(shown)
    assert shown == sorted(shown)


def test_events_stay_above_the_bar(run_on_terminal: RunOnTerminal) -> None:
    result, terminal = run_on_terminal(steps=2, companions=[Remark()])
    result.assert_finished()
    lines = terminal.lines()
    at = lines.index("[bold]markup[/bold] is text")
    assert any(line.startswith("step ") for line in lines[at:])
    assert "warning: look at this" in lines
    assert "error: a path " + "x" * 100 in lines  # in one piece, for the terminal to break


def test_the_terminal_is_given_back(run_on_terminal: RunOnTerminal) -> None:
    result, terminal = run_on_terminal(steps=1)
    result.assert_finished()
    raw = terminal.raw()
    assert "\x1b[?25l" in raw
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")  # the cursor is visible again
    for thread in threading.enumerate():
        if "Refresh" in type(thread).__name__:
            thread.join(timeout=10)  # it sees the end at its next tick
            assert not thread.is_alive()


def test_a_run_without_end_has_a_bar_without_end(run_on_terminal: RunOnTerminal) -> None:
    _, terminal = run_on_terminal(run={"max_steps": False}, companions=[StopAtTwo()])
    lines = terminal.lines()
    assert re.fullmatch(r"step 2/\? ━+ MFU n/a", lines[-2]), lines[-2]
    assert re.fullmatch(MEASURED, lines[-1]), lines[-1]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(run_on_terminal: RunOnTerminal) -> None:
    _, terminal = run_on_terminal(term="dumb", steps=2)
    raw = terminal.raw()
    assert "\x1b" not in raw
    assert [line.split()[1] for line in raw.splitlines()] == ["1/2", "2/2"]
