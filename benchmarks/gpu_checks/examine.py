"""Checks, each in a process of its own: whatever happens to it is a row. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_checks.check import Check, Figures, row

__all__ = ["examine"]

BENCHMARKS = Path(__file__).resolve().parents[1]
LEAST_SECONDS = 10.0
"""With less no check is begun: to import torch and to wake a GPU takes as long."""


def examine(checks: Sequence[Check], device: str, *, tiny: bool, deadline: float) -> Iterator[Figures]:
    """Rows as they are found.

    Args:
        device: cuda or cpu.
        tiny: tiny networks, whose speeds mean nothing.
        deadline: of all checks, on the clock of `time.monotonic`; one that would begin later is skipped, and one that
            has not ended by then too.
    """
    for check in checks:
        began = time.monotonic()
        left = deadline - began
        if left < LEAST_SECONDS:
            yield row(check, "skip", "the time for all checks is over", 0.0, {})
            continue
        facts = ask(check, {"device": device, "tiny": tiny}, min(check.limit_seconds, left))
        if "timeout" in facts and left < check.limit_seconds:
            yield row(check, "skip", "the time for all checks was over before it ended", left, {})
            continue
        result = facts.get("result", "fail")
        yield row(check, result, facts["why"], time.monotonic() - began, facts.get("figures", {}))


def ask(check: Check, subject: Figures, limit_seconds: float) -> dict[str, Any]:
    """What the process of a check says; it and all that it has started are gone when this returns."""
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="bigrun-check-") as scratch, tempfile.TemporaryFile() as errors:
        order = json.dumps({"module": check.module_name, "subject": {**subject, "directory": scratch}})
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_checks.child", order],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            return {"why": f"it had not ended after {limit_seconds:.0f} s", "timeout": True}
        finally:
            end(process)
        errors.seek(0)
        return answer(said, process.returncode, errors.read())


def end(process: subprocess.Popen[bytes]) -> None:
    """Of the process and of all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def answer(said: bytes, code: int, errors: bytes) -> dict[str, Any]:
    """Its last line, or how it has ended without one."""
    lines = said.decode(errors="replace").strip().splitlines()
    if code == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    words = errors.decode(errors="replace").strip().splitlines()
    return {"why": f"its process {how}" + (f": {words[-1]}" if words else "")}
