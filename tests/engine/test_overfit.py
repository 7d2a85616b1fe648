"""A tiny network on 64 images learns to tell them apart, and the statistics say so (T25 of the recipe)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stripes import OneImage, Stripes

from bigrun.testing.runner import Runner, RunResult

pytestmark = pytest.mark.slow

STEPS = 300
PROTOTYPES = 64
SHAPE = {
    "width": 64, "depth": 2, "heads": 2, "ffn_hidden": 256, "patch_size_px": 16, "storage_tokens": 1, "layerscale": 0.1,
    "drop_path_fraction": 0.0,
}  # fmt: skip


def train(bigrunner: Runner, dataset: Stripes) -> RunResult:
    result = bigrunner.run(
        steps=STEPS,
        dataset=dataset,
        run={"log_every_steps": 50, "checkpoint_every_steps": STEPS, "max_steps": STEPS},
        data={"effective_batch": 16, "workers": 0},
        model=SHAPE,
        views={
            "global_size_px": 64, "local_size_px": 32, "local_crops": 4, "colour_probability": 0.0,
            "grayscale_probability": 0.0, "solarise_probability": 0.0,
        },
        objective={
            "head_hidden": 64, "head_bottleneck": 32, "prototypes": PROTOTYPES, "koleo_weight": 0.1,
            "teacher_temperature": 0.04,
        },
        optimizer={"base_lr": 2e-3, "lr_rule": "none", "layer_decay": 1.0},
    )  # fmt: skip
    result.assert_finished()
    return result


def spread(result: RunResult, dataset: Stripes) -> float:
    """Standard deviation per dimension of the teacher's class tokens, of length 1, times sqrt(D): 1 when they point
    everywhere, 0 when all are the same."""
    assert result.run is not None
    images = torch.stack([dataset[index] for index in range(64)]).float() / 255
    section = result.run.config.views
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (section.mean, section.std))
    with result.run.objective.evaluation() as backbone:
        tokens = F.normalize(backbone((images - mean) / std).cls, dim=-1)
    return float(tokens.std(0, unbiased=False).mean() * math.sqrt(tokens.shape[1]))


def test_t25_64_images_are_told_apart(bigrunner: Runner) -> None:
    """Measured: DINO loss 2.4 to 2.6 of ln 64 = 4.16, spread 0.92 to 0.94, target entropy 0.5 of ln 64."""
    result = train(bigrunner, Stripes())
    first, last = result.metrics[0], result.metrics[-1]
    dino = last["loss/dino_global"] + last["loss/dino_local"]
    assert dino < 0.95 * math.log(PROTOTYPES)
    assert last["loss/ibot"] < 0.95 * 0.5 * math.log(PROTOTYPES)
    assert spread(result, Stripes()) > 0.3
    assert last["target_entropy_fraction"] < 0.95
    assert last["loss/koleo"] < first["loss/koleo"]


def test_t25_images_that_are_all_alike_are_seen_in_the_statistics(bigrunner: Runner) -> None:
    """The wall at ln K: equal rows have uniform targets, and nothing is learned from them."""
    result = train(bigrunner, OneImage())
    last = result.metrics[-1]
    assert last["target_entropy_fraction"] > 0.999
    assert last["student_divergence"] < 0.01
    assert last["loss/dino_global"] + last["loss/dino_local"] == pytest.approx(math.log(PROTOTYPES), abs=0.01)
    assert spread(result, OneImage()) < 0.1
