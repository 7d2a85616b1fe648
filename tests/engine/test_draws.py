from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.data.draws import derive_seed, philox, uniforms

few = settings(deadline=None, max_examples=25)


# The known answers published with Random123 (Salmon et al., SC 2011) for philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: list[int], key: tuple[int, int], expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in philox(counter, key).tolist()) == expected


def test_philox_works_element_by_element() -> None:
    counters = np.arange(24).reshape(4, 3, 2)
    together = philox(counters, (1, 2))
    assert together.shape == (4, 3, 2)
    assert (together[:, 2, 1] == philox(counters[:, 2, 1], (1, 2))).all()


@few
@given(
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 2**32 - 1),
    indices=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
    count=st.integers(1, 7),
)
def test_each_combination_of_counters_draws_alone(seed: int, epoch: int, indices: list[int], count: int) -> None:
    views = np.arange(3)[:, None]
    together = uniforms(seed, "views", epoch, indices, views, count=count)
    assert together.shape == (3, len(indices), count)
    assert together.dtype == np.float64
    assert ((together >= 0) & (together < 1)).all()
    alone = uniforms(seed, "views", epoch, indices[-1], 2, count=count)
    assert (together[2, -1] == alone).all()


def test_more_numbers_extend_fewer() -> None:
    assert (uniforms(5, "views", 1, count=7)[:4] == uniforms(5, "views", 1, count=4)).all()


def test_numbers_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(3, "views", 0, np.arange(20_000), 1, count=4)
    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in draws.T])
    chi_square = ((counts - 1000) ** 2 / 1000).sum(axis=1)  # 19 degrees of freedom: mean 19, deviation 6.2
    assert chi_square.max() < 19 + 5 * 6.2
    neighbours = np.corrcoef(np.concatenate([draws[:-1].T, draws[1:].T]))
    assert abs(neighbours - np.eye(8)).max() < 5 / np.sqrt(20_000)


def test_seed_purpose_and_counter_all_matter() -> None:
    base = uniforms(1, "views", 2, 3, count=8)
    for other in (
        uniforms(2, "views", 2, 3, count=8),
        uniforms(1, "masks", 2, 3, count=8),
        uniforms(1, "views", 3, 2, count=8),
    ):
        assert not np.isclose(base, other).any()


@pytest.mark.parametrize("counters", [(-1,), (2**32,), (0, [1, -5]), (1, 2, 3, 4)])
def test_counters_that_do_not_fit_are_refused(counters: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="counters"):
        uniforms(0, "views", *counters, count=1)


def test_no_sample_gives_no_number() -> None:
    assert uniforms(0, "views", np.zeros(0, dtype=np.int64), count=3).shape == (0, 3)


def test_derived_seeds_are_stable_and_distinct() -> None:
    # A changed value here would change every run: the seeds are part of what a checkpoint promises.
    assert derive_seed(0, "torch", 1, 2, 3) == 518061106703697299
    seeds = {derive_seed(seed, purpose, step) for seed in range(10) for purpose in "ab" for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", np.int64(7)) == derive_seed(0, "a", 7)


def test_the_stream_is_stable() -> None:
    assert uniforms(0, "views", 1, 2, 3, count=3).tolist() == [
        0.0178517226360589421,
        0.7245739121622038,
        0.9185776328191804,
    ]
