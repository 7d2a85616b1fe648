"""gram-anchoring: its modes, what it refuses, larger crops, and options that change in a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from bigrun import hookimpl
from bigrun.config import Config
from bigrun.errors import ConfigError, ExitCode, RunDirectoryError, UsageError
from bigrun.session import run_training
from bigrun.testing.contract import PluginContract
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun.weights.layouts import layout_named
from bigrun_gram.config import GramConfig
from bigrun_gram.state import State

GRAM: dict[str, Any] = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 2, "max_refreshes": 0}
EMA: dict[str, Any] = {"mode": "ema", "start_step": 2, "ramp_steps": 1}


class TestEmaContract(PluginContract):
    plugin = "gram-anchoring"
    config = EMA
    steps = 3


def gram_at(result: RunResult, step: int) -> dict[str, torch.Tensor]:
    return part_at(result, step, "frozen", "gram_teacher/")


def teacher_at(result: RunResult, step: int) -> dict[str, torch.Tensor]:
    return part_at(result, step, "teacher", "backbone.")


def part_at(result: RunResult, step: int, part: str, prefix: str) -> dict[str, torch.Tensor]:
    assert result.run is not None
    tensors = result.run.checkpoints.load_tensors(result.run.checkpoints.path(step), part)
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def is_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and bool(a) and all(torch.equal(a[name], b[name]) for name in a)


def checkpoint_of(result: RunResult, step: int) -> Path:
    assert result.run is not None
    return result.run.checkpoints.path(step)


def taken(result: RunResult) -> list[int]:
    return [event.step for event in result.events if event.kind == "gram-teacher"]


def gram_steps(result: RunResult) -> list[int]:
    return [int(row["step"]) for row in result.metrics if "loss/gram" in row]


# -- ckpt -----------------------------------------------------------------------------------------------------


def ckpt(path: Path, **options: Any) -> dict[str, Any]:
    return {"mode": "ckpt", "checkpoint": str(path), "start_step": 1, "ramp_steps": 1, "max_refreshes": 0} | options


def test_the_teacher_of_another_run_anchors_from_the_first_step(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=2, run={"seed": 1})
    result = bigrunner.run("gram-anchoring", config=ckpt(checkpoint_of(other, 2), weight=1.5), steps=3)
    result.assert_finished()
    assert gram_steps(result) == [1, 2, 3]
    assert {row["gram/weight"] for row in result.metrics} == {1.5}
    for step in (1, 2, 3):
        assert is_same(gram_at(result, step), teacher_at(other, 2))
    assert result.run is not None
    assert any(f"teacher from {checkpoint_of(other, 2)}" in line for line in result.run.header)


def test_a_file_of_backbone_weights_anchors_too(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=1, run={"seed": 1})
    file = bigrunner.tmp_path / "backbone.safetensors"
    save_file(teacher_at(other, 1), file)
    result = bigrunner.run("gram-anchoring", config=ckpt(file), steps=2)
    result.assert_finished()
    assert is_same(gram_at(result, 2), teacher_at(other, 1))


def test_a_file_of_another_project_anchors_and_lacks_only_what_is_zero(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=2, run={"seed": 1})
    assert other.run is not None
    weights = teacher_at(other, 2)
    file = bigrunner.tmp_path / "timm.safetensors"
    save_file(layout_named("timm").from_own(weights, other.run.config.model), file)
    result = bigrunner.run("gram-anchoring", config=ckpt(file), steps=2)
    result.assert_finished()
    gram = gram_at(result, 2)
    assert torch.equal(gram["mask_token"], torch.zeros_like(weights["mask_token"]))  # timm has none
    for name in gram.keys() - {"mask_token"}:
        # It has no norm for local crops either, and a Gram teacher sees none.
        assert torch.equal(gram[name], weights[name.replace("local_cls_norm", "norm")]), name


def test_the_file_is_needed_once(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=1, run={"seed": 1})
    file = bigrunner.tmp_path / "backbone.safetensors"
    save_file(teacher_at(other, 1), file)
    straight = bigrunner.run("gram-anchoring", config=ckpt(file, max_refreshes=1, refresh_every_steps=3), steps=4)
    file.unlink()
    for at_step in (1, 3):
        resumed = bigrunner.resume(straight, at_step)
        resumed.assert_finished()
        assert resumed.losses == straight.losses
    assert is_same(gram_at(straight, 4), teacher_at(straight, 3))


def test_another_file_replaces_the_gram_teacher_in_the_middle_of_a_run(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=2, run={"seed": 1})
    first = bigrunner.run("gram-anchoring", config=ckpt(checkpoint_of(other, 1)), steps=2)
    config = ckpt(checkpoint_of(other, 2))
    second = bigrunner.run("gram-anchoring", config=config, steps=3, directory=first.directory)
    second.assert_finished()
    assert is_same(gram_at(second, 3), teacher_at(other, 2))
    assert taken(second) == [2]


def test_another_file_has_its_refreshes_before_it(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=2, run={"seed": 1})
    refreshed = {"max_refreshes": 1, "refresh_every_steps": 2}
    first = bigrunner.run("gram-anchoring", config=ckpt(checkpoint_of(other, 1), **refreshed), steps=4)
    assert taken(first) == [0, 2]
    config = ckpt(checkpoint_of(other, 2), **refreshed)
    second = bigrunner.run("gram-anchoring", config=config, steps=8, directory=first.directory)
    assert taken(second) == [4, 6]
    message = next(e.message for e in second.events if e.kind == "gram-teacher")
    assert message == f"Gram teacher: taken from {checkpoint_of(other, 2)}; the refresh count begins anew at 0, was 1"
    assert second.run is not None
    assert any(f"teacher from {checkpoint_of(other, 2)}" in line for line in second.run.header)


def test_a_file_that_is_not_there_or_does_not_fit_is_refused_before_anything_is_written(bigrunner: Runner) -> None:
    narrow = bigrunner.run(steps=1, model={"width": 16})
    wrong = {
        bigrunner.tmp_path / "nothing.safetensors": "no such file",
        checkpoint_of(narrow, 1): "has shape",
        narrow.directory: "no checkpoint",
    }
    for path, why in wrong.items():
        result = bigrunner.run("gram-anchoring", config=ckpt(path))
        assert isinstance(result.error, ConfigError)
        ((where, text),) = result.error.problems
        assert where == "plugins.gram-anchoring.checkpoint"
        assert why in text
        assert not result.directory.exists()
    damaged = bigrunner.run(steps=1)
    damaged.damage(1, "teacher")
    result = bigrunner.run("gram-anchoring", config=ckpt(checkpoint_of(damaged, 1)))
    assert isinstance(result.error, UsageError)
    assert "damaged" in str(result.error)


# -- ema ------------------------------------------------------------------------------------------------------


def test_the_moving_teacher_has_no_copy_and_no_forward_pass_of_its_own(bigrunner: Runner) -> None:
    passes: dict[int, int] = {}

    class Count:
        @hookimpl
        def on_start(self, run: Any) -> None:
            def count(*ignored: Any) -> None:
                passes[run.step + 1] = passes.get(run.step + 1, 0) + 1

            run.objective.teacher.backbone.register_forward_hook(count)

    result = bigrunner.run("gram-anchoring", config=EMA, steps=3, accumulate=2, companions=[Count()])
    result.assert_finished()
    assert passes == {1: 2, 2: 2, 3: 2}
    assert gram_steps(result) == [2, 3]
    assert gram_at(result, 3) == {}
    assert result.run is not None
    assert any("decays with the student" in line for line in result.run.header)


def test_its_distance_is_that_of_student_and_teacher(bigrunner: Runner) -> None:
    """The teacher of this step, before it follows: the snapshot that is taken after the step before."""
    ema = bigrunner.run("gram-anchoring", config=EMA, steps=2)
    snapshot = bigrunner.run("gram-anchoring", config={"snapshot_step": 1, "start_step": 2, "ramp_steps": 1}, steps=2)
    assert ema.metrics[1]["gram/distance"] == snapshot.metrics[1]["gram/distance"] > 0
    assert ema.losses == snapshot.losses


# -- off, and changes in the middle of a run ------------------------------------------------------------------


def test_off_keeps_the_table_and_does_nothing(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"mode": "off"}, steps=4)
    result.assert_finished()
    assert result.losses == bigrunner.run(steps=4).losses
    assert not any("gram/weight" in row for row in result.metrics)


@pytest.mark.parametrize("config", [GRAM | {"mode": "off"}, EMA])
def test_a_mode_without_a_gram_teacher_drops_the_one_that_there_is(bigrunner: Runner, config: dict[str, Any]) -> None:
    first = bigrunner.run("gram-anchoring", config=GRAM, steps=2)
    assert gram_at(first, 2)
    second = bigrunner.run("gram-anchoring", config=config, steps=4, directory=first.directory)
    second.assert_finished()
    assert gram_at(second, 3) == {}
    assert gram_steps(second) == ([] if config["mode"] == "off" else [3, 4])
    third = bigrunner.run("gram-anchoring", config=GRAM, steps=6, directory=first.directory)
    third.assert_finished()
    assert is_same(gram_at(third, 6), teacher_at(third, 5))
    assert gram_steps(third) == [6]
    assert third.metrics[-1]["gram/weight"] == pytest.approx(1.0)  # the ramp begins, whatever counted before


def test_a_gram_teacher_that_is_dropped_takes_its_refreshes_along(bigrunner: Runner) -> None:
    config = GRAM | {"max_refreshes": 1, "refresh_every_steps": 1}
    first = bigrunner.run("gram-anchoring", config=config, steps=4)
    assert taken(first) == [1, 3]
    bigrunner.run("gram-anchoring", config=config | {"mode": "off"}, steps=5, directory=first.directory)
    third = bigrunner.run("gram-anchoring", config=config, steps=9, directory=first.directory)
    assert taken(third) == [6, 7]


def test_extending_a_run_keeps_the_plan_that_it_began_with(bigrunner: Runner) -> None:
    config = {"snapshot_step": 1, "refresh_every_steps": 1, "max_refreshes": 1}
    first = bigrunner.run("gram-anchoring", config=config, steps=5)
    assert gram_steps(first) == [4, 5]  # 83 %
    longer = bigrunner.resume(first, 2, run={"max_steps": 7})
    assert [e for e in longer.events if e.kind == "gram-plan"] == []
    assert gram_steps(longer) == [4, 5, 6, 7]
    assert longer.run is not None
    assert any("loss from step 4" in line for line in longer.run.header)
    options: dict[str, Any] = {"config": config, "companions": [stopping(9)], "directory": longer.directory}
    endless = bigrunner.run("gram-anchoring", run={"max_steps": False}, **options)
    assert endless.exit_code == ExitCode.STOPPED
    assert gram_steps(endless) == [8, 9]
    assert endless.metrics[-1]["gram/weight"] == longer.metrics[-1]["gram/weight"] == 2.0


def test_an_option_that_has_changed_changes_the_plan_and_says_so(bigrunner: Runner) -> None:
    first = bigrunner.run("gram-anchoring", config=GRAM, steps=2)
    config = GRAM | {"start_step": 5, "weight": 3.0, "ramp_steps": 1}
    second = bigrunner.run("gram-anchoring", config=config, steps=6, directory=first.directory)
    second.assert_finished()
    assert len([e for e in second.events if e.kind == "gram-plan"]) == 1
    assert gram_steps(second) == [5, 6]
    assert second.metrics[-1]["gram/weight"] == 3.0
    early = bigrunner.run("gram-anchoring", config=GRAM | {"start_step": 20, "snapshot_step": 15}, steps=4)
    hurried = bigrunner.run("gram-anchoring", config=GRAM, steps=7, directory=early.directory)
    assert gram_steps(hurried) == [6, 7]  # not 3, which is past: the teacher is taken after 5
    assert hurried.metrics[1]["gram/weight"] == pytest.approx(1.0)  # and the ramp begins there


def test_a_short_run_that_becomes_long_stays_without_until_it_is_asked_for(bigrunner: Runner) -> None:
    first = bigrunner.run("gram-anchoring", steps=3)
    longer = bigrunner.run("gram-anchoring", steps=6000, directory=first.directory, companions=[stopping(4)])
    assert longer.exit_code == ExitCode.STOPPED
    assert longer.run is not None
    assert any(line.startswith("gram         off") for line in longer.run.header)
    asked = bigrunner.run("gram-anchoring", config=GRAM, steps=7, directory=first.directory)
    asked.assert_finished()
    assert gram_steps(asked) == [6, 7]


def test_a_state_without_a_plan_keeps_its_gram_teacher(bigrunner: Runner) -> None:
    """The state of version 1, in a run that was to begin with the loss at step 3."""
    config = config_of(bigrunner)
    for taken_at_step, start in ((1, 5), (None, 6)):
        state = State.from_json({"taken_at_step": taken_at_step, "refreshes": 1})
        state.settle(GramConfig(**GRAM), config, step=4)
        assert state.plan is not None
        assert state.plan.start_step == start
        assert (state.taken_at_step, state.refreshes) == (taken_at_step, 1)


def config_of(bigrunner: Runner, **run: Any) -> Config:
    result = bigrunner.run()
    assert result.run is not None
    return attrs.evolve(result.run.config, run=attrs.evolve(result.run.config.run, **run))


LATE: dict[str, Any] = {"snapshot_step": 500, "start_step": 1000, "ramp_steps": 500}


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        *(({name: value}, {name: value}) for name, value in {
            "weight": 1.0, "ramp_steps": 200, "max_refreshes": 9, "local_weight": 0.25, "teacher_momentum": 0.9,
            "first_refresh_step": 3300,
        }.items()),
        ({"refresh_every_steps": 200}, {"refresh_every_steps": 200, "first_refresh_step": 3201}),
        ({"start_step": 3200}, {"start_step": 3200, "first_refresh_step": 3699}),
        ({"start_step": 900}, {}),
        ({"mode": "ckpt", "snapshot_step": None, "checkpoint": "x"}, {"snapshot_step": None}),
    ],
    ids=str,
)  # fmt: skip
def test_an_option_that_has_changed_moves_only_what_comes_from_it(
    bigrunner: Runner, changed: dict[str, Any], moved: dict[str, Any]
) -> None:
    """In a plan that was postponed: the plugin was added after step 3000."""
    config, state = config_of(bigrunner, max_steps=4000), State()
    state.settle(GramConfig(**LATE), config, step=3000)
    begun = state.plan
    assert begun is not None
    assert (begun.snapshot_step, begun.start_step, begun.first_refresh_step) == (3001, 3002, 3501)
    state.taken_at_step = 3001
    state.settle(GramConfig(**LATE | changed), config, step=3100)
    assert state.plan == attrs.evolve(begun, **moved)


def test_the_ramp_of_a_loss_that_was_added_late_goes_on_when_its_weight_changes(bigrunner: Runner) -> None:
    config = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 6, "refresh_every_steps": 2}
    older = bigrunner.run(steps=4)
    added = bigrunner.run("gram-anchoring", config=config, steps=8, directory=older.directory)
    weights = [row["gram/weight"] for row in added.metrics]
    changed = bigrunner.run("gram-anchoring", config=config | {"weight": 1.0}, steps=12, directory=older.directory)
    weights += [2 * row["gram/weight"] for row in changed.metrics]
    assert weights == pytest.approx([0, *(1 - math.cos(math.pi * step / 6) for step in range(1, 7)), 2])
    assert [row["local_weight"] for row in changed.metrics] == pytest.approx([1 - w / 4 for w in weights[4:]])
    assert (taken(added), taken(changed)) == ([5, 7], [9, 11])


changes = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["snapshot", "ckpt", "ema", "off"]),
        "snapshot_step": st.integers(1, 400),
        "start_step": st.integers(1000, 9000),
        "ramp_steps": st.integers(1, 900),
        "weight": st.floats(0.5, 3),
        "first_refresh_step": st.integers(9000, 9900),
        "refresh_every_steps": st.integers(1, 900),
    },
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(changes, st.integers(0, 2000), st.booleans()), min_size=2, max_size=5))
def test_no_change_of_options_moves_the_start_into_the_past(
    bigrunner_config: Config, history: list[tuple[dict[str, Any], int, bool]]
) -> None:
    state, step = State(), 0
    for options, steps, is_taken in history:
        step, begun = step + steps, state.plan
        state.taken_at_step = max(step, 1) if is_taken else None
        state.settle(GramConfig(**options), bigrunner_config, step)
        if state.plan is not None and begun != state.plan:
            kept = begun is not None and begun.start_step == state.plan.start_step
            assert kept or state.plan.start_step > step
            assert state.plan.first_refresh_step >= state.plan.start_step


@pytest.fixture
def bigrunner_config(bigrunner: Runner) -> Config:
    return config_of(bigrunner, max_steps=10_000)


def stopping(step: int) -> Any:
    class Stop:
        @hookimpl
        def before_step(self, run: Any) -> None:
            if run.step + 1 == step:
                run.request_stop("the test has seen enough")

    return Stop()


def test_it_can_be_dropped_from_a_run(bigrunner: Runner) -> None:
    first = bigrunner.run("gram-anchoring", config=GRAM, steps=2)
    without = bigrunner.run(steps=3, directory=first.directory)
    assert isinstance(without.error, RunDirectoryError)
    assert "--drop-plugin gram-anchoring" in str(without.error)


# -- larger crops ---------------------------------------------------------------------------------------------


def sides(passes: dict[int, tuple[int, ...]]) -> Any:
    class Sides:
        @hookimpl
        def on_start(self, run: Any) -> None:
            def note(module: Any, inputs: Any, features: Any) -> None:
                passes[run.step + 1] = (inputs[0].shape[-1], features.patches.shape[1])

            run.frozen["gram_teacher"].register_forward_hook(note)

    return Sides()


def test_the_gram_teacher_sees_crops_of_twice_the_size(bigrunner: Runner) -> None:
    passes: dict[int, tuple[int, ...]] = {}
    images = SyntheticImages(size_px=80)
    options: dict[str, Any] = {"steps": 4, "dataset": images}
    larger = bigrunner.run("gram-anchoring", config=GRAM | {"crop_factor": 2.0}, companions=[sides(passes)], **options)
    larger.assert_finished()
    assert passes == {3: (64, 64), 4: (64, 64)}  # 64 pixels, 8 x 8 patches
    assert gram_steps(larger) == [3, 4]
    same = bigrunner.run("gram-anchoring", config=GRAM, **options)
    assert larger.losses[:2] == same.losses[:2]  # larger crops change nothing before they count
    assert larger.metrics[2]["gram/distance"] != same.metrics[2]["gram/distance"]
    resumed = bigrunner.resume(larger, 2)
    assert resumed.losses == larger.losses


def test_every_size_in_use_must_be_whole_patches_of_the_gram_teacher(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"crop_factor": 1.125})
    assert isinstance(result.error, ConfigError)
    ((where, text),) = result.error.problems
    assert where == "plugins.gram-anchoring.crop_factor"
    assert "1.125 x global crops of 32 pixels is 36, which is not a multiple of model.patch_size_px = 8" in text


def test_mixed_sizes_keep_the_factor(bigrunner: Runner) -> None:
    passes: dict[int, tuple[int, ...]] = {}
    config = GRAM | {"crop_factor": 1.5, "start_step": 2, "ramp_steps": 1}
    document = bigrunner.document({"gram-anchoring": config}, steps=9)
    views: Any = document.tables["views"]
    del views["global_size_px"], views["local_size_px"]
    views["sizes_px"] = [[32, 16], [48, 16]]
    everybody = {"images": Recorder(SyntheticImages()), "sides": sides(passes)}
    _, code = run_training(document, bigrunner.tmp_path / "mixed", companions=everybody)
    assert code == ExitCode.FINISHED
    assert set(passes.values()) == {(48, 36), (72, 81)}


# -- levels and tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["all", "masked", "unmasked"])
def test_all_patches_of_a_step_are_compared(bigrunner: Runner, tokens: str) -> None:
    config = GRAM | {"level": "batch", "tokens": tokens}
    result = bigrunner.run("gram-anchoring", config=config, steps=4)
    result.assert_finished()
    image = bigrunner.run("gram-anchoring", config=GRAM, steps=4)
    assert result.metrics[2]["gram/distance"] > 0
    assert result.metrics[2]["gram/distance"] != image.metrics[2]["gram/distance"]
    assert result.losses[:2] == image.losses[:2]


@pytest.mark.parametrize("negatives", ["clamp", "clamp-teacher"])
def test_negatives_run(bigrunner: Runner, negatives: str) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"negatives": negatives}, steps=4)
    result.assert_finished()
    assert gram_steps(result) == [3, 4]


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "where", "why"),
    [
        ({"mode": "ckpt"}, "checkpoint", "mode = 'ckpt' has no Gram teacher"),
        ({"checkpoint": "x"}, "checkpoint", "has no effect because mode is not 'ckpt'"),
        ({"mode": "ema", "crop_factor": 2.0}, "crop_factor", "has no effect because mode = 'ema'"),
        ({"mode": "ema", "refresh_every_steps": 5}, "refresh_every_steps", "nothing to refresh"),
        ({"mode": "ema", "max_refreshes": 5}, "max_refreshes", "nothing to refresh"),
        ({"mode": "ema", "snapshot_step": 5}, "snapshot_step", "mode is not 'snapshot'"),
        ({"mode": "ckpt", "checkpoint": "x", "candidates_every_steps": 5}, "candidates_every_steps", "no effect"),
        ({"snapshot_step": 5, "candidates_every_steps": 5}, "candidates_every_steps", "snapshot_step names"),
        ({"max_refreshes": 0, "first_refresh_step": 9}, "first_refresh_step", "max_refreshes = 0"),
        ({"max_refreshes": 0, "refresh_every_steps": 9}, "refresh_every_steps", "max_refreshes = 0"),
        ({"start_step": 9, "first_refresh_step": 8}, "first_refresh_step", "8 is before start_step = 9"),
        ({"tokens": "masked"}, "tokens", "'masked' needs level = 'batch'"),
        ({"crop_factor": 0.5}, "crop_factor", "expected 1 to 8"),
        ({"weight": 0.0}, "weight", "expected more than 0"),
        ({"mode": "teacher"}, "mode", "expected 'snapshot' or 'ckpt' or 'ema' or 'off'"),
        ({"negatives": True}, "negatives", "expected 'keep' or 'clamp' or 'clamp-teacher'"),
    ],
)
def test_refused(bigrunner: Runner, config: dict[str, Any], where: str, why: str) -> None:
    result = bigrunner.run("gram-anchoring", config=config)
    assert isinstance(result.error, ConfigError)
    assert result.exit_code == ExitCode.USAGE
    ((path, text),) = result.error.problems
    assert path == f"plugins.gram-anchoring.{where}"
    assert why in text
    assert not result.directory.exists()


def test_batch_level_is_refused_with_accumulation(bigrunner: Runner) -> None:
    result = bigrunner.run("gram-anchoring", config=GRAM | {"level": "batch"}, accumulate=2)
    assert isinstance(result.error, ConfigError)
    ((path, text),) = result.error.problems
    assert path == "plugins.gram-anchoring.level"
    assert "expected data.micro_batch = data.effective_batch = 4, got 2" in text


def test_masked_tokens_are_refused_without_masks(bigrunner: Runner) -> None:
    config = GRAM | {"level": "batch", "tokens": "unmasked"}
    result = bigrunner.run("gram-anchoring", config=config, objective={"ibot_weight": 0.0})
    assert isinstance(result.error, ConfigError)
    ((path, text),) = result.error.problems
    assert path == "plugins.gram-anchoring.tokens"
    assert "needs masks" in text


def test_every_option_has_a_help_and_off_refuses_none_of_them() -> None:
    for field in attrs.fields(GramConfig):
        assert field.metadata["help"].endswith("."), field.name
    everything = GramConfig(mode="off", snapshot_step=9, start_step=5, tokens="masked", first_refresh_step=1)
    assert list(everything.problems()) == []
