"""What `bigrun plan` says of several processes, beside what processes do."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import measured_step
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_step import told
from training import Training

from bigrun.config import read_preset
from bigrun.planner.communication import Collective, sent_bytes, traffic
from bigrun.planner.rehearsal import Rehearsal, rehearse
from bigrun.planner.sharing import Sharing
from bigrun.planner.units import padded_numbers, shard_numbers

SMALL_BYTES = 64
"""Of what is not planned."""


def planned(training: Training, processes: int, *sets: str) -> Rehearsal:
    return rehearse(read_preset(str(training.folder / "tiny.toml"), list(sets)), "cpu", None, Sharing(processes))


def sets(*options: str) -> list[str]:
    return [word for option in options for word in ("--set", option)]


STRATEGIES = {
    "ddp": ["parallel.strategy=ddp"],
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
    "run": {"max_steps": 2},
    "data": {"effective_batch": 8, "micro_batch": 2},
    "model": {"width": 64, "heads": 2, "ffn_hidden": 256, "depth": 3},
    "objective": {"prototypes": 512, "head_hidden": 128},
}


def training_in(folder: Path) -> Training:
    shutil.copy(measured_step.__file__, folder)
    return Training(folder, **WIDE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_processes_send_is_planned_to_the_byte(tmp_path: Path, strategy: str) -> None:
    training = training_in(tmp_path)
    done = training.together(2, "--plugin", "measured_step:Traffic", *sets(*STRATEGIES[strategy]))
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    found = planned(training, 2, *STRATEGIES[strategy])
    expected: Counter[str] = Counter()
    for collective in traffic(found.units, found.sharing, found.accumulate, 4, found.config.objective):
        expected[collective.operation] += collective.payload_bytes
    for rank in range(2):
        measured = told(training.run, "traffic", rank)
        large = {name: sum(size for size in sizes) for name, sizes in measured.items()}
        print(measured, expected)
        assert large == expected


@pytest.mark.parametrize("micro_batch", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_processes_take_what_is_planned(tmp_path: Path, strategy: str, micro_batch: int) -> None:
    training = training_in(tmp_path)
    options = [*STRATEGIES[strategy], f"data.micro_batch={micro_batch}", "run.max_steps=3"]
    done = training.together(2, "--plugin", "measured_step:Peak", *sets(*options))
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    found = planned(training, 2, *options)
    peaks = [told(training.run, "peak", rank) for rank in range(2)]
    print(peaks, found.memory)
    assert found.memory.peak_bytes == pytest.approx(max(peaks), rel=0.05)
