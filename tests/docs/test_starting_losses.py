"""Losses start where docs/reference/metrics.md says (Where losses start)."""

from __future__ import annotations

import math

import pytest
from metrics_page import PAGE

from bigrun.testing.runner import Runner

K, T = 512, 0.1


@pytest.mark.parametrize("bottleneck", [64, 256])
@pytest.mark.parametrize("normalised", [False, True])
def test_random_answers_cost_half_the_variance_of_their_logits(
    bigrunner: Runner, bottleneck: int, normalised: bool
) -> None:
    """With class tokens that are alike, as LayerScale makes them, targets have nothing to do with the answers."""
    result = bigrunner.run(
        steps=1,
        model={"layerscale": 1e-5},
        objective={
            "prototypes": K, "ibot_prototypes": K, "head_bottleneck": bottleneck, "normalise_prototypes": normalised,
            "student_temperature": T,
        },
    )  # fmt: skip
    result.assert_finished()
    (row,) = result.metrics
    deviation = 1 / math.sqrt(bottleneck) if normalised else 0.02
    above = (deviation / T) ** 2 / 2
    near = 0.03 + above / 4  # with the K prototypes that were drawn: a standard deviation of 0.09 for above = 0.78
    assert row["loss/dino_global"] + row["loss/dino_local"] == pytest.approx(math.log(K) + above, abs=near)
    assert row["loss/ibot"] == pytest.approx((math.log(K) + above) / 2, abs=near)


@pytest.mark.parametrize("bottleneck", [64, 256])
def test_the_page_has_the_numbers(bottleneck: int) -> None:
    text = PAGE.partition("\n### Where losses start\n")[2].partition("\n## ")[0]
    assert f"{1 / (2 * bottleneck * T**2):.2f} with e = {bottleneck}" in text
