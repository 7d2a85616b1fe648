"""Metrics: what a plugin records is what the log says, whatever happens to the tensor, the step or the run."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from bigrun import hookimpl
from bigrun.errors import ExitCode, PluginError, UsageError
from bigrun.metrics import Metrics
from bigrun.testing.runner import Runner


def expose(cls: type) -> str:
    """Make a local class loadable as `module:Class`."""
    setattr(sys.modules[__name__], cls.__name__, cls)
    return f"{__name__}:{cls.__name__}"


# -- what is recorded -----------------------------------------------------------------------------------------


def test_a_tensor_that_changes_later_does_not_change_what_was_recorded(bigrunner: Runner) -> None:
    class Counter:
        """Keeps one tensor and adds to it, as running sums do."""

        def __init__(self) -> None:
            self.count = torch.zeros(())

        @hookimpl
        def after_update(self, run: Any) -> None:
            run.metrics.record("before", self.count)
            self.count += 1
            run.metrics.record("after", self.count)
            run.metrics.record("view", self.count.view(1))

    result = bigrunner.run(steps=4, companions=[Counter()], run={"log_every_steps": 4, "max_steps": 4})
    result.assert_finished()
    (row,) = result.metrics
    assert (row["before"], row["after"], row["view"]) == (1.5, 2.5, 2.5)


def test_a_flush_fetches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was recorded when its step was over, too."""
    metrics = Metrics(every_steps=1, last_step=None, images_per_step=1)
    for value in (1.0, 3.0):
        metrics.record("loss", torch.tensor(value))
        metrics.commit()
        metrics.record("measured", torch.tensor(10 * value))
        metrics.begin_step()
    metrics.record("measured", torch.tensor(50.0))
    fetches = []
    real = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (fetches.append(len(self)), real(self))[1])
    row = metrics.flush()
    assert (row["loss"], row["measured"]) == (2.0, 30.0)
    assert metrics.latest == {"loss": 2.0, "measured": 50.0}
    assert fetches == [5]


@pytest.mark.parametrize(
    "value",
    [2, 2.0, torch.tensor(2.0), torch.tensor([[2]]), torch.tensor(2.0, dtype=torch.bfloat16),
     torch.tensor(2.0, requires_grad=True) * 1],
    ids=["int", "float", "tensor", "one element", "bfloat16", "with a graph"],
)  # fmt: skip
def test_numbers_and_tensors_of_one_element_are_averaged(value: Any) -> None:
    metrics = Metrics(every_steps=1, last_step=None, images_per_step=1)
    metrics.record("mean", value)
    metrics.record("mean", 1)
    assert metrics.flush()["mean"] == 1.5


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
def test_a_tensor_of_several_elements_is_refused_by_name(shape: tuple[int, ...]) -> None:
    metrics = Metrics(every_steps=1, last_step=None, images_per_step=1)
    with pytest.raises(ValueError, match=r"'norms'.*shape \(" + str(shape[0])):
        metrics.record("norms", torch.zeros(shape))
    assert "norms" not in metrics.flush()


@pytest.mark.parametrize("observer", [True, False])
@pytest.mark.parametrize("hook", ["before_step", "before_update", "after_update", "after_step"])
def test_a_vector_is_the_failure_of_who_records_it(bigrunner: Runner, hook: str, observer: bool) -> None:
    def record(self: Any, run: Any, step: int) -> None:
        if step == 2:
            run.metrics.record("norms", torch.zeros(3))

    name = expose(type("Vector", (), {hook: hookimpl(record), "observer": observer}))
    result = bigrunner.run(name)
    if observer:
        assert result.exit_code == ExitCode.QUARANTINED
        assert result.quarantined == [name]
        assert result.metrics == bigrunner.run().metrics
    else:
        assert isinstance(result.error, PluginError)
        assert (result.error.plugin, result.error.hook, result.error.step) == (name, hook, 2)
        assert "metric 'norms'" in str(result.error)


# -- skipped steps --------------------------------------------------------------------------------------------


class Spoil:
    """Makes the loss of some steps NaN."""

    steps: Collection[int] = ()

    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        return {"spoiled": outputs.global_features.cls.sum() * (float("nan") if step in self.steps else 0.0)}


class Remember:
    """Records the number of the step wherever there is a place for it."""

    observer = True

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        run.metrics.record("begun", step)

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        run.metrics.record("updated", torch.tensor(float(step)))

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        run.metrics.record("over", step)


def mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "bad", [*(pytest.param(bad, marks=pytest.mark.slow) for bad in ({1}, {2}, {4})), {2, 3}, {1, 4}]
)
def test_a_skipped_step_takes_only_its_own_values(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, bad: set[int]
) -> None:
    monkeypatch.setattr(Spoil, "steps", bad)
    plugins = [f"{__name__}:Spoil", f"{__name__}:Remember"]
    each = bigrunner.run(*plugins, steps=4)
    result = bigrunner.run(*plugins, steps=4, run={"log_every_steps": 4, "checkpoint_every_steps": 1, "max_steps": 4})
    result.assert_finished()
    good = [step for step in (1, 2, 3, 4) if step not in bad]
    (row,) = result.metrics
    assert row["updated"] == mean(good)
    assert row["begun"] == mean(good)
    assert row["over"] == 2.5  # a skipped step is over, too
    assert row["loss"] == mean(each.losses)
    assert len(each.losses) == len(good)
    for at_step in (1, 2, 3):
        assert bigrunner.resume(result, at_step).metrics == result.metrics, f"resumed at {at_step}"


# -- terms of the loss ----------------------------------------------------------------------------------------


class Term:
    name = "extra"

    @hookimpl
    def loss_terms(self, outputs: Any) -> dict[str, Tensor]:
        return {self.name: outputs.global_features.cls.sum() * 0}


class SameTerm(Term):
    pass


class EngineTerm(Term):
    name = "dino_global"


@pytest.mark.parametrize(("plugins", "term"), [(["EngineTerm"], "dino_global"), (["Term", "SameTerm"], "extra")])
def test_two_terms_of_one_name_are_refused(bigrunner: Runner, plugins: list[str], term: str) -> None:
    result = bigrunner.run(*(f"{__name__}:{name}" for name in plugins))
    assert isinstance(result.error, UsageError)
    assert f"loss term {term!r}" in str(result.error)
    assert result.checkpoints == []


def test_a_term_of_its_own_name_is_logged_under_it(bigrunner: Runner) -> None:
    result = bigrunner.run(f"{__name__}:Term")
    result.assert_finished()
    assert all(row["loss/extra"] == 0.0 for row in result.metrics)
    for row in result.metrics:
        terms = [value for name, value in row.items() if name.startswith("loss/")]
        assert row["loss"] == pytest.approx(sum(terms), rel=1e-6)


@pytest.mark.parametrize(
    "answer",
    [{"extra": torch.zeros(2)}, {"extra": torch.zeros(1)}, {"extra": 0.5}, torch.zeros(()), {3: torch.ones(())}],
)
def test_a_term_that_is_no_scalar_by_name_is_the_failure_of_its_plugin(bigrunner: Runner, answer: Any) -> None:
    class Wrong:
        @hookimpl
        def loss_terms(self, step: int) -> Any:
            return answer if step == 2 else {}

    name = expose(Wrong)
    result = bigrunner.run(name)
    assert isinstance(result.error, PluginError)
    assert result.exit_code == ExitCode.ERROR
    assert (result.error.plugin, result.error.hook, result.error.step) == (name, "loss_terms", 2)
    assert result.checkpoints == [1]


@pytest.mark.parametrize("answer", [None, {}])
def test_no_term_adds_nothing(bigrunner: Runner, answer: Any) -> None:
    class Silent:
        @hookimpl
        def loss_terms(self) -> Any:
            return answer

    assert bigrunner.run(expose(Silent)).losses == bigrunner.run().losses


# -- what a checkpoint says -----------------------------------------------------------------------------------


def test_a_measurement_of_the_step_that_is_over_is_newer_than_the_means() -> None:
    metrics = Metrics(every_steps=4, last_step=None, images_per_step=1)
    metrics.record("loss", 3.0)
    metrics.commit()
    metrics.record("probe", 0.5)
    assert metrics.measured() == {"probe": 0.5}
    assert metrics.measured(with_step=False) == {}
    metrics.begin_step()
    metrics.record("loss", 1.0)
    metrics.commit()
    assert metrics.measured() == {}, "it was of the step before"
    metrics.record("probe", 0.7)
    row = metrics.flush()
    assert (row["loss"], row["probe"]) == (2.0, 0.6), "a row of the log is of all steps since the one before"
    assert metrics.latest == {"loss": 2.0, "probe": 0.7}, "a checkpoint has its own value, and not the mean"


def test_what_was_measured_comes_back() -> None:
    metrics = Metrics(every_steps=2, last_step=None, images_per_step=1)
    metrics.record("loss", 3.0)
    metrics.flush()
    metrics.record("probe", 0.5)
    again = Metrics(every_steps=2, last_step=None, images_per_step=1)
    again.load_state_dict(metrics.state_dict())
    assert again.latest == metrics.latest == {"loss": 3.0}
    assert again.flush()["probe"] == 0.5
