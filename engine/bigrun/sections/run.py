"""[run]: how long a run is, and how often it speaks and saves."""

from __future__ import annotations

import attrs

from bigrun.options import above, at_least, between, option

__all__ = ["RunSection"]


@attrs.frozen
class RunSection:
    """How long the run is and how often it speaks and saves. `step` is an optimizer step everywhere."""

    max_steps: int | None = option(None, check=at_least(1), help="Length of the run; absent: until it is stopped.")
    max_hours: float | None = option(
        None,
        check=above(0),
        help="The run stops after the step in which it is this old, with a checkpoint; the same command continues it.",
    )
    seed: int = option(
        0, check=between(0, 2**31 - 1), fixed=True, help="Seed of the initialisation, order and every random draw."
    )
    log_every_steps: int = option(10, check=at_least(1), help="Metrics are averaged over and fetched every so many.")
    checkpoint_every_steps: int = option(
        500, check=at_least(1), help="A checkpoint is saved every so many, and at the end."
    )
    background_checkpoints: bool = option(
        True,
        help="Checkpoints are written while training goes on, from a copy of the state in host memory; false: training "
        "waits for the disk and needs no copy.",
    )
    max_rollbacks: int = option(
        3, check=at_least(0), help="The run halts instead of going back to an older checkpoint once more."
    )
    rollback_memory_steps: int = option(
        5000, check=at_least(1), help="Going back counts against run.max_rollbacks for so many steps."
    )
    halt_after_skips: int = option(
        3, check=at_least(1), help="A run halts when this many steps in a row had to be skipped as non-finite."
    )
    first_step_limit_seconds: float = option(
        3600.0,
        check=between(0.1, 1e9),
        help="The first step of a process, which compiles and fills caches, may take so long before whoever watches "
        "the run says that it stands still; so may its end, in which plugins may do more than in a step.",
    )
    save_limit_seconds: float = option(
        14_400.0,
        check=between(0.1, 1e9),
        help="The same for a save, which writes a checkpoint and reads it and the older ones: a disk of 100 MB/s moves "
        "1.4 TB in 4 hours; one that is silent for longer is gone.",
    )
