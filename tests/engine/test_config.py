"""Presets, overrides and strict values."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.config import Config, Document, build_config, read_preset
from bigrun.errors import ConfigError, UsageError
from bigrun.options import at_least, option
from bigrun.overrides import override
from bigrun.sections import Model
from bigrun.values import Problem, structure, unstructure


def config_of(**tables: object) -> Config:
    return build_config(Document("test.toml", "test", tables), {}, [])


def problems_of(**tables: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config_of(**tables)
    return dict(caught.value.problems)


@pytest.mark.parametrize(
    ("table", "key", "value", "text"),
    [
        ("model", "depth", "40", "expected int, got '40'"),
        ("model", "depth", 1.7, "expected int, got 1.7"),
        ("model", "depth", True, "expected int, got true"),
        ("model", "qkv_bias", "false", "expected bool, got 'false'"),
        ("model", "qkv_bias", 1, "expected bool, got 1"),
        ("optimizer", "base_lr", "1e-3", "expected float, got '1e-3'"),
        ("optimizer", "base_lr", float("nan"), "expected a finite float, got nan"),
        ("optimizer", "clip_norm", "3", "expected float or off, got '3'"),
        ("model", "ffn", "swigl", "expected 'mlp' or 'swiglu', got 'swigl' - did you mean 'swiglu'?"),
        ("views", "global_scale", [0.3], "expected 2 values, got 1: [0.3]"),
        ("views", "global_scale", 0.3, "expected [float, float], got 0.3"),
        ("model", "depth", 0, "expected 1 to 1000, got 0"),
    ],
)
def test_values_are_exact(table: str, key: str, value: object, text: str) -> None:
    assert problems_of(**{table: {key: value}}) == {f"{table}.{key}": text}


def test_an_integer_is_a_float_but_not_the_reverse() -> None:
    assert config_of(optimizer={"base_lr": 1}).optimizer.base_lr == 1.0


def test_all_problems_are_reported_at_once_with_their_paths() -> None:
    problems = problems_of(model={"depht": 3, "width": "384"}, optimiser={}, run={"max_steps": -1})
    assert problems["model.depht"] == "unknown option - did you mean 'depth'?"
    assert problems["model.width"] == "expected int, got '384'"
    assert problems["optimiser"] == "unknown table - did you mean 'optimizer'?"
    assert problems["run.max_steps"] == "expected at least 1, got -1"


def test_off_is_spelled_false() -> None:
    assert config_of(optimizer={"clip_norm": False}).optimizer.clip_norm is None


def test_a_dead_option_is_refused() -> None:
    problems = problems_of(views={"local_crops": 0, "local_size_px": 96})
    assert problems["views.local_size_px"].startswith("has no effect because views.local_crops = 0")


def test_fields_are_checked_against_each_other_where_they_live() -> None:
    assert "nearest that does is 32" in problems_of(data={"effective_batch": 64, "micro_batch": 30})["data.micro_batch"]
    assert "multiple of 4 * heads" in problems_of(model={"width": 100, "heads": 6})["model.heads"]


def test_tables_are_checked_against_each_other() -> None:
    assert "not a multiple" in problems_of(views={"global_size_px": 100})["views.global_size_px"]
    problems = problems_of(run={"max_steps": 100}, optimizer={"warmup_steps": 2500})
    assert "max_steps = 100" in problems["optimizer.warmup_steps"]
    assert "K/n" in problems_of(objective={"prototypes": 65536})["objective.prototypes"]


def test_rules_choose_what_is_open_and_say_why() -> None:
    config = config_of(run={"max_steps": 10_000}, data={"effective_batch": 256})
    assert config.objective.prototypes == 8192
    assert config.optimizer.warmup_steps == 1000
    assert config.teacher.momentum == pytest.approx(0.995)  # min(256000 / 256, 10000 / 50) = 200 steps
    assert config.teacher.momentum_end == 1.0
    chosen = {choice.path for choice in config.choices}
    assert chosen == {
        "data.micro_batch",
        "objective.prototypes",
        "objective.ibot_prototypes",
        "objective.koleo_group",
        "objective.teacher_temperature_warmup_steps",
        "teacher.momentum",
        "teacher.momentum_end",
        "optimizer.warmup_steps",
        "optimizer.freeze_last_layer_steps",
    }


def test_an_explicit_value_is_not_chosen_by_rule() -> None:
    config = config_of(objective={"prototypes": 1024})
    assert config.objective.prototypes == 1024
    assert "objective.prototypes" not in {choice.path for choice in config.choices}


def test_resolved_configuration_reads_back_as_itself() -> None:
    import tomli

    config = config_of(run={"max_steps": 50}, optimizer={"clip_norm": False, "weight_decay_end": 0.2})
    again = build_config(Document("again", "test", tomli.loads(config.to_toml())), {}, [])
    assert again.tables() == config.tables()
    assert again.choices == ()


@given(
    st.builds(
        dict,
        depth=st.integers(1, 60),
        drop_path_fraction=st.floats(0, 0.99),
        norm=st.sampled_from(["layernorm", "rmsnorm"]),
    )
)
def test_structure_inverts_unstructure(table: dict[str, object]) -> None:
    problems: list[Problem] = []
    model = structure(table, Model, "model", problems)
    assert model is not None
    assert not problems
    assert structure(unstructure(model), Model, "model", problems) == model


def test_overrides_are_toml_literals() -> None:
    tables = override(
        {"run": {"seed": 1}}, ["run.seed=2", "model.ffn=swiglu", "views.mean=[0.5]", "model.qkv_bias=false"]
    )
    assert tables["run"]["seed"] == 2
    assert tables["model"] == {"ffn": "swiglu", "qkv_bias": False}
    assert tables["views"]["mean"] == [0.5]


@pytest.mark.parametrize("text", ["run.seed", "=3", "run.seed=", "run.seed=[1"])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        override({}, [text])


def test_plugins_are_switched_by_name() -> None:
    tables = override({"plugins": {"a": {}, "b": {"x": 1}}}, ["plugins.c.y=2"], plugins=["c"], no_plugins=["a"])
    assert tables["plugins"] == {"b": {"x": 1}, "c": {"y": 2}}
    with pytest.raises(UsageError, match="did you mean 'b'"):
        override({"plugins": {"bb": {}, "b": {}}}, no_plugins=["b "])


def test_a_preset_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[run]\nseed = 7\n")
    document = read_preset(str(file), sets=["run.max_steps=3"])
    assert document.name == "mine"
    assert document.tables["run"] == {"seed": 7, "max_steps": 3}


def test_a_missing_or_broken_preset_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset of that name"):
        read_preset("vit_gaint")
    with pytest.raises(UsageError, match="no such file"):
        read_preset(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("[run\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        read_preset(str(tmp_path / "bad.toml"))


def test_an_option_with_a_mutable_default_is_refused() -> None:
    with pytest.raises(TypeError, match="immutable"):
        option([], help="x")


def test_a_nested_table_names_its_path() -> None:
    @attrs.frozen
    class Inner:
        size: int = option(1, check=at_least(1), help="x")

    @attrs.frozen
    class Outer:
        inner: Inner = attrs.field(factory=Inner)

    Outer.__annotations__["inner"] = Inner
    problems: list[Problem] = []
    assert structure({"inner": {"size": 0, "sice": 1}}, Outer, "plugins.x", problems) is None
    assert dict(problems) == {
        "plugins.x.inner.size": "expected at least 1, got 0",
        "plugins.x.inner.sice": "unknown option - did you mean 'size'?",
    }


def test_files_are_laid_over_the_preset_value_by_value(tmp_path: Path) -> None:
    """Tables within tables, too; the last file wins, and --set wins over all."""
    preset, first, second = (tmp_path / f"{name}.toml" for name in ("preset", "first", "second"))
    preset.write_text("[data]\nworkers = 8\nprefetch = 3\n[plugins.console]\n[plugins.gram-anchoring]\nweight = 1.5\n")
    first.write_text("[data]\nworkers = 4\nmicro_batch = 2\n[plugins.gram-anchoring]\nstart_step = 9\n")
    second.write_text("[data]\nmicro_batch = 16\n[plugins.tensorboard]\n")
    document = read_preset(str(preset), ["data.prefetch=5"], files=[first, second])
    assert document.tables == {
        "data": {"workers": 4, "prefetch": 5, "micro_batch": 16},
        "plugins": {"console": {}, "gram-anchoring": {"weight": 1.5, "start_step": 9}, "tensorboard": {}},
    }
    assert (document.source, document.name) == (str(preset), "preset")


def test_a_file_that_cannot_be_laid_over_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    with pytest.raises(UsageError, match=r"^--with .*broken\.toml: not valid TOML: .*line 1"):
        read_preset("vit_small", files=[broken])
    with pytest.raises(UsageError, match=r"^--with .*nothing\.toml: cannot be read: No such file"):
        read_preset("vit_small", files=[tmp_path / "nothing.toml"])
