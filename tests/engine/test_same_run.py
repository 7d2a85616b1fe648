"""Which options give the weights of a checkpoint their shapes, and what is said of those that have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from tiny import NETWORK

from bigrun.activation import activate
from bigrun.config import Config, read_preset
from bigrun.errors import RunDirectoryError
from bigrun.objective.dino import DinoObjective
from bigrun.same_run import check_same_run
from bigrun.schedules import Schedules
from bigrun.sections import Model, Objective

# For each option another value than that of the tiny network.
OTHERS: dict[str, Any] = {
    "model": {
        "width": 64, "depth": 3, "heads": 4, "ffn": '"swiglu"', "ffn_hidden": 96, "patch_size_px": 4, "in_channels": 1,
        "storage_tokens": 2, "rope_base": 50.0, "rope_period_range": "[1.0, 9.0]", "rope_coordinates": '"max"',
        "rope_dtype": '"bf16"', "qkv_bias": "false", "mask_k_bias": "false", "proj_bias": "false", "ffn_bias": "false",
        "norm": '"rmsnorm"', "layerscale": "false", "untie_cls_and_patch_norms": "true",
        "untie_global_and_local_cls_norm": "false", "scale_embedding": "true",
    },
    "objective": {
        "ibot_weight": 0, "head_layers": 2, "head_hidden": 64, "head_bottleneck": 8, "prototypes": 128,
        "ibot_head_hidden": 16, "ibot_head_bottleneck": 8, "ibot_prototypes": 32, "normalise_prototypes": "true",
        "centring": '"softmax"', "queue_steps": 1,
    },
}  # fmt: skip
ALSO = {
    "model.in_channels": (
        "views.mean=[0.5]", "views.std=[0.5]", "views.colour_probability=0", "views.grayscale_probability=0",
    ),
    "model.rope_period_range": ("model.rope_base=false",),
}  # fmt: skip
FIXED = [
    f"{table}.{option.name}"
    for table, section in (("model", Model), ("objective", Objective))
    for option in attrs.fields(section)
    if option.metadata["fixed"]
]


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(f'[data]\npath = "images"\neffective_batch = 4\n{NETWORK}', encoding="utf-8")
    return path


def shapes(config: Config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in DinoObjective(config, Schedules()).state_dict().items()}


def refusal(preset: Path, *sets: str, allowed: tuple[str, ...] = ()) -> str:
    """What is said of a run that is continued with these options."""
    before, now = (activate(read_preset(str(preset), some))[0] for some in ((), sets))
    with pytest.raises(RunDirectoryError) as caught:
        check_same_run(now, before.to_toml(), Path("step-00000002"), allowed)
    return str(caught.value)


@pytest.mark.parametrize("name", FIXED)
def test_no_way_out_is_offered_where_the_weights_would_not_fit(preset: Path, name: str) -> None:
    table, option = name.split(".")
    sets = (f"{name}={OTHERS[table][option]}", *ALSO.get(name, ()))
    before, now = (activate(read_preset(str(preset), some))[0] for some in ((), sets))
    fits = shapes(before) == shapes(now)
    said = refusal(preset, *sets)
    assert (f"--allow-change {name}" in said) == fits
    assert ("no flag makes the weights of the checkpoint fit" in said) != fits


@pytest.mark.parametrize("change", ["objective.ibot_weight=0.5", "model.layerscale=0.1", 'model.norm="layernorm"'])
def test_a_value_that_leaves_the_weights_as_they_are_may_be_meant(preset: Path, change: str) -> None:
    assert f"--allow-change {change.partition('=')[0]}" in refusal(preset, change)


def test_what_a_rule_chooses_anew_is_to_be_kept(preset: Path) -> None:
    """Twice the images of a step are a change that may be meant; the prototypes that belong to them are none."""
    preset.write_text(preset.read_text("utf-8").replace("prototypes = 64\n", ""), encoding="utf-8")
    said = refusal(preset, "data.effective_batch=8")
    assert said.count("--allow-change") == 1
    assert "--allow-change data.effective_batch\n" in said
    assert said.endswith("now: objective.ibot_prototypes, objective.prototypes")
