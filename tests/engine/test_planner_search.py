"""The search for the largest micro-batch, and what is known of GPUs."""

from __future__ import annotations

import bisect
import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.config import read_preset
from bigrun.errors import UsageError
from bigrun.planner.flops import forward_flops, step_flops
from bigrun.planner.gpus import GPUS, find_gpu
from bigrun.planner.search import largest_fitting
from bigrun.planner.sizes import human_gib, parse_bytes
from bigrun.sections import Model, Views

SIZES = st.sets(st.integers(1, 1000), min_size=1, max_size=20).map(sorted)


@given(SIZES, st.data())
def test_the_answer_is_that_of_asking_for_every_size(sizes: list[int], data: st.DataObject) -> None:
    """Whatever the need is, as long as it does not fall; and no size is asked for twice."""
    steps = data.draw(st.lists(st.floats(0, 1e6), min_size=len(sizes), max_size=len(sizes)))
    needs = dict(zip(sizes, itertools.accumulate(steps), strict=True))
    limit, start = data.draw(st.floats(-1, 1e7)), data.draw(st.integers(1, 2000))
    asked: list[int] = []

    def need(size: int) -> float:
        asked.append(size)
        return needs[size]

    fitting = bisect.bisect_right(list(needs.values()), limit)
    assert largest_fitting(sizes, need, limit, start) == (sizes[fitting - 1] if fitting else None)
    assert len(asked) == len(set(asked))


@given(st.integers(0, 10), st.floats(1, 100), st.floats(0, 1e4), st.floats(0, 2e5))
def test_a_straight_line_is_asked_four_times_at_most(start: int, slope: float, base: float, limit: float) -> None:
    sizes, asked = [2**i for i in range(11)], []

    def need(size: int) -> float:
        asked.append(size)
        return base + slope * size

    largest_fitting(sizes, need, limit, 2**start)
    assert len(asked) <= 4


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("1.5TiB", 3 * 2**39),
        ("9MiB", 9 * 2**20),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_bytes(text, "--ram") == size


@pytest.mark.parametrize("text", ["24", "", "GiB", "0GiB", "-3GiB", "24kB", "24GiB or so", "1e3GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--ram .*: expected a size above zero with its unit"):
        parse_bytes(text, "--ram")


def test_sizes_are_told_in_three_digits() -> None:
    assert [human_gib(x * 2**30) for x in (0.25, 0.7, 9.876, 24)] == ["256 MiB", "0.70 GiB", "9.88 GiB", "24.0 GiB"]


def test_a_gpu_is_found_by_its_longest_name_and_never_guessed() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert find_gpu(f"Maker {gpu.name.upper()} (tm)") == gpu
    found = find_gpu("NVIDIA GeForce RTX 4090")
    assert found is not None
    assert found.memory_bytes is not None
    assert 23.5 * 2**30 < found.memory_bytes < 23.64 * 2**30  # what torch says of one
    assert find_gpu("NVIDIA L4") is None
    assert find_gpu("cpu") is None
    for sister in (
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX A1000",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 D",
    ):
        assert find_gpu(sister) is None
    for shared in ("NVIDIA A100", "AMD Radeon 8060S Graphics"):  # it depends on the variant, or on the machine
        unknown = find_gpu(shared)
        assert unknown is not None
        assert unknown.memory_bytes is None


def test_steps_of_several_sizes_count_as_often_as_they_are_drawn() -> None:
    model, small, large = (
        Model(),
        Views(global_size_px=224, local_size_px=96),
        Views(global_size_px=448, local_size_px=112),
    )
    both = Views(sizes_px=((224, 96), (448, 112)), size_weights=(3.0, 1.0))
    assert step_flops(model, both) == pytest.approx((3 * step_flops(model, small) + step_flops(model, large)) / 4)
    even = attrs.evolve(both, size_weights=None)
    assert step_flops(model, even) == pytest.approx((step_flops(model, small) + step_flops(model, large)) / 2)


@pytest.mark.slow
def test_frozen_backbones_count_in_what_an_image_costs() -> None:
    from bigrun.planner.rehearsal import rehearse

    sets = ["run.max_steps=3", "data.effective_batch=4", "data.micro_batch=2", "model.width=64", "model.depth=2"]
    sets += ["model.heads=2", "model.ffn_hidden=128", "hardware.device=cpu"]
    document = read_preset("vit_tiny", sets, no_plugins=list(read_preset("vit_tiny").tables["plugins"]))
    document.tables["model"].pop("architecture")
    gram = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "crop_factor": 2.0}
    document.tables["plugins"]["gram-anchoring"] = gram
    found = rehearse(document, "cpu")
    assert found.frozen_flops == 2 * forward_flops(found.config.model, 448)
