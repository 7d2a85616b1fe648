"""Mixed resolutions: every optimizer step draws one pair of sizes (objective.md, 2.3)."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import tomli
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun import hookimpl
from bigrun.config import Config, Document, build_config
from bigrun.data.dataset import Batch, Samples
from bigrun.data.views import ExtraView, Views
from bigrun.errors import ConfigError, ExitCode, RunDirectoryError, UsageError
from bigrun.run import Run
from bigrun.sections import Views as Section
from bigrun.testing.runner import Runner
from bigrun.values import Problem, structure, unstructure

PUBLISHED = ((512, 112), (768, 112), (768, 168), (768, 224), (768, 336))
WEIGHTS = (0.3, 0.3, 0.3, 0.05, 0.05)
MIXED: dict[str, Any] = {
    "sizes_px": [[32, 16], [48, 16], [48, 24]],
    "size_weights": [1, 1, 2],
    "global_size_px": None,  # takes the options of the tiny preset out
    "local_size_px": None,
    "local_crops": 2,
}


def config_of(**tables: Any) -> Config:
    return build_config(Document("test.toml", "test", tables), {}, [])


def problems_of(**views: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config_of(views=views)
    return dict(caught.value.problems)


def test_pairs_are_drawn_as_often_as_weighted() -> None:
    views = Views(Section(sizes_px=PUBLISHED, size_weights=WEIGHTS), 3, seed=0)
    drawn = [views.sizes_px(step) for step in range(1, 2001)]
    for pair, weight in zip(PUBLISHED, WEIGHTS, strict=True):
        assert abs(drawn.count(pair) - 2000 * weight) <= 3.3 * np.sqrt(2000 * weight * (1 - weight))
    neighbours = np.corrcoef([PUBLISHED.index(pair) for pair in drawn[:-1]], [PUBLISHED.index(p) for p in drawn[1:]])
    assert abs(neighbours[0, 1]) < 4 / np.sqrt(2000)


def test_without_weights_all_pairs_are_alike() -> None:
    views = Views(Section(sizes_px=PUBLISHED[:2]), 3, seed=0)
    count = sum(views.sizes_px(step) == PUBLISHED[0] for step in range(1, 1001))
    assert abs(count - 500) < 3.3 * np.sqrt(250)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    step=st.integers(1, 2**31),
    weights=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=5),
    factor=st.sampled_from([0.25, 2.0, 1024.0]),
)
def test_a_pair_is_a_function_of_seed_step_and_the_ratio_of_weights(
    seed: int, step: int, weights: list[float], factor: float
) -> None:
    pairs = PUBLISHED[: len(weights)]
    one = Views(Section(sizes_px=pairs, size_weights=tuple(weights)), 3, seed)
    other = Views(Section(sizes_px=pairs, size_weights=tuple(factor * w for w in weights)), 3, seed)
    assert one.sizes_px(step) == one.sizes_px(step) == other.sizes_px(step)
    assert one.sizes_px(step) in pairs


def test_one_size_is_always_drawn() -> None:
    assert {Views(Section(), 3, seed=0).sizes_px(step) for step in range(1, 50)} == {(224, 96)}
    assert {Views(Section(sizes_px=((64, 32),)), 3, seed=0).sizes_px(step) for step in range(1, 50)} == {(64, 32)}


def test_views_have_the_sizes_of_their_step_and_otherwise_the_same_draws() -> None:
    section = Section(sizes_px=((16, 8), (32, 16)), flip_probability=0, blur_probability=(0, 0, 0))
    section = attrs.evolve(section, local_crops=1, colour_probability=0, grayscale_probability=0)
    views = Views(attrs.evolve(section, solarise_probability=0), 3, seed=0, extra={"x": ExtraView(1.5)})
    steps = {views.sizes_px(step): step for step in range(1, 20)}
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(96, 96), mode="bicubic")[0].clamp(0, 1)
    samples = Samples.pack([image], torch.tensor([3]), torch.tensor([0]))
    batches: list[Batch] = []
    for large, small in section.pairs:
        batches.append(batch := views(samples, torch.device("cpu"), steps[large, small]))
        assert batch.local_crops is not None
        assert batch.global_crops.shape == (2, 3, large, large)
        assert batch.local_crops.shape == (1, 3, small, small)
        assert batch.extra["x"].shape == (2, 3, 1.5 * large, 1.5 * large)
    halved = torch.nn.functional.avg_pool2d(batches[1].global_crops, 2)
    assert np.corrcoef(halved.flatten(), batches[0].global_crops.flatten())[0, 1] > 0.99


def test_an_extra_view_must_have_a_whole_side_at_every_size() -> None:
    Views(Section(sizes_px=((16, 8), (32, 8))), 3, 0, extra={"x": ExtraView(1.5)})
    with pytest.raises(UsageError, match=r"1\.1875 x 24 pixels has a side of 28\.5"):
        Views(Section(sizes_px=((16, 8), (24, 8))), 3, 0, extra={"x": ExtraView(1.1875)})


class SizesSeen:
    """Notes the sides of every micro-batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int, int]] = []
        self.expected: list[tuple[int, int, int, int]] = []

    @hookimpl
    def loss_terms(self, run: Run, step: int, micro: int, batch: Batch) -> dict[str, torch.Tensor]:
        assert batch.local_crops is not None
        self.seen.append((step, micro, batch.global_crops.shape[-1], batch.local_crops.shape[-1]))
        self.expected.append((step, micro, *run.views.sizes_px(step)))
        return {}


def test_all_micro_batches_of_a_step_have_one_size_and_a_resumed_run_draws_the_same(bigrunner: Runner) -> None:
    sizes = SizesSeen()
    straight = bigrunner.run(steps=4, accumulate=2, views=MIXED, companions=[sizes])
    straight.assert_finished()
    assert sizes.seen == sizes.expected
    assert [(step, micro) for step, micro, *_ in sizes.seen] == [(s, m) for s in range(1, 5) for m in (0, 1)]
    assert len({sides[2:] for sides in sizes.seen}) > 1
    resumed = bigrunner.resume(straight, at_step=2)
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    for name, tensor in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], tensor)


def test_a_run_keeps_its_sizes(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2, views=MIXED)
    straight.assert_finished()
    options = {name: value for name, value in MIXED.items() if value is not None}
    resumed = bigrunner.resume(straight, 1, views={**options, "sizes_px": [[32, 16], [48, 16], [64, 16]]})
    assert resumed.exit_code == ExitCode.USAGE
    assert isinstance(resumed.error, RunDirectoryError)
    assert "views.sizes_px: [[32, 16], [48, 16], [48, 24]] -> [[32, 16], [48, 16], [64, 16]]" in str(resumed.error)


def test_pairs_survive_the_way_through_toml() -> None:
    section = Section(sizes_px=PUBLISHED, size_weights=WEIGHTS)
    table = tomli.loads(tomli_w.dumps(unstructure(section)))
    assert table["sizes_px"] == [list(pair) for pair in PUBLISHED]
    assert unstructure(section) == table
    assert not {"global_size_px", "local_size_px"} & table.keys()
    problems: list[Problem] = []
    assert structure(table, Section, "views", problems) == section
    assert problems == []
    assert config_of(views={"sizes_px": False}).views == config_of().views


def test_wrong_pairs_are_named() -> None:
    pairs = [[512, 112], [768, 336]]
    assert problems_of(sizes_px=[512, 112])["views.sizes_px"].startswith("expected list of [int, int] or off, got [512")
    assert problems_of(sizes_px=[[512]])["views.sizes_px"] == "expected 2 values, got 1: [512]"
    assert problems_of(sizes_px=[[512, 1.5]])["views.sizes_px"] == (
        "expected list of [int, int] or off, got [[512, 1.5]]"
    )
    assert problems_of(sizes_px=[])["views.sizes_px"] == "expected at least one pair [global, local], got none"
    assert problems_of(sizes_px=[[512, 0]])["views.sizes_px"] == "expected sides of 8 to 16384, got 0"
    assert problems_of(sizes_px=[[512, 100]]) == {"views.sizes_px": "100 is not a multiple of model.patch_size_px = 16"}
    assert (
        "expected one weight for each of the 2 pairs, got 1"
        in problems_of(sizes_px=pairs, size_weights=[1])["views.size_weights"]
    )
    assert problems_of(sizes_px=pairs, size_weights=[1, 0])["views.size_weights"] == (
        "expected values above 0, got [1.0, 0.0]"
    )


def test_there_is_one_form_or_the_other() -> None:
    problems = problems_of(sizes_px=[[512, 112]], global_size_px=512, local_size_px=112)
    assert problems["views.global_size_px"].startswith("has no effect because views.sizes_px is set")
    assert problems["views.local_size_px"].startswith("has no effect because views.local_crops = 0 or views.sizes_px")
    assert "has no effect because views.sizes_px is not set" in problems_of(size_weights=[1])["views.size_weights"]


def test_without_local_crops_only_global_sides_count() -> None:
    section = config_of(views={"sizes_px": [[512, 100]], "local_crops": 0}).views
    assert list(section.sides()) == [("sizes_px", 512)]
