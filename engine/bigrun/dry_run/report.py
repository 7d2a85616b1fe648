"""A dry run in lines for people, and as JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.dry_run.merged import PEAKS
from bigrun.dry_run.rehearse import DryRun
from bigrun.dry_run.verdict import Verdict, difference
from bigrun.dry_run.written import DAY_SECONDS
from bigrun.planner.sizes import human_gib

__all__ = ["lines", "to_json"]


def lines(found: DryRun, verdict: Verdict) -> Iterator[str]:
    """The whole report; the verdict last."""
    if found.trained is not None:
        yield from model_lines(found)
        yield from memory_lines(found)
        yield from speed_lines(found)
        yield from checkpoint_lines(found)
        yield from resume_lines(found)
        yield from (f"left out     {text}" for text in found.trained["left_out"])
        yield from written_lines(found)
    yield from (f"not ready    {text}" for text in verdict.problems)
    yield from (f"look at      {text}" for text in verdict.remarks)
    yield f"verdict      {verdict.word}; nothing of the dry run is left"


def model_lines(found: DryRun) -> Iterator[str]:
    trained = trained_of(found)
    yield f"dry run      {found.config.source}: {trained['steps']} steps on {trained['device']}"
    if found.processes > 1:
        yield f"parallel     {trained['parallel']}; memory is that of the process with most of it"
    yield from (f"parameters   {name} {count:,}" for name, count in trained["parameters"].items())


def memory_lines(found: DryRun) -> Iterator[str]:
    """Predicted and measured; a checkpoint's copy counts from the first save on."""
    trained, planned = trained_of(found), found.planned
    of = "of each" if found.processes > 1 else "of the"
    if trained["is_gpu"]:
        predicted = "n/a" if planned is None else human_gib(planned["device_peak_bytes"])
        yield (
            f"memory       {of} device: {human_gib(trained['device_peak_bytes'])} in tensors at the peak, "
            f"predicted {predicted}; {human_gib(trained['device_reserved_bytes'])} reserved"
        )
    predicted = "n/a" if planned is None else human_gib(planned["process_bytes"])
    yield (
        f"memory       {of} process, without its workers: {human_gib(trained['peak_bytes'])} at the peak, "
        f"predicted {predicted}; {human_gib(trained['before_bytes'])} before anything was built"
    )
    before = trained.get("before_save_bytes")
    if before is not None:
        yield f"memory       {human_gib(before)} until the checkpoint, {human_gib(trained['peak_bytes'])} with its copy"


def speed_lines(found: DryRun) -> Iterator[str]:
    seconds, trained = found.step_seconds, trained_of(found)
    if seconds is None:
        return
    waits = [timing["data_wait_fraction"] for step, timing in trained["timings"].items() if int(step) > 1]
    wait = f"{sum(waits) / len(waits):.1%}" if waits else "n/a"
    yield (
        f"speed        {seconds:.4g} s a step (median of {len(found.usual_seconds)}), "
        f"{trained['effective_batch'] / seconds:.4g} images/s; {wait} of the time waits for data"
    )
    yield f"length       {length(found, seconds)}"


def length(found: DryRun, seconds: float) -> str:
    trained = trained_of(found)
    if trained["max_steps"] is None:
        return f"until stopped; {DAY_SECONDS / seconds:,.0f} steps a day; ETA n/a"
    total = human_seconds(total_seconds(found, seconds))
    return f"{trained['max_steps']:,} steps in {total}, what saves hold up included, and nothing else"


def human_seconds(seconds: float) -> str:
    """Three digits and a unit: 3.2 hours."""
    for unit, length in (("days", 2 * DAY_SECONDS), ("hours", 2 * 3600.0), ("minutes", 120.0)):
        if seconds >= length:
            return f"{2 * seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def total_seconds(found: DryRun, seconds: float) -> float:
    """Of the whole run: its steps, and what its saves hold up."""
    trained = trained_of(found)
    saves = trained["max_steps"] / trained["checkpoint_every_steps"]
    stall: float = trained.get("checkpoint", {}).get("stall_seconds", 0.0)
    return float(trained["max_steps"] * seconds + saves * stall)


def checkpoint_lines(found: DryRun) -> Iterator[str]:
    trained = trained_of(found)
    saved = trained.get("checkpoint")
    if saved is None:
        return
    stall, total = saved["stall_seconds"], saved["total_seconds"]
    yield f"checkpoint   {human_bytes(saved['bytes'])} after step {saved['step']}, on the disk after {total:.3g} s"
    in_background = f"{stall:.3g} s in the background" if trained["background"] else "n/a in the background"
    yield f"stall        {in_background}, {total if trained['background'] else stall:.3g} s in the foreground"
    if found.resumed is not None:
        yield f"verify       {found.resumed['verify_seconds']:.3g} s to read every byte"
    seconds, every = found.step_seconds, trained["checkpoint_every_steps"]
    if seconds is not None:
        a_day = DAY_SECONDS / seconds / every
        written = human_bytes(a_day * saved["bytes"])
        yield (
            f"disk         a checkpoint every {every} steps: {human_count(a_day)} a day, {written} written; "
            f"{stays(found)}; room for {trained['room']:,} in {human_bytes(trained['free_bytes'])}"
        )


def human_count(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def stays(found: DryRun) -> str:
    rotation = trained_of(found)["rotation"]
    if rotation is None:
        return "all stay, for no plugin removes any"
    every = rotation["milestones_every_steps"]
    more = "" if every is None else f" and one every {every} steps"
    return f"the newest {rotation['keep_last']}{more} stay"


def resume_lines(found: DryRun) -> Iterator[str]:
    comparison = found.comparison
    if comparison is None:
        return
    steps = ", ".join(map(str, comparison.steps))
    if not comparison.steps:
        yield "resume       no step was taken from the checkpoint"
    elif comparison.is_exact:
        yield f"resume       step {steps} again from the checkpoint: the same losses, bit for bit"
    else:
        yield f"resume       step {steps} again from the checkpoint: {difference(found)}"


def written_lines(found: DryRun) -> Iterator[str]:
    yield f"written      to {found.directory}, beside the checkpoints:"
    for entry in found.written:
        a_day = "" if entry.bytes_per_day is None else f", {human_bytes(entry.bytes_per_day)} a day"
        count = f" in {entry.files} files" if entry.files != 1 else ""
        yield f"    {entry.name}  {human_bytes(entry.bytes)}{count}{a_day}"


def trained_of(found: DryRun) -> Any:
    assert found.trained is not None
    return found.trained


def to_json(found: DryRun, verdict: Verdict) -> dict[str, Any]:
    """Numbers as they were measured; what is not known is absent or null."""
    seconds, trained = found.step_seconds, found.trained
    hidden = ("header", "states", "before_bytes", "sizes", "by_rank")
    facts: dict[str, Any] = {
        "preset": found.config.source,
        "processes": found.processes,
        "strategy": found.strategy,
        "verdict": verdict.word,
        "problems": list(verdict.problems),
        "remarks": list(verdict.remarks),
        "predicted": found.planned,
        "measured": None if trained is None else {k: v for k, v in trained.items() if k not in hidden},
        "memory_by_rank": [] if trained is None else [peaks_of(facts) for facts in trained["by_rank"]],
        "step_seconds": seconds,
        "images_per_second": None if trained is None or not seconds else trained["effective_batch"] / seconds,
        "total_seconds": None,
        "verify_seconds": None if found.resumed is None else found.resumed["verify_seconds"],
        "resume": None if found.comparison is None else attrs.asdict(found.comparison),
        "written": [attrs.asdict(entry) for entry in found.written],
    }
    if trained is not None and seconds and trained["max_steps"] is not None:
        facts["total_seconds"] = total_seconds(found, seconds)
    return facts


def peaks_of(facts: Mapping[str, Any]) -> dict[str, int]:
    """Of one process."""
    return {name: facts[name] for name in PEAKS if name in facts}
