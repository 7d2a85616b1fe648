"""What a run says of where it begins, and of what it found there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bigrun.checkpoint.layout import PROVENANCE
from bigrun.machine import describe_machine, machine_changes, versions
from bigrun.same_objective import KOLEO_GROUP
from bigrun.switched_off import announce_switched_off

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bigrun.events import Level
    from bigrun.lock import Owner
    from bigrun.run import Run

__all__ = ["announce", "announce_jumps", "announce_recovery", "checkpoint_refused"]

JUMP = 0.01
"""Schedules that differ by more than this share are worth a warning; rounding and a step more or less are not."""


def announce_recovery(run: Run, died: Owner) -> None:
    """Say whose run directory this was."""
    run.event("lock-recovered", f"{run.directory} was held by {died}, which did not end by itself", "warning")


def announce(run: Run, checkpoint: Path | None, changes: Mapping[str, str]) -> None:
    """Say where the run continues from, and what is different now; or which weights a fresh one begins with."""
    from bigrun.weights.start import announce_weights

    if checkpoint is None:
        announce_weights(run)
    elif checkpoint.parent == run.checkpoints.directory:
        run.event("resumed", f"resumed from {checkpoint} after step {run.step}", path=str(checkpoint))
    else:
        run.event("branched", f"branched from {checkpoint} after step {run.step}", path=str(checkpoint))
    for setting in run.settings:
        if setting.took_effect is False:
            is_as_before = setting.before == setting.after
            what = f"stays {setting.after}" if is_as_before else f"= {setting.after} had no effect"
            text = f"{setting.name} {what}: {setting.evidence}"
            run.event("setting-without-effect", text, "warning", setting=setting.name)
    announce_switched_off(run)
    for finding in run.findings:
        run.event("data-finding", f"{finding.kind}: {finding.message}", "warning", finding=finding.kind)
    announce_changes(run, changes)
    if checkpoint is not None:
        announce_machine(run, checkpoint)
        announce_data(run, checkpoint)


def announce_changes(run: Run, changes: Mapping[str, str]) -> None:
    """Say which options have changed; a warning where nobody has set one and the objective is another with it."""
    chosen = {choice.path: choice.why for choice in run.config.choices}
    for option, change in changes.items():
        message = f"since the checkpoint: {change}"
        level: Level = "info"
        if option == KOLEO_GROUP and option in chosen:
            message += (
                f", chosen by rule ({chosen[option]}): the run goes on with another objective; if that is not meant, "
                f"set {option} to its old value, and data.micro_batch to a multiple of it"
            )
            level = "warning"
        run.event("config-changed", message, level, key=option)


def announce_machine(run: Run, checkpoint: Path) -> None:
    """Say what is another machine than before. The order of the images and the schedules do not depend on it."""
    state = run.checkpoints.load_facts(checkpoint, "state")
    changes = machine_changes(state.get("machine", {}) | state["versions"], describe_machine(run) | versions())
    if changes:
        run.event(
            "machine-changed",
            f"since the checkpoint: {'; '.join(changes)}. Images and schedules go on in the same order; numbers may "
            "differ from those of the old machine by rounding",
            "warning",
            changes=changes,
        )


def announce_data(run: Run, checkpoint: Path) -> None:
    """Say that the images are others than when the checkpoint was saved, where that can be told: as many as before,
    else the run would be refused."""
    if run.provenance is None or not (checkpoint / f"{PROVENANCE}.json").is_file():
        return
    before, now = run.checkpoints.load_facts(checkpoint, PROVENANCE)["data"], run.provenance["data"]
    if before["kind"] == now["kind"] and before["sha256"] != now["sha256"]:
        told = {"content": "contents or names", "paths-and-sizes": "names or sizes"}.get(now["kind"], "number")
        run.event(
            "data-changed",
            f"since the checkpoint the files of the data set have other {told}: the run goes on with them, in the "
            "same order",
            "warning",
            before=before["sha256"],
            now=now["sha256"],
        )


def announce_jumps(run: Run, checkpoint: Path) -> None:
    """Say which schedules do not go on from where they were, for the configuration, or its length, is another."""
    before = run.checkpoints.load_facts(checkpoint, "state")["schedules"]
    for name, now in run.schedules.at(max(run.step, 1)).items():
        if name in before and not math.isclose(now, before[name], rel_tol=JUMP, abs_tol=1e-12):
            run.event(
                "schedule-jump",
                f"{name} was {before[name]:.4g} in step {run.step}, and would be {now:.4g} by the schedules of now",
                "warning",
                schedule=name,
                before=before[name],
                now=now,
            )


def checkpoint_refused(run: Run, path: Path, problems: list[str]) -> None:
    run.event(
        "checkpoint-refused", f"{path} is damaged and was passed over: {'; '.join(problems)}", "error", path=str(path)
    )
