"""What a run does about an anomaly: warn, skip, save, roll back, halt."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly, strongest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode, TrainingHalted
from bigrun.testing.runner import Runner, RunResult


class Doctor:
    """Reports an anomaly at chosen steps, in a chosen hook, and answers it."""

    def __init__(self, action: Action, at: set[int], hook: str = "before_update", onset: int | None = None) -> None:
        self.action, self.at, self.hook, self.onset = action, at, hook, onset
        self.updated: list[int] = []
        self.positions: dict[int, list[int]] = {}

    def report(self, run: Any, step: int, hook: str) -> None:
        if hook == self.hook and step in self.at:
            causes, advice = ("a cause",), ("an advice",)
            evidence = {"number": 1.5, "level": "any"}
            run.report_anomaly(Anomaly("test", step, "ill", evidence, causes, advice, self.onset))

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        self.report(run, step, "before_update")

    @hookimpl
    def on_metrics(self, run: Any, step: int) -> None:
        self.report(run, step, "on_metrics")

    @hookimpl
    def after_update(self, step: int) -> None:
        self.updated.append(step)

    @hookimpl(tryfirst=True)
    def on_anomaly(self, anomaly: Anomaly) -> Action | None:
        return self.action if anomaly.kind == "test" else None

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        self.positions.setdefault(step, []).append(run.position)


class Once(Doctor):
    """Is silent from the second time on that a step is taken: the trouble was in the images."""

    def report(self, run: Any, step: int, hook: str) -> None:
        if len(self.positions[step]) == 1:
            super().report(run, step, hook)


def events(result: RunResult, kind: str) -> list[Any]:
    return [event for event in result.events if event.kind == kind]


def equal(a: RunResult, b: RunResult) -> bool:
    return a.parameters.keys() == b.parameters.keys() and all(
        torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters
    )


def test_the_strongest_answer_counts() -> None:
    assert strongest([Action.SKIP, Action.HALT, Action.WARN]) is Action.HALT
    assert strongest([]) is Action.WARN
    assert [action.value for action in Action] == ["warn", "skip", "save", "roll-back", "halt"]


@pytest.mark.parametrize("hook", ["before_update", "on_metrics"])
def test_a_warning_changes_nothing_but_the_story(bigrunner: Runner, hook: str) -> None:
    plain = bigrunner.run(steps=3)
    doctor = Doctor(Action.WARN, {2}, hook)
    warned = bigrunner.run(steps=3, companions=[doctor])
    warned.assert_finished()
    assert equal(plain, warned)
    assert doctor.updated == [1, 2, 3]
    (event,) = events(warned, "anomaly")
    assert event.facts == {
        "evidence": {"number": 1.5, "level": "any"}, "anomaly": "test", "action": "warn", "causes": ["a cause"],
        "advice": ["an advice"], "step": 2, "onset": 2, "lasts": False,
        "severity": "serious",
    }  # fmt: skip


def test_a_checkpoint_knows_what_happened_since_the_one_before(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=4, companions=[Doctor(Action.WARN, {2}, "on_metrics")])
    assert result.run is not None
    store = result.run.checkpoints
    anomalies = {step: store.load_facts(store.path(step), "state")["anomalies"] for step in store.steps()}
    assert anomalies == {1: [], 2: ["test"], 3: [], 4: []}


def test_a_skipped_step_updates_nothing(bigrunner: Runner) -> None:
    doctor = Doctor(Action.SKIP, {2})
    result = bigrunner.run(steps=3, companions=[doctor])
    result.assert_finished()
    assert doctor.updated == [1, 3]
    assert len(result.losses) == 2


def test_an_emergency_checkpoint_holds_the_state_before_the_update(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=4, companions=[Doctor(Action.SAVE, {3})])
    result.assert_finished()
    store = CheckpointStore(result.directory / "emergency")
    assert store.verified_steps() == [2]
    path, before = store.path(2), result.directory / "checkpoints" / "step-00000002"
    for part in ("student", "teacher", "optimizer"):
        kept, saved = store.load_tensors(path, part), store.load_tensors(before, part)
        assert all(torch.equal(kept[name], saved[name]) for name in saved)
    state, old = store.load_facts(path, "state"), store.load_facts(before, "state")
    assert (state["step"], state["position"]) == (old["step"], old["position"]) == (2, 8)
    assert store.load_facts(path, "anomaly")["message"] == "ill"


def test_the_flight_record_names_the_images_and_numbers_of_every_step(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=4, accumulate=2, companions=[Doctor(Action.SAVE, {3})])
    store = CheckpointStore(result.directory / "emergency")
    flight = store.load_facts(store.path(2), "flight")
    assert [entry["step"] for entry in flight] == [1, 2, 3]
    assert [entry["position"] for entry in flight] == [0, 4, 8]
    assert [[len(micro) for micro in entry["images"]] for entry in flight] == [[2, 2]] * 3
    seen = [tuple(image) for entry in flight for micro in entry["images"] for image in micro]
    assert sorted(seen) == [(0, index) for index in range(12)]  # three steps of four: the first epoch
    assert {"loss", "grad_norm", "learning_rate", "teacher_temperature"} <= flight[-1]["values"].keys()
    assert flight[0]["values"]["loss"] == pytest.approx(result.losses[0], abs=0)


def test_at_most_two_emergency_checkpoints_stay(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=6, companions=[Doctor(Action.SAVE, {2, 4, 5})])
    assert CheckpointStore(result.directory / "emergency").steps() == [3, 4]


@pytest.mark.parametrize(("hook", "kept"), [("before_update", 2), ("on_metrics", 3)])
def test_a_halt_keeps_the_state_and_says_what_to_do(bigrunner: Runner, hook: str, kept: int) -> None:
    result = bigrunner.run(steps=5, companions=[Doctor(Action.HALT, {3}, hook)])
    assert isinstance(result.error, TrainingHalted)
    assert result.exit_code == ExitCode.HALTED
    assert "halted at step 3: ill" in str(result.error)
    assert "likely cause: a cause" in str(result.error)
    assert "try: an advice" in str(result.error)
    assert CheckpointStore(result.directory / "emergency").steps() == [kept]
    assert result.checkpoints == [1, 2]


def test_a_roll_back_goes_on_from_before_the_onset_and_behind_the_images(bigrunner: Runner) -> None:
    doctor = Once(Action.ROLL_BACK, {4}, onset=3)
    result = bigrunner.run(steps=6, companions=[doctor])
    result.assert_finished()
    # Steps 1 to 4 have taken 16 images; step 3 is taken again, with the seventeenth.
    assert doctor.positions == {1: [0], 2: [4], 3: [8, 16], 4: [12, 20], 5: [24], 6: [28]}
    (event,) = events(result, "rolled-back")
    assert event.facts == {"from_step": 4, "to_step": 2, "anomaly": "test", "position": 16}
    assert result.run is not None
    assert result.run.rollbacks == [{"from_step": 4, "to_step": 2, "kind": "test"}]
    assert result.checkpoints == [1, 2, 3, 4, 5, 6]


def test_a_run_that_went_back_continues_exactly(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=6, companions=[Once(Action.ROLL_BACK, {4}, onset=3)])
    resumed = bigrunner.resume(straight, at_step=4)
    assert equal(straight, resumed)
    assert resumed.run is not None
    assert resumed.run.rollbacks == [{"from_step": 4, "to_step": 2, "kind": "test"}]


def test_metric_rows_of_the_steps_that_were_taken_back_are_gone(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", steps=6, companions=[Once(Action.ROLL_BACK, {4}, onset=3)])
    rows = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_after_three_roll_backs_the_run_halts(bigrunner: Runner) -> None:
    doctor = Doctor(Action.ROLL_BACK, {4}, onset=4)
    result = bigrunner.run(steps=6, companions=[doctor])
    assert isinstance(result.error, TrainingHalted)
    assert "went back 3 times" in str(result.error)
    assert [len(doctor.positions[step]) for step in (3, 4)] == [1, 4]
    assert doctor.positions[4] == [12, 16, 20, 24]  # other images every time
    assert 5 not in doctor.positions


@pytest.mark.slow
def test_old_roll_backs_are_forgotten(bigrunner: Runner) -> None:
    doctor = Once(Action.ROLL_BACK, {3, 6}, onset=None)
    short = {"max_rollbacks": 1, "rollback_memory_steps": 2}
    result = bigrunner.run(steps=7, companions=[doctor], run=short)
    result.assert_finished()
    assert len(events(result, "rolled-back")) == 2
    halted = bigrunner.run(steps=7, companions=[Once(Action.ROLL_BACK, {3, 4})], run=short)
    assert isinstance(halted.error, TrainingHalted)


def test_without_a_checkpoint_before_the_onset_a_roll_back_halts(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=6, companions=[Doctor(Action.ROLL_BACK, {4}, onset=1)])
    assert isinstance(result.error, TrainingHalted)
    assert "no verified checkpoint from before it began" in str(result.error)
    assert result.checkpoints == [1, 2, 3]


def test_a_damaged_checkpoint_is_no_aim_of_a_roll_back(bigrunner: Runner, tmp_path: Path) -> None:
    class Damaging(Once):
        def report(self, run: Any, step: int, hook: str) -> None:
            if step in self.at and len(self.positions[step]) == 1:
                path = run.checkpoints.path(2) / "student.safetensors"
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)
                run.checkpoints = CheckpointStore(run.checkpoints.directory)  # a process that has not read it yet
            super().report(run, step, hook)

    result = bigrunner.run(steps=5, companions=[Damaging(Action.ROLL_BACK, {4}, onset=3)])
    result.assert_finished()
    (event,) = events(result, "rolled-back")
    assert event.facts["to_step"] == 1


def test_what_is_not_finite_reaches_no_weight_whatever_is_answered(bigrunner: Runner) -> None:
    class Careless:
        @hookimpl
        def loss_terms(self, step: int) -> dict[str, torch.Tensor]:
            return {"bad": torch.tensor(float("nan"))} if step == 2 else {}

        @hookimpl(tryfirst=True)
        def on_anomaly(self) -> Action:
            return Action.WARN

    result = bigrunner.run(steps=3, companions=[Careless()])
    result.assert_finished()
    assert all(torch.isfinite(tensor).all() for tensor in result.parameters.values())
    assert len(result.losses) == 2


# -- what a review found ----------------------------------------------------------------------------------------------


def test_a_roll_back_holds_one_run_in_memory(bigrunner: Runner) -> None:
    """Two do not fit into a device."""
    objectives: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Watches:
        @hookimpl
        def configure_runtime(self) -> None:
            alive.append(sum(reference() is not None for reference in objectives))

        @hookimpl
        def configure_model(self, objective: Any) -> None:
            objectives.append(weakref.ref(objective))

    class Forgets(Once):
        """The recorder of the harness holds the run; a run of the command line is held by nobody."""

        @hookimpl(tryfirst=True)
        def teardown(self, run: Any) -> None:
            for plugin in run.plugins.manager.get_plugins():
                if getattr(plugin, "run", None) is run:
                    plugin.run = None

    bigrunner.run(steps=5, companions=[Watches(), Forgets(Action.ROLL_BACK, {3})]).assert_finished()
    assert alive == [0, 0]


def test_an_observer_that_was_switched_off_stays_so_behind_a_roll_back(bigrunner: Runner, tmp_path: Path) -> None:
    result = bigrunner.run("tests_failing:Failing", steps=5, companions=[Once(Action.ROLL_BACK, {4})])
    assert result.exit_code == ExitCode.QUARANTINED
    assert result.quarantined == ["tests_failing:Failing"]
    assert len(events(result, "quarantined")) == 2  # in each of the two lives


@pytest.fixture(autouse=True)
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests_failing.py").write_text(
        "from bigrun import hookimpl\n\n\nclass Failing:\n    observer = True\n\n    @hookimpl\n"
        "    def after_step(self, step):\n        if step == 1:\n            raise ValueError('once')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_emergency_checkpoint_of_an_older_step_is_not_the_oldest(bigrunner: Runner) -> None:
    class Story(Doctor):
        """Keeps the state at steps 5 and 6, goes back, and keeps it at step 4."""

        def report(self, run: Any, step: int, hook: str) -> None:
            if hook == "before_update" and (step, len(self.positions[step])) in {(5, 1), (6, 1), (7, 1), (4, 2)}:
                self.action = Action.ROLL_BACK if step == 7 else Action.SAVE
                run.report_anomaly(Anomaly("test", step, "ill", onset=3 if step == 7 else None))

    result = bigrunner.run(steps=8, companions=[Story(Action.SAVE, set())])
    result.assert_finished()
    assert CheckpointStore(result.directory / "emergency").steps() == [3, 5]
    kept = events(result, "emergency-saved")
    assert Path(kept[-1].facts["path"]).is_dir()


def test_an_emergency_checkpoint_knows_nothing_of_the_bad_step(bigrunner: Runner) -> None:
    run = {"log_every_steps": 10}
    result = bigrunner.run(steps=5, run=run, companions=[Doctor(Action.SAVE, {4})])
    emergency = CheckpointStore(result.directory / "emergency")
    kept, saved = (
        store.load_facts(store.path(3), "state")
        for store in (emergency, CheckpointStore(result.directory / "checkpoints"))
    )
    for name in ("metrics", "schedules", "position", "step", "optimizer"):
        assert kept[name] == saved[name], name


def test_the_onset_of_trouble_survives_a_resume(bigrunner: Runner) -> None:
    straight = bigrunner.run(steps=5, companions=[Doctor(Action.WARN, {4}, "on_metrics", onset=2)])
    resumed = bigrunner.resume(straight, at_step=4)
    assert resumed.run is not None
    store = resumed.run.checkpoints
    assert store.load_facts(store.path(4), "state")["anomaly_onset"] == 2
    assert store.load_facts(store.path(5), "state")["anomaly_onset"] is None


def test_a_failed_roll_back_is_told(bigrunner: Runner, tmp_path: Path) -> None:
    """The checkpoint to go back to vanishes in the moment of going."""

    class Vanishes(Once):
        @hookimpl
        def on_event(self, run: Any, event: Any) -> None:
            if event.kind == "anomaly":
                shutil.rmtree(run.checkpoints.path(3) / "..", ignore_errors=True)

    errors: list[BaseException] = []

    class Hears:
        @hookimpl
        def on_error(self, error: BaseException) -> None:
            errors.append(error)

    result = bigrunner.run(steps=6, companions=[Vanishes(Action.ROLL_BACK, {4}), Hears()])
    assert isinstance(result.error, TrainingHalted)  # there is nothing to go back to
    assert errors == [result.error]


def test_the_state_of_a_plugin_is_that_of_its_step(bigrunner: Runner, tmp_path: Path) -> None:
    """A plugin that returns its own list, as is natural, and goes on while the checkpoint is written."""
    (tmp_path / "tests_window.py").write_text(
        "from bigrun import hookimpl\n\n\nclass Window:\n    def __init__(self):\n        self.steps = []\n\n"
        "    @hookimpl\n    def after_step(self, run, step):\n        self.steps.append(step)\n"
        "        import time\n        run.saver._writer.submit(time.sleep, 0.2)\n\n"
        "    def state_dict(self):\n        return {'steps': self.steps}\n\n"
        "    def load_state_dict(self, state):\n        self.steps = state['steps']\n"
    )
    run = {"background_checkpoints": True, "checkpoint_every_steps": 4}
    result = bigrunner.run("tests_window:Window", steps=8, run=run)
    result.assert_finished()
    store = CheckpointStore(result.directory / "checkpoints")
    state = store.load_facts(store.path(4), "state")["plugins"]["tests_window:Window"]["state"]
    assert state == {"steps": [1, 2, 3, 4]}


def test_the_flight_record_holds_no_images_and_no_descriptors(bigrunner: Runner) -> None:
    """Decoded images are in memory that the decoding process shares: three descriptors for every micro-batch."""
    counts: list[int] = []

    class Counts:
        @hookimpl
        def after_step(self, run: Any) -> None:
            counts.append(len(list(Path("/proc/self/fd").iterdir())))

    result = bigrunner.run(steps=30, accumulate=2, data={"workers": 1}, companions=[Counts()])
    result.assert_finished()
    assert counts[-1] <= counts[9] + 3
