"""`bigrun doctor` on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

MEASURED = ("bf16 products ViT-L", "attention of a run ViT-L", "disk contents")
"""Rows without which it has examined nothing."""


def measure(subject: Subject) -> Figures:
    from gpu_checks.command import bigrun

    device = "auto" if subject.is_gpu else "cpu"
    words = ["doctor", "--json", "--device", device, "--run-dir", str(subject.directory / "runs")]
    done = bigrun(subject, *words, *(["--quick"] if subject.tiny else []))
    said = json.loads(done.stdout) if done.stdout.startswith("{") else {"rows": [], "verdict": None}
    rows = [{key: row[key] for key in ("name", "verdict", "found", "remedy")} for row in said["rows"]]
    return {
        "exit_code": done.returncode,
        "said": done.stderr.strip()[-400:] if not rows else "",
        "verdict": said["verdict"],
        "names": [row["name"] for row in rows],
        "fail": [row for row in rows if row["verdict"] == "fail"],
        "warn": [row for row in rows if row["verdict"] == "warn"],
        "speeds": {row["name"]: row["found"] for row in rows if "speed" in row["name"] or " to " in row["name"]},
    }


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    for row in figures["fail"]:
        yield f"{row['name']}: {row['found']}: {row['remedy']}"
    if figures["exit_code"] != 0 and not figures["fail"]:
        yield f"exit code {figures['exit_code']}: {figures['said']}"
    missing = [name for name in MEASURED if name not in figures["names"]]
    if missing:
        yield f"it has no row {', '.join(missing)}"
