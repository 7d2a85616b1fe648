"""What is done to a run, and what has to come of it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint import manifest
from bigrun.checkpoint.difference import compare
from bigrun.checkpoint.facts import load_facts
from bigrun.drill.child import Child, DrillError, temporaries
from bigrun.drill.faults import FAULTS
from bigrun.drill.preset import EVERY, STEPS

__all__ = ["CONTROL", "NAN", "Drill", "Outcome", "scenarios"]


CONTROL = "none"
"""Name of the run that nothing is done to."""
NAN = "NaN"


@attrs.frozen
class Outcome:
    """A row of the table."""

    name: str
    done: str
    """What was done to the run."""
    lost_steps: int
    """Steps that had to be taken again, the most after one fault."""
    difference: float | None
    """Largest difference of a number from the straight run: 0 is bit for bit; None where it is not to be equal."""
    seconds: float
    problem: str | None = None
    """Why the run did not pass; None when it did."""


class Drill:
    """The folder of a drill, and what its runs are made of."""

    def __init__(self, folder: Path, tables: dict[str, Any], seed: int, cycles: int) -> None:
        self.folder = folder
        self.tables = tables
        self.cycles = cycles
        """Kills of a kind."""
        self.random = random.Random(seed)
        self.straight = self.child("straight")

    def child(self, name: str) -> Child:
        return Child(self.folder / name, self.tables)

    def run_straight(self) -> None:
        """What all others are compared with."""
        self.straight.start()
        self.straight.finish()

    def difference(self, child: Child) -> float:
        """The largest difference between the last state of a run and that of the straight one; 0 is bit for bit.

        Raises:
            DrillError: they do not end at the same step, do not hold the same tensors, or the facts differ.
        """
        mine, other = child.last_path, self.straight.last_path
        if mine.name != other.name:
            raise DrillError(f"it ends at {mine.name}, the straight run at {other.name}")
        is_equal = hashes(mine) == hashes(other)
        wrong = fact_differences(mine, other, COUNTED if not is_equal else None)
        if wrong:
            raise DrillError(f"the facts of its last state are not those of the straight run: {', '.join(wrong)}")
        if is_equal:
            return 0.0
        tensors = compare(other, mine).tensors.values()
        misfits = [misfit for file in tensors for misfit in file.misfits]
        if misfits:
            raise DrillError(f"its last state has other tensors: {misfits[0]}")
        return max((change.largest for file in tensors for change in file.changes), default=0.0)


def hashes(checkpoint: Path) -> dict[str, str]:
    """sha256 of every file of tensors."""
    files = manifest.read(checkpoint).files
    return {name: record.sha256 for name, record in files.items() if name.endswith(".safetensors")}


MACHINE = {"machine", "versions"}
COUNTED = {"step", "position", "images", "seed", "skipped_in_a_row", "rollbacks"}
"""Facts that are the same even where a device does not repeat its sums."""


def fact_differences(mine: Path, other: Path, keys: set[str] | None) -> list[str]:
    """The facts of a state in which two checkpoints differ, by name; of a plugin's state with its name."""
    a, b = (load_facts(path, "state") for path in (mine, other))
    plugins = [
        f"plugins.{name}" for name in a["plugins"].keys() | b["plugins"].keys()
        if a["plugins"].get(name) != b["plugins"].get(name) and name != FAULTS
    ]  # fmt: skip
    names = (a.keys() | b.keys()) - MACHINE - {"plugins"} if keys is None else keys
    return sorted([name for name in names if a.get(name) != b.get(name)] + (plugins if keys is None else []))


def scenarios() -> Iterator[tuple[str, Callable[[Drill], tuple[str, Child]]]]:
    """(name, function) of every fault, the least harmful first. A function returns what it has done, and to whom."""
    yield CONTROL, again
    yield "SIGTERM", terminated
    yield "other workers", other_workers
    yield "kill -9", killed
    yield "kill -9 in a save", killed_in_a_save
    yield "full disk", full_disk
    yield "damaged checkpoint", damaged
    yield NAN, not_finite


def again(drill: Drill) -> tuple[str, Child]:
    child = drill.child("again")
    child.start()
    child.finish()
    return "a second straight run: whether this device repeats itself", child


def terminated(drill: Drill) -> tuple[str, Child]:
    child = drill.child("terminated")
    stop_at(child, 3)
    continue_to_the_end(child)
    return "stopped after step 3, continued", child


def other_workers(drill: Drill) -> tuple[str, Child]:
    child = drill.child("workers")
    before = drill.tables["data"]["workers"]
    stop_at(child, 3)
    child.start(data={"workers": 2 if before == 0 else 0})
    child.finish()
    return f"{before} decoding processes until step 3, then {2 if before == 0 else 0}", child


def killed(drill: Drill) -> tuple[str, Child]:
    child, kills = drill.child("killed"), 0
    while kills < drill.cycles and child.newest < STEPS:
        started_at, seen = child.newest, len(child.steps_taken())
        goal = drill.random.randint(started_at + 1, STEPS)
        child.start()
        child.wait_for(lambda goal=goal, seen=seen: reached(child, seen, goal) or child.has_ended, f"step {goal}")
        time.sleep(drill.random.random() * 0.1)
        kills += not child.has_ended
        child.kill()
        check_resumed(child, started_at, seen)
    continue_to_the_end(child)
    return f"{kills} times at random moments", child


def killed_in_a_save(drill: Drill) -> tuple[str, Child]:
    child, kills = drill.child("saving"), 0
    times = [row["total_seconds"] for row in drill.straight.progress() if "total_seconds" in row]
    for _ in range(drill.cycles):
        started_at, seen, before = child.newest, len(child.steps_taken()), temporaries(child.directory)
        child.start()
        child.wait_for(lambda before=before: temporaries(child.directory) - before or child.has_ended, "a save")
        time.sleep(drill.random.random() * max(times) / 2)
        child.kill()
        kills += bool(temporaries(child.directory) - before)
        check_resumed(child, started_at, seen)
    continue_to_the_end(child)
    return f"{kills} of {drill.cycles} kills came while a checkpoint was written", child


def check_resumed(child: Child, started_at: int, seen: int) -> None:
    """Whether a start went on right behind its checkpoint, and left one that is no older than it has to be."""
    steps = child.steps_taken()[seen:]
    if not steps:
        return
    # One that was complete but for its name when the process was killed is published by the next start.
    if steps[0] - 1 not in (started_at, started_at + EVERY):
        raise DrillError(f"the newest checkpoint was of step {started_at}, and the next step taken was {steps[0]}")
    # A save begins behind every EVERY-th step and waits for the one before: only the last begun may be unfinished.
    begun = (steps[-1] - 1) // EVERY * EVERY
    if child.newest < max(begun - EVERY, started_at):
        raise DrillError(f"killed behind step {steps[-1]} its newest checkpoint is that of step {child.newest}")


def full_disk(drill: Drill) -> tuple[str, Child]:
    """No room for the large file of a checkpoint, from the second one on, and then room again."""
    child = drill.child("disk")
    stop_at(child, 2)
    largest = max(record.bytes for record in manifest.read(child.last_path).files.values())
    # Decoding processes share memory through files, which the limit would hit as well.
    child.start(file_limit_bytes=largest // 2, data={"workers": 0})
    child.wait_for(lambda: child.events("checkpoint-failed"), "a save failed")
    child.lift_limit()
    child.finish(3, 1)  # 1: the last save came before the room
    continue_to_the_end(child)
    return "no room in a save, training goes on, room again", child


def damaged(drill: Drill) -> tuple[str, Child]:
    child = drill.child("damaged")
    stop_at(child, 5)
    flip_a_bit(child.last_path)
    continue_to_the_end(child)
    if not child.events("checkpoint-refused"):
        raise DrillError("a flipped bit in the newest checkpoint was not noticed")
    return "one bit of the newest flipped: the one before it is taken", child


def not_finite(drill: Drill) -> tuple[str, Child]:
    """The step is left out, so the weights are not those of the straight run; but they are finite."""
    child = drill.child("nan")
    child.start(plugins={**drill.tables["plugins"], FAULTS: {"stop_step": STEPS, "nan_step": 5}})
    child.finish()
    if not child.events("anomaly"):
        raise DrillError("a loss that is not a number was not noticed")
    bad = bad_tensors(child.last_path)
    if bad:
        raise DrillError(f"a loss that is not a number has reached the weights: {bad[0]}")
    return "the loss of step 5: no weight has heard of it", child


def reached(child: Child, seen: int, goal: int) -> bool:
    """Whether this start has taken the step, or gone beyond it in an earlier one and taken any."""
    return any(step >= goal for step in child.steps_taken()[seen:])


def stop_at(child: Child, step: int) -> None:
    child.start()
    child.wait_for(lambda: step in child.steps_taken(), f"step {step}")
    child.send(signal.SIGTERM)
    child.finish(128 + signal.SIGTERM, 3)


def continue_to_the_end(child: Child) -> None:
    child.start()
    child.finish(3, 0)


def flip_a_bit(checkpoint: Path) -> None:
    """In the middle of the largest file."""
    path = max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def bad_tensors(checkpoint: Path) -> list[str]:
    import torch
    from safetensors.torch import load_file

    return [
        f"{path.name}: {name}"
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
