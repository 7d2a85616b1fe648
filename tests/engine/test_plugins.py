"""Listing, activation, containment and quarantine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from bigrun import hookimpl, option
from bigrun.entry_points import installed, load_classes
from bigrun.errors import ConfigError, ExitCode, PluginError, UsageError
from bigrun.listing import plugin_rows
from bigrun.plugins import Plugins
from bigrun.testing.runner import Runner


def test_installed_plugins_are_listed_without_importing_them() -> None:
    before = set(sys.modules)
    plugins = installed()
    kinds = {name: plugin.declared_kind() for name, plugin in plugins.items()}
    assert kinds["console"] == "observer"
    assert kinds["gram-anchoring"] == "critical"
    imported = {name.split(".")[0] for name in set(sys.modules) - before}
    assert not {name for name in imported if name.startswith("bigrun_")}


def test_an_unknown_plugin_is_a_problem_with_a_suggestion() -> None:
    problems: list[tuple[str, str]] = []
    assert load_classes({"gram-anchorin": {}}, problems) == {}
    assert problems[0][0] == "plugins.gram-anchorin"
    assert "did you mean 'gram-anchoring'?" in problems[0][1]


def test_a_plugin_that_cannot_be_imported_is_a_problem(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('broken inside')")
    (tmp_path / "leaving_plugin.py").write_text("import sys; sys.exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    problems: list[tuple[str, str]] = []
    load_classes({"broken_plugin:X": {}, "leaving_plugin:X": {}, "json:nothing": {}}, problems)
    assert [path for path, _ in problems] == [
        "plugins.broken_plugin:X", "plugins.leaving_plugin:X", "plugins.json:nothing",
    ]  # fmt: skip
    assert "RuntimeError: broken inside" in problems[0][1]


def test_plugin_options_are_checked_with_everything_else(bigrunner: Runner) -> None:
    result = bigrunner.run("checkpoint-rotation", config={"keep_lasst": 3}, model={"depth": "2"})
    assert isinstance(result.error, ConfigError)
    problems = dict(result.error.problems)
    assert problems["plugins.checkpoint-rotation.keep_lasst"] == "unknown option - did you mean 'keep_last'?"
    assert problems["model.depth"] == "expected int, got '2'"
    assert not result.directory.exists()


def failing(hook: str, error: BaseException, *, observer: bool) -> Any:
    """A plugin instance whose one hook raises."""

    def fail(self: Any, run: Any) -> None:
        raise error

    return type("Failing", (), {hook: hookimpl(fail), "observer": observer})()


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(0)])
def test_a_critical_plugin_ends_the_run_with_its_name(error: BaseException) -> None:
    plugins = Plugins()
    plugins.step = 812
    plugins.activate("mine", failing("before_step", error, observer=False))
    with pytest.raises(PluginError, match="mine failed in before_step at step 812"):
        plugins.hook.before_step(run=None, step=812)  # type: ignore[arg-type]


def test_an_observer_that_fails_falls_silent_at_once() -> None:
    heard = []
    plugins = Plugins()
    plugins.on_failure = lambda failure, error: heard.append(failure)
    plugins.activate("watcher", failing("before_step", ValueError("boom"), observer=True))
    plugins.hook.before_step(run=None, step=1)  # type: ignore[arg-type]
    plugins.hook.before_step(run=None, step=2)  # type: ignore[arg-type]
    assert [failure.hook for failure in heard] == ["before_step"]
    assert plugins.failures["watcher"].error == "ValueError: boom"
    assert plugins.failed_bits() == 1


@pytest.mark.parametrize("hook", ["loss_terms", "build_objective", "on_anomaly", "frozen_modules", "configure_model"])
def test_an_observer_may_not_change_training(hook: str) -> None:
    with pytest.raises(UsageError, match=f"may not implement {hook}"):
        Plugins().activate("watcher", failing(hook, ValueError(), observer=True))


def test_an_observer_may_not_wrap() -> None:
    class Wrapping:
        observer = True

        @hookimpl(wrapper=True)
        def before_step(self, run: Any) -> Any:
            return (yield)

    with pytest.raises(UsageError, match="may not wrap"):
        Plugins().activate("watcher", Wrapping())


def test_a_critical_wrapper_brackets_and_names_itself() -> None:
    order = []

    class Wrapping:
        @hookimpl(wrapper=True)
        def before_step(self, run: Any) -> Any:
            order.append("before")
            result = yield
            order.append("after")
            raise RuntimeError("late")
            return result

    class Inner:
        @hookimpl
        def before_step(self, run: Any) -> None:
            order.append("inner")

    plugins = Plugins()
    plugins.activate("bracket", Wrapping())
    plugins.activate("inner", Inner())
    with pytest.raises(PluginError, match="bracket failed in before_step"):
        plugins.hook.before_step(run=None, step=1)  # type: ignore[arg-type]
    assert order == ["before", "inner", "after"]


def test_an_unknown_hook_is_refused_with_a_suggestion() -> None:
    plugins = Plugins()
    plugins.activate("mine", failing("befor_step", ValueError(), observer=True))
    with pytest.raises(UsageError, match=r"plugins\.mine: unknown hook 'befor_step' - did you mean 'before_step'"):
        plugins.check_hooks()


def test_wrong_parameters_of_a_hook_are_refused() -> None:
    class Wrong:
        @hookimpl
        def before_step(self, run: Any, stepp: int) -> None: ...

    with pytest.raises(UsageError, match="stepp"):
        Plugins().activate("mine", Wrong())


@pytest.mark.parametrize(
    ("hook", "answer", "message"),
    [
        ("loss_terms", {"x": 1.0}, "expected a mapping of names to tensors of shape (), got {'x': float}"),
        ("loss_terms", {"x": torch.zeros(2)}, "got {'x': Tensor of shape (2,)}"),
        ("loss_terms", [torch.zeros(())], "got list"),
        ("frozen_modules", {"x": None}, "expected a mapping of names to modules, got {'x': NoneType}"),
        ("extra_views", {"x": 224}, "expected a mapping of names to ExtraView, got {'x': int}"),
        ("build_objective", torch.nn.Linear(1, 1), "expected an Objective, got Linear"),
        ("build_optimizer", {}, "expected a torch.optim.Optimizer, got {}"),
        ("on_anomaly", "skip", "expected an Action, got str"),
        ("header_lines", 5, "expected a list of strings, got int"),
    ],
)
def test_a_wrong_answer_is_the_failure_of_who_gave_it(hook: str, answer: Any, message: str) -> None:
    def respond(self: Any) -> Any:
        return answer

    plugins = Plugins()
    plugins.activate("mine", type("Wrong", (), {hook: hookimpl(respond)})())
    arguments = dict.fromkeys(("run", "step", "micro", "batch", "outputs", "anomaly", "parameters"))
    with pytest.raises(PluginError) as caught:
        getattr(plugins.hook, hook)(**arguments)
    assert str(caught.value).startswith(f"mine failed in {hook}")
    assert message in str(caught.value)


def test_an_observers_wrong_answer_is_quarantined(bigrunner: Runner) -> None:
    class Talkative:
        observer = True

        @hookimpl
        def header_lines(self, run: Any) -> Any:
            return 5

    module: Any = sys.modules[__name__]
    module.Talkative = Talkative
    result = bigrunner.run(f"{__name__}:Talkative")
    assert result.exit_code == ExitCode.QUARANTINED


def test_a_broken_plugin_that_nobody_names_does_not_break_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_broken.py").write_text("class Broken(:")
    (tmp_path / "acme_bytes.py").write_bytes(b"\xff\xfe")
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[bigrun]\nacme-broken = acme_broken:Broken\nacme-bytes = acme_bytes:X\nacme-gone = acme_gone:X\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = {row[0]: row for row in plugin_rows()}
    for name in ("acme-broken", "acme-bytes", "acme-gone"):
        assert rows[name][1:4] == ("?", "acme", "1.0")


def test_everybody_hears_a_notification_even_if_some_raise() -> None:
    heard = []

    class Listening:
        @hookimpl
        def teardown(self, run: Any) -> None:
            heard.append("second")

    plugins = Plugins()
    plugins.activate("first", failing("teardown", ValueError("boom"), observer=False))
    plugins.activate("second", Listening())
    plugins.activate("third", failing("teardown", OSError("bang"), observer=False))
    errors = plugins.notify("teardown", run=None)
    assert heard == ["second"]
    assert sorted(name for name, _ in errors) == ["first", "third"]


def test_a_failed_observer_is_quarantined_and_the_run_goes_on(bigrunner: Runner) -> None:
    class Watcher:
        observer = True
        torn_down = 0

        @hookimpl
        def after_backward(self, run: Any, step: int) -> None:
            if step == 2:
                raise ValueError("boom")

        @hookimpl
        def teardown(self, run: Any) -> None:
            Watcher.torn_down += 1

    module = sys.modules[__name__]
    module.Watcher = Watcher  # type: ignore[attr-defined]
    plain = bigrunner.run(steps=4)
    watched = bigrunner.run(f"{__name__}:Watcher", steps=4)
    assert watched.exit_code == ExitCode.QUARANTINED
    assert watched.quarantined == [f"{__name__}:Watcher"]
    assert [e.kind for e in watched.events if e.level != "info"] == ["observer-failed", "quarantined"]
    assert watched.losses == plain.losses
    assert Watcher.torn_down == 1


def test_a_plugin_brings_hooks_of_its_own(bigrunner: Runner) -> None:
    import pluggy

    spec = pluggy.HookspecMarker("bigrun")

    class Sections:
        @spec
        def health_section(self, run: Any) -> str:
            """One section."""

    class Report:
        observer = True
        sections: list[str] = []  # noqa: RUF012 - the test reads it

        @hookimpl
        def configure_hooks(self, plugins: Any) -> None:
            plugins.add_hooks(Sections)

        @hookimpl
        def on_finish(self, run: Any) -> None:
            Report.sections = run.plugins.manager.hook.health_section(run=run)

    class Contributor:
        observer = True

        @hookimpl(optionalhook=True)
        def health_section(self, run: Any) -> str:
            return "all well"

    module: Any = sys.modules[__name__]
    module.Report, module.Contributor = Report, Contributor
    bigrunner.run(f"{__name__}:Report", f"{__name__}:Contributor").assert_finished()
    assert Report.sections == ["all well"]


def test_a_plugin_class_with_options() -> None:
    @attrs.frozen
    class Options:
        factor: float = option(1.0, help="A factor.")

    class WithOptions:
        Config = Options

        def __init__(self, config: Options) -> None:
            self.factor = config.factor

    module: Any = sys.modules[__name__]
    module.WithOptions = WithOptions
    from bigrun.activation import activate
    from bigrun.config import Document

    _, plugins = activate(Document("t", "t", {"plugins": {f"{__name__}:WithOptions": {"factor": 2}}}))
    assert plugins.active[f"{__name__}:WithOptions"].factor == 2.0


@pytest.mark.parametrize("hook", ["before_step", "on_finish"])
def test_a_failed_observer_releases_what_it_holds_once(bigrunner: Runner, hook: str) -> None:
    class Holding:
        observer = True
        released = 0

        @hookimpl
        def teardown(self) -> None:  # any subset of the parameters, also none
            Holding.released += 1

    def fail(self: Any) -> None:
        raise ValueError("boom")

    setattr(Holding, hook, hookimpl(fail))
    module: Any = sys.modules[__name__]
    module.Holding = Holding
    result = bigrunner.run(f"{__name__}:Holding")
    assert result.exit_code == ExitCode.QUARANTINED
    assert Holding.released == 1


@pytest.mark.parametrize("observer", [True, False])
def test_a_state_that_cannot_be_loaded_is_contained(bigrunner: Runner, observer: bool) -> None:
    class Forgetful:
        def state_dict(self) -> dict[str, int]:
            return {"steps": 1}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise KeyError("other")

    Forgetful.observer = observer  # type: ignore[attr-defined]
    module: Any = sys.modules[__name__]
    module.Forgetful = Forgetful
    name = f"{__name__}:Forgetful"
    resumed = bigrunner.resume(bigrunner.run(name, steps=3), at_step=1)
    if observer:
        assert resumed.exit_code == ExitCode.QUARANTINED
        assert resumed.checkpoints[-1] == 3
    else:
        assert isinstance(resumed.error, PluginError)
        assert (resumed.error.plugin, resumed.error.hook) == (name, "load_state_dict")


def test_a_plugin_that_cannot_be_created_is_named(bigrunner: Runner) -> None:
    class Unborn:
        def __init__(self) -> None:
            raise OSError("no such device")

    module: Any = sys.modules[__name__]
    module.Unborn = Unborn
    result = bigrunner.run(f"{__name__}:Unborn")
    said = f"{__name__}:Unborn failed in __init__ at step 0: OSError: no such device (test_plugins.py, line "
    assert str(result.error).startswith(said)
    assert not result.directory.exists()
