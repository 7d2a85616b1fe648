"""A real run that has too little memory: it goes on by itself with half the micro-batch, and learns the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from gpu_checks.check import Figures
from gpu_checks.training import same_training

if TYPE_CHECKING:
    from bigrun.config import Document
    from gpu_checks.command import RealRun
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

BATCH, STEPS = 64, 4
PLUGIN = "gpu_checks.cramped:Cramped"


def measure(subject: Subject) -> Figures:
    from gpu_checks.command import real_run
    from gpu_checks.recipe import COMPARABLE, document

    sets = [*COMPARABLE, f"run.max_steps={STEPS}", "hardware.on_oom='halve'"]
    whole = document(subject, "vit_small", BATCH, sets, {"metrics-log": {}})
    micro = whole.tables["data"]["micro_batch"]
    halved = {**whole.tables, "data": {**whole.tables["data"], "micro_batch": micro // 2}}
    half = attrs.evolve(whole, tables=halved)
    limit = room(subject, whole, half)
    run = real_run(subject, "cramped", whole, "--plugin", PLUGIN, more=limits(limit, micro // 2))
    roomy = real_run(subject, "roomy", half)
    return {
        "is_gpu": subject.is_gpu,
        "micro_batch": micro,
        "limit_mib": None if limit is None else limit / 2**20,
        "cramped": described(run),
        "roomy": described(roomy),
    }


def room(subject: Subject, whole: Document, half: Document) -> int | None:
    """Bytes that are too few for one micro-batch and enough for half of it, as `bigrun plan` predicts both."""
    if not subject.is_gpu:
        return None
    from bigrun.planner.predict import predict

    return round(math.sqrt(predict(whole).memory.peak_bytes * predict(half).memory.peak_bytes))


def limits(bytes_: int | None, images: int) -> dict[str, str]:
    from gpu_checks.cramped import BYTES, IMAGES

    return {BYTES: str(bytes_ or 0), IMAGES: str(images)}


def described(run: RealRun) -> dict[str, Any]:
    import json

    noted = run.directory / "memory.json"
    events = run.events("out-of-memory")
    return {
        "exit_code": run.exit_code,
        "said": run.said if run.exit_code else "",
        "ran_out": [{"message": e["message"], **e["facts"]} for e in events],
        "noted": json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else None,
        "losses": run.losses,
        "gradient_norms": [row["grad_norm"] for row in run.lines("metrics.jsonl")],
        "micro_batch_at_the_end": micro_batch_at_the_end(run),
    }


def micro_batch_at_the_end(run: RealRun) -> list[int] | None:
    """Micro-batch and effective batch of the configuration that the last process has written down."""
    import tomli

    path = run.directory / "config.toml"
    if not path.exists():
        return None
    data = tomli.loads(path.read_text(encoding="utf-8"))["data"]
    return [data["micro_batch"], data["effective_batch"]]


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    run, roomy, micro = figures["cramped"], figures["roomy"], figures["micro_batch"]
    for name, one in (("the run", run), ("the run with room", roomy)):
        if one["exit_code"] != 0:
            yield f"{name} ended with exit code {one['exit_code']}: {one['said']}"
        if len(one["losses"]) != STEPS:
            yield f"{name} has losses of {len(one['losses'])} steps, not of {STEPS}"
    if not run["ran_out"]:
        yield "memory did not run out"
        return
    if not all(event["starts_again"] for event in run["ran_out"]):
        yield f"it did not start again: {run['ran_out'][-1]['message']}"
    if len(run["ran_out"]) > 1:
        yield f"half was still too much: memory ran out {len(run['ran_out'])} times"
    if run["micro_batch_at_the_end"] != [micro // 2, micro]:
        yield f"micro-batch and effective batch at the end: {run['micro_batch_at_the_end']}"
    for problem in same_training(run, roomy):
        yield f"beside a run with half from the start {problem}"
