"""Which micro-batches leave the objective as it is."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.activation import activate
from bigrun.config import Config, read_preset
from bigrun.devices import DeviceFacts
from bigrun.same_objective import micro_batches, micro_batches_fixed_by
from bigrun.testing.devices import device
from bigrun_cuda.defaults import sizes_of as sizes_of_nvidia
from bigrun_rocm.defaults import sizes_of as sizes_of_amd


def config(*sets: str) -> Config:
    return activate(read_preset("vit_large", sets))[0]


UNGROUPED = config("objective.koleo_weight=0.0")


@given(batch=st.integers(1, 3000), processes=st.integers(1, 4))
def test_without_groups_all_divisors_of_a_processs_share(batch: int, processes: int) -> None:
    data = attrs.evolve(UNGROUPED.data, effective_batch=batch * processes)
    found = micro_batches(attrs.evolve(UNGROUPED, data=data), processes)
    assert found == sorted(found)
    assert set(found) == {size for size in range(1, batch + 1) if batch % size == 0}


def test_whole_groups_of_koleo() -> None:
    assert micro_batches(config("objective.koleo_group=16")) == [16, 32, 64, 128, 256]
    assert max(micro_batches(config("objective.koleo_group=16"), processes=4)) == 64


def test_a_micro_batch_that_is_part_of_the_objective_stays() -> None:
    part = config("objective.sinkhorn_scope=micro")
    assert micro_batches(part) == [32]
    assert micro_batches_fixed_by(part) is not None


@pytest.mark.parametrize("facts", [device("rtx4090"), device("gfx1151-a")], ids=["nvidia", "amd"])
def test_plugins_choose_no_other_objective(facts: DeviceFacts) -> None:
    """The preset's own size is open, and a rule takes the whole batch."""
    part = config("objective.sinkhorn_scope=micro", "data.micro_batch=false", "data.effective_batch=64")
    found = sizes_of_nvidia(part, 1) if facts.backend == "cuda" else sizes_of_amd(facts, part, 1)
    assert found == [64]
