"""Resuming equals never having stopped."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import pytest
import torch

from bigrun import hookimpl
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, ExitCode, RunDirectoryError, UsageError
from bigrun.same_run import check_same_run
from bigrun.session import run_training
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import TINY, Runner, RunResult, SyntheticImages

LAST = "checkpoints/step-{:08d}"
GRAM = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 1, "refresh_every_steps": 2}


def assert_same(resumed: RunResult, straight: RunResult) -> None:
    """Bit for bit: losses, metrics, student, teacher, optimizer."""
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    assert resumed.metrics == straight.metrics
    assert resumed.parameters.keys() == straight.parameters.keys()
    for name, tensor in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], tensor), name
    optimizers = [
        load_tensors(run.directory / LAST.format(run.checkpoints[-1]), "optimizer") for run in (resumed, straight)
    ]
    assert optimizers[0].keys() == optimizers[1].keys()
    assert any(name.endswith("/exp_avg_sq") for name in optimizers[0])
    for name, tensor in optimizers[1].items():
        assert torch.equal(optimizers[0][name], tensor), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """12 images, 4 per step: steps 1 and 2 end inside an epoch, step 3 at its end."""
    run = Runner(tmp_path_factory.mktemp("straight")).run("gram-anchoring", steps=5, accumulate=2, config=GRAM)
    run.assert_finished()
    return run


@pytest.mark.parametrize("at_step", [1, 2, 3, 4, 5])
def test_e7_resume_equals_the_straight_run(bigrunner: Runner, straight: RunResult, at_step: int) -> None:
    assert_same(bigrunner.resume(straight, at_step), straight)


@pytest.mark.parametrize(
    "objective",
    [
        {"centring": "softmax", "koleo_weight": 0.1, "koleo_group": 4},
        {"queue_steps": 2},
        {"ibot_weight": 0.0},
    ],
    ids=["centre-and-koleo", "queue", "dino-alone"],
)
def test_e7_centre_and_queue_are_part_of_the_state(bigrunner: Runner, objective: dict[str, Any]) -> None:
    straight = bigrunner.run(steps=4, objective={**TINY["objective"], **objective})
    straight.assert_finished()
    assert_same(bigrunner.resume(straight, 2), straight)
    parts = {path.stem for path in (straight.directory / LAST.format(2)).glob("*.safetensors")}
    assert ("centring" in parts) == ("ibot_weight" not in objective)


def test_resume_with_another_worker_count(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=4)
    assert_same(bigrunner.resume(straight, 2, data={"workers": 2}), straight)


def test_resume_in_the_middle_of_a_metrics_window(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=4, run={"log_every_steps": 4, "checkpoint_every_steps": 2, "max_steps": 4})
    resumed = bigrunner.resume(straight, 2)  # the window of steps 1 and 2 is in the checkpoint
    assert resumed.metrics[-1] == straight.metrics[-1]


def test_a_finished_run_is_left_as_it_is(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2)
    again = bigrunner.resume(straight, 2)
    again.assert_finished()
    assert "before_step" not in again.hooks.names()


def test_the_run_says_that_it_resumed(bigrunner: Runner) -> None:
    resumed = bigrunner.resume(bigrunner.run(steps=3), 2)
    (event,) = [e for e in resumed.events if e.kind == "resumed"]
    assert "after step 2" in event.message


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [("model", {"depth": 3}, "model.depth: 2 -> 3"), ("run", {"seed": 5}, "run.seed: 0 -> 5")],
)
def test_a_changed_architecture_or_order_is_refused(
    bigrunner: Runner, table: str, values: dict[str, Any], named: str
) -> None:
    resumed = bigrunner.resume(bigrunner.run(steps=2), 1, **{table: values})
    assert isinstance(resumed.error, RunDirectoryError)
    assert named in str(resumed.error)


def test_a_changed_learning_rate_is_allowed_and_said(bigrunner: Runner) -> None:
    resumed = bigrunner.resume(bigrunner.run(steps=2), 1, optimizer={"base_lr": 5e-4})
    resumed.assert_finished()
    assert "optimizer.base_lr: 0.001 -> 0.0005" in next(e.message for e in resumed.events if e.kind == "config-changed")


@pytest.mark.parametrize(("group", "level"), [(None, "warning"), (2, "info")], ids=["by rule", "asked for"])
def test_another_objective_by_rule_is_a_warning(bigrunner: Runner, group: int | None, level: str) -> None:
    """Another micro-batch may be set; the groups among which KoLeo seeks neighbours follow it where they are open."""
    begun = bigrunner.run(steps=2, objective={"koleo_weight": 0.1})
    resumed = bigrunner.resume(begun, 1, data={"micro_batch": 2}, objective={"koleo_group": group})
    resumed.assert_finished()
    (said,) = [event for event in resumed.events if event.kind == "config-changed" and "koleo_group" in event.message]
    assert said.level == level
    assert "objective.koleo_group: 4 -> 2" in said.message
    assert ("another objective" in said.message) == (level == "warning")


def test_a_damaged_newest_checkpoint_is_passed_over(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=3)
    straight.damage(2, "student")
    resumed = bigrunner.resume(straight, 2)
    (event,) = [e for e in resumed.events if e.kind == "checkpoint-refused"]
    assert "student.safetensors" in event.message
    assert "after step 1" in next(e.message for e in resumed.events if e.kind == "resumed")
    for name, tensor in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], tensor), name


def test_when_all_checkpoints_are_damaged_the_run_refuses(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2)
    for step in (1, 2):
        straight.damage(step, "teacher")
    assert isinstance(bigrunner.resume(straight, 2).error, CheckpointError)


def test_a_data_set_that_gained_or_lost_images_is_refused_with_both_counts(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2)
    grown = bigrunner.run(steps=3, directory=straight.directory, dataset=SyntheticImages(13))
    assert isinstance(grown.error, RunDirectoryError)
    assert "has 13 images, but 12 when" in str(grown.error)


def test_a_critical_plugin_may_not_vanish(bigrunner: Runner) -> None:
    straight = bigrunner.run("gram-anchoring", steps=3, config=GRAM | {"start_step": 2})
    result = bigrunner.run(steps=3, directory=straight.directory)
    assert isinstance(result.error, RunDirectoryError)
    assert "--drop-plugin gram-anchoring" in str(result.error)


def test_a_refused_run_leaves_the_directory_as_it_was(bigrunner: Runner) -> None:
    straight = bigrunner.run("gram-anchoring", steps=3, config=GRAM | {"start_step": 2})
    before = {p: p.read_bytes() for p in straight.directory.rglob("*") if p.is_file()}
    assert bigrunner.run(steps=3, directory=straight.directory).error is not None
    assert {p: p.read_bytes() for p in straight.directory.rglob("*") if p.is_file()} == before
    never = bigrunner.run("gram-anchoring", run={"max_steps": False})  # it needs a length: refused while it is built
    assert never.exit_code == ExitCode.USAGE
    assert not never.directory.exists()


def test_dropping_a_plugin_is_exact(bigrunner: Runner) -> None:
    straight = bigrunner.run("gram-anchoring", steps=3, config=GRAM | {"start_step": 2})
    document = bigrunner.document({}, steps=4)

    def run(names: list[str], *, active: bool = False) -> Any:
        plugins = {"gram-anchoring": GRAM} if active else {}
        companions = {"recorder": Recorder(SyntheticImages())}
        used = attrs.evolve(document, tables={**document.tables, "plugins": plugins})
        return run_training(used, straight.directory, drop_plugins=names, companions=companions)

    with pytest.raises(UsageError, match="--drop-plugin gram-anchorin: the checkpoint has no such plugin"):
        run(["gram-anchorin"])
    with pytest.raises(UsageError, match="it is active; switch it off with --no-plugin gram-anchoring"):
        run(["gram-anchoring"], active=True)
    finished, code = run(["gram-anchoring"])
    assert (code, finished.step) == (ExitCode.FINISHED, 4)
    assert not finished.frozen


def test_nothing_to_drop_and_nothing_to_do(bigrunner: Runner) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint whose plugins could be dropped"):
        run_training(
            bigrunner.document({}), bigrunner.tmp_path / "new", drop_plugins=["x"],
            companions={"recorder": Recorder(SyntheticImages())},
        )  # fmt: skip
    finished = bigrunner.run(steps=2)
    before = (finished.directory / "config.toml").read_text()
    bigrunner.run(steps=1, directory=finished.directory, optimizer={"base_lr": 5.0}).assert_finished()
    assert (finished.directory / "config.toml").read_text() == before


def test_an_option_that_is_no_more_does_not_prevent_a_resume(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2)
    assert straight.run is not None
    saved = straight.run.config.to_toml() + "\n[forgotten]\nx = 1\n"
    saved = saved.replace("[model]", "[model]\nforgotten = 3")
    changes = check_same_run(straight.run.config, saved, straight.directory)
    assert changes == {
        "forgotten.x": "forgotten.x: 1 -> absent",
        "model.forgotten": "model.forgotten: 3 -> absent",
    }


def test_an_option_that_was_not_there_yet_had_its_default(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=2)
    assert straight.run is not None
    config, lines = straight.run.config, straight.run.config.to_toml().splitlines()
    for line in ("flip_probability = 0.5", "mask_k_bias = true"):
        assert line in lines
    saved = "\n".join(line for line in lines if line not in ("flip_probability = 0.5", "mask_k_bias = true"))
    assert check_same_run(config, saved, straight.directory) == {}
    other = attrs.evolve(config, model=attrs.evolve(config.model, mask_k_bias=False))
    with pytest.raises(RunDirectoryError, match=r"model\.mask_k_bias: True -> False"):
        check_same_run(other, saved, straight.directory)


def test_an_empty_data_set_is_refused(bigrunner: Runner) -> None:
    class Nothing(SyntheticImages):
        def __bool__(self) -> bool:
            return True

    result = bigrunner.run(dataset=Nothing(0))
    assert result.exit_code == ExitCode.USAGE
    assert "the data set is empty" in str(result.error)


def test_a_stopped_run_continues_to_the_same_end(bigrunner: Runner) -> None:
    class StopAtTwo:
        observer = True

        @hookimpl
        def after_step(self, run: Any, step: int) -> None:
            if step == 2 and run.resumed_from is None:
                run.request_stop("test")

    module: Any = sys.modules[__name__]
    module.StopAtTwo = StopAtTwo
    straight = bigrunner.run(steps=4, run={"checkpoint_every_steps": 100})
    stopped = bigrunner.run(f"{__name__}:StopAtTwo", steps=4, run={"checkpoint_every_steps": 100})
    assert stopped.exit_code == ExitCode.STOPPED
    assert stopped.checkpoints == [2]
    resumed = bigrunner.run(
        f"{__name__}:StopAtTwo", steps=4, run={"checkpoint_every_steps": 100}, directory=stopped.directory
    )
    resumed.assert_finished()
    assert stopped.losses + resumed.losses == straight.losses
    for name, tensor in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], tensor), name
