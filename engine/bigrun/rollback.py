"""Going back: the run starts again from an older checkpoint, behind the images that it has seen.

A roll back is a resume. The older checkpoint is saved again with the place in the data that the run had reached and
the note that it went back; the newer ones, which hold what the anomaly has made of the weights, are removed; and the
session begins anew, as after a kill, with every plugin as the checkpoint has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.checkpoint.layout import step_name
from bigrun.saver import saving

if TYPE_CHECKING:
    from bigrun.anomaly import Anomaly
    from bigrun.run import Run

__all__ = ["RollBack", "go_back", "refusal", "rollback_target"]


class RollBack(Exception):
    """Ends the loop: the session is to go on from an older checkpoint."""

    def __init__(self, anomaly: Anomaly, target: int, position: int) -> None:
        """
        Args:
            target: step of the checkpoint to go on from.
            position: images to be counted as consumed there.
        """
        super().__init__(f"back to step {target}: {anomaly.message}")
        self.anomaly = anomaly
        self.target = target
        self.position = position


def rollback_target(run: Run, anomaly: Anomaly) -> int | None:
    """The step of the newest verified checkpoint before the anomaly showed; None when there is none."""
    with saving(run):
        found: int | None = run.peers.by_main(lambda: newest_before(run, anomaly))
    return found


def newest_before(run: Run, anomaly: Anomaly) -> int | None:
    run.saver.written(run, wait=True)  # one that is being written may be it; it is announced no more
    step: int | None = anomaly.step if anomaly.onset is None else anomaly.onset
    while step is not None:
        step = run.checkpoints.newest_before(step)
        if step is None or run.checkpoints.is_whole(step):  # once more: nothing is removed for one that has rotted
            break
    return step


def refusal(run: Run, target: int | None) -> str | None:
    """Why the run may not go back; None when it may."""
    section = run.config.run
    before = run.incidents.rollbacks_within(section.rollback_memory_steps, run.plugins.step)
    if before >= section.max_rollbacks:
        return (
            f"it went back {before} times in the last {section.rollback_memory_steps} steps already "
            f"(run.max_rollbacks = {section.max_rollbacks}), and the trouble came again: other images do not help"
        )
    if target is None:
        return "there is no verified checkpoint from before it began"
    return None


def go_back(run: Run, rollback: RollBack) -> None:
    """Go on from the older checkpoint, which the main process makes the newest."""
    with saving(run):
        run.peers.by_main(lambda: make_newest(run, rollback))
    run.process.went_back = True
    run.process.failures.update(run.plugins.failures)


def make_newest(run: Run, rollback: RollBack) -> None:
    """Make the older checkpoint the newest. A kill in between leaves the run as it was, or without some of the newer
    checkpoints, from where it meets the same trouble and goes back again, or as it is to be."""
    store, target = run.checkpoints, rollback.target
    for step in reversed(store.steps()):
        if step > target:
            store.delete(step)
    state = store.load_facts(store.path(target), "state")
    note = {"from_step": rollback.anomaly.step, "to_step": target, "kind": rollback.anomaly.kind}
    facts = {
        **state,
        "position": rollback.position,
        "rollbacks": [*run.rollbacks, note],
        "bad_images": run.bad_images.facts(),
    }
    store.amend(target, {"state": facts})
    run.event(
        "rolled-back",
        f"back to {step_name(target)}, behind the {rollback.position - state['position']:,} images seen since",
        "warning",
        from_step=rollback.anomaly.step,
        to_step=target,
        anomaly=rollback.anomaly.kind,
        position=rollback.position,
    )
