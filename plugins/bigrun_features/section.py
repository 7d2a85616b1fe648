"""The section of the health report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bigrun_features.board import Board
from bigrun_features.config import HealthConfig
from bigrun_features.indicators import CURVES, METRIC, healthy, ordered, title
from bigrun_features.measured import Measured
from bigrun_features.norms import GRADIENT

__all__ = ["cost_line", "section"]

TITLE = "Features of the fixed images"
"""The report's own part `Features` has those of each step."""


def section(config: HealthConfig, board: Board, about: str, cost: str | None) -> dict[str, Any]:
    """In the form of the hook `health_section`.

    Args:
        about: what is looked at, and how often.
        cost: what the looks took.
    """
    status = board.status if board.is_judged or board.up() else "none"
    found: dict[str, Any] = {"title": TITLE, "status": status, "lines": list(lines(board, about, cost))}
    if board.measured is not None:
        columns, rows = ["indicator", "value", "healthy", "status"], list(table(config, board, board.measured))
        found |= {"table": {"columns": columns, "rows": rows}, "curves": list(curves(board.measured))}
    return found


def lines(board: Board, about: str, cost: str | None) -> Iterator[str]:
    """What is wrong, what was looked at."""
    for sign in reversed(board.up()):  # what fails is last there
        yield f"{sign.level}: {sign.why} ({METRIC}{sign.indicator}). {sign.advice}"
    if board.measured is None:
        yield "nothing was looked at yet"
    elif not board.is_judged:
        yield f"too early to judge: the warm-ups and some steps after them end with step {board.settled_step}"
    elif not board.up():
        yield "features of different images differ, and the student follows the teacher"
    yield about
    if board.measured is not None:
        yield f"last look: step {board.step}, {board.measured.images} images"
    if cost is not None:
        yield cost


def table(config: HealthConfig, board: Board, measured: Measured) -> Iterator[list[str]]:
    for name in ordered(measured):
        status = board.levels.get(name, "ok") if board.is_judged else "too early"
        limit = healthy(name, config, measured)
        judged = not limit.startswith(("-", "not judged"))
        yield [title(name), f"{measured.values[name]:.4g}", limit, status if judged or status != "ok" else "-"]


def curves(measured: Measured) -> Iterator[dict[str, Any]]:
    known = {name: [n for n in names if n in measured.values] for name, names in CURVES.items()}
    for name, names in known.items():
        if names:
            yield {"title": name, "unit": "", "metrics": [METRIC + n for n in names], "scale": "linear"}
    modules = [name.removeprefix(GRADIENT) for name in measured.values if name.startswith(GRADIENT)]
    if modules:
        metrics = [f"grad_norm/{name}" for name in modules]
        yield {"title": "Gradient norms, before clipping", "unit": "", "metrics": metrics, "scale": "log"}


def cost_line(seconds: float, share: float | None) -> str:
    """What a look takes, of one that was measured."""
    of = "" if share is None else f", {share:.1%} of the time since the look before"
    return f"the last look took {seconds:.2g} s{of}"
