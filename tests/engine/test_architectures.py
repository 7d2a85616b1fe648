"""Named architectures: their sizes (T14 of the recipe), and how a preset takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigrun.activation import activate
from bigrun.architectures import ARCHITECTURES, swiglu_hidden
from bigrun.check import check_preset
from bigrun.config import Config, Document, build_config, read_preset, shipped_presets
from bigrun.errors import ConfigError
from bigrun.explain import explain_key
from bigrun.model.vit import VisionTransformer
from bigrun.overrides import override
from bigrun.sections import Model

# Recipe 1.11, for 3 channels, patches of 16, 4 storage tokens, LayerScale, LayerNorm, one final norm.
PUBLISHED = {
    "vit_small": 21_601_152,
    "vit_small_plus": 28_697_472,
    "vit_base": 85_669_632,
    "vit_large": 303_154_176,
    "vit_large_plus": 403_915_776,
    "vit_so400m": 415_411_200,
    "vit_huge2": 630_754_560,
    "vit_huge_plus": 840_633_600,
    "vit_giant": 1_134_659_072,
    "vit_giant_mlp": 1_134_577_152,
    "vit_g_classic": 1_011_213_696,
    "vit_7b": 6_716_043_264,
}
ROUNDED = {"vit_test": 0.15e6, "vit_tiny": 5.5e6}


def model_of(name: str, **changes: Any) -> Model:
    options = {"norm": "layernorm", "untie_global_and_local_cls_norm": False} | ARCHITECTURES[name] | changes
    return Model(**options)


def formula(m: Model) -> int:
    """Parameters of the backbone, counted on paper (recipe 1.10)."""
    d, h, p = m.width, m.ffn_hidden, m.patch_size_px
    norm = d if m.norm == "rmsnorm" else 2 * d
    ffn = 3 * d * h + m.ffn_bias * (2 * h + d) if m.ffn == "swiglu" else 2 * d * h + m.ffn_bias * (h + d)
    attention = 3 * d * d + m.qkv_bias * 3 * d + d * d + m.proj_bias * d
    block = attention + ffn + 2 * norm + (0 if m.layerscale is None else 2 * d)
    norms = 1 + m.untie_cls_and_patch_norms + m.untie_global_and_local_cls_norm
    return d * m.in_channels * p * p + d + d + m.storage_tokens * d + d + m.depth * block + norms * norm


def built(model: Model) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in VisionTransformer(model).parameters())


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_t14_every_architecture_has_a_published_size() -> None:
    assert set(ARCHITECTURES) == PUBLISHED.keys() | ROUNDED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_t14_architectures_have_exactly_the_published_number_of_parameters(name: str) -> None:
    assert built(model_of(name)) == formula(model_of(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_t14_the_smallest_have_about_the_published_number_of_parameters(name: str) -> None:
    assert built(model_of(name)) == formula(model_of(name)) == pytest.approx(ROUNDED[name], rel=0.02)


def test_t14_giants_have_more_than_a_billion_parameters() -> None:
    assert built(model_of("vit_giant")) == 1_134_659_072
    assert built(model_of("vit_giant")) > 1e9
    assert built(model_of("vit_g_classic")) > 1e9
    # The classical width with an MLP of 4 times the width and patches of 14 is sold as a giant, and is none.
    assert built(model_of("vit_g_classic", ffn_hidden=4 * 1408, patch_size_px=14)) == 953_268_096


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_t14_patches_and_storage_tokens_change_the_size_as_the_recipe_says(name: str) -> None:
    width = ARCHITECTURES[name]["width"]
    assert formula(model_of(name)) - formula(model_of(name, patch_size_px=14)) == 3 * 60 * width
    assert formula(model_of(name)) - formula(model_of(name, storage_tokens=0)) == 4 * width
    assert built(model_of(name, depth=1, patch_size_px=14, storage_tokens=0)) == formula(
        model_of(name, depth=1, patch_size_px=14, storage_tokens=0)
    )


@pytest.mark.parametrize("name", shipped_presets())
def test_t14_presets_are_counted_by_the_formula(name: str) -> None:
    model = activate(read_preset(name))[0].model
    assert built(model) == formula(model)


@pytest.mark.parametrize(
    ("width", "ratio", "hidden"), [(384, 6, 1536), (1024, 6, 4096), (1280, 6, 5120), (1536, 4, 4096), (4096, 3, 8192)]
)
@pytest.mark.parametrize("multiple", [8, 32, 64, 128])
def test_t14_swiglu_hidden_sizes(width: int, ratio: float, hidden: int, multiple: int) -> None:
    assert swiglu_hidden(width, ratio, multiple) == hidden


@given(width=st.integers(4, 8192), ratio=st.floats(1, 8), multiple=st.sampled_from([1, 8, 32, 64, 128]))
def test_a_swiglu_layer_is_as_large_as_the_mlp_it_replaces(width: int, ratio: float, multiple: int) -> None:
    hidden = swiglu_hidden(width, ratio, multiple)
    assert hidden % multiple == 0
    assert width * ratio * 2 / 3 - 2 <= hidden < width * ratio * 2 / 3 + multiple


def test_the_hidden_size_is_rounded_up() -> None:
    assert swiglu_hidden(100, 4) == 272  # 266
    assert swiglu_hidden(100, 4, 64) == 320


# -- in a preset ------------------------------------------------------------------------------------------------------


def config_of(tables: dict[str, Any]) -> Config:
    return build_config(Document("test.toml", "test", tables), {}, [])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_sets_its_options_and_no_other(name: str) -> None:
    config = config_of({"model": {"architecture": name}})
    assert attrs.asdict(config.model) == attrs.asdict(Model()) | {"architecture": name} | ARCHITECTURES[name]
    assert {c.path: c.value for c in config.choices if c.why == f"of {name}"} == {
        f"model.{option}": value for option, value in ARCHITECTURES[name].items()
    }
    assert not [text for text in config.warnings if text.startswith("model.")]


def test_an_explicit_option_wins_and_is_warned_of() -> None:
    config = config_of({"model": {"architecture": "vit_large", "depth": 4, "width": 1024, "storage_tokens": 0}})
    assert (config.model.depth, config.model.width, config.model.heads, config.model.storage_tokens) == (4, 1024, 16, 0)
    assert {c.path for c in config.choices if c.path.startswith("model.")} == {
        "model.heads", "model.ffn", "model.ffn_hidden",
    }  # fmt: skip
    assert [text for text in config.warnings if text.startswith("model.")] == [
        "model.depth = 4 is set, and wins over the 24 of vit_large"
    ]


@pytest.mark.parametrize("name", ["vit_large", "vit_7b"])
def test_the_resolved_configuration_is_the_same_preset(name: str) -> None:
    config = config_of({"model": {"architecture": name, "drop_path_fraction": 0.4}})
    again = config_of(config.tables())
    assert again.tables() == config.tables()
    assert again.model == config.model


def test_an_architecture_on_a_resolved_configuration_is_not_silently_dead() -> None:
    tables = config_of({"model": {"architecture": "vit_small"}}).tables()
    config = config_of(override(tables, ["model.architecture=vit_large"]))
    assert config.model.width == 384
    assert "model.width = 384 is set, and wins over the 1024 of vit_large" in config.warnings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vit_lage", "unknown architecture 'vit_lage' - did you mean 'vit_large'?; known: vit_test, vit_tiny, "),
        ("resnet", "unknown architecture 'resnet'; known: "),
        (7, "expected string or off, got 7"),
        (["vit_large"], "expected string or off, got ['vit_large']"),
    ],
)
def test_an_unknown_architecture_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of({"model": {"architecture": value}})
    ((path, text),) = caught.value.problems
    assert path == "model.architecture"
    assert text.startswith(message)


def test_no_architecture_is_the_default() -> None:
    assert config_of({"model": {"architecture": False}}).model == Model()
    assert "architecture" not in config_of({}).tables()["model"]


def test_check_and_explain_say_what_was_taken(tmp_path: Path) -> None:
    preset = tmp_path / "named.toml"
    preset.write_text('[model]\narchitecture = "vit_base"\n', encoding="utf-8")
    lines = list(check_preset(read_preset(str(preset))))
    assert "by rule      model.width = 768 (of vit_base)" in lines
    assert "parameters   backbone 85,671,168" in lines  # with a final norm for local crops
    assert list(explain_key("model.width", str(preset)))[-1].endswith("768 (by rule: of vit_base)")
    assert "vit_so400m" in "\n".join(explain_key("model.architecture"))
