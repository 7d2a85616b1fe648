"""probes: its promises as a plugin, what is measured when, and who uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from probe_images import TOML, write_photos

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main
from bigrun.errors import DataError, ExitCode
from bigrun.run import Run
from bigrun.session import run_training
from bigrun.testing.contract import PluginContract
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_probes.health import section
from bigrun_probes.state import Baselines, State

MOVING = {"teacher": {"momentum": 0.5, "momentum_end": 0.5}, "optimizer": {"base_lr": 0.1, "warmup_steps": 0}}
RETRIEVAL = {"probe/retrieval_top1", "probe/retrieval_top5", "probe/retrieval_ratio_to_chance"}


class Patients(SyntheticImages):
    """Twelve images of three patients, who are told apart by brightness."""

    levels = ("patient",)

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        return np.array([f"patient <{index % 3}>" for index in range(len(self))], dtype=object)

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) // 4 + 60 * (index % 3)


class TestContract(PluginContract):
    plugin = "probes"
    config: ClassVar = {"labels": "patient", "k": 3}
    dataset = Patients()
    steps = 3


def probed(result: RunResult) -> list[dict[str, float]]:
    """What each row of metrics says of probes."""
    return [{name: value for name, value in row.items() if name.startswith("probe/")} for row in result.metrics]


def state_of(result: RunResult, step: int) -> dict[str, Any]:
    assert result.run is not None
    store = result.run.checkpoints
    facts: dict[str, Any] = store.load_facts(store.path(step), "state")
    return facts


# -- when -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "at_checkpoints", "steps"), [(None, 2, [2, 4, 5]), (3, 2, [3, 5]), (None, 100, [5])])
def test_it_measures_with_every_checkpoint_or_as_often_as_asked_and_at_the_end(
    bigrunner: Runner, every: int | None, at_checkpoints: int, steps: list[int]
) -> None:
    config = {} if every is None else {"every_steps": every}
    result = bigrunner.run("probes", config=config, steps=5, run={"checkpoint_every_steps": at_checkpoints})
    result.assert_finished()
    assert [row["step"] for row, values in zip(result.metrics, probed(result), strict=True) if values] == steps
    assert probed(result)[-1].keys() == RETRIEVAL


class Asks:
    """Asks for a checkpoint of step 2."""

    observer = True

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if step == 2:
            run.request_checkpoint("it is step 2")


@pytest.mark.parametrize("other", ["checkpoint-rotation", f"{__name__}:Asks"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_milestone_is_measured_too(bigrunner: Runner, other: str, is_first: bool) -> None:
    """Whoever is named first, and asked last: the checkpoint that another asks for in its `after_step` is measured, and
    the value is in it."""
    plugins: dict[str, Any] = {"probes": {}, other: {"milestone_steps": [2]} if "rotation" in other else {}}
    if not is_first:
        plugins = dict(reversed(plugins.items()))
    document = bigrunner.document(plugins, steps=4, run={"checkpoint_every_steps": 100})
    recorder = Recorder(SyntheticImages())
    run, _ = run_training(document, bigrunner.tmp_path / "milestone", companions={"recorder": recorder})
    assert run.checkpoints.steps() == [2, 4]
    assert [row["step"] for row in recorder.metrics if row.keys() >= RETRIEVAL] == [2, 4]
    facts = run.checkpoints.load_facts(run.checkpoints.path(2), "state")
    assert facts["measured"].keys() >= RETRIEVAL


def test_nothing_is_measured_twice_in_a_step(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from bigrun_probes.plugin import Probes

    steps: list[int] = []
    record = Probes._record
    monkeypatch.setattr(Probes, "_record", lambda self, run, step: (steps.append(step), record(self, run, step))[1])
    bigrunner.run("probes", steps=4, run={"checkpoint_every_steps": 2}).assert_finished()
    assert steps == [2, 4]


def test_the_backbones_own_freeze_is_a_warm_up_too(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning about view retrieval comes after all warm-ups, as everybody else's."""
    from bigrun.evaluation.facts import Facts

    result = bigrunner.run("probes", steps=2)
    assert result.run is not None
    plugin = result.run.plugins.active["probes"]
    plugin.state.add(2, {"probe/retrieval_ratio_to_chance": 1.0})
    warmup = Facts.of(result.run.config)
    for steps, status in ((1, "warn"), (2, "ok")):
        changed = attrs.evolve(warmup, warmup_steps=steps)
        monkeypatch.setattr(Facts, "of", classmethod(lambda cls, config, changed=changed: changed))
        assert plugin.health_section(result.run)["status"] == status


def test_a_checkpoint_has_the_value_of_its_own_step_whatever_is_logged(bigrunner: Runner) -> None:
    """Logged every 4 steps, as means; saved every 2."""
    options: dict[str, Any] = {"dataset": SyntheticImages(40), "steps": 6, **MOVING}
    logged, seldom = (
        bigrunner.run("probes", run={"log_every_steps": every, "checkpoint_every_steps": 2}, **options)
        for every in (1, 4)
    )
    tops = []
    for step in (2, 4, 6):
        expected = {name: value for name, value in logged.metrics[step - 1].items() if name.startswith("probe/")}
        measured = state_of(seldom, step)["measured"]
        assert {name: value for name, value in measured.items() if name.startswith("probe/")} == expected
        tops.append(expected["probe/retrieval_top5"])
    assert len(set(tops)) > 1, "or an older value would pass for it"


# -- what it remembers ----------------------------------------------------------------------------------------


def test_the_untrained_teacher_is_measured_once_and_kept(bigrunner: Runner) -> None:
    first = bigrunner.run("probes", config={"labels": "patient"}, dataset=Patients(), steps=2)
    state = state_of(first, 2)["plugins"]["probes"]["state"]
    assert state["baselines"]["begin"].keys() == RETRIEVAL | {"probe/knn_accuracy", "probe/linear_accuracy"}
    assert state["baselines"]["chance"]["probe/retrieval_top5"] == pytest.approx(5 / 12)
    assert state["baselines"]["raw_pixels"].keys() == state["baselines"]["chance"].keys()
    resumed = bigrunner.resume(first, 1)
    assert state_of(resumed, 2)["plugins"]["probes"]["state"] == state
    late = bigrunner.run("probes", config={}, steps=4, directory=bigrunner.run(steps=2).directory)
    late.assert_finished()
    assert state_of(late, 4)["plugins"]["probes"]["state"]["baselines"]["begin"] is None


def test_other_images_begin_anew_and_say_so(bigrunner: Runner) -> None:
    first = bigrunner.run("probes", steps=2)
    same = bigrunner.run("probes", steps=3, directory=first.directory)
    assert not [e for e in same.events if e.kind == "probes-changed"]
    other = bigrunner.run("probes", config={"images": 6}, steps=4, directory=first.directory)
    (event,) = [e for e in other.events if e.kind == "probes-changed"]
    assert event.level == "warning"
    state = state_of(other, 4)["plugins"]["probes"]["state"]
    assert {reading["step"] for reading in state["best"].values()} == {4}


def test_features_that_are_not_finite_have_no_value(bigrunner: Runner) -> None:
    result = bigrunner.run("probes", steps=1)
    assert result.run is not None
    plugin = result.run.plugins.active["probes"]
    with torch.no_grad():
        for parameter in result.run.objective.teacher.backbone.norm.parameters():
            parameter.fill_(torch.nan)
    assert plugin.measurements(result.run) == {}


class Away(Patients):
    """A disk that is away while step 2 is measured, and has lost one image at the end."""

    lost: frozenset[int] = frozenset()

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.lost:
            raise DataError("it is away")
        return super().__getitem__(index)


class Loses:
    """Is asked before probes, which then finds fewer images."""

    def __init__(self, dataset: Away) -> None:
        self.dataset = dataset

    @hookimpl(tryfirst=True)
    def after_step(self, step: int) -> None:
        self.dataset.lost = {2: frozenset(range(12)), 3: frozenset({0})}.get(step, frozenset())


class Finds:
    """Is asked after probes: training finds them all."""

    def __init__(self, dataset: Away) -> None:
        self.dataset = dataset

    @hookimpl(trylast=True)
    def after_step(self) -> None:
        self.dataset.lost = frozenset()


def test_images_that_are_away_cost_a_measurement_and_not_the_plugin(bigrunner: Runner) -> None:
    dataset = Away()
    result = bigrunner.run(
        "probes", config={"labels": "patient"}, dataset=dataset, companions=[Loses(dataset), Finds(dataset)], steps=3,
    )  # fmt: skip
    result.assert_finished()
    assert [bool(values) for values in probed(result)] == [True, False, True]
    (nothing,) = [e for e in result.events if e.kind == "probes" and e.level == "warning"]
    assert "only 0 of 12 images can be read" in nothing.message
    (fewer,) = [e for e in result.events if e.kind == "probes-incomplete"]
    assert (fewer.step, fewer.facts) == (3, {"missing": 1})


def test_labels_that_cannot_be_used_switch_it_off_before_step_one(bigrunner: Runner) -> None:
    result = bigrunner.run("probes", config={"labels": "series"}, dataset=Patients(), steps=2)
    assert result.exit_code == ExitCode.QUARANTINED
    (event,) = [e for e in result.events if e.kind == "observer-failed"]
    assert event.step == 0
    assert "Patients does not know the series of its samples, but patient" in event.message


# -- the health report ----------------------------------------------------------------------------------------


def test_the_section_says_what_to_look_at() -> None:
    state = State("x", Baselines({"probe/knn_accuracy": 0.1}, {"probe/knn_accuracy": 0.4}, None))
    assert section(state, 2.0, 100)["status"] == "none"
    assert "no measurement yet" in section(state, 2.0, 100)["lines"]
    state.add(50, {"probe/knn_accuracy": 0.8, "probe/retrieval_ratio_to_chance": 1.0})
    assert section(state, 2.0, 100)["status"] == "ok", "still warming up"
    assert section(state, 2.0, 49)["status"] == "warn"
    state.add(200, {"probe/knn_accuracy": 0.7, "probe/retrieval_ratio_to_chance": 40.0})
    good = section(state, 2.0, 100)
    assert good["status"] == "ok"
    row = good["table"]["rows"][0]
    assert row[1:] == ["0.700", "200", "0.800", "50", "-", "0.400", "0.100"]
    assert len(row) == len(good["table"]["columns"])
    assert [curve["metrics"] for curve in good["curves"]] == [
        ["probe/knn_accuracy"],
        ["probe/retrieval_ratio_to_chance"],
    ]
    state.add(300, {"probe/knn_accuracy": 0.6})
    fallen = section(state, 2.0, 100)
    assert fallen["status"] == "warn"
    assert "0.600 is far below its best, 0.800 at step 50" in fallen["lines"][0]
    json.dumps(fallen)


TOPS = ("probe/retrieval_top1", "probe/retrieval_top5")


def looks(images: int, pixels: tuple[float, ...], *values: tuple[float, ...]) -> dict[str, Any]:
    """The section after looks every 100 steps of a run whose warm-up ends with step 100, at the two kinds of view
    retrieval and k-NN."""
    names = (*TOPS, "probe/knn_accuracy")
    chance = {"probe/retrieval_top1": 1 / images, "probe/retrieval_top5": 5 / images, "probe/knn_accuracy": 0.1}
    state = State("x", Baselines(chance, dict(zip(names, pixels, strict=False)), {}))
    for number, each in enumerate(values):
        state.add(100 * (number + 1), dict(zip(names, each, strict=False)))
    return section(state, 2.0, 100)


@pytest.mark.parametrize(
    ("status", "images", "pixels", "values"),
    [
        ("warn", 1024, (0.083, 0.2, 0.7), [(0.03, 0.1, 0.6)] * 3),
        ("warn", 1024, (0.083, 0.2, 1.0), [(0.03, 0.1, 1.0)] * 3),  # k-NN tells nothing
        ("ok", 1024, (0.083, 0.2, 0.7), [(0.03, 0.1, 0.6)]),  # one look
        ("ok", 1024, (0.083, 0.2, 0.7), [(0.03, 0.1, 0.6)] * 2 + [(0.04, 0.1, 0.6)]),  # still rising
        ("ok", 1024, (0.083, 0.2, 0.7), [(0.03, 0.1, 0.71)] * 3),  # k-NN is above
        ("ok", 1024, (0.083, 0.2, 0.7), [(0.09, 0.2, 0.6), (0.08, 0.19, 0.6), (0.08, 0.19, 0.6)]),  # it was above
        ("ok", 42, (0.083, 0.2, 1.0), [(0.06, 0.19, 1.0)] * 3),  # of 42 images as much is chance
        ("ok", 746, (0.113, 0.2242), [(0.084, 0.224), (0.067, 0.217), (0.072, 0.222)]),  # as quickstart
        ("ok", 746, (0.0513, 0.1003), [(0.034, 0.0999), (0.036, 0.111), (0.039, 0.125), (0.035, 0.127)]),  # phase 5a
    ],
)
def test_it_warns_where_nothing_was_ever_above_the_raw_pixels_and_few_images_do_not_explain_it(
    status: str, images: int, pixels: tuple[float, ...], values: list[tuple[float, ...]]
) -> None:
    found = looks(images, pixels, *values)
    assert found["status"] == status
    told = " ".join(found["lines"])
    assert ("none is still rising: view retrieval, first 0.030 (0.083)" in told) == (status == "warn")


def test_what_is_not_above_the_raw_pixels_is_said_in_words() -> None:
    lines = looks(42, (0.083, 0.2, 1.0), (0.06, 0.3, 1.0), (0.06, 0.3, 1.0))["lines"]
    assert lines == [
        "not above the raw pixels, whose values are in brackets: view retrieval, first 0.060 (0.083)",
        "raw pixels answer nearly everything already, which leaves no room above them: k-NN, share of right answers",
    ]
    assert looks(42, (0.05, 0.2), (0.06, 0.3), (0.06, 0.3))["lines"] == []
    assert looks(42, (0.083, 0.2), (0.06, 0.1))["lines"] == [], "still warming up"


# -- through the command line ---------------------------------------------------------------------------------


def test_the_best_checkpoint_by_a_probe_is_kept(tmp_path: Path) -> None:
    """Saved every step, logged never but at the end: the best is known from the checkpoints alone."""
    write_photos(tmp_path / "photos")
    (tmp_path / "tiny.toml").write_text(
        TOML.format(path=tmp_path / "photos", steps=8, log=100, save=1, lr=0.02)
        + '[plugins.probes]\nlabels = "folder"\n[plugins.checkpoint-rotation]\nkeep_last = 2\nkeep_healthy = false\n'
        + 'best_by = "probe/retrieval_top1"\nbest = "max"\n[plugins.metrics-log]\n'
    )
    result = CliRunner().invoke(main, ["run", str(tmp_path / "tiny.toml"), "--run-dir", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    facts = {step: store.load_facts(store.path(step), "state") for step in store.steps()}
    best = facts[8]["plugins"]["probes"]["state"]["best"]["probe/retrieval_top1"]
    assert sorted(facts) == sorted({7, 8, best["step"]})
    assert best["step"] < 7, "or it would be one of the newest"
    assert facts[best["step"]]["measured"]["probe/retrieval_top1"] == best["value"]
    assert "knn, linear, retrieval: 24 images" in result.output


def test_neither_the_plugin_nor_the_command_loads_torch() -> None:
    program = "import sys, bigrun_probes.plugin, bigrun_probes.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(("every", "told"), [(1, [2]), (2, [4]), (4, [])])
def test_what_it_costs_is_said_once_and_not_before_it_is_known(bigrunner: Runner, every: int, told: list[int]) -> None:
    """On images of 40 pixels every measurement is dear; of the first nobody knows yet when the next one will be."""
    result = bigrunner.run("probes", config={"every_steps": every}, steps=6)
    events = [event for event in result.events if event.kind == "probes-dear"]
    assert [event.step for event in events] == told
    assert all(0.02 < event.facts["fraction"] < 1 for event in events)
