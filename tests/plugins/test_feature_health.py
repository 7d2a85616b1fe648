"""feature-health: its promises as a plugin, and what a run and its guard learn from it."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
import torch
from alone import Alone
from hypothesis import given, settings
from torch import Tensor

from bigrun import hookimpl
from bigrun.check import check_preset
from bigrun.errors import ConfigError, DataError, ExitCode, TrainingHalted
from bigrun.evaluation.images import FixedImages
from bigrun.peers.place import Place
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_features.cadence import HOST_FACTOR, SHARE, interval_steps, judged_looks, look_flops, step_flops
from bigrun_features.config import HealthConfig
from bigrun_features.cost import Cost
from bigrun_features.kept import KeptImages
from bigrun_features.look import look

QUICK = {"every_steps": 2, "settle_steps": 0, "images": 6}


class TestContract(PluginContract):
    plugin = "feature-health"
    config: ClassVar = QUICK
    steps = 5


def events(result: RunResult, kind: str = "feature-health") -> list[Any]:
    return [event for event in result.events if event.kind == kind]


def plugin_of(result: RunResult) -> Any:
    assert result.run is not None
    return result.run.plugins.active["feature-health"]


# -- what is recorded ---------------------------------------------------------------------------------------------


def test_indicators_are_metrics_of_the_step_in_which_they_were_measured(bigrunner: Runner) -> None:
    result = bigrunner.run("feature-health", config=QUICK, steps=5)
    result.assert_finished()
    assert result.run is not None
    looked = [row["step"] for row in result.metrics if "health/class_spread" in row]
    assert looked == [2, 4, 5]  # the last step has its own
    last = {name: value for name, value in result.metrics[-1].items() if name.startswith("health/")}
    assert len(last) == 12
    assert last == plugin_of(result).measurements(result.run)  # the same networks as a checkpoint that is visited
    (line,) = [line for line in result.run.header if line.startswith("features ")]
    assert line == "features     6 images of the training data, every 2 steps; judged from step 2 on"
    assert "health/class_spread" in result.run.metrics.latest  # as a checkpoint has it


def test_gradient_norms_survive_a_resume(bigrunner: Runner) -> None:
    options = {"run": {"checkpoint_every_steps": 7, "max_steps": 16}, "config": QUICK, "steps": 16}
    straight = bigrunner.run("feature-health", **options)  # type: ignore[arg-type]
    straight.assert_finished()
    assert "health/gradient_factor/backbone" in straight.metrics[-1]
    assert bigrunner.resume(straight, at_step=7).metrics == straight.metrics


@pytest.mark.parametrize(("option", "value"), [("images", 1), ("class_spread", [0.1, 0.3]), ("koleo", [4.0, 1.0])])
def test_options_that_make_no_sense_are_refused(bigrunner: Runner, option: str, value: Any) -> None:
    result = bigrunner.run("feature-health", config={option: value})
    assert isinstance(result.error, ConfigError)
    assert result.error.problems[0][0] == f"plugins.feature-health.{option}"


# -- which images -------------------------------------------------------------------------------------------------


class Broken(SyntheticImages):
    bad: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> Tensor:
        if index in self.bad:
            raise DataError("broken")
        return super().__getitem__(index)


class Kept:
    """Keeps a validation part."""

    def __init__(self, dataset: Broken) -> None:
        self.dataset = dataset

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Any) -> None:
        run.validation, run.validation_tone = self.dataset, run.views.tone


def test_the_validation_part_is_looked_at_where_there_is_one(bigrunner: Runner) -> None:
    part = Broken(8)
    part.bad = (3, 5)
    result = bigrunner.run("feature-health", config={**QUICK, "images": 100}, companions=[Kept(part)])
    result.assert_finished()
    assert result.run is not None
    assert any("8 images of the validation part" in line for line in result.run.header)
    assert plugin_of(result).board.measured.images == 6
    (event,) = events(result, "feature-health-incomplete")
    assert (event.level, event.facts["missing"], event.facts["images"]) == ("warning", 2, 8)
    assert "2 of 8 images cannot be read" in event.message


def test_images_that_cannot_be_read_are_said_once_and_end_nothing(bigrunner: Runner) -> None:
    part = Broken(8)
    part.bad = tuple(range(8))
    result = bigrunner.run("feature-health", config=QUICK, companions=[Kept(part)], steps=6)
    result.assert_finished()
    assert len(events(result, "feature-health-blind")) == 1
    assert not [name for row in result.metrics for name in row if name.startswith("health/")]
    assert plugin_of(result).health_section()["lines"][0] == "nothing was looked at yet"
    assert plugin_of(result).measurements(result.run) == {}


def test_what_is_measured_does_not_depend_on_the_room_for_images(bigrunner: Runner) -> None:
    """All are kept, some, or none; and each look reads just the others."""
    result = bigrunner.run(steps=1, dataset=Counting(40), views={"global_size_px": 32, "global_crops": 2})
    result.assert_finished()
    run: Any = result.run
    image = 3 * 32 * 32 * 2
    found = []
    for room, read_again in ((100 * image, 0), (20 * image, 24), (0, 40)):  # 8 at a time: 16 are kept of 20
        images = KeptImages(FixedImages.spread(run, 40), room)
        first = look(run, images)
        run.dataset.reads = 0
        assert look(run, images) == first
        assert run.dataset.reads == read_again
        found.append(first)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("room", [0, 1e9])
def test_an_image_that_can_be_read_again_is_looked_at_again(bigrunner: Runner, room: float) -> None:
    """At first three cannot be, one of them the first of its batch and two the whole of theirs."""
    part = Broken(10)
    result = bigrunner.run(steps=1, dataset=part)
    run: Any = result.run
    whole = KeptImages(FixedImages.spread(run, 10), room)
    part.bad = (0, 8, 9)
    images = KeptImages(FixedImages.spread(run, 10), room)
    cpu = torch.device("cpu")
    first = list(images.batches(cpu, 4))
    assert [shown.indices.tolist() for shown in first] == [[1, 2, 3], [4, 5, 6, 7]]
    assert images.missing == {0, 8, 9}
    part.bad = (8,)
    assert [shown.indices.tolist() for shown in images.batches(cpu, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [9]]
    assert images.missing == {8}
    part.bad = ()
    for found, expected in zip(images.batches(cpu, 4), whole.batches(cpu, 4), strict=True):
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.crops, expected.crops)
    assert images.missing == set()
    part.bad = tuple(range(10))
    assert len(list(images.batches(cpu, 4))) == (3 if room else 0)


def test_a_visit_says_which_images_are_missing(bigrunner: Runner) -> None:
    part = Broken(12)
    result = bigrunner.run("feature-health", config=QUICK, dataset=part, steps=2)
    part.bad = (1,)
    assert plugin_of(result).measurements(result.run)["health/class_spread"] > 0
    assert [event.facts["missing"] for event in events(result, "feature-health-incomplete")] == [1]


def test_each_network_speaks_for_itself(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1)
    run: Any = result.run
    images = KeptImages(FixedImages.spread(run, 6), 0)
    before = look(run, images)
    with torch.no_grad():
        run.objective.student.backbone.norm.weight.mul_(-1)
    after = look(run, images)
    assert before is not None
    assert after is not None
    changed = {name for name, value in after.values.items() if before.values[name] != value}
    assert changed == {"student_entropy_fraction", "student_divergence"}


class Counting(SyntheticImages):
    reads = 0

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        return super().__getitem__(index)


# -- how often ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "log"), [(40, 1), (1000, 10), (5000, 50)])
def test_a_look_costs_at_most_one_per_cent_of_the_steps(bigrunner: Runner, images: int, log: int) -> None:
    """The smallest multiple of run.log_every_steps at which it does."""
    result = bigrunner.run(steps=1, dataset=SyntheticImages(5000), run={"log_every_steps": log, "max_steps": 1})
    assert result.run is not None
    every = interval_steps(HealthConfig(images=images), result.run)
    cost, step = look_flops(result.run, images), step_flops(result.run)
    assert every % log == 0
    assert cost <= SHARE * every * step
    assert every == log or cost > SHARE * (every - log) * step
    assert interval_steps(HealthConfig(every_steps=7), result.run) == 7


def test_a_look_is_a_pass_of_two_networks_and_a_rank(bigrunner: Runner) -> None:
    """Beside a step: a pass of the teacher on two global crops, three of the student on all."""
    result = bigrunner.run(steps=1, views={"local_crops": 0, "local_size_px": None}, model={"drop_path_fraction": 0.0})
    assert result.run is not None
    rank = 2 * 100 * 32**2 + 4 / 3 * 32**3
    passes = look_flops(result.run, 100) - HOST_FACTOR * rank
    assert passes / (2 * 100) == pytest.approx(step_flops(result.run) / (4 * (3 * 2 + 2)))


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 60))
def test_looks_that_are_judged_are_counted(settled: int, every: int, end: int) -> None:
    looks = [step for step in range(1, end + 1) if step % every == 0 or step == end]
    assert judged_looks(settled, every, end) == sum(step > settled for step in looks)


@pytest.mark.parametrize(("settle", "is_said"), [(2, False), (3, True), (100, True)])
def test_a_run_that_ends_before_it_can_be_judged_says_so_in_its_header(
    bigrunner: Runner, settle: int, is_said: bool
) -> None:
    """Looks at 2, 4 and 5: a status needs two."""
    result = bigrunner.run(
        "feature-health", config=QUICK | {"settle_steps": settle}, steps=5, objective={
            "teacher_temperature_warmup_steps": 1,
        },
    )  # fmt: skip
    assert result.run is not None
    said = "warning      features are never judged in this run, which ends at step 5: "
    assert [line.startswith(said) for line in result.run.header if "never judged" in line] == [True] * is_said


def test_before_there_are_images_it_counts_those_that_would_be(bigrunner: Runner) -> None:
    lines = list(check_preset(bigrunner.document({"feature-health": {"images": 30}}, steps=5)))
    (line,) = [line for line in lines if line.startswith("features ")]
    assert line.startswith("features     30 images of the training data, every ")


def test_of_several_processes_one_looks_and_the_others_wait(bigrunner: Runner) -> None:
    """Each has half of a step, so a look counts twice; every process finds the same steps."""
    result = bigrunner.run("feature-health", config=QUICK, steps=1)
    run: Any = result.run
    alone = step_flops(run)
    run.strategy.world_size = 2
    assert step_flops(run) == alone / 2
    run.peers.place = Place(rank=1)
    plugin, seen = plugin_of(result), len(result.events)
    run.metrics.flush()
    plugin.after_step(run, 2)
    assert run.metrics.items() == []
    assert len(result.events) == seen


def test_a_look_that_takes_long_is_said_once() -> None:
    cost = Cost()
    with cost.measured(torch.device("cpu")):
        pass
    assert cost.share is None  # the first look has read the images
    assert not cost.is_news()
    for share, is_news in ((0.03, True), (0.04, False), (0.01, False), (0.021, True)):
        cost.share = share
        assert cost.is_news() is is_news
    with cost.measured(torch.device("cpu")):
        sum(range(1000))
    assert 0 < cost.share <= 1


# -- what it finds ------------------------------------------------------------------------------------------------


class Alike:
    """Student and teacher give the same features to everything: of the final norms, only the bias is left."""

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        with torch.no_grad():
            for network in (run.objective.student, run.objective.teacher):
                network.backbone.norm.weight.zero_()
                network.backbone.norm.bias += step == 1


def test_a_collapse_is_named(bigrunner: Runner) -> None:
    result = bigrunner.run("feature-health", config=QUICK, companions=[Alike()], steps=6)
    result.assert_finished()
    changes = {event.facts["indicator"]: event for event in events(result)}
    spread = changes["health/class_spread"]
    assert (spread.level, spread.step, spread.facts["was"], spread.facts["now"]) == ("error", 4, "ok", "fail")
    assert spread.facts["since"] == 2
    assert spread.facts["advice"]
    assert "class tokens of different images are almost the same" in spread.message
    assert "[redacted]" not in " ".join(event.message for event in events(result))
    assert changes["health/patch_cosine"].facts["now"] == "fail"
    found = plugin_of(result).health_section()
    assert found["status"] == "fail"
    assert "collapse" in {diagnosis.kind for diagnosis in plugin_of(result).diagnoses()}


class Brings:
    """A plugin with that objective."""

    replaces = ("objective", "masking", "teacher")

    @hookimpl
    def build_objective(self, run: Any) -> Any:
        return Alone(run)


def alone(bigrunner: Runner, *names: str, **options: Any) -> RunResult:
    assert sys.modules[__name__].Brings is Brings
    return bigrunner.run(*names, f"{__name__}:Brings", **(dict.fromkeys(Brings.replaces) | options))


def test_an_objective_of_somebody_else_has_fewer_indicators(bigrunner: Runner) -> None:
    result = alone(bigrunner, "feature-health", config=QUICK, steps=4)
    result.assert_finished()
    found = {name for name in result.metrics[-1] if name.startswith("health/")}
    kinds = {"class_spread", "koleo", "patch_cosine", "class_patch_cosine", "rank_me", "rank_fraction"}
    assert found == {f"health/{kind}" for kind in kinds}
    assert result.run is not None
    assert look_flops(result.run, 10) > 0
    assert interval_steps(HealthConfig(), result.run) >= 1
    assert all(part.training for part in result.run.objective.modules())  # the one network goes on being trained


GUARD = {"settle_steps": 0, "hold_steps": 1}


def test_the_guard_ends_a_run_on_its_word(bigrunner: Runner) -> None:
    """Without it, the guard would see nothing of this objective."""
    options: dict[str, Any] = {"config": GUARD, "companions": [Alike()], "steps": 8}
    alone(bigrunner, "anomaly-guard", **options).assert_finished()
    plugins = {"anomaly-guard": GUARD, "feature-health": QUICK}
    result = guarded(bigrunner, plugins, options)
    assert isinstance(result.error, TrainingHalted)
    assert result.exit_code == ExitCode.HALTED
    anomalies = [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "collapse"]
    assert {event.facts["action"] for event in anomalies} == {"halt"}
    assert {event.step for event in anomalies} == {4}
    assert any("class tokens of different images are almost the same, since step 2" in e.message for e in anomalies)
    assert all(event.facts["causes"] and event.facts["advice"] for event in anomalies)


def test_the_guard_decides(bigrunner: Runner) -> None:
    """With a ladder that only warns, training is the same to the last bit."""
    options: dict[str, Any] = {"companions": [Alike()], "steps": 8}
    plain = alone(bigrunner, "metrics-log", **options)
    plugins = {"anomaly-guard": {**GUARD, "collapse": ["warn"]}, "feature-health": QUICK}
    result = guarded(bigrunner, plugins, options)
    result.assert_finished()
    assert result.losses == plain.losses
    assert [e.step for e in result.events if e.kind == "anomaly" and "class tokens of" in e.message] == [4]


def guarded(bigrunner: Runner, plugins: dict[str, dict[str, Any]], options: dict[str, Any]) -> RunResult:
    """A run with options of two plugins."""
    document = bigrunner.document(
        {**plugins, f"{__name__}:Brings": {}}, steps=options["steps"], **dict.fromkeys(Brings.replaces)
    )
    return bigrunner._train(document, bigrunner.tmp_path / "guarded", options["companions"], SyntheticImages())
