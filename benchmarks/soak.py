"""Start, harm, start again: whether a run that is harmed 200 times ends with the weights of one that never was.

python benchmarks/soak.py --cycles 200 --seed 1            half an hour on two cores
python benchmarks/soak.py --cycles 8 --rounds-of 12        two minutes

A round is a run of --rounds-of steps. It is started, harmed at a random moment in a random way, started again, until
it has all its steps; then its last state is compared, bit for bit, with that of a straight run of the same seed. Rounds
follow one another, each with another seed, until there were --cycles starts.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import psutil
from reporting import header, positive, table

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import Stale, stale_name
from bigrun.drill.child import Child, DrillError, temporaries
from bigrun.drill.faults import FAULTS
from bigrun.drill.scenarios import flip_a_bit, hashes
from bigrun.testing.runner import TINY

EVERY = 3
"""Steps between checkpoints."""
PATIENCE_SECONDS = 3.0
"""A start is harmed at a random moment of so long behind its first step, or at any before."""


@attrs.define
class Tally:
    """What came of one kind of harm."""

    starts: int = 0
    lost: list[int] = attrs.field(factory=list)
    """Steps that had to be taken again, of every start."""


class Round:
    """One harmed run and the straight one beside it."""

    def __init__(self, folder: Path, number: int, steps: int, rng: random.Random) -> None:
        tables = {name: dict(table) for name, table in TINY.items()}
        tables["run"] = {"log_every_steps": 1, "checkpoint_every_steps": EVERY, "seed": number}
        tables["data"] = {"effective_batch": 4, "micro_batch": 2, "workers": 0}
        tables["plugins"] = {"demo-photos": {}, "metrics-log": {}, "checkpoint-rotation": {"keep_last": 3}}
        tables["plugins"][FAULTS] = {"stop_step": steps}
        self.steps = steps
        self.rng = rng
        self.background = True
        self.straight = Child(folder / f"straight-{number}", tables)
        self.harmed = Child(folder / f"harmed-{number}", tables)

    def start(self, **more: int) -> None:
        """Start the harmed run with other workers than before, perhaps, and with saves in the foreground, perhaps."""
        self.background = self.rng.random() < 0.5
        workers = {"workers": self.rng.choice([0, 0, 1, 2])}
        if "file_limit_bytes" in more:  # decoding processes share memory through files, which it would hit as well
            workers = {"workers": 0}
        self.harmed.start(data=workers, run={"background_checkpoints": self.background}, **more)

    @property
    def is_over(self) -> bool:
        return bool(self.harmed.store.steps()) and self.harmed.store.steps()[-1] >= self.steps

    def await_moment(self) -> None:
        """A random moment: while it starts, or some time after its first step of this start."""
        if self.rng.random() < 0.15:
            time.sleep(self.rng.random() * 3)
            return
        seen = len(self.harmed.steps_taken())
        self.harmed.wait_for(lambda: len(self.harmed.steps_taken()) > seen or self.ended, "a step")
        time.sleep(self.rng.random() ** 2 * PATIENCE_SECONDS)

    @property
    def ended(self) -> bool:
        return self.harmed.process.poll() is not None


# -- kinds of harm ----------------------------------------------------------------------------------------------------


def kill(this: Round) -> None:
    this.start()
    this.await_moment()
    this.harmed.kill()


def kill_in_a_save(this: Round) -> None:
    before = temporaries(this.harmed.directory)
    this.start()
    this.harmed.wait_for(lambda: temporaries(this.harmed.directory) - before or this.ended, "a save")
    time.sleep(this.rng.random() * 0.1)
    this.harmed.kill()


def terminate(this: Round) -> None:
    this.start()
    this.await_moment()
    for _ in range(this.rng.randint(1, 3)):
        this.harmed.send(this.rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
    deaths = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1)  # before it listens, or when it has ended already
    this.harmed.finish(3, 130, 138, 143, *deaths)


def fill_the_disk(this: Round) -> None:
    if not this.harmed.store.steps():
        return kill(this)
    largest = max(record.bytes for record in manifest.read(this.harmed.last_path).files.values())
    this.start(file_limit_bytes=largest // 2)
    this.await_moment()
    if this.rng.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            this.harmed.lift_limit()
        this.harmed.finish(3, 1)
        return None
    return this.harmed.kill()


def flip(this: Round) -> None:
    terminate(this)
    if len(this.harmed.store.verified_steps()) > 1:  # a run whose checkpoints are all bad is refused, and rightly
        flip_a_bit(this.harmed.last_path)


def truncate(this: Round) -> None:
    kill(this)
    if len(this.harmed.store.verified_steps()) > 1:
        path = this.rng.choice(sorted(this.harmed.last_path.glob("*.safetensors")))
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def lose_a_file(this: Round) -> None:
    kill(this)
    if len(this.harmed.store.verified_steps()) > 1:
        this.rng.choice(sorted(this.harmed.last_path.iterdir())).unlink()


def litter(this: Round) -> None:
    """What a kill may leave, and what it never would."""
    kill(this)
    place = this.harmed.directory / "checkpoints"
    if not place.is_dir():  # it was killed before it had begun
        return
    for name in (stale_name(Stale.TEMPORARY, 10**6), stale_name(Stale.TRASH, 10**6), "step-999", "old-step-100"):
        (place / name).mkdir(exist_ok=True)
        (place / name / "student.safetensors").write_bytes(b"half a file")


def kill_a_worker(this: Round) -> None:
    """A run without a worker ends with an error that says so, or is killed."""
    this.background = True
    this.harmed.start(data={"workers": 2})
    this.await_moment()
    with contextlib.suppress(psutil.Error, IndexError):
        this.rng.choice(psutil.Process(this.harmed.process.pid).children(recursive=True)).kill()
    time.sleep(0.5)
    this.harmed.kill()


HARM: dict[str, Callable[[Round], None]] = {
    "kill -9": kill,
    "kill -9 in a save": kill_in_a_save,
    "stop signals": terminate,
    "full disk": fill_the_disk,
    "a bit flipped": flip,
    "a file cut in half": truncate,
    "a file lost": lose_a_file,
    "litter": litter,
    "a worker killed": kill_a_worker,
}


DAMAGE = (flip, truncate, lose_a_file)
"""Harm that takes the newest checkpoint itself away, and so an interval more."""


def limit(this: Round, name: str) -> int:
    """The most steps that may have to be taken again: those since the newest checkpoint, which are an interval, and
    another one while the next is being written in the background, or where the disk refused it."""
    refused = HARM[name] is fill_the_disk
    return EVERY * (1 + this.background + (HARM[name] in DAMAGE)) + (this.steps if refused else 0)


def play(this: Round, tallies: dict[str, Tally], budget: Iterator[int]) -> bool:
    """Harm the run until it has all its steps, or there were enough starts; returns whether it has them."""
    while not this.is_over:
        if next(budget, None) is None:
            return False
        name, before = this.rng.choice(list(HARM)), len(this.harmed.steps_taken())
        HARM[name](this)
        taken = this.harmed.steps_taken()[before:]
        lost = max(taken[-1] - this.harmed.newest, 0) if taken else 0
        tallies[name].starts += 1
        tallies[name].lost.append(lost)
        if lost > limit(this, name):
            raise DrillError(f"{name}: {lost} steps have to be taken again, more than {limit(this, name)}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=positive, default=200, help="starts of harmed runs  [200]")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments of harm  [0]")
    parser.add_argument("--rounds-of", type=positive, default=60, help="steps of a round  [60]")
    parser.add_argument("--folder", type=Path, help="where the runs are  [a temporary one]")
    options = parser.parse_args()
    print(header(f"Soak: {options.cycles} starts, seed {options.seed}"), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    tallies = {name: Tally() for name in HARM}
    rng, budget = random.Random(options.seed), iter(range(options.cycles))
    began, rounds, equal, number = time.monotonic(), 0, 0, 0
    while sum(tally.starts for tally in tallies.values()) < options.cycles:
        number += 1
        this = Round(folder, number, options.rounds_of, rng)
        try:
            over = play(this, tallies, budget)
            if not over:  # enough harm: let it end in peace, for it to be compared
                this.start()
                this.harmed.finish()
            this.straight.start()
            this.straight.finish()
        except DrillError as error:
            print(f"FAILED in round {number}: {error}\nthe runs are in {folder}")
            return 1
        rounds += 1
        equal += hashes(this.harmed.last_path) == hashes(this.straight.last_path)
        for child in (this.harmed, this.straight):
            shutil.rmtree(child.directory)
    print(f"work      {rounds} rounds of {options.rounds_of} steps in {time.monotonic() - began:.0f} s\n")
    rows = [(n, str(t.starts), str(sum(t.lost)), str(max(t.lost, default=0))) for n, t in tallies.items()]
    print(table(("harm", "starts", "steps again", "most after one"), rows))
    print(f"\ncheckpoints every {EVERY} steps; equal to the straight run, bit for bit: {equal} of {rounds} rounds")
    if equal < rounds:
        print(f"FAILED; what is left of the runs is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
