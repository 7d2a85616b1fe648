"""What `bigrun plan` says of several processes, beside what processes do."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_step import put_into, told
from training import Training

from bigrun.config import read_preset
from bigrun.planner.communication import Collective, sent_bytes
from bigrun.planner.predict import traffic_of
from bigrun.planner.rehearsal import Rehearsal, rehearse
from bigrun.planner.sharing import Sharing
from bigrun.planner.units import padded_numbers, shard_numbers


def planned(training: Training, processes: int, *sets: str) -> Rehearsal:
    return rehearse(read_preset(str(training.folder / "tiny.toml"), list(sets)), "cpu", None, Sharing(processes))


def sets(*options: str) -> list[str]:
    return [word for option in options for word in ("--set", option)]


STRATEGIES = {
    "ddp": ["parallel.strategy=ddp"],
    "fsdp full": ["parallel.strategy=fsdp"],
    "fsdp grads": ["parallel.strategy=fsdp", "parallel.shard=grads"],
}


# -- laws ---------------------------------------------------------------------------------------------------------

SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)


@given(SHAPES, st.integers(1, 40))
def test_the_shards_of_all_processes_are_the_whole_and_the_first_is_largest(shape: Any, shards: int) -> None:
    parts = [shard_numbers(shape, shards, rank) for rank in range(shards)]
    assert sum(parts) == math.prod(shape)
    assert parts == sorted(parts, reverse=True)
    assert padded_numbers(shape, shards) == shards * parts[0] >= math.prod(shape)
    assert shard_numbers(shape, shards + 1) <= parts[0]


@given(st.integers(0, 10**12), st.integers(2, 4096))
def test_an_all_reduce_sends_what_a_reduce_scatter_and_an_all_gather_send(size: int, members: int) -> None:
    both = [Collective("", operation, size, 1, members) for operation in ("reduce-scatter", "all-gather")]
    assert Collective("", "all-reduce", size, 1, members).sent_bytes == pytest.approx(sent_bytes(both))
    assert sent_bytes(both) < 2 * size or size == 0


# -- beside real processes ----------------------------------------------------------------------------------------

WIDE: dict[str, Any] = {
    "run": {"max_steps": 2, "log_every_steps": 100},
    "data": {"effective_batch": 8, "micro_batch": 2},
    "model": {"width": 256, "heads": 4, "ffn_hidden": 1024, "depth": 6, "drop_path_fraction": 0.0},
    "objective": {"prototypes": 512, "head_hidden": 128},
}


def training_in(folder: Path) -> Training:
    put_into(folder)
    return Training(folder, **WIDE)


GRAM = ["plugins.gram-anchoring.snapshot_step=1", "plugins.gram-anchoring.start_step=2"]
SENDERS = {
    "fsdp full": (2, STRATEGIES["fsdp full"]),
    **{f"slow, {name}": (2, STRATEGIES[name]) for name in ("ddp", "fsdp grads")},
    "slow, bf16": (2, [*STRATEGIES["fsdp full"], "hardware.precision=bf16"]),
    "slow, centre": (2, [*STRATEGIES["ddp"], "objective.centring=softmax"]),
    "slow, queue": (2, [*STRATEGIES["ddp"], "objective.queue_steps=1"]),
    "slow, alone": (2, [*STRATEGIES["ddp"], "objective.sinkhorn_scope=micro"]),
    "slow, groups": (4, [*STRATEGIES["fsdp full"], "parallel.replicate=2"]),
    "slow, Gram": (2, [*STRATEGIES["fsdp full"], *GRAM]),
}
EVERY = [
    pytest.param(*sender, id=name, marks=[pytest.mark.slow] if "slow" in name else [])
    for name, sender in SENDERS.items()
]


@pytest.mark.parametrize(("processes", "options"), EVERY)
def test_what_processes_send_is_planned_to_the_byte(tmp_path: Path, processes: int, options: list[str]) -> None:
    training = training_in(tmp_path)
    done = training.together(processes, "--plugin", "measured_step:Traffic", *sets("run.max_steps=3", *options))
    assert {process.returncode for process in done} == {0}, done[0].stderr
    found = planned(training, processes, *options)
    expected: Counter[str] = Counter()
    for collective in traffic_of(found):
        expected[collective.operation] += collective.payload_bytes
    for rank in range(processes):
        measured = told(training.run, "traffic", rank)
        assert {operation: sum(sizes) for operation, sizes in measured.items()} == expected


def peaks(training: Training, processes: int, *options: str) -> list[int]:
    words = ("--plugin", "measured_step:Peak", *sets("run.max_steps=3", *options))
    done = training.together(processes, *words) if processes > 1 else [training(*words)]
    assert {process.returncode for process in done} == {0}, done[0].stderr
    return [told(training.run, "peak", rank) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_processes_take_what_is_planned(tmp_path: Path, strategy: str, micro_batch: int) -> None:
    """More or less than one process with as many images, whose heap has the same of Python and of kernels. Nothing is
    left out at random, of which the plan takes the most that can be left in."""
    training = training_in(tmp_path)
    one, two = "data.effective_batch=4", f"data.micro_batch={micro_batch}"
    (alone,) = peaks(training, 1, one, two)
    planned_alone = planned(training, 1, one, two).memory.peak_bytes
    shutil.rmtree(training.run)
    together = peaks(training, 2, *STRATEGIES[strategy], two)
    found = planned(training, 2, *STRATEGIES[strategy], two)
    expected = found.memory.peak_bytes - planned_alone
    for measured in together:
        assert measured - alone == pytest.approx(expected, abs=0.03 * found.memory.peak_bytes)
