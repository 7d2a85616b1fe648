"""masked-reconstruction: its promises as a plugin, what it learns, and its life with other parts of bigrun."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bigrun_mae.objective import MaskedObjective
from torch import Tensor

from bigrun import hookimpl
from bigrun.activation import activate
from bigrun.checkpoint.store import CheckpointStore
from bigrun.config import read_preset
from bigrun.data.dataset import Batch
from bigrun.errors import ConfigError, ExitCode, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult

# The tiny preset has tables of bigrun's own objective, and local crops; None takes them out.
TABLES: dict[str, Any] = {"objective": None, "views": {"local_crops": 0, "local_size_px": None}}

SMALL = {"decoder_hidden": 32}

# Without what is random for each micro-batch.
PLAIN: dict[str, Any] = {"model": {"drop_path_fraction": 0.0, "rope_rescale_factor": False, "layerscale": False}}


class TestContract(PluginContract):
    plugin = "masked-reconstruction"
    config = SMALL
    tables = TABLES


def train(bigrunner: Runner, *others: str, **options: Any) -> RunResult:
    return bigrunner.run("masked-reconstruction", *others, **(TABLES | options))


class Slopes:
    """Images that grow brighter in one direction each, 12 directions in all: which one, the visible patches tell."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        """(3, 40, 40) uint8."""
        y, x = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40), indexing="ij")
        angle = 2 * math.pi * index / 12
        height = (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)  # -1 to 1
        return (127.5 * (height + 1)).to(torch.uint8).expand(3, 40, 40)


def test_it_learns_what_hidden_patches_have_to_do_with_visible_ones(bigrunner: Runner) -> None:
    """Over all directions the mean patch is flat, so whoever does not look at the visible patches stays at 1."""
    result = train(
        bigrunner,
        steps=30,
        dataset=Slopes(),
        data={"effective_batch": 16, "micro_batch": 16},
        optimizer={"base_lr": 3e-3, "lr_rule": "none", "warmup_steps": 3, "freeze_last_layer_steps": 0},
        **PLAIN,
    )
    result.assert_finished()
    assert result.losses[0] == pytest.approx(1.0, abs=0.05)
    assert sum(result.losses[-5:]) / 5 < 0.65
    assert result.metrics[-1]["explained_fraction"] == pytest.approx(1 - result.losses[-1], abs=0.02)


def test_four_micro_batches_of_4_are_one_of_16(bigrunner: Runner) -> None:
    batch = {"effective_batch": 16}
    whole = train(bigrunner, data=batch | {"micro_batch": 16}, **PLAIN)
    parts = train(bigrunner, data=batch | {"micro_batch": 4}, **PLAIN)
    whole.assert_finished()
    parts.assert_finished()
    assert parts.losses == pytest.approx(whole.losses, abs=1e-6)
    assert len(set(whole.losses)) == 3


class Keep:
    """Keeps the last micro-batch."""

    batch: Batch

    @hookimpl
    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        self.batch = batch
        return {}


def test_only_hidden_patches_are_predicted_and_the_student_does_not_see_them(bigrunner: Runner) -> None:
    keep = Keep()
    result = train(bigrunner, steps=1, config={"mask_fraction": 0.5}, companions=[keep], **PLAIN)
    assert result.run is not None
    objective, batch = result.run.objective.eval(), keep.batch
    outputs: Any = objective(batch, 0)
    assert outputs.masks.sum(1).tolist() == [8] * 8  # of 16 patches of each crop
    assert outputs.predicted.shape == outputs.target.shape == (8, 8, 3 * 8 * 8)
    pixels = F.unfold(batch.global_crops, 8, stride=8)  # (n, C*p*p, P)
    pixels[outputs.masks[:, None].expand_as(pixels)] = 9.0
    batch.global_crops.copy_(F.fold(pixels, (32, 32), 8, stride=8))
    again: Any = objective(batch, 0)
    assert torch.equal(again.predicted, outputs.predicted)
    assert not torch.equal(again.target, outputs.target)


def test_one_network_is_counted_and_saved_once_where_readers_look_for_it(bigrunner: Runner) -> None:
    result = train(bigrunner)
    assert result.run is not None
    objective = result.run.objective
    assert isinstance(objective, MaskedObjective)
    assert objective.teacher is objective.student
    store = CheckpointStore(result.directory / "checkpoints")
    files = {path.name for path in store.path(3).glob("*.safetensors")}
    assert {"teacher.safetensors", "optimizer.safetensors"} <= files
    assert "student.safetensors" not in files
    assert not [line for line in result.run.header if "not trained" in line]
    assert any(
        line.startswith("objective    MaskedObjective, of plugin masked-reconstruction") for line in result.run.header
    )


def test_nothing_of_the_objective_that_it_replaces_is_left(bigrunner: Runner) -> None:
    result = train(bigrunner)
    assert result.run is not None
    config = result.run.config
    assert not config.tables().keys() & {"objective", "masking", "teacher"}
    assert not [c.path for c in config.choices if c.path.split(".")[0] in ("objective", "masking", "teacher")]
    assert not [text for text in config.warnings if "Sinkhorn" in text]
    assert not [name for name in result.metrics[-1] if "teacher" in name or "student" in name]


def test_options_of_the_replaced_objective_are_refused(bigrunner: Runner) -> None:
    result = train(bigrunner, objective={"prototypes": 64})
    assert isinstance(result.error, ConfigError)
    assert result.error.problems == (
        ("objective", "has no effect: plugin masked-reconstruction replaces it; remove the table"),
    )


def test_the_preset_of_the_distribution_is_valid() -> None:
    preset = Path(__file__).parent.parent / "presets" / "masked_tiny.toml"
    config, _ = activate(read_preset(str(preset)))
    assert config.replaced.keys() == {"objective", "masking", "teacher"}


def test_local_crops_are_refused_since_nobody_would_look_at_them(bigrunner: Runner) -> None:
    result = train(bigrunner, views={})
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    assert "set views.local_crops to 0, not 2" in str(result.error)


def test_gram_anchoring_holds_it_near_an_earlier_self(bigrunner: Runner) -> None:
    """The plugins do not know of each other: one reads `objective.teacher`, the other offers it."""
    anchor = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1}
    result = bigrunner.run("gram-anchoring", "masked-reconstruction", steps=4, config=anchor, **TABLES)
    result.assert_finished()
    assert all(row["loss/reconstruction"] > 0 for row in result.metrics)
    assert all(row["loss/gram"] > 0 for row in result.metrics if row["step"] > 2)
    resumed = bigrunner.resume(result, at_step=2)
    assert resumed.losses == result.losses


def test_looking_at_its_features_does_not_change_what_is_trained(bigrunner: Runner) -> None:
    keep = Keep()
    result = train(bigrunner, steps=1, companions=[keep])
    assert result.run is not None
    objective, crops = result.run.objective.train(), keep.batch.global_crops
    with objective.evaluation() as backbone:
        first, second = backbone(crops).cls, backbone(crops).cls
    assert torch.equal(first, second)  # without drop path, without drawn positions
    assert not first.requires_grad
    assert all(module.training for module in objective.student.backbone.modules())
