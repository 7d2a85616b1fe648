"""The process of one check: `python -m gpu_checks.child ORDER`; its answer is one line of JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any, cast

from gpu_checks.check import CheckModule, Skip
from gpu_checks.subject import Subject

__all__ = ["answer", "main"]


def main() -> None:
    order = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        module = cast("CheckModule", importlib.import_module(order["module"]))
        found = answer(module, Subject.of(**order["subject"]))
    except Exception as error:  # the check's own, of torch, of a driver: anything
        where = " < ".join(f"{f.name} ({f.filename.rpartition('/')[2]}:{f.lineno})" for f in frames(error))
        found = {"result": "fail", "why": f"{type(error).__name__}: {str(error)[:600]}", "figures": {"where": where}}
    out.write(json.dumps(found, allow_nan=False) + "\n")
    out.close()


def frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The innermost ones, the last first."""
    return list(reversed(traceback.extract_tb(error.__traceback__)))[:6]


def answer(module: CheckModule, subject: Subject) -> dict[str, Any]:
    """Result, why, and figures."""
    try:
        figures = module.measure(subject)
    except Skip as skip:
        return {"result": "skip", "why": str(skip), "figures": {}}
    found = list(module.problems(figures))
    return {"result": "fail" if found else "pass", "why": "; ".join(found), "figures": finite(figures)}


def finite(value: Any) -> Any:
    """The value with what JSON has no number for as text, and floats with six digits."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)


if __name__ == "__main__":
    main()
