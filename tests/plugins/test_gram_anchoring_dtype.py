"""gram-anchoring with a Gram teacher in bf16: the same numbers under autocast, half the bytes, and a resume."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bigrun.data.dataset import Batch
from bigrun.errors import ConfigError
from bigrun.objective.network import DinoNetwork
from bigrun.sections import Model
from bigrun.sections import Objective as ObjectiveSection
from bigrun.testing.runner import Runner, RunResult
from bigrun_gram.teacher import GramTeacher

GRAM: dict[str, Any] = {
    "snapshot_step": 1, "start_step": 3, "ramp_steps": 2, "refresh_every_steps": 2, "max_refreshes": 2,
}  # fmt: skip
HALF = GRAM | {"teacher_dtype": "bf16"}
BF16 = {"device": "cpu", "precision": "bf16", "threads": 1}


def gram_at(result: RunResult, step: int) -> dict[str, torch.Tensor]:
    assert result.run is not None
    return result.run.checkpoints.load_tensors(result.run.checkpoints.path(step), "frozen")


def count_bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def test_under_autocast_every_loss_is_bitwise_that_of_an_fp32_teacher(bigrunner: Runner) -> None:
    """With a snapshot, refreshes and a loss that counts."""
    full = bigrunner.run("gram-anchoring", config=GRAM, steps=6, hardware=BF16)
    half = bigrunner.run("gram-anchoring", config=HALF, steps=6, hardware=BF16)
    half.assert_finished()
    assert [row["loss/gram"] for row in half.metrics if "loss/gram" in row]
    assert [event.step for event in half.events if event.kind == "gram-teacher"] == [1, 4, 6]
    assert half.losses == full.losses
    assert [row.get("gram/distance") for row in half.metrics] == [row.get("gram/distance") for row in full.metrics]


def test_checkpoints_hold_it_in_half_the_bytes(bigrunner: Runner) -> None:
    wide = {"width": 128, "ffn_hidden": 256}
    full = bigrunner.run("gram-anchoring", config=GRAM, steps=2, model=wide)
    half = bigrunner.run("gram-anchoring", config=HALF, steps=2, model=wide)
    tensors, halves = gram_at(full, 2), gram_at(half, 2)
    assert tensors.keys() == halves.keys()
    assert count_bytes(halves) < 0.6 * count_bytes(tensors)
    linear = re.compile(r"gram_teacher/blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)")
    for name, tensor in halves.items():
        assert (tensor.dtype is torch.bfloat16) == bool(linear.fullmatch(name)), name


def test_features_where_the_run_computes_in_fp32() -> None:
    """Measured: least cosine of a patch with that of the fp32 teacher 0.99995, after 12 blocks."""
    torch.manual_seed(0)
    model = Model(width=64, depth=12, heads=2, ffn_hidden=256, patch_size_px=8, layerscale=1.0)
    heads = ObjectiveSection(ibot_weight=0.0, prototypes=16, head_hidden=16, head_bottleneck=8)
    source = DinoNetwork(model, heads)
    with torch.no_grad():
        for weight in (p for p in source.backbone.parameters() if p.ndim == 2):
            weight.mul_(5)  # so that blocks change their tokens as much as trained ones do
    crops, found = torch.randn(2, 3, 64, 64), []
    for is_half in (False, True):
        teacher = GramTeacher(source, is_half=is_half)
        teacher.backbone.to_empty(device="cpu")
        teacher.backbone.load_state_dict(source.backbone.state_dict())
        found.append(teacher.patches(_batch(crops), (8, 8)))
    assert found[1].dtype is torch.float32
    cosines = F.cosine_similarity(*found, dim=-1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1.0


def _batch(crops: torch.Tensor) -> Batch:
    indices = torch.arange(len(crops))
    return Batch(crops, None, {}, indices, indices)


@pytest.mark.parametrize("change", [(GRAM, HALF), (HALF, GRAM)], ids=["to bf16", "to fp32"])
def test_a_run_goes_on_with_the_other_type(bigrunner: Runner, change: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Its weights are rounded or made wider, and under autocast not one loss is another."""
    before, after = change
    straight = bigrunner.run("gram-anchoring", config=before, steps=6, hardware=BF16)
    for at_step in (3, 5):
        resumed = bigrunner.resume(straight, at_step, plugins={"gram-anchoring": after})
        resumed.assert_finished()
        assert resumed.losses == straight.losses
    expected = torch.bfloat16 if after is HALF else torch.float32
    assert gram_at(resumed, 6)["gram_teacher/blocks.0.mlp.fc1.weight"].dtype is expected


def test_the_best_candidate_becomes_a_teacher_in_bf16(bigrunner: Runner) -> None:
    """Their files are bf16 already: under fp32 the two differ by the rounding of activations alone."""
    options = {"candidates_every_steps": 1, "start_step": 4, "ramp_steps": 1, "max_refreshes": 0}
    runs = [
        bigrunner.run("gram-anchoring", config=options | {"teacher_dtype": kind}, steps=5) for kind in ("fp32", "bf16")
    ]
    full, half = (gram_at(run, 5) for run in runs)
    for name, tensor in half.items():
        assert torch.equal(tensor.float(), full[name].float()), name
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-3)


def test_without_a_network_of_its_own_there_is_no_type(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config={"mode": "ema", "start_step": 2, "teacher_dtype": "bf16"})
    assert isinstance(result.error, ConfigError)
    assert "mode = 'ema' has no network of its own" in str(result.error)
